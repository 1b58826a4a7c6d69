// A guest saved to be gone on from, any number of times.
#pragma once
#include "daemon/vm/memory_image.hpp"

#include <cstdint>
#include <memory>
#include <string>

#include <sys/stat.h>

namespace pyro::vm {

// A memory image may be resumed on exactly the disk it was saved with, or on disks its guest never opened: anything else
// corrupts the file system.
enum class TemplateTier {
    pristine,  // the root is mounted and warmed: for new machines of that root
    bare,      // the agent is up and has opened no disk: for any disk of the size
};
constexpr std::string_view to_string(TemplateTier tier) { return tier == TemplateTier::pristine ? "pristine" : "bare"; }

// What changes when a file is written to, cut or replaced.
struct FileStamp {
    std::uint64_t device = 0, inode = 0, size = 0;
    std::int64_t seconds = 0, nanoseconds = 0;
    bool operator==(const FileStamp&) const = default;
    static FileStamp of(const struct stat& info) {
        return {info.st_dev, info.st_ino, static_cast<std::uint64_t>(info.st_size), info.st_mtim.tv_sec, info.st_mtim.tv_nsec};
    }
};

// Its files may be removed while it is held: whoever goes on from it links the disk, and finds out.
struct Template {
    std::string key;
    TemplateTier tier = TemplateTier::pristine;
    std::shared_ptr<const MemoryImage> image;
    std::string disk;       // pristine: what its guest had written, a qcow2 on the root image
    FileStamp disk_stamp;   // when its content was last compared
};

}  // namespace pyro::vm
