// SHA-256 content digests in OCI spelling, "sha256:<64 lower-case hex digits>".
#pragma once
#include <compare>
#include <memory>
#include <string>
#include <string_view>

namespace pyro {

// A digest's 64 hex digits. Invariant: empty, or exactly those.
class Digest {
public:
    Digest() = default;                                  // empty: equal to no content
    static Digest parse(std::string_view text);          // throws invalid_argument unless exactly sha256:<64 hex>
    static Digest of(std::string_view bytes);

    const std::string& hex() const noexcept { return hex_; }
    std::string str() const { return "sha256:" + hex_; }
    std::string short_form() const { return hex_.substr(0, 12); }
    bool empty() const noexcept { return hex_.empty(); }
    auto operator<=>(const Digest&) const = default;

private:
    friend class Sha256;
    std::string hex_;
};

// Streaming hash. Owns libcrypto's context.
class Sha256 {
public:
    Sha256();
    ~Sha256();
    Sha256(Sha256&&) noexcept;
    Sha256& operator=(Sha256&&) noexcept;
    void update(std::string_view bytes);
    Digest finish();  // once

private:
    struct Free { void operator()(void* context) const noexcept; };
    std::unique_ptr<void, Free> context_;
};

}  // namespace pyro
