#include "client/mcp/protocol/request_state.hpp"

#include "common/error.hpp"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/random.h>

namespace pyro::mcp {

std::string StateSeal::signature(std::string_view payload, std::string_view binding) {
    std::call_once(made_, [this] {
        key_.resize(32);
        if (::getrandom(key_.data(), key_.size(), 0) != static_cast<ssize_t>(key_.size())) throw Error::from_errno("get random bytes");
    });
    std::string text(payload);
    text += '\n';  // no payload has one: it is base64
    text += binding;
    unsigned char mac[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    if (!::HMAC(::EVP_sha256(), key_.data(), static_cast<int>(key_.size()), reinterpret_cast<const unsigned char*>(text.data()), text.size(), mac, &size))
        throw Error(ErrorCode::internal, "HMAC-SHA256 failed");
    return base64(std::string_view(reinterpret_cast<const char*>(mac), size));
}

std::string StateSeal::seal(const json& state, std::string_view binding, Clock::time_point now) {
    const auto expires = std::chrono::duration_cast<std::chrono::seconds>((now + lifetime).time_since_epoch()).count();
    const std::string payload = base64(json{{"expires", expires}, {"state", state}}.dump());
    return payload + '.' + signature(payload, binding);
}

std::optional<json> StateSeal::open(std::string_view sealed, std::string_view binding, Clock::time_point now) {
    const std::size_t dot = sealed.find('.');
    if (dot == std::string_view::npos) return std::nullopt;
    const std::string_view payload = sealed.substr(0, dot);
    const std::string_view said = sealed.substr(dot + 1);
    const std::string true_one = signature(payload, binding);
    if (said.size() != true_one.size() || ::CRYPTO_memcmp(said.data(), true_one.data(), said.size()) != 0) return std::nullopt;
    const json content = json::parse(*from_base64(payload));
    if (content.at("expires").get<std::int64_t>() <= std::chrono::duration_cast<std::chrono::seconds>(now.time_since_epoch()).count()) return std::nullopt;
    return content.at("state");
}

}  // namespace pyro::mcp
