#include "daemon/env/files.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>

#include "common/error.hpp"
#include "common/unique_fd.hpp"

namespace pyro::env {
namespace {

std::vector<std::string> list_open(int directory) {
    const int copy = ::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR* raw = copy < 0 ? nullptr : ::fdopendir(copy);
    if (!raw)
        throw Error::from_errno("read a directory");
    const std::unique_ptr<DIR, int (*)(DIR*)> stream(raw, ::closedir);
    std::vector<std::string> out;
    while (const dirent* entry = ::readdir(raw))
        if (std::strcmp(entry->d_name, ".") != 0 && std::strcmp(entry->d_name, "..") != 0)
            out.emplace_back(entry->d_name);
    std::sort(out.begin(), out.end());
    return out;
}

std::uint64_t remove_at(int parent, const std::string& name) {
    struct stat info {};
    if (::fstatat(parent, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) {
        if (errno == ENOENT)
            return 0;
        throw Error::from_errno("look at " + name);
    }
    const auto own = static_cast<std::uint64_t>(info.st_blocks) * 512;
    if (!S_ISDIR(info.st_mode)) {
        if (::unlinkat(parent, name.c_str(), 0) != 0 && errno != ENOENT)
            throw Error::from_errno("remove " + name);
        return info.st_nlink == 1 ? own : 0;
    }
    std::uint64_t bytes = own;
    {
        const UniqueFd directory(::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        if (!directory)
            throw Error::from_errno("open " + name);
        for (const std::string& below : list_open(directory.get()))
            bytes += remove_at(directory.get(), below);
    }
    if (::unlinkat(parent, name.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT)
        throw Error::from_errno("remove " + name);
    return bytes;
}

}  // namespace

std::uint64_t remove_tree(const std::string& path) { return remove_at(AT_FDCWD, path); }

std::vector<std::string> names_in(const std::string& directory) {
    const UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
    if (!fd) {
        if (errno == ENOENT)
            return {};
        throw Error::from_errno("open " + directory);
    }
    return list_open(fd.get());
}

void own_directory(const std::string& path, uid_t owner) {
    if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST)
        throw Error::from_errno("make " + path);
    if (::geteuid() != 0)
        return;
    const UniqueFd directory = open_file(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    for (const std::string& name : list_open(directory.get()))
        if (::fchownat(directory.get(), name.c_str(), owner, owner, AT_SYMLINK_NOFOLLOW) != 0)
            throw Error::from_errno("hand over " + path);
    if (::fchown(directory.get(), owner, owner) != 0)
        throw Error::from_errno("hand over " + path);
}

void sync_directory(const std::string& path) {
    const UniqueFd directory = open_file(path, O_RDONLY | O_DIRECTORY);
    if (::fsync(directory.get()) != 0)
        throw Error::from_errno("sync " + path);
}

void adopt_blob(const std::string& from_directory, const std::string& blob_directory, const Digest& digest, std::uint64_t size, std::stop_token stop) {
    const UniqueFd from = open_file(from_directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    const UniqueFd file = open_beneath(from.get(), digest.hex(), O_RDONLY);
    struct stat info {};
    if (::fstat(file.get(), &info) != 0)
        throw Error::from_errno("look at a blob");
    if (!S_ISREG(info.st_mode) || info.st_nlink != 1 || static_cast<std::uint64_t>(info.st_size) != size)
        throw Error(ErrorCode::environment_invalid, "blob " + digest.str() + " is not the file it should be", "pull again");
    Sha256 hash;
    while (true) {
        if (stop.stop_requested())
            throw Cancelled();
        const std::string piece = read_up_to(file.get(), 4u << 20);
        if (piece.empty())
            break;
        hash.update(piece);
    }
    if (const Digest actual = hash.finish(); actual != digest) {
        ::unlinkat(from.get(), digest.hex().c_str(), 0);
        throw Error(ErrorCode::environment_invalid, "blob " + digest.str() + " has the digest " + actual.str(), "pull again");
    }
    if (::geteuid() == 0 && ::fchown(file.get(), 0, 0) != 0)
        throw Error::from_errno("take over a blob");
    if (::fchmod(file.get(), 0400) != 0 || ::fsync(file.get()) != 0)
        throw Error::from_errno("keep a blob");
    const std::string to = blob_directory + "/" + digest.hex();
    if (::renameat(from.get(), digest.hex().c_str(), AT_FDCWD, to.c_str()) != 0)
        throw Error::from_errno("keep blob " + digest.str());
    sync_directory(blob_directory);
}

void install_directory(const std::string& from, const std::string& to) {
    for (const std::string& name : names_in(from)) {
        const UniqueFd file = open_file(from + "/" + name, O_RDONLY | O_NOFOLLOW);
        if (::fsync(file.get()) != 0)
            throw Error::from_errno("sync " + name);
    }
    sync_directory(from);
    if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) != 0) {
        // Something broken, or forced to be replaced, is there: the two change places, and the old one goes.
        if (errno != EEXIST || ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) != 0)
            throw Error::from_errno("install " + to);
    }
    sync_directory(to.substr(0, to.rfind('/')));
    remove_tree(from);
}

void trim_downloads(const std::string& directory, std::int64_t now, std::int64_t max_age_seconds, std::uint64_t max_bytes) {
    struct Half {
        std::int64_t changed;
        std::string path;
        std::uint64_t bytes;
    };
    std::vector<Half> halves;
    for (const std::string& name : names_in(directory)) {
        Half half{0, directory + "/" + name, 0};
        struct stat info {};
        if (::lstat(half.path.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
            remove_tree(half.path);
            continue;
        }
        half.changed = info.st_mtim.tv_sec;
        for (const std::string& file : names_in(half.path))
            if (::lstat((half.path + "/" + file).c_str(), &info) == 0) {
                half.bytes += static_cast<std::uint64_t>(info.st_blocks) * 512;
                half.changed = std::max<std::int64_t>(half.changed, info.st_mtim.tv_sec);
            }
        halves.push_back(std::move(half));
    }
    std::sort(halves.begin(), halves.end(), [](const Half& a, const Half& b) { return a.changed > b.changed; });
    std::uint64_t kept = 0;
    for (const Half& half : halves) {
        kept += half.bytes;
        if (kept > max_bytes || half.changed + max_age_seconds < now || half.bytes == 0)
            remove_tree(half.path);
    }
}

}  // namespace pyro::env
