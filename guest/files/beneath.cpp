#include "guest/files/beneath.hpp"

#include "proto/files.hpp"

#include <cerrno>
#include <climits>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace pyro::guest::files {
namespace {

constexpr std::size_t open_levels = 64;
constexpr int through_directories = O_PATH | O_DIRECTORY | O_NOFOLLOW;

bool is_full(int error) { return error == ENOSPC || error == EDQUOT; }

}  // namespace

std::string quoted(std::string_view path) {
    constexpr std::size_t most = 300;
    constexpr char hex[] = "0123456789abcdef";
    std::string out = "\"";
    for (std::size_t i = 0; i < path.size();) {
        if (path.size() > most && i >= most / 2 && i < path.size() - most / 2) {
            out += "...";
            i = path.size() - most / 2;
        }
        std::size_t length = proto::files::utf8_sequence(path.substr(i));
        const auto byte = static_cast<unsigned char>(path[i]);
        if (length == 0 || byte < 0x20 || byte == 0x7f) {
            out += {'\\', 'x', hex[byte >> 4], hex[byte & 15]};
            length = 1;
        } else {
            out += path.substr(i, length);
        }
        i += length;
    }
    return out + '"';
}

void fail(std::string_view action, std::string_view path, int error, int near) {
    const std::string what = std::string(action) + " " + quoted(path) + ": ";
    const auto failure = [&](ErrorCode code, const char* why, const char* hint) { return Error(code, what + why, hint); };
    if (is_full(error)) {
        struct statfs disk{};
        if (error == EDQUOT) throw failure(ErrorCode::quota_exceeded, "the user's disk quota is used up", "remove files in the workspace");
        if (near >= 0 && ::fstatfs(near, &disk) == 0 && disk.f_files > 0 && disk.f_ffree == 0)
            throw failure(ErrorCode::quota_exceeded, "no inodes are left on the disk", "remove files in the workspace, many small ones, or take a larger disk");
        throw failure(ErrorCode::quota_exceeded, "no space is left on the disk", "remove files in the workspace, or take a larger disk");
    }
    switch (error) {
        case ENOENT: throw failure(ErrorCode::not_found, "there is nothing of that name", "list the directory to see what is there");
        case ENOTDIR: throw failure(ErrorCode::failed_precondition, "a part of it is no directory, or a symbolic link", "list the directories above it");
        case ELOOP: throw failure(ErrorCode::failed_precondition, "a part of it is a symbolic link", "name the directory the link leads to");
        case EXDEV: throw failure(ErrorCode::failed_precondition, "it leads out of the workspace, or to another file system", "name a file of the workspace itself");
        case EEXIST: throw failure(ErrorCode::failed_precondition, "something of that name is there already", "remove it first, or replace it");
        case ENOTEMPTY: throw failure(ErrorCode::failed_precondition, "the directory is not empty", "remove it with what is in it: --recursive");
        case EISDIR: throw failure(ErrorCode::failed_precondition, "it is a directory", "name a file");
        case EBUSY: throw failure(ErrorCode::failed_precondition, "something is mounted there, or it is in use", "unmount it in the workspace");
        case EACCES: case EPERM: case EROFS:
            throw failure(ErrorCode::failed_precondition, std::strerror(error), "the workspace's user may not do that; change owner or mode first");
        case ENAMETOOLONG: throw failure(ErrorCode::invalid_argument, "the name is too long", "a name has at most 255 bytes");
        case EFBIG: throw failure(ErrorCode::quota_exceeded, "the file would be larger than it may be", "raise the limit of file sizes in the workspace");
        case EAGAIN: throw failure(ErrorCode::unavailable, "it is being changed all the time", "try again when it is not");
        default: throw Error::from_errno(what.substr(0, what.size() - 2), error);
    }
}

