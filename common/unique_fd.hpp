// A file descriptor with one owner, and the whole-buffer reads and writes that go with it.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

namespace pyro {

// Owns one descriptor, or none (-1), and closes it.
class UniqueFd {
public:
    UniqueFd() noexcept = default;
    explicit UniqueFd(int fd) noexcept : fd_(fd) {}
    UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    UniqueFd& operator=(UniqueFd&& other) noexcept { reset(std::exchange(other.fd_, -1)); return *this; }
    UniqueFd(const UniqueFd&) = delete;
    UniqueFd& operator=(const UniqueFd&) = delete;
    ~UniqueFd() { reset(); }

    int get() const noexcept { return fd_; }
    explicit operator bool() const noexcept { return fd_ >= 0; }
    int release() noexcept { return std::exchange(fd_, -1); }
    void reset(int fd = -1) noexcept;
    UniqueFd duplicate() const;  // CLOEXEC

private:
    int fd_ = -1;
};

// All open with O_CLOEXEC and throw Error::from_errno with the path.
UniqueFd open_file(const std::string& path, int flags, unsigned mode = 0600);
// Below `directory` only, following no link (openat2 RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS).
UniqueFd open_beneath(int directory, const std::string& path, int flags, unsigned mode = 0600);

void write_all(int fd, std::string_view bytes);                 // all of them, or it throws
std::string read_up_to(int fd, std::size_t limit);              // until EOF or `limit` bytes
std::string read_file(const std::string& path, std::size_t limit = 64u << 20);  // throws if larger than `limit`
// Writes a temporary beside `path`, fsyncs it, renames it over `path`, fsyncs the directory.
void replace_file(const std::string& path, std::string_view bytes, unsigned mode = 0600);

}  // namespace pyro
