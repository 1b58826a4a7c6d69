#include "common/sparse_digest.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "common/error.hpp"

namespace pyro {

Digest sparse_digest(int fd, std::stop_token stop) {
    constexpr std::uint64_t piece = 64 << 10, batch = 16;
    struct stat info {};
    if (::fstat(fd, &info) != 0)
        throw Error::from_errno("look at a file to hash");
    const auto size = static_cast<std::uint64_t>(info.st_size);
    Sha256 hash;
    const auto number = [&](std::uint64_t value) {
        char bytes[8];
        for (char& byte : bytes)
            byte = static_cast<char>(value), value >>= 8;
        hash.update({bytes, sizeof bytes});
    };
    std::string buffer(piece * batch, '\0');
    for (std::uint64_t index = 0; index * piece < size;) {
        if (stop.stop_requested())
            throw Cancelled();
        const off_t data = ::lseek(fd, static_cast<off_t>(index * piece), SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            break;
        if (data < 0 && errno != EINVAL)
            throw Error::from_errno("find the data of a file to hash");
        if (data >= 0)
            index = static_cast<std::uint64_t>(data) / piece;
        const std::uint64_t want = std::min<std::uint64_t>(buffer.size(), size - index * piece);
        std::uint64_t have = 0;
        while (have < want) {
            const ssize_t n = ::pread(fd, buffer.data() + have, want - have, static_cast<off_t>(index * piece + have));
            if (n < 0 && errno == EINTR)
                continue;
            if (n <= 0)
                throw Error::from_errno("read a file to hash", n < 0 ? errno : EIO);
            have += static_cast<std::uint64_t>(n);
        }
        for (std::uint64_t at = 0; at < want; at += piece, ++index) {
            const std::string_view bytes(buffer.data() + at, std::min(piece, want - at));
            if (bytes[0] == 0 && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0)
                continue;
            number(index);
            hash.update(bytes);
        }
    }
    number(size);
    return hash.finish();
}

}  // namespace pyro
