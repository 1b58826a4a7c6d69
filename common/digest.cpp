#include "common/digest.hpp"

#include "common/error.hpp"

#include <openssl/evp.h>

#include <algorithm>

namespace pyro {

Digest Digest::parse(std::string_view text) {
    constexpr std::string_view prefix = "sha256:";
    const auto hex_digit = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
    const std::string_view hex = text.substr(std::min(prefix.size(), text.size()));
    if (!text.starts_with(prefix) || hex.size() != 64 || !std::all_of(hex.begin(), hex.end(), hex_digit))
        throw Error(ErrorCode::invalid_argument, "not a digest: expected sha256: and 64 lower-case hex digits");
    Digest digest;
    digest.hex_ = hex;
    return digest;
}

Digest Digest::of(std::string_view bytes) {
    Sha256 hash;
    hash.update(bytes);
    return hash.finish();
}

void Sha256::Free::operator()(void* context) const noexcept { EVP_MD_CTX_free(static_cast<EVP_MD_CTX*>(context)); }

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
    if (!context_ || EVP_DigestInit_ex(static_cast<EVP_MD_CTX*>(context_.get()), EVP_sha256(), nullptr) != 1)
        throw Error(ErrorCode::internal, "SHA-256 is not available in this libcrypto");
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::update(std::string_view bytes) {
    EVP_DigestUpdate(static_cast<EVP_MD_CTX*>(context_.get()), bytes.data(), bytes.size());
}

Digest Sha256::finish() {
    unsigned char raw[32];
    EVP_DigestFinal_ex(static_cast<EVP_MD_CTX*>(context_.get()), raw, nullptr);
    constexpr char digits[] = "0123456789abcdef";
    Digest digest;
    for (const unsigned char byte : raw) {
        digest.hex_ += digits[byte >> 4];
        digest.hex_ += digits[byte & 15];
    }
    return digest;
}

}  // namespace pyro
