// Names beneath one directory that is opened once: everything here goes down from its descriptor, one component at a time or as
// a short relative path, through no link, `..`, mount point or magic link. Whatever others rename meanwhile, a name is only
// ever looked up in a directory that was reached that way.
#pragma once
#include "common/error.hpp"
#include "common/unique_fd.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <sys/stat.h>
#include <vector>

namespace pyro::guest::files {

// For messages: in quotes, what does not print as \xNN, the middle of a long one left out.
std::string quoted(std::string_view path);
// What the kernel refused, as a failure: `action` is "write", `path` what it was done to. For a full disk `near` is any
// descriptor on it: it tells disk from inodes.
[[noreturn]] void fail(std::string_view action, std::string_view path, int error, int near = -1);

// An argument as a path relative to the root ("." for the root itself): slashes and "." components dropped. Absolute ones must
// begin with the root's own name. `..`, NUL and names that are too long are refused.
std::string normal_path(std::string_view path, std::string_view root);
// The components of a normal path; none of ".".
std::vector<std::string_view> components(std::string_view path);
std::string joined(std::string_view directory, std::string_view name);

// openat2 with CLOEXEC and the given RESOLVE_* beside BENEATH, NO_MAGICLINKS and NO_XDEV. -1 with errno.
int open_beneath_at(int directory, const char* path, int flags, std::uint64_t resolve, unsigned mode = 0);

// A way down from the root to a directory. Holds a descriptor of the last levels only, so that a depth of thousands is nothing; what it
// comes back to is opened again by name, and must still be the same directory.
class Trail {
public:
    explicit Trail(const UniqueFd& root) : root_(root.duplicate()) {}
    // The directory it leads to, as O_PATH: for *at calls. Throws when an outer directory was moved away meanwhile.
    int fd();
    // Into a directory of that name: 0 or errno (EXDEV: a mount point; ELOOP, ENOTDIR: no directory).
    int enter(const char* name);
    void leave();  // the root stays
    std::size_t depth() const noexcept { return levels_.size(); }
    const std::string& name(std::size_t level) const { return levels_[level].name; }
    std::string path() const;  // "." for the root
    // For a path of any length: as far as there are directories. Returns how many components it went in; `error` says why no further.
    std::size_t follow(const std::vector<std::string_view>& names, int& error);

private:
    struct Level {
        std::string name;
        dev_t device;
        ino_t inode;
        UniqueFd fd;  // or none, if far from the end
    };
    void open_from(std::size_t level);
    UniqueFd root_;
    std::vector<Level> levels_;
};

// All names of a directory: one block of memory, however many.
class Names {
public:
    struct Item {
        std::uint32_t at;
        std::uint8_t type;   // DT_*
        std::uint8_t aspect; // the reader's own
    };
    // Of the directory `fd` (O_PATH will do). 0 or errno.
    int read(int fd);
    const char* name(const Item& item) const { return block_.data() + item.at; }
    std::vector<Item> items;

private:
    std::string block_;
};

// Of what has that name itself, never of what a link leads to.
int change_mode(int directory, const char* name, mode_t mode);  // 0 or errno
int change_mode(int held, mode_t mode);                         // of what an O_PATH descriptor holds

// Everything in the directory the trail leads to. Unwritable directories on the way are made writable. Throws what was in the way.
struct Removed {
    std::uint64_t files = 0, directories = 0, symlinks = 0;
};
void remove_content(Trail& trail, Removed& removed);

// Whose what is made becomes.
struct Owner {
    uid_t uid = 0;
    gid_t gid = 0;
};

// Names of the root that belong to this program: not listed, not packed, not unpacked.
inline constexpr std::string_view staging_prefix = ".pyro-staging-";
bool is_staging(std::string_view path);

}  // namespace pyro::guest::files
