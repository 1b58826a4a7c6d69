// The operations, one function each; what they say is in proto/files.hpp. Paths are normal ones (normal_path). All throw Error,
// and then have changed nothing, except for `remove`.
#pragma once
#include "guest/files/beneath.hpp"
#include "proto/files.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace pyro::guest::files {

struct ListOptions {
    bool recursive = false;
    std::optional<std::uint64_t> limit;
    std::string after;  // a path
};
void list(const UniqueFd& root, const std::string& path, const ListOptions& options);
void stat_one(const UniqueFd& root, const std::string& path);

struct ReadOptions {
    std::uint64_t offset = 0;
    std::optional<std::uint64_t> limit;
};
// Through symbolic links too, as long as they stay beneath the root.
void read(const UniqueFd& root, const std::string& path, const ReadOptions& options);

struct WriteOptions {
    std::optional<unsigned> mode;         // else the replaced file's, else 0644
    bool parents = false;                 // missing directories are made, 0755
    bool must_create = false, must_replace = false;
    std::optional<std::uint64_t> length;  // of stdin; an end before that is a failure
    std::optional<Owner> owner;           // of new files and directories; a replaced file keeps its own
};
void write(const UniqueFd& root, const std::string& path, const WriteOptions& options);

void remove(const UniqueFd& root, const std::string& path, bool recursive);

struct UnpackOptions {
    std::string dest = ".";
    bool replace_all = false;  // `dest` has what the archive holds and nothing else
    std::string staging;       // a directory of the root's file system to stage in; empty: the root itself
    std::optional<Owner> owner; // of all that is unpacked
};
// A tar of stdin, as a whole or not at all. Of entries that have one name the last counts. A directory that is there stays, with the
// archive's mode and time if it has an entry; anything else that is there gives way to what is no directory. A directory
// and something else under one name are refused. Symbolic links may lead anywhere: nothing here follows them.
void unpack(const UniqueFd& root, const UnpackOptions& options);

struct ApplyOptions {
    std::string staging;         // as of unpack
    std::optional<Owner> owner;  // of new files and directories; what is there keeps its owner, and what bits git does not know
};
// A patch of stdin (patch.hpp: what is taken) to all its files or to none: what it removes goes first, with directories that
// become empty. Files are as they were when the patch was compared with them, or it is refused.
void apply(const UniqueFd& root, const ApplyOptions& options);

// Undoes what a killed unpack or apply had moved, and removes what it left. So does the next of them; the host calls this as soon as
// it has killed one, before anything else is changed.
void recover(const UniqueFd& root, const std::string& staging);

// A tar on stdout: ustar with pax records where a value needs them, each directory before its content, owners 0, files
// with several names as often as they have names.
void pack(const UniqueFd& root, std::vector<std::string> paths);

struct DiffOptions {
    std::string upper, lower;       // of the overlay that the root is
    bool verify = false;            // compare everything, not what the upper directory names
    std::uint64_t max_bytes = proto::files::max_patch_bytes;  // of the patch
    std::vector<std::string> paths; // these and what is below them; none: all
};
// What git apply makes the root of the lower directory with, in byte order of paths, without .git. Binary files, what is no file, and
// what is too large are told and not in it, so that it applies always. Directories alone are no difference, nor are permissions
// but the owner's to execute. What the upper directory does not name is not looked at.
void diff(const UniqueFd& root, const DiffOptions& options);

// For all of these.
class Output {
public:
    explicit Output(int fd) : fd_(fd) {}
    void put(std::string_view bytes);
    void put(const proto::files::Record& record) { put(std::string_view(encode(record))); }
    void flush();

private:
    int fd_;
    std::string pending_;
};

}  // namespace pyro::guest::files
