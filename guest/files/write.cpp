#include "guest/files/beneath.hpp"
#include "guest/files/operations.hpp"

#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

namespace pyro::guest::files {
namespace {

using proto::files::Done;

// All of stdin into the file, and how much that was.
std::uint64_t take_stdin(int file, const std::string& path, std::optional<std::uint64_t> length) {
    std::string buffer(256 << 10, '\0');
    std::uint64_t total = 0;
    while (true) {
        const ssize_t got = ::read(STDIN_FILENO, buffer.data(), buffer.size());
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) throw Error::from_errno("read the content of " + quoted(path));
        if (got == 0) break;
        total += static_cast<std::uint64_t>(got);
        if (length && total > *length)
            throw Error(ErrorCode::invalid_argument, "write " + quoted(path) + ": more came than the " + std::to_string(*length) + " bytes announced; nothing was changed");
        for (ssize_t at = 0; at < got;) {
            const ssize_t put = ::write(file, buffer.data() + at, static_cast<std::size_t>(got - at));
            if (put < 0 && errno == EINTR) continue;
            if (put < 0) fail("write", path, errno, file);
            at += put;
        }
    }
    if (length && total < *length)
        throw Error(ErrorCode::unavailable, "write " + quoted(path) + ": only " + std::to_string(total) + " of " + std::to_string(*length)
                    + " bytes came; nothing was changed", "send it again");
    return total;
}

std::string fresh_name() {
    std::uint64_t number = 0;
    if (::getrandom(&number, sizeof number, 0) != sizeof number) throw Error::from_errno("draw a random number");
    char digits[17];
    std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(number));
    return std::string(staging_prefix) + digits;
}

}  // namespace

void write(const UniqueFd& root, const std::string& path, const WriteOptions& options) {
    std::vector<std::string_view> names = components(path);
    if (names.empty()) fail("write", path, EISDIR);
    const std::string name(names.back());
    names.pop_back();

    Trail trail(root);
    int error = 0;
    std::size_t there = trail.follow(names, error);
    if (there < names.size() && !(error == ENOENT && options.parents)) fail("write", path, error);

    struct stat old{};
    const bool exists = there == names.size() && ::fstatat(trail.fd(), name.c_str(), &old, AT_SYMLINK_NOFOLLOW) == 0;
    if (exists && S_ISDIR(old.st_mode)) fail("write", path, EISDIR);
    if (exists && !S_ISREG(old.st_mode) && !S_ISLNK(old.st_mode))
        throw Error(ErrorCode::failed_precondition, "write " + quoted(path) + ": a fifo, a socket or a device is there", "remove it first");
    if (exists && options.must_create) fail("create", path, EEXIST);
    if (!exists && options.must_replace) fail("replace", path, ENOENT);
    const mode_t mode = options.mode ? *options.mode : exists && S_ISREG(old.st_mode) ? old.st_mode & 0777 : 0644;

    // Without a name until it is whole: a run that is killed leaves nothing.
    const UniqueFd file(::openat(trail.fd(), ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600));
    if (!file) fail("write", path, errno, trail.fd());
    Done done;
    done.files = 1;
    done.bytes = take_stdin(file.get(), path, options.length);
    std::optional<Owner> owner = options.owner;
    if (owner && exists) owner = Owner{old.st_uid, old.st_gid};
    if (owner && ::fchown(file.get(), owner->uid, owner->gid) != 0) fail("give away", path, errno);
    if (::fchmod(file.get(), mode) != 0) fail("write", path, errno);

    std::vector<bool> made;  // of the last levels of the trail: by us?
    const auto unmake = [&] {
        for (; !made.empty(); made.pop_back()) {
            const std::string directory = trail.name(trail.depth() - 1);
            trail.leave();
            if (made.back()) ::unlinkat(trail.fd(), directory.c_str(), AT_REMOVEDIR);
        }
    };
    try {
        for (; there < names.size(); ++there) {
            const std::string directory(names[there]);
            const bool ours = ::mkdirat(trail.fd(), directory.c_str(), 0755) == 0;
            if (!ours && errno != EEXIST) fail("make the directories of", path, errno, file.get());
            if (ours && owner && ::fchownat(trail.fd(), directory.c_str(), owner->uid, owner->gid, AT_SYMLINK_NOFOLLOW) != 0) error = errno;
            else error = trail.enter(directory.c_str());
            if (error != 0 && ours) ::unlinkat(trail.fd(), directory.c_str(), AT_REMOVEDIR);
            if (error != 0) fail("write", path, error);
            made.push_back(ours);
        }
        const std::string content = "/proc/self/fd/" + std::to_string(file.get());
        if (options.must_create) {
            if (::linkat(AT_FDCWD, content.c_str(), trail.fd(), name.c_str(), AT_SYMLINK_FOLLOW) != 0) fail("create", path, errno, file.get());
        } else {
            const std::string temporary = fresh_name();
            if (::linkat(AT_FDCWD, content.c_str(), trail.fd(), temporary.c_str(), AT_SYMLINK_FOLLOW) != 0) fail("write", path, errno, file.get());
            if (::renameat(trail.fd(), temporary.c_str(), trail.fd(), name.c_str()) != 0) {
                const int why = errno;
                ::unlinkat(trail.fd(), temporary.c_str(), 0);
                fail("write", path, why, file.get());
            }
        }
    } catch (const Error&) {
        unmake();
        throw;
    }
    Output out(STDOUT_FILENO);
    out.put(done);
    out.flush();
}

void remove(const UniqueFd& root, const std::string& path, bool recursive) {
    std::vector<std::string_view> names = components(path);
    if (names.empty()) throw Error(ErrorCode::invalid_argument, "remove \".\": the root itself stays", "name what is in it");
    const std::string name(names.back());
    names.pop_back();
    Trail trail(root);
    int error = 0;
    if (trail.follow(names, error) < names.size()) fail("remove", path, error);

    struct stat info{};
    if (::fstatat(trail.fd(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) fail("remove", path, errno);
    Removed removed;
    const bool directory = S_ISDIR(info.st_mode);
    if (directory && recursive) {
        error = trail.enter(name.c_str());
        if (error == EACCES && change_mode(trail.fd(), name.c_str(), 0700) == 0) error = trail.enter(name.c_str());
        if (error != 0) fail("remove", path, error);
        remove_content(trail, removed);
        trail.leave();
    }
    if (::unlinkat(trail.fd(), name.c_str(), directory ? AT_REMOVEDIR : 0) != 0) fail("remove", path, errno);
    ++(directory ? removed.directories : S_ISLNK(info.st_mode) ? removed.symlinks : removed.files);
    Done done;
    done.files = removed.files;
    done.directories = removed.directories;
    done.symlinks = removed.symlinks;
    Output out(STDOUT_FILENO);
    out.put(done);
    out.flush();
}

}  // namespace pyro::guest::files
