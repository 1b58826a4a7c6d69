#include "daemon/vm/memory_image.hpp"

#include "common/error.hpp"
#include "common/sparse_digest.hpp"

#include <algorithm>
#include <cerrno>
#include <memory>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace pyro::vm {
namespace {

constexpr std::size_t piece = 1 << 20;

// What `from` holds, at the same places in `to`, which is empty.
void copy_data(int from, int to, const std::stop_token& stop) {
    struct stat info{};
    if (::fstat(from, &info) != 0 || ::ftruncate(to, info.st_size) != 0) throw Error::from_errno("copy a memory image");
    const auto buffer = std::make_unique<char[]>(piece);
    for (off_t at = ::lseek(from, 0, SEEK_DATA); at >= 0;) {
        const off_t end = ::lseek(from, at, SEEK_HOLE);
        if (end < 0) throw Error::from_errno("copy a memory image");
        while (at < end) {
            if (stop.stop_requested()) throw Cancelled();
            const ssize_t got = ::pread(from, buffer.get(), std::min<std::size_t>(piece, static_cast<std::size_t>(end - at)), at);
            if (got <= 0) throw Error::from_errno("read a memory image", got == 0 ? EIO : errno);
            for (ssize_t done = 0; done < got;) {
                const ssize_t put = ::pwrite(to, buffer.get() + done, static_cast<std::size_t>(got - done), at + done);
                if (put <= 0) throw Error::from_errno("write a memory image", put == 0 ? EIO : errno);
                done += put;
            }
            at += got;
        }
        at = ::lseek(from, at, SEEK_DATA);
    }
}

}  // namespace

UniqueFd unsealed_memfd(const char* name, std::uint64_t bytes) {
    UniqueFd fd(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0 || ::fchmod(fd.get(), 0666) != 0) throw Error::from_errno("make a memory file");
    return fd;
}

void seal(const UniqueFd& memfd) {
    if (::fcntl(memfd.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) != 0) throw Error::from_errno("seal a memory file");
}

UniqueFd reopened(const UniqueFd& memfd) { return open_file("/proc/self/fd/" + std::to_string(memfd.get()), O_RDONLY); }

Digest copy_out(const UniqueFd& memfd, const std::string& path, std::stop_token stop) {
    const UniqueFd to = open_file(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
    copy_data(memfd.get(), to.get(), stop);
    return sparse_digest(memfd.get(), stop);
}

UniqueFd copy_in(const std::string& path, const char* name, const Digest& digest, std::stop_token stop) {
    const UniqueFd from = open_file(path, O_RDONLY | O_NOFOLLOW);
    UniqueFd to = unsealed_memfd(name, 0);
    copy_data(from.get(), to.get(), stop);
    seal(to);
    // Of the copy that is used, not of the file, which may be another by now.
    if (sparse_digest(to.get(), stop) != digest) throw Error(ErrorCode::failed_precondition, path + " is not what was written");
    return to;
}

}  // namespace pyro::vm
