// The file tree that OCI layers merge into. Holds names and attributes; file content lies in a ContentStore.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/error.hpp"

namespace pyro::image {

enum class FileType : std::uint8_t { directory, regular, symlink, character_device, block_device, fifo };

using InodeId = std::uint32_t;
using ContentId = std::uint32_t;
inline constexpr ContentId no_content = ~ContentId{0};

struct Inode {
    FileType type = FileType::directory;
    std::uint16_t mode = 0755;  // permission bits with setuid, setgid and sticky
    std::uint32_t uid = 0, gid = 0;
    std::int64_t mtime = 0;
    std::uint32_t mtime_nsec = 0;
    std::uint32_t major = 0, minor = 0;
    std::uint64_t size = 0;
    ContentId content = no_content;
    std::uint32_t links = 0;  // names that lead here
    std::uint32_t layer = 0;  // that wrote it last; a further name of it may be newer
    std::string target;       // of a symlink
    std::map<std::string, std::string> xattrs;
    std::map<std::string, InodeId, std::less<>> children;  // of a directory, sorted: the order of everything that is written
};

// One member of a layer, as the archive names it: nothing in it is trusted.
struct Entry {
    std::string path;
    Inode attributes;
    bool is_hard_link = false;
    std::string link_target;  // of a hard link
};

struct TreeLimits {
    std::uint64_t max_entries = 1u << 20;
    std::uint64_t max_total_bytes = 64ull << 30;  // content of all files of all layers, unpacked
    std::uint64_t max_ratio = 200;                // unpacked to packed, beyond the first 256 MiB
};

// What an archive's names mean.
enum class TreeRules {
    layers,  // of OCI: whiteouts; an entry below a symlink goes where that leads inside the tree (as docker does); a layer has one
             // entry for each place, but may name a directory again
    plain,   // nothing but themselves: nothing lies below a symlink, and of two entries with one name the later wins, as in tar
};

// Shows a hostile name in a message: short, and no control characters.
std::string printable(std::string_view text);

// Invariants: id 0 is the root directory; every reachable directory has exactly one name; names are 1 to 255 bytes, without
// '/', and never "." or "..". By the rules of layers an absolute name begins at the image's root. Nothing here ever touches a host path.
class Tree {
public:
    // `discard` is told of the content of a file that lost its last name.
    Tree(TreeLimits limits, std::function<void(ContentId)> discard, TreeRules rules = TreeRules::layers);

    void begin_layer();
    // Drops what aufs kept at the root for itself; within its layer it may be linked to.
    void end_layer();

    // Where an entry will go. Checks everything that can be checked before content is read. Throws environment_invalid
    // naming the entry. `skip` says the entry has no place of its own: a whiteout (applied now), a marker, or the root.
    struct Place {
        InodeId parent = 0;
        std::string name;
        bool skip = false;
    };
    Place place(const Entry& entry);
    // Puts the entry there, replacing what was.
    void insert(const Place& place, Entry entry);

    // A directory that must be there, made with `mode` if it is not. Replaces what is no directory.
    void ensure_directory(std::string_view name, std::uint16_t mode);
    // The directories of a path, from the root and through links; makes those that are missing, as far as nothing else is in the way.
    void make_directories(std::string_view path);

    const Inode& root() const { return inodes_[0]; }
    const Inode& at(InodeId id) const { return inodes_[id]; }
    std::uint64_t entries() const { return entries_; }
    const TreeLimits& limits() const { return limits_; }
    // The inode a path leads to without following links; nullptr if there is none.
    const Inode* find(std::string_view path) const;

private:
    InodeId add(Inode inode);
    InodeId resolve_directory(const std::string& entry, const std::vector<std::string>& parts, bool create, bool& missing);
    void unlink(InodeId parent, const std::string& name);
    void drop(InodeId id);
    bool hide_lower(InodeId parent, const std::string& name, InodeId id);
    void hide_children(InodeId directory);

    TreeLimits limits_;
    std::function<void(ContentId)> discard_;
    TreeRules rules_;
    std::vector<Inode> inodes_;
    std::uint64_t entries_ = 0;
    std::uint32_t layer_ = 0;
    std::set<InodeId> hidden_;     // directories in which this layer has hidden what lower ones put there: once is enough
    std::uint64_t link_steps_ = 0;  // walked through targets of symlinks, of all entries
    std::set<std::pair<InodeId, std::string>> linked_;  // names that this layer gave to files of lower ones, by hard links
};

}  // namespace pyro::image
