// Where an archive is unpacked before anything of it is seen, and the moves that make it seen: all of them or none.
//
//     .pyro-staging-<random>/tree      what was unpacked, from the root on
//                           /removed   what gave way and has no place in `tree`
//                           /plan      every move, written down before the first is made
//
// The directory is locked as long as its run lives. One that is not is what a killed run left: the plan says how to undo it.
#pragma once
#include "guest/files/beneath.hpp"

#include <cstdio>
#include <memory>

namespace pyro::guest::files {

// What the archive says of a directory; `inode` is the staged one's.
struct DirectoryValues {
    ino_t inode;
    mode_t mode;
    timespec mtime;
};

// Undoes and removes what killed runs of this user left in `base`. Returns how many there were.
std::uint64_t recover_killed(const UniqueFd& root, const UniqueFd& base);

class Staging {
public:
    // Beneath `base`: the root, or a directory of the same file system.
    Staging(const UniqueFd& root, const UniqueFd& base);
    Staging(const Staging&) = delete;
    Staging& operator=(const Staging&) = delete;
    ~Staging();

    const UniqueFd& tree() const noexcept { return tree_; }
    // Makes the tree the root's: merged with what is there, except that the directory at `replaced_depth` (none: -1) gets the tree's
    // content and nothing else. `directories` in the order of inodes. Throws having changed nothing.
    void apply(const std::vector<DirectoryValues>& directories, std::ptrdiff_t replaced_depth);

private:
    const UniqueFd& root_;
    const UniqueFd& base_;
    std::string name_;
    UniqueFd run_, tree_;
    bool keep_ = false;  // it holds what could not be put back
    timespec base_before_{}, base_after_{};  // mtimes: a directory that comes and goes changes the base's
};

}  // namespace pyro::guest::files
