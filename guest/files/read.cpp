#include "guest/files/operations.hpp"
#include "guest/files/walk.hpp"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <fcntl.h>
#include <linux/openat2.h>
#include <unistd.h>

namespace pyro::guest::files {
namespace {

using proto::files::Done;
using proto::files::Entry;
using proto::files::Kind;

constexpr std::size_t piece_bytes = 256 << 10;

// The trail to a path's directory, and its name in it: "." for the root.
struct Place {
    Trail trail;
    std::string name;
};

Place place_of(const UniqueFd& root, const std::string& path, std::string_view action) {
    Place place{Trail(root), "."};
    std::vector<std::string_view> names = components(path);
    if (names.empty()) return place;
    place.name = names.back();
    names.pop_back();
    int error = 0;
    if (place.trail.follow(names, error) < names.size()) fail(action, path, error);
    return place;
}

Entry look_at(Place& place, const std::string& path, struct stat& info) {
    if (::fstatat(place.trail.fd(), place.name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) fail("look at", path, errno);
    return entry_of(Found{place.trail.fd(), place.name.c_str(), path, info});
}

void count(Done& done, const Entry& entry) {
    if (entry.kind == Kind::directory) ++done.directories;
    else if (entry.kind == Kind::symlink) ++done.symlinks;
    else ++done.files;
    done.bytes += entry.size;
}

// The file that `path` leads to, opened for looking only: nothing happens to a fifo or a device.
UniqueFd hold(const UniqueFd& root, const std::string& path) {
    int fd = -1;
    if (path.size() < PATH_MAX) {
        fd = open_beneath_at(root.get(), path.c_str(), O_PATH, 0);
    } else {
        Place place = place_of(root, path, "read");
        fd = open_beneath_at(place.trail.fd(), place.name.c_str(), O_PATH | O_NOFOLLOW, RESOLVE_NO_SYMLINKS);
    }
    if (fd < 0) fail("read", path, errno);
    return UniqueFd(fd);
}

}  // namespace

void Output::put(std::string_view bytes) {
    pending_ += bytes;
    if (pending_.size() >= 64 << 10) flush();
}

void Output::flush() {
    write_all(fd_, pending_);
    pending_.clear();
}

void list(const UniqueFd& root, const std::string& path, const ListOptions& options) {
    Place place = place_of(root, path, "list");
    struct stat info{};
    const Entry start = look_at(place, path, info);
    Output out(STDOUT_FILENO);
    Done done;
    const auto tell = [&](const Entry& entry) {
        if (options.limit && done.files + done.directories + done.symlinks == *options.limit) {
            done.more = true;
            return false;
        }
        count(done, entry);
        out.put(entry);
        return true;
    };
    if (start.kind != Kind::directory) {
        if (path > options.after) tell(start);
    } else {
        const int error = path == "." ? 0 : place.trail.enter(place.name.c_str());
        if (error != 0) fail("list", path, error);
        walk(place.trail, WalkOptions{options.recursive, false, options.after},
             WalkVisitor{[&](const Found& found) { return tell(entry_of(found)); },
                         [&](proto::files::Reason reason, const std::string& where) { out.put(proto::files::Note{reason, where}); }});
    }
    out.put(done);
    out.flush();
}

void stat_one(const UniqueFd& root, const std::string& path) {
    Place place = place_of(root, path, "look at");
    struct stat info{};
    const Entry entry = look_at(place, path, info);
    Done done;
    count(done, entry);
    Output out(STDOUT_FILENO);
    out.put(entry);
    out.put(done);
    out.flush();
}

void read(const UniqueFd& root, const std::string& path, const ReadOptions& options) {
    const UniqueFd held = hold(root, path);
    struct stat info{};
    if (::fstat(held.get(), &info) != 0) fail("read", path, errno);
    if (S_ISDIR(info.st_mode)) fail("read", path, EISDIR);
    if (!S_ISREG(info.st_mode))
        throw Error(ErrorCode::failed_precondition, "read " + quoted(path) + ": it is a fifo, a socket or a device", "only files can be read");
    // The very file that was looked at.
    const UniqueFd file(::open(("/proc/self/fd/" + std::to_string(held.get())).c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    if (!file) fail("read", path, errno);

    std::string buffer(piece_bytes, '\0');
    Done done;
    done.files = 1;
    const std::uint64_t limit = options.limit.value_or(UINT64_MAX);
    std::uint64_t at = std::min<std::uint64_t>(options.offset, INT64_MAX / 2);  // far behind any end
    while (done.bytes < limit) {
        const std::size_t want = static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), limit - done.bytes));
        const ssize_t got = ::pread(file.get(), buffer.data(), want, static_cast<off_t>(at));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) fail("read", path, errno);
        if (got == 0) break;
        write_all(STDOUT_FILENO, std::string_view(buffer).substr(0, static_cast<std::size_t>(got)));
        at += static_cast<std::uint64_t>(got);
        done.bytes += static_cast<std::uint64_t>(got);
    }
    done.more = static_cast<std::uint64_t>(info.st_size) > at;
    Output report(STDERR_FILENO);
    report.put(entry_of(Found{held.get(), "", path, info}));
    report.put(done);
    report.flush();
}

}  // namespace pyro::guest::files
