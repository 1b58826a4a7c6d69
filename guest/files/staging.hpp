// Where an archive is unpacked, or the files a patch changes are written, before anything of it is seen; and the moves that make it
// seen: all of them or none.
//
//     .pyro-staging-<random>/tree      what was unpacked, from the root on
//                           /removed   what gave way and has no place in `tree`, numbered
//                           /plan      every move, written down before the first is made
//
// The directory is locked as long as its run lives. One that is not is what a killed run left: the plan says how to undo it, the last
// move first. On an overlay nothing but files, links and directories made here are moved: a lower directory cannot be, so that
// one which a patch empties is removed, and made again if that is undone.
#pragma once
#include "guest/files/beneath.hpp"

#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <set>

namespace pyro::guest::files {

// What the archive says of a directory; `inode` is the staged one's.
struct DirectoryValues {
    ino_t inode;
    mode_t mode;
    timespec mtime;
};

// What is taken away first, and must be what it was when it was looked at.
struct Removals {
    std::set<std::string> files;                  // no directories
    std::set<std::string> directories;            // empty ones, in whose place something else comes
    std::set<std::string> written;                // what is staged: a directory above it stays
    std::map<std::string, struct stat> expected;  // of files and links that are removed or replaced
};

// The directory to stage in: that of this name, or the root.
UniqueFd staging_base(const UniqueFd& root, const std::string& staging);

// Undoes and removes what killed runs of this user left in `base`. Returns how many there were.
std::uint64_t recover_killed(const UniqueFd& root, const UniqueFd& base);

// To a directory of a staged tree, along which what is missing is made, 0755, and the owner's if there is one.
class StagedWay {
public:
    StagedWay(const UniqueFd& tree, std::optional<Owner> owner) : at(tree), tree_(tree), owner_(owner) {}
    // 0, or ENOTDIR, ELOOP: something else is there. Throws for the rest.
    int go_to(const std::vector<std::string_view>& names);
    // Of what is in the directory where it is, and was made just now.
    void give(const char* name, const std::string& path);
    Trail at;

private:
    const UniqueFd& tree_;
    const std::optional<Owner> owner_;
};

class Staging {
public:
    // Beneath `base`: the root, or a directory of the same file system. `source` is what is applied, for messages: "the archive".
    Staging(const UniqueFd& root, const UniqueFd& base, std::string source);
    Staging(const Staging&) = delete;
    Staging& operator=(const Staging&) = delete;
    ~Staging();

    const UniqueFd& tree() const noexcept { return tree_; }
    // Makes the tree the root's: merged with what is there, except that the directory at `replaced_depth` (none: -1) gets the tree's
    // content and nothing else. `directories` in the order of inodes. Throws having changed nothing.
    void apply(const std::vector<DirectoryValues>& directories, std::ptrdiff_t replaced_depth, const Removals& removals = {});

private:
    const UniqueFd& root_;
    const UniqueFd& base_;
    const std::string source_;
    std::string name_;
    UniqueFd run_, tree_;
    bool keep_ = false;  // it holds what could not be put back
    timespec base_before_{}, base_after_{};  // mtimes: a directory that comes and goes changes the base's
};

}  // namespace pyro::guest::files
