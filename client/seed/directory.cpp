// A directory as it is: everything in it, opened relative to what it is in, so that nothing that is moved or replaced meanwhile leads
// anywhere else.
#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "client/seed/packing.hpp"

namespace pyro::client::seed {
namespace {

// Directories being read that are kept open; the others are found again by "..", so that depth does not cost descriptors.
constexpr std::size_t levels_open = 32;

struct Level {
    UniqueFd fd;
    struct stat info {};
    std::vector<std::string> names;  // sorted, the first at the end
    std::size_t path_size = 0;       // of the path of this directory
};

[[noreturn]] void unreadable(const std::string& path, int error) {
    if (error == ENOENT || error == ENOTDIR || error == ELOOP)
        throw Error(ErrorCode::failed_precondition, printable(path) + " vanished while it was read", "try again when nothing changes the directory");
    throw Error(ErrorCode::failed_precondition, printable(path) + " cannot be read: " + std::strerror(error),
                "make it readable for you, or name a directory without it");
}

[[noreturn]] void changed(const std::string& path) {
    throw Error(ErrorCode::failed_precondition, printable(path) + " changed while it was read", "try again when nothing changes the directory");
}

class DirectoryWalk {
public:
    DirectoryWalk(const std::string& root, Packing& packing) : root_(root), packing_(packing) {}

    void run() {
        // The root is the user's word: a link there is followed.
        UniqueFd fd(::open(root_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!fd)
            throw Error::from_errno("open " + printable(root_)).with_hint("name a directory that you can read");
        enter(std::move(fd));
        while (!levels_.empty()) {
            Level& level = levels_.back();
            path_.resize(level.path_size);
            if (level.names.empty()) {
                leave();
                continue;
            }
            const std::string name = std::move(level.names.back());
            level.names.pop_back();
            --listed_;
            if (!path_.empty())
                path_ += '/';
            path_ += name;
            if (path_.size() > max_path)
                throw Error(ErrorCode::invalid_argument, shown() + " has a name longer than 65536 bytes", "name a part of the directory");
            visit(level.fd.get(), name);
        }
    }

private:
    std::string shown() const { return path_.empty() ? root_ : root_ + "/" + path_; }

    void visit(int parent, const std::string& name) {
        struct stat seen {};
        if (::fstatat(parent, name.c_str(), &seen, AT_SYMLINK_NOFOLLOW) != 0)
            unreadable(shown(), errno);
        if (const char* special = special_kind(seen))
            throw Error(ErrorCode::invalid_argument, printable(shown()) + " is " + special, "remove it, or name a directory without it");
        if (S_ISLNK(seen.st_mode)) {
            Entry entry = entry_of(path_, seen);
            std::optional<std::string> target = read_link(parent, name);
            if (!target)
                unreadable(shown(), errno);
            entry.target = std::move(*target);
            packing_.begin(entry);
            return;
        }
        const int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | (S_ISDIR(seen.st_mode) ? O_DIRECTORY : 0);
        UniqueFd fd(::openat(parent, name.c_str(), flags));
        struct stat opened {};
        if (!fd || ::fstat(fd.get(), &opened) != 0)
            unreadable(shown(), errno);
        if (!same_file(seen, opened))
            changed(shown());
        packing_.begin(entry_of(path_, opened));
        if (S_ISDIR(opened.st_mode))
            return enter(std::move(fd));
        bool whole = false;
        struct stat after {};
        try {
            whole = send_range(fd.get(), 0, static_cast<std::uint64_t>(opened.st_size), packing_.writer);
        } catch (Error& error) {
            throw error.add_context(printable(shown()));
        }
        if (!whole || ::fstat(fd.get(), &after) != 0 || !unchanged(opened, after))
            changed(shown());
    }

    void enter(UniqueFd fd) {
        Level level;
        level.path_size = path_.size();
        if (::fstat(fd.get(), &level.info) != 0)
            unreadable(shown(), errno);
        DIR* listing = ::fdopendir(fd.duplicate().release());
        if (!listing)
            unreadable(shown(), errno);
        const std::unique_ptr<DIR, int (*)(DIR*)> close(listing, &::closedir);
        while (true) {
            errno = 0;
            const dirent* item = ::readdir(listing);
            if (!item)
                break;
            const std::string_view name = item->d_name;
            if (name == "." || name == "..")
                continue;
            level.names.emplace_back(name);
            if (++listed_ > packing_.options.limits.entries)
                throw Error(ErrorCode::invalid_argument, printable(root_) + " has more than " +
                            std::to_string(packing_.options.limits.entries) + " entries", "name a smaller part of it");
        }
        if (errno != 0)
            unreadable(shown(), errno);
        std::sort(level.names.begin(), level.names.end(), std::greater<>());
        level.fd = std::move(fd);
        if (levels_.size() >= levels_open)
            levels_[levels_.size() - levels_open].fd.reset();
        levels_.push_back(std::move(level));
    }

    void leave() {
        const Level done = std::move(levels_.back());
        levels_.pop_back();
        if (levels_.empty() || levels_.back().fd)
            return;
        Level& level = levels_.back();
        path_.resize(level.path_size);
        UniqueFd fd(::openat(done.fd.get(), "..", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        struct stat info {};
        if (!fd || ::fstat(fd.get(), &info) != 0)
            unreadable(shown(), errno);
        if (!same_file(info, level.info))
            changed(shown());
        level.fd = std::move(fd);
    }

    const std::string& root_;
    Packing& packing_;
    std::string path_;
    std::vector<Level> levels_;
    std::uint64_t listed_ = 0;  // names in all levels
};

}  // namespace

void pack_directory(const std::string& root, Packing& packing) { DirectoryWalk(root, packing).run(); }

}  // namespace pyro::client::seed
