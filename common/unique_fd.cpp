#include "common/unique_fd.hpp"

#include "common/error.hpp"

#include <algorithm>

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace pyro {

void UniqueFd::reset(int fd) noexcept {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
}

UniqueFd UniqueFd::duplicate() const {
    const int copy = ::fcntl(fd_, F_DUPFD_CLOEXEC, 3);
    if (copy < 0) throw Error::from_errno("duplicate a file descriptor");
    return UniqueFd(copy);
}

UniqueFd open_file(const std::string& path, int flags, unsigned mode) {
    const int fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
    if (fd < 0) throw Error::from_errno("open " + path);
    return UniqueFd(fd);
}

UniqueFd open_beneath(int directory, const std::string& path, int flags, unsigned mode) {
    open_how how{};
    how.flags = static_cast<unsigned>(flags | O_CLOEXEC);
    if ((flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE) how.mode = mode;  // O_TMPFILE has O_DIRECTORY's bit
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
    const long fd = ::syscall(SYS_openat2, directory, path.c_str(), &how, sizeof how);
    if (fd < 0) throw Error::from_errno("open " + path);
    return UniqueFd(static_cast<int>(fd));
}

void write_all(int fd, std::string_view bytes) {
    while (!bytes.empty()) {
        const ssize_t n = ::write(fd, bytes.data(), bytes.size());
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) throw Error::from_errno("write");
        bytes.remove_prefix(static_cast<std::size_t>(n));
    }
}

std::string read_up_to(int fd, std::size_t limit) {
    std::string out;
    while (out.size() < limit) {
        const std::size_t at = out.size();
        // Most are small, and in an emulated guest every page of a buffer counts.
        const std::size_t want = std::min(limit - at, std::clamp<std::size_t>(at, 4 << 10, 64 << 10));
        out.resize(at + want);
        const ssize_t n = ::read(fd, out.data() + at, want);
        if (n < 0 && errno == EINTR) { out.resize(at); continue; }
        if (n < 0) throw Error::from_errno("read");
        out.resize(at + static_cast<std::size_t>(n));
        if (n == 0) break;
    }
    return out;
}

std::string read_file(const std::string& path, std::size_t limit) {
    const UniqueFd fd = open_file(path, O_RDONLY);
    std::string out = read_up_to(fd.get(), limit + 1);
    if (out.size() > limit)
        throw Error(ErrorCode::invalid_argument, path + " is larger than " + std::to_string(limit) + " bytes");
    return out;
}

void replace_file(const std::string& path, std::string_view bytes, unsigned mode) {
    const std::string temporary = path + ".tmp";
    {
        const UniqueFd fd = open_file(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, mode);
        write_all(fd.get(), bytes);
        if (::fsync(fd.get()) != 0) throw Error::from_errno("fsync " + temporary);
    }
    if (::rename(temporary.c_str(), path.c_str()) != 0) throw Error::from_errno("rename " + temporary);
    const auto slash = path.rfind('/');
    const UniqueFd directory = open_file(slash == std::string::npos ? "." : path.substr(0, slash + 1), O_RDONLY | O_DIRECTORY);
    if (::fsync(directory.get()) != 0) throw Error::from_errno("fsync the directory of " + path);
}

}  // namespace pyro
