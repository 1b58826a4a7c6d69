// Auth files of docker and podman, as programs and people leave them.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "client/lib/registry_auth.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace pyro;
    try {
        const client::AuthFile file = client::parse_auth_file(std::string_view(reinterpret_cast<const char*>(data), size), "auth.json");
        for (const auto& [key, login] : file.logins)
            if (login.username.empty() && login.identity_token.empty())
                std::abort();
    } catch (const Error& error) {
        if (error.code() != ErrorCode::failed_precondition || error.hint().empty())
            std::abort();
    }
    return 0;
}
