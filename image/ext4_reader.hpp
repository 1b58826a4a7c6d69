// An ext4 file system, read without mounting it. Everything in it is input: bounded and checked.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "image/disk_layers.hpp"
#include "image/tree.hpp"

namespace pyro::image {

struct DiskEntry {
    std::uint32_t number = 0;   // of its inode: entries that share it are one file
    std::string path;           // "etc/passwd"
    bool socket = false;        // of no use in an image; `attributes` say fifo
    Inode attributes;           // all but content, children and layer; `links` as the file system has it
};

class Ext4Reader {
public:
    // Error(environment_invalid); (failed_precondition) with the detail cause=not_clean when its journal must be replayed first.
    explicit Ext4Reader(ReadAt read);
    ~Ext4Reader();

    // Everything below the root, by name, a directory before what is in it. What `visit` is false for is not looked into.
    void walk(std::uint64_t max_entries, const std::function<bool(const DiskEntry&)>& visit);
    const Inode& root() const;

    struct Piece {
        std::uint64_t offset = 0, size = 0;  // within the file
        std::uint64_t at = 0;                // on the disk
    };
    // What was written of a regular file, ascending, none beyond its size.
    std::vector<Piece> pieces(const DiskEntry& file);
    void read(std::uint64_t at, char* to, std::size_t size);

    // A regular file by its path, links followed inside; nothing when there is none. Error when it is longer.
    std::optional<std::string> text(const std::string& path, std::size_t limit);
    std::vector<std::string> names(const std::string& directory);  // none when there is no such directory

private:
    class Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace pyro::image
