// The operations, one function each; what they say is in proto/files.hpp. Paths are normal ones (normal_path). All throw Error,
// and then have changed nothing, except for `remove`.
#pragma once
#include "common/unique_fd.hpp"
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
};
void write(const UniqueFd& root, const std::string& path, const WriteOptions& options);

void remove(const UniqueFd& root, const std::string& path, bool recursive);

struct UnpackOptions {
    std::string dest = ".";
    bool replace_all = false;  // `dest` has what the archive holds and nothing else
    std::string staging;       // a directory of the root's file system to stage in; empty: the root itself
};
// A tar of stdin, as a whole or not at all. Of entries that have one name the last counts. A directory that is there stays, with the
// archive's mode and time if it has an entry; anything else that is there gives way to what is no directory. A directory
// and something else under one name are refused. Symbolic links may lead anywhere: nothing here follows them.
void unpack(const UniqueFd& root, const UnpackOptions& options);
// Undoes what a killed unpack had moved, and removes what it left. So does the next unpack; the host calls this as soon as it
// has killed one, before anything else is changed.
void recover(const UniqueFd& root, const std::string& staging);

// A tar on stdout: ustar with pax records where a value needs them, each directory before its content, owners 0, files
// with several names as often as they have names.
void pack(const UniqueFd& root, std::vector<std::string> paths);

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
