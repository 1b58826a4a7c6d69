// References as anybody may write them: what is taken means the same when it is written in full.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "common/error.hpp"
#include "common/image_ref.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace pyro;
    try {
        const ImageSource source = ImageSource::parse(std::string_view(reinterpret_cast<const char*>(data), size));
        if (source.kind != ImageSource::Kind::reference)
            return source.path.empty() ? std::abort(), 0 : 0;
        const std::string full = source.reference.str();
        const std::string place = source.reference.registry + "/" + source.reference.repository;
        if (ImageRef::parse(full) != source.reference || ImageRef::parse(full).str() != full || source.reference.selector().empty() ||
            place.find("..") != std::string::npos || place.find("//") != std::string::npos || full.find_first_of("%?#\\ \r\n") != std::string::npos)
            std::abort();
    } catch (const Error& error) {
        if (error.code() != ErrorCode::invalid_argument || error.hint().empty() || error.message().find('\n') != std::string::npos)
            std::abort();
    }
    return 0;
}
