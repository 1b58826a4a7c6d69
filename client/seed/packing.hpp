// What the three kinds of sources share: the account of what was taken, reading a file that must hold still, temporary files.
#pragma once
#include <sys/stat.h>

#include <string>

#include "client/seed/pack.hpp"
#include "common/unique_fd.hpp"

namespace pyro::client::seed {

// One pack() under way: writes entries, counts them, and bounds them.
class Packing {
public:
    Packing(const Sink& sink, const PackOptions& asked) : options(asked), writer(sink, asked.stop) {}

    void begin(const Entry& entry);  // counts, and refuses what is beyond the limits
    void skip(const std::string& path, std::string reason);
    Packed finish();

    const PackOptions& options;
    TarWriter writer;
    Packed packed;
};

// Name, kind, mode and time of what `info` describes; throws invalid_argument, with the name, for what is none of the three.
Entry entry_of(std::string path, const struct stat& info);
// What the file system calls it where it is none of the three ("a socket"); null otherwise.
const char* special_kind(const struct stat& info) noexcept;

// Opens beneath `directory` through no link (with O_PATH | O_NOFOLLOW a link itself). Nothing, and errno, where that cannot be.
UniqueFd try_open_beneath(int directory, const std::string& path, int flags);

bool same_file(const struct stat& a, const struct stat& b) noexcept;
// Also with the same content, as far as size and times tell.
bool unchanged(const struct stat& a, const struct stat& b) noexcept;

// Writes `size` bytes of `fd` from `offset` on into the current entry, without reading holes. False where the file ends early.
bool send_range(int fd, std::uint64_t offset, std::uint64_t size, TarWriter& writer);

// The target of a symbolic link; `fd` is the link itself (O_PATH) with an empty name, or its directory. Nothing, and errno, where
// it cannot be read.
std::optional<std::string> read_link(int fd, const std::string& name);

// Where temporary files go: TMPDIR, else /var/tmp, which unlike /tmp is not made of memory.
std::string temporary_parent();
UniqueFd unlinked_temporary();

// A fresh directory of the user's alone; removed, with all that is in it, by the destructor.
class TemporaryDirectory {
public:
    TemporaryDirectory();
    ~TemporaryDirectory();
    TemporaryDirectory(const TemporaryDirectory&) = delete;
    TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
    const std::string& path() const noexcept { return path_; }

private:
    std::string path_;
};

void pack_directory(const std::string& root, Packing& packing);
void pack_archive(const std::string& path, Packing& packing);
void pack_checkout(const std::string& path, Packing& packing);

}  // namespace pyro::client::seed
