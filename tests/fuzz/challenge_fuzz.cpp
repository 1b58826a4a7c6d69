// Headers and addresses as a registry may send them.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "common/error.hpp"
#include "image/challenge.hpp"
#include "image/http.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace pyro;
    const std::string text(reinterpret_cast<const char*>(data), size);
    const auto challenges = image::parse_challenges(text);
    if (challenges.size() > 16)
        std::abort();
    for (const image::Challenge& one : challenges)
        if (one.scheme.empty() || one.parameters.size() > 16)
            std::abort();
    if (const auto wait = image::parse_retry_after(text, 1'700'000'000); wait && wait->count() < 0)
        std::abort();
    static const image::Url base = image::Url::parse("https://reg.example/v2/x");
    try {
        const image::Url url = image::Url::parse(text.substr(0, text.find('\0')), &base);
        image::is_in_no_proxy(text, url);
        if ((url.scheme != "https" && url.scheme != "http") || url.host.empty() || url.port.empty())
            std::abort();
        // What is checked is what is asked: the text leads where the parts say.
        if (image::Url::parse(url.text).origin() != url.origin())
            std::abort();
    } catch (const Error& error) {
        if (error.code() != ErrorCode::environment_invalid)
            std::abort();
    }
    return 0;
}
