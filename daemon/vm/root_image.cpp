#include "daemon/vm/root_image.hpp"

#include "common/error.hpp"

#include <algorithm>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace pyro::vm {
namespace {

[[noreturn]] void invalid_root(const std::string& path, const std::string& why) {
    throw Error(ErrorCode::environment_invalid, "the environment's root image " + path + " " + why, "pull the environment again: pyro env pull ENV");
}

std::uint64_t little_endian(const unsigned char* bytes, int count) {
    std::uint64_t value = 0;
    for (int i = count; i-- > 0;) value = value << 8 | bytes[i];
    return value;
}

}  // namespace

std::uint64_t check_root_image(const std::string& path) {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) invalid_root(path, "cannot be opened");
    struct stat found{};
    if (::fstat(fd.get(), &found) != 0) throw Error::from_errno("look at " + path);
    unsigned char superblock[1024];
    if (::pread(fd.get(), superblock, sizeof superblock, 1024) != static_cast<ssize_t>(sizeof superblock)) invalid_root(path, "is truncated");
    if (little_endian(superblock + 0x38, 2) != 0xef53) invalid_root(path, "holds no ext4 file system");
    const std::uint64_t exponent = little_endian(superblock + 0x18, 4);
    const bool wide = (little_endian(superblock + 0x60, 4) & 0x80) != 0;  // INCOMPAT_64BIT
    const std::uint64_t blocks = little_endian(superblock + 0x4, 4) | (wide ? little_endian(superblock + 0x150, 4) << 32 : 0);
    if (exponent > 6 || blocks > (std::uint64_t{1} << 48)) invalid_root(path, "has a damaged superblock");
    if (static_cast<std::uint64_t>(found.st_size) < blocks << (10 + exponent)) invalid_root(path, "is truncated");
    return static_cast<std::uint64_t>(found.st_size);
}

std::uint64_t disk_bytes(const MachineSpec& spec, std::uint64_t root_bytes) {
    const std::uint64_t asked = static_cast<std::uint64_t>(spec.disk_gib) << 30;
    return (std::max(asked, root_bytes) + 511) / 512 * 512;
}

UniqueFd open_seed(const std::string& path) {
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    struct stat found{};
    const bool usable = fd && ::fstat(fd.get(), &found) == 0 && S_ISREG(found.st_mode) && found.st_size > 0 && static_cast<std::uint64_t>(found.st_size) <= seed_bytes;
    if (!usable) throw Error(ErrorCode::failed_precondition, "the seed's image " + path + " cannot be used", "seed the workspace again").with_detail("path", path);
    return fd;
}

}  // namespace pyro::vm
