// The one error type. Thrown by value, given context while it unwinds, rendered once at a boundary.
#pragma once
#include <array>
#include <exception>
#include <map>
#include <string>
#include <string_view>

namespace pyro {

// The stable words of the public contract. The noun (which environment, which VM) is in the details.
enum class ErrorCode {
    not_found, invalid_argument, failed_precondition, quota_exceeded, timeout, cancelled,
    unavailable, guest_failed, environment_invalid, network_denied, internal,
};

inline constexpr std::array error_code_names{
    std::string_view{"not_found"}, std::string_view{"invalid_argument"}, std::string_view{"failed_precondition"},
    std::string_view{"quota_exceeded"}, std::string_view{"timeout"}, std::string_view{"cancelled"},
    std::string_view{"unavailable"}, std::string_view{"guest_failed"}, std::string_view{"environment_invalid"},
    std::string_view{"network_denied"}, std::string_view{"internal"},
};

constexpr std::string_view to_string(ErrorCode code) { return error_code_names[static_cast<std::size_t>(code)]; }

// An unknown word (a newer peer's) reads as `internal`.
ErrorCode error_code_from(std::string_view word) noexcept;

class Error : public std::exception {
public:
    Error(ErrorCode code, std::string message, std::string hint = {}) noexcept
        : code_(code), message_(std::move(message)), hint_(std::move(hint)), retryable_(code == ErrorCode::unavailable) {}

    // `what` is the failed action: "open /etc/passwd". The code is derived from errno_value where that says enough.
    static Error from_errno(std::string_view what, int errno_value);
    // The same with the calling thread's errno.
    static Error from_errno(std::string_view what);

    ErrorCode code() const noexcept { return code_; }
    const std::string& message() const noexcept { return message_; }  // what happened, contexts first
    const std::string& hint() const noexcept { return hint_; }        // what to do next; may be empty
    bool retryable() const noexcept { return retryable_; }
    const std::map<std::string, std::string>& details() const noexcept { return details_; }
    const char* what() const noexcept override { return message_.c_str(); }

    // In place on an object, by value on a temporary: `throw Error(...).with_detail(...)`.
    Error& with_hint(std::string hint) & { hint_ = std::move(hint); return *this; }
    Error& with_detail(std::string key, std::string value) & { details_[std::move(key)] = std::move(value); return *this; }
    Error& with_retryable(bool retryable) & { retryable_ = retryable; return *this; }
    [[nodiscard]] Error with_hint(std::string hint) && { return std::move(with_hint(std::move(hint))); }
    [[nodiscard]] Error with_detail(std::string key, std::string value) && { return std::move(with_detail(std::move(key), std::move(value))); }
    [[nodiscard]] Error with_retryable(bool retryable) && { return std::move(with_retryable(retryable)); }
    // Prefixes "context: " to the message. For use in a catch block that rethrows.
    Error& add_context(std::string_view context);

private:
    ErrorCode code_;
    std::string message_;
    std::string hint_;
    bool retryable_;
    std::map<std::string, std::string> details_;
};

// Cancellation is not an error: nothing that catches Error swallows it.
class Cancelled : public std::exception {
public:
    const char* what() const noexcept override { return "cancelled"; }
};

// For bugs only, always on. Input from a peer, a guest, a registry or a disk is never a bug.
[[noreturn]] void check_failed(const char* expression, const char* file, int line) noexcept;
#define PYRO_CHECK(expression) ((expression) ? void() : ::pyro::check_failed(#expression, __FILE__, __LINE__))

}  // namespace pyro
