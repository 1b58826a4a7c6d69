#include "common/error.hpp"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace pyro {

ErrorCode error_code_from(std::string_view word) noexcept {
    for (std::size_t i = 0; i < error_code_names.size(); ++i)
        if (error_code_names[i] == word) return static_cast<ErrorCode>(i);
    return ErrorCode::internal;
}

namespace {
ErrorCode code_of_errno(int value) noexcept {
    switch (value) {
        case ENOENT: return ErrorCode::not_found;
        case ENOSPC: case EDQUOT: case EMFILE: case ENFILE: case ENOMEM: return ErrorCode::quota_exceeded;
        case ECONNREFUSED: case ECONNRESET: case EPIPE: case EAGAIN: return ErrorCode::unavailable;
        case EACCES: case EPERM: case EROFS: return ErrorCode::failed_precondition;
        case ETIMEDOUT: return ErrorCode::timeout;
        default: return ErrorCode::internal;
    }
}
}  // namespace

Error Error::from_errno(std::string_view what, int errno_value) {
    return Error(code_of_errno(errno_value), std::string(what) + ": " + std::strerror(errno_value));
}

Error Error::from_errno(std::string_view what) { return from_errno(what, errno); }

Error& Error::add_context(std::string_view context) {
    message_ = std::string(context) + ": " + message_;
    return *this;
}

void check_failed(const char* expression, const char* file, int line) noexcept {
    std::fprintf(stderr, "pyro: bug: %s does not hold at %s:%d\n", expression, file, line);
    std::abort();
}

}  // namespace pyro