std::string normal_path(std::string_view path, std::string_view root) {
    const std::string_view whole = path;
    const auto refuse = [&](const std::string& why) { throw Error(ErrorCode::invalid_argument, quoted(whole) + " " + why, "name a path beneath the workspace's root"); };
    while (root.size() > 1 && root.ends_with('/')) root.remove_suffix(1);
    if (path.starts_with('/')) {
        if (root != "/" && (!path.starts_with(root) || (path.size() > root.size() && path[root.size()] != '/'))) refuse("is outside of " + std::string(root));
        path.remove_prefix(root == "/" ? 1 : root.size());
    }
    std::string normal;
    while (!path.empty()) {
        const std::string_view name = path.substr(0, path.find('/'));
        path.remove_prefix(std::min(path.size(), name.size() + 1));
        if (name.empty() || name == ".") continue;
        if (name == "..") refuse("has a \"..\"");
        if (name.size() > proto::files::max_name_bytes) refuse("has a name of more than 255 bytes");
        if (name.find('\0') != std::string_view::npos) refuse("has a NUL");
        if (!normal.empty()) normal += '/';
        normal += name;
    }
    if (normal.size() > proto::files::max_path_bytes) refuse("is longer than " + std::to_string(proto::files::max_path_bytes) + " bytes");
    return normal.empty() ? "." : normal;
}

std::vector<std::string_view> components(std::string_view path) {
    std::vector<std::string_view> names;
    if (path == ".") return names;
    while (true) {
        names.push_back(path.substr(0, path.find('/')));
        if (names.back().size() == path.size()) return names;
        path.remove_prefix(names.back().size() + 1);
    }
}

std::string joined(std::string_view directory, std::string_view name) {
    if (directory == ".") return std::string(name);
    return std::string(directory) + "/" + std::string(name);
}

int open_beneath_at(int directory, const char* path, int flags, std::uint64_t resolve, unsigned mode) {
    open_how how{};
    how.flags = static_cast<unsigned>(flags | O_CLOEXEC);
    how.mode = mode;
    how.resolve = resolve | RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;
    long fd = -1;
    // EAGAIN: a rename elsewhere made it impossible to be sure. Somebody who renames all the time does not hold us forever.
    for (int attempt = 0; attempt < 1000 && fd < 0; ++attempt) {
        fd = ::syscall(SYS_openat2, directory, path, &how, sizeof how);
        if (fd < 0 && errno != EAGAIN && errno != EINTR) break;
    }
    return static_cast<int>(fd);
}

int Trail::fd() {
    if (levels_.empty()) return root_.get();
    if (!levels_.back().fd) open_from(levels_.size() > open_levels ? levels_.size() - open_levels : 0);
    return levels_.back().fd.get();
}

int Trail::enter(const char* name) {
    UniqueFd next(open_beneath_at(fd(), name, through_directories, RESOLVE_NO_SYMLINKS));
    if (!next) return errno;
    struct stat info{};
    if (::fstat(next.get(), &info) != 0) return errno;
    levels_.push_back(Level{name, info.st_dev, info.st_ino, std::move(next)});
    if (levels_.size() > open_levels) levels_[levels_.size() - 1 - open_levels].fd.reset();
    return 0;
}

void Trail::leave() {
    if (!levels_.empty()) levels_.pop_back();
}

std::string Trail::path() const {
    std::string path;
    for (const Level& level : levels_) path += (path.empty() ? "" : "/") + level.name;
    return path.empty() ? "." : path;
}

// Opens `level` and all below it. The way to it is a path from the root, in pieces that the kernel takes.
void Trail::open_from(std::size_t level) {
    UniqueFd at;
    std::string piece;
    const auto step = [&] {
        at = UniqueFd(open_beneath_at(at ? at.get() : root_.get(), piece.c_str(), through_directories, RESOLVE_NO_SYMLINKS));
        piece.clear();
        return static_cast<bool>(at);
    };
    bool there = true;
    for (std::size_t i = 0; i < levels_.size() && there; ++i) {
        piece += (piece.empty() ? "" : "/") + levels_[i].name;
        if (i < level && piece.size() < PATH_MAX - 2 * NAME_MAX) continue;
        there = step();
        struct stat info{};
        there = there && ::fstat(at.get(), &info) == 0 && info.st_dev == levels_[i].device && info.st_ino == levels_[i].inode;
        if (there && i >= level) levels_[i].fd = at.duplicate();
    }
    if (!there)
        throw Error(ErrorCode::failed_precondition, quoted(path()) + " was moved away by somebody else meanwhile",
                    "try again when nothing else changes these directories");
}

std::size_t Trail::follow(const std::vector<std::string_view>& names, int& error) {
    error = 0;
    for (std::size_t i = 0; i < names.size(); ++i)
        if ((error = enter(std::string(names[i]).c_str())) != 0) return i;
    return names.size();
}

