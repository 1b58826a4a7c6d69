// Manifests, indexes and configurations as a registry may send them. The first byte says which one it is.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "common/error.hpp"
#include "image/manifest.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace pyro;
    if (size == 0)
        return 0;
    const std::string_view body(reinterpret_cast<const char*>(data + 1), size - 1);
    try {
        switch (data[0] & 3) {
            case 0: {
                const image::Manifest manifest = image::parse_manifest(body);
                if (manifest.layers.empty() || manifest.layers.size() > 127 || manifest.config.digest.empty())
                    std::abort();
                break;
            }
            case 1:
                if (image::select_platform(body).digest.empty())
                    std::abort();
                break;
            case 2: {
                const image::ImageConfig config = image::parse_config(body, 1);
                if (config.diff_ids.size() != 1)
                    std::abort();
                for (const std::string& variable : config.env)
                    if (variable.find('\0') != std::string::npos)
                        std::abort();
                break;
            }
            default:
                image::is_index("application/json", body);
        }
    } catch (const Error& error) {
        const bool expected = error.code() == ErrorCode::environment_invalid || error.code() == ErrorCode::failed_precondition;
        if (!expected || error.message().empty() || error.hint().empty() || error.message().find('\n') != std::string::npos) {
            std::fprintf(stderr, "the wrong error: %s\n", error.what());
            std::abort();
        }
    }
    return 0;
}
