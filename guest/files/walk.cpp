#include "guest/files/walk.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

namespace pyro::guest::files {
namespace {

using proto::files::Kind;
using proto::files::Reason;

// A name stands for its entry; a directory's name with a slash behind it for all it contains.
enum Aspect : std::uint8_t { itself, content };

class Walk {
public:
    Walk(Trail& trail, const WalkOptions& options, const WalkVisitor& visitor)
        : trail_(trail), options_(options), visitor_(visitor), path_(trail.path()), at_root_(path_ == ".") {
        if (at_root_) path_.clear();
    }

    bool run() {
        open_level(path_.size());
        while (true) {
            Level& level = levels_.back();
            if (level.next == level.names.items.size()) {
                path_.resize(level.path_before);
                levels_.pop_back();
                if (levels_.empty()) return true;
                trail_.leave();
                continue;
            }
            const Names::Item item = level.names.items[level.next++];
            const char* name = level.names.name(item);
            const std::size_t before = path_.size();
            if (!path_.empty()) path_ += '/';
            path_ += name;
            if (item.aspect == content) {
                if (!descend(name, before)) path_.resize(before);
                continue;
            }
            const bool go_on = report(name);
            path_.resize(before);
            if (!go_on) return end();
        }
    }

private:
    struct Level {
        Names names;
        std::size_t next = 0;
        std::size_t path_before;  // how long path_ is again outside of it
    };

    bool end() {
        for (; levels_.size() > 1; levels_.pop_back()) trail_.leave();
        return false;
    }

    bool behind(std::string_view path) const { return path > options_.after; }
    // Everything in there begins with path and a slash.
    bool content_behind(std::string path) const {
        path += '/';
        return options_.after.starts_with(path) || path > options_.after;
    }

    bool report(const char* name) {
        struct stat info{};
        if (::fstatat(trail_.fd(), name, &info, AT_SYMLINK_NOFOLLOW) != 0) {
            if (errno == ENOENT) return true;
            fail("look at", path_, errno);
        }
        return visitor_.entry(Found{trail_.fd(), name, path_, info});
    }

    bool descend(const char* name, std::size_t path_before) {
        const int error = trail_.enter(name);
        if (error == 0) {
            if (open_level(path_before)) return true;
            trail_.leave();
            return false;
        }
        if (error == EXDEV) visitor_.note(Reason::mount_point, path_);
        else if (error == EACCES) visitor_.note(Reason::unreadable, path_);
        else if (error == ENOTDIR || error == ELOOP || error == EAGAIN) visitor_.note(Reason::changed, path_);
        else if (error != ENOENT) fail("look into", path_, error);
        return false;
    }

    bool open_level(std::size_t path_before) {
        Level level{Names{}, 0, path_before};
        Names& names = level.names;
        const int error = names.read(trail_.fd());
        if (error == EACCES && !levels_.empty()) {
            visitor_.note(Reason::unreadable, path_);
            return false;
        }
        if (error != 0) fail("look into", path_.empty() ? "." : path_, error);

        std::vector<Names::Item> items;
        items.swap(names.items);
        bool too_long = false;
        const bool top = at_root_ && levels_.empty();
        const std::string prefix = path_.empty() ? "" : path_ + "/";
        const std::size_t directories = options_.recursive ? static_cast<std::size_t>(std::count_if(
            items.begin(), items.end(), [](const Names::Item& item) { return item.type == DT_DIR; })) : 0;
        names.items.reserve(items.size() + directories);
        for (Names::Item item : items) {
            const char* name = names.name(item);
            if (top && is_staging(name)) continue;
            if (prefix.size() + std::strlen(name) > proto::files::max_path_bytes) {
                too_long = true;
                continue;
            }
            const std::string path = options_.after.empty() ? std::string() : prefix + name;
            item.aspect = itself;
            if (options_.after.empty() || behind(path)) names.items.push_back(item);
            item.aspect = content;
            if (options_.recursive && item.type == DT_DIR && (options_.after.empty() || content_behind(path))) names.items.push_back(item);
        }
        if (too_long) visitor_.note(Reason::too_long, path_);
        std::sort(names.items.begin(), names.items.end(), [&names, tree_order = options_.tree_order](const Names::Item& a, const Names::Item& b) {
            const char* left = names.name(a);
            const char* right = names.name(b);
            while (*left != '\0' && *left == *right) ++left, ++right;
            // The slash that a directory's content has behind its name; in a tree it sorts before all other bytes.
            const unsigned slash = tree_order ? 1 : '/' + 1u;
            const auto end = [slash](const char* at, const Names::Item& item) {
                return *at != '\0' ? static_cast<unsigned char>(*at) + 1u : item.aspect == content ? slash : 0;
            };
            return end(left, a) < end(right, b);
        });
        levels_.push_back(std::move(level));
        return true;
    }

    Trail& trail_;
    const WalkOptions& options_;
    const WalkVisitor& visitor_;
    std::string path_;
    const bool at_root_;
    std::vector<Level> levels_;
};

}  // namespace

bool walk(Trail& trail, const WalkOptions& options, const WalkVisitor& visitor) { return Walk(trail, options, visitor).run(); }

Kind kind_of(mode_t mode) {
    return S_ISREG(mode) ? Kind::file : S_ISDIR(mode) ? Kind::directory : S_ISLNK(mode) ? Kind::symlink : Kind::other;
}

proto::files::Entry entry_of(const Found& found) {
    proto::files::Entry entry;
    entry.kind = kind_of(found.info.st_mode);
    entry.mode = found.info.st_mode & 07777;
    entry.size = entry.kind == Kind::file ? static_cast<std::uint64_t>(found.info.st_size) : 0;
    entry.mtime_s = found.info.st_mtim.tv_sec;
    entry.mtime_ns = static_cast<std::uint32_t>(found.info.st_mtim.tv_nsec);
    entry.path = found.path;
    if (entry.kind == Kind::symlink) {
        char target[proto::files::max_target_bytes + 1];
        const ssize_t length = ::readlinkat(found.directory, found.name, target, sizeof target);
        if (length > 0 && length < static_cast<ssize_t>(sizeof target)) entry.target.assign(target, static_cast<std::size_t>(length));
        else entry.kind = Kind::other;  // it is one no longer
    }
    return entry;
}

}  // namespace pyro::guest::files