int Names::read(int fd) {
    items.clear();
    block_.clear();
    const UniqueFd directory(::openat(fd, ".", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!directory) return errno;
    alignas(dirent64) char buffer[32 << 10];
    while (true) {
        const long count = ::syscall(SYS_getdents64, directory.get(), buffer, sizeof buffer);
        if (count < 0 && errno == ENOENT) return 0;  // removed meanwhile
        if (count < 0) return errno;
        if (count == 0) return 0;
        for (long at = 0; at < count;) {
            const auto* found = reinterpret_cast<const dirent64*>(buffer + at);
            at += found->d_reclen;
            const std::string_view name = found->d_name;
            if (name == "." || name == "..") continue;
            if (block_.size() > UINT32_MAX - 256) return EOVERFLOW;
            std::uint8_t type = found->d_type;
            if (type == DT_UNKNOWN) {
                struct stat info{};
                if (::fstatat(fd, found->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0) type = static_cast<std::uint8_t>(IFTODT(info.st_mode));
            }
            items.push_back(Item{static_cast<std::uint32_t>(block_.size()), type, 0});
            block_.append(name.data(), name.size() + 1);
        }
    }
}

// fchmod wants a descriptor one may read, and fchmodat follows links and needs a directory one may search.
int change_mode(int held, mode_t mode) { return ::chmod(("/proc/self/fd/" + std::to_string(held)).c_str(), mode) == 0 ? 0 : errno; }

int change_mode(int directory, const char* name, mode_t mode) {
    const UniqueFd held(open_beneath_at(directory, name, O_PATH | O_NOFOLLOW, RESOLVE_NO_SYMLINKS));
    if (!held) return errno;
    return change_mode(held.get(), mode);
}

void remove_content(Trail& trail, Removed& removed) {
    const std::size_t top = trail.depth();
    std::vector<std::vector<std::string>> waiting;  // directories that are not empty, per level
    const auto complain = [&](const char* name, int error) { fail("remove", joined(trail.path(), name), error); };

    const auto remove_one = [&](const char* name, int flags) {
        if (::unlinkat(trail.fd(), name, flags) == 0) return 0;
        if (errno != EACCES) return errno;
        // Its own directory may not be written to, which its owner can change.
        if (change_mode(trail.fd(), 0700) != 0) return EACCES;
        return ::unlinkat(trail.fd(), name, flags) == 0 ? 0 : errno;
    };
    // Everything that is no directory, and empty directories; the others wait.
    const auto clear_level = [&] {
        Names names;
        int error = names.read(trail.fd());
        if (error == EACCES && change_mode(trail.fd(), 0700) == 0) error = names.read(trail.fd());
        if (error != 0) complain(".", error);
        std::vector<std::string> full;
        for (const Names::Item& item : names.items) {
            const char* name = names.name(item);
            error = remove_one(name, item.type == DT_DIR ? AT_REMOVEDIR : 0);
            if (error == 0) ++(item.type == DT_DIR ? removed.directories : item.type == DT_LNK ? removed.symlinks : removed.files);
            else if (item.type == DT_DIR && (error == ENOTEMPTY || error == EEXIST)) full.emplace_back(name);
            else if (error != ENOENT) complain(name, error);
        }
        waiting.push_back(std::move(full));
    };

    clear_level();
    while (true) {
        if (!waiting.back().empty()) {
            const std::string& name = waiting.back().back();
            int error = trail.enter(name.c_str());
            if (error == EACCES && change_mode(trail.fd(), name.c_str(), 0700) == 0) error = trail.enter(name.c_str());
            if (error == ENOENT) {
                waiting.back().pop_back();
                continue;
            }
            if (error != 0) complain(name.c_str(), error);
            clear_level();
            continue;
        }
        waiting.pop_back();
        if (trail.depth() == top) return;
        trail.leave();
        const std::string name = std::move(waiting.back().back());
        waiting.back().pop_back();
        // Not empty once more: somebody fills it while it is removed. A user's error, not one to fight about.
        const int error = remove_one(name.c_str(), AT_REMOVEDIR);
        if (error != 0 && error != ENOENT) complain(name.c_str(), error);
        if (error == 0) ++removed.directories;
    }
}

bool is_staging(std::string_view path) { return path.starts_with(staging_prefix) && path.find('/') == std::string_view::npos; }

}  // namespace pyro::guest::files
