#include "daemon/env/files.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <memory>

#include "common/error.hpp"
#include "common/unique_fd.hpp"
#include "daemon/env/manifest.hpp"

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

// Everything below an open directory, with two descriptors and no recursion, however deep it is: what is found in a
// directory moves up to the top first. The tree may be a living user's who works against us: a directory is taken over
// before it is read, what is mounted in it goes without a look inside, and there is an end to the patience.
class TreeRemoval {
public:
    TreeRemoval(UniqueFd top, dev_t device, std::chrono::steady_clock::time_point until) : top_(std::move(top)), device_(device), until_(until) {
        take_over(top_.get());
    }

    std::uint64_t run() {
        for (std::vector<std::string> names = list_open(top_.get()); !names.empty(); names = list_open(top_.get()))
            for (const std::string& name : names)
                remove(top_.get(), name);
        return bytes_;
    }

private:
    static void take_over(int directory) {
        if (::geteuid() == 0 && (::fchown(directory, 0, 0) != 0 || ::fchmod(directory, 0700) != 0))
            throw Error::from_errno("take over a directory");
    }

    // What a user mounted (FUSE) answers to root with errors of its own.
    static bool unmount(int parent, const std::string& name) {
        const std::string path = "/proc/self/fd/" + std::to_string(parent) + "/" + name;
        return ::umount2(path.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0;
    }

    void remove(int parent, const std::string& name) {
        if (std::chrono::steady_clock::now() >= until_)
            throw Error(ErrorCode::timeout, "a directory that was to be removed does not get empty", "end who writes in it");
        struct stat info {};
        for (;;) {
            const int failed = ::fstatat(parent, name.c_str(), &info, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) != 0 ? errno : 0;
            if (failed == 0 && (!S_ISDIR(info.st_mode) || info.st_dev == device_))
                break;
            if (failed == ENOENT)
                return;
            if (!unmount(parent, name))
                throw failed != 0 ? Error::from_errno("look at " + name, failed) : Error::from_errno("unmount " + name);
        }
        const std::uint64_t own = static_cast<std::uint64_t>(info.st_blocks) * 512;
        if (!S_ISDIR(info.st_mode)) {
            if (::unlinkat(parent, name.c_str(), 0) != 0 && errno != ENOENT)
                throw Error::from_errno("remove " + name);
            if (info.st_nlink == 1)
                bytes_ += own;
            return;
        }
        if (parent != top_.get() && ::unlinkat(parent, name.c_str(), AT_REMOVEDIR) != 0) {
            if (errno == ENOENT)
                return;
            for (;;) {
                const std::string above = ".removed-" + std::to_string(++moved_);
                if (::renameat2(parent, name.c_str(), top_.get(), above.c_str(), RENAME_NOREPLACE) == 0 || errno == ENOENT)
                    break;
                if (errno != EEXIST)
                    throw Error::from_errno("move " + name);
            }
            return;  // a later round's, unless it went meanwhile
        }
        if (parent == top_.get()) {
            const UniqueFd directory(::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
            if (!directory) {
                if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP)
                    return;  // changed under our hands: the next round sees what it is now
                throw Error::from_errno("open " + name);
            }
            take_over(directory.get());
            for (const std::string& below : list_open(directory.get()))
                remove(directory.get(), below);
            if (::unlinkat(parent, name.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT && errno != ENOTEMPTY && errno != ENOTDIR)
                throw Error::from_errno("remove " + name);
        }
        bytes_ += own;
    }

    UniqueFd top_;
    dev_t device_;
    std::chrono::steady_clock::time_point until_;
    std::uint64_t bytes_ = 0, moved_ = 0;
};

}  // namespace

std::uint64_t remove_tree(const std::string& path, std::chrono::steady_clock::time_point until) {
    struct stat info {};
    if (::lstat(path.c_str(), &info) != 0) {
        if (errno == ENOENT)
            return 0;
        throw Error::from_errno("look at " + path);
    }
    std::uint64_t bytes = static_cast<std::uint64_t>(info.st_blocks) * 512;
    if (!S_ISDIR(info.st_mode)) {
        if (::unlink(path.c_str()) != 0 && errno != ENOENT)
            throw Error::from_errno("remove " + path);
        return info.st_nlink == 1 ? bytes : 0;
    }
    {
        UniqueFd top = open_file(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
        if (::fstat(top.get(), &info) != 0)
            throw Error::from_errno("look at " + path);
        bytes += TreeRemoval(std::move(top), info.st_dev, until).run();
    }
    if (::rmdir(path.c_str()) != 0 && errno != ENOENT)
        throw Error::from_errno("remove " + path);
    return bytes;
}

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
    const UniqueFd directory = open_file(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (::fchmod(directory.get(), 0700) != 0)  // one that was there may have had another
        throw Error::from_errno("set the mode of " + path);
    if (::geteuid() != 0)
        return;
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

void take_blob(const std::string& directory, const Digest& digest, std::uint64_t size, std::stop_token stop) {
    const UniqueFd from = open_file(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
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
}

void keep_blob(const std::string& from_directory, const std::string& blob_directory, const Digest& digest) {
    if (::rename((from_directory + "/" + digest.hex()).c_str(), (blob_directory + "/" + digest.hex()).c_str()) != 0)
        throw Error::from_errno("keep blob " + digest.str());
}

void adopt_blob(const std::string& from_directory, const std::string& blob_directory, const Digest& digest, std::uint64_t size, std::stop_token stop) {
    take_blob(from_directory, digest, size, std::move(stop));
    keep_blob(from_directory, blob_directory, digest);
    sync_directory(blob_directory);
}

std::vector<std::string> blobs_of(const std::string& environments, const std::vector<Digest>& digests) {
    std::vector<std::string> out;
    for (const Digest& digest : digests) {
        try {
            const EnvironmentManifest manifest = EnvironmentManifest::parse(read_file(environments + "/" + digest.hex() + "/" + manifest_file, 8u << 20));
            for (const LayerInfo& layer : manifest.layers)
                out.push_back(layer.digest.hex());
            for (const Digest& document : {manifest.manifest_digest, manifest.config_digest})
                if (!document.empty())
                    out.push_back(document.hex());
        } catch (const Error&) {
            continue;  // a broken one vouches for nothing: the pull that repairs it loads what it needs
        }
    }
    return out;
}

std::uint64_t bytes_in(const std::string& directory) {
    std::uint64_t sum = 0;
    struct stat info {};
    for (const std::string& name : names_in(directory)) {
        const std::string path = directory + "/" + name;
        if (::lstat(path.c_str(), &info) != 0)
            continue;
        sum += static_cast<std::uint64_t>(info.st_blocks) * 512;
        if (!S_ISDIR(info.st_mode))
            continue;
        for (const std::string& below : names_in(path))
            if (::lstat((path + "/" + below).c_str(), &info) == 0)
                sum += static_cast<std::uint64_t>(info.st_blocks) * 512;
    }
    return sum;
}

std::uint64_t free_bytes(const std::string& directory) {
    struct statvfs info {};
    if (::statvfs(directory.c_str(), &info) != 0)
        throw Error::from_errno("look at the file system of " + directory);
    return static_cast<std::uint64_t>(info.f_bavail) * info.f_frsize;
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

void copy_sparse(const std::string& from, const std::string& to, std::stop_token stop) {
    const UniqueFd source = open_file(from, O_RDONLY | O_NOFOLLOW), target = open_file(to, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW);
    if (::ioctl(target.get(), FICLONE, source.get()) == 0)
        return;
    struct stat info {};
    if (::fstat(source.get(), &info) != 0 || ::ftruncate(target.get(), info.st_size) != 0)
        throw Error::from_errno("copy " + from);
    constexpr std::size_t most = 16u << 20;
    for (off_t at = ::lseek(source.get(), 0, SEEK_DATA); at >= 0;) {
        const off_t end = ::lseek(source.get(), at, SEEK_HOLE);
        if (end < 0)
            throw Error::from_errno("copy " + from);
        for (off_t in = at, out = at; in < end;) {
            if (stop.stop_requested())
                throw Cancelled();
            const ssize_t n = ::copy_file_range(source.get(), &in, target.get(), &out, std::min<std::size_t>(most, static_cast<std::size_t>(end - in)), 0);
            if (n < 0)
                throw Error::from_errno("copy " + from);
            if (n == 0)
                return;  // cut meanwhile
        }
        at = ::lseek(source.get(), end, SEEK_DATA);
    }
    if (errno != ENXIO)
        throw Error::from_errno("copy " + from);
}

std::int64_t unix_now() { return static_cast<std::int64_t>(std::time(nullptr)); }

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
