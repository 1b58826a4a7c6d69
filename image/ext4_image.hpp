// An ext4 file system written straight into a file, without mounting and without privileges.
#pragma once
#include <cstdint>
#include <memory>

#include "image/content_store.hpp"

namespace pyro::image {

// What has been asked for is too small for the content: build again with more.
struct ImageTooSmall {
    bool inodes = false;  // else blocks
};

struct Ext4Options {
    // 0: as large as the content needs, in steps of 128 MiB and up to 64 GiB, for an image that is only ever read: without journal,
    // lost+found and room to grow, and the other options mean nothing.
    std::uint64_t size_bytes = 8ull << 30;
    std::uint32_t bytes_per_inode = 8192;  // a million in the usual size: tables that are not used are holes
    std::uint32_t journal_mib = 16;
};

// Content goes to its final blocks as it arrives; names, inodes and bitmaps are written by finish(). The same tree and the
// same order of content give the same bytes: identifiers, hash seed and times are fixed. The file stays sparse: it must be
// empty at the start, what was never written reads as zeros, and the kernel is told that no table needs zeroing.
class Ext4Image final : public ContentStore {
public:
    Ext4Image(int fd, Ext4Options options);  // does not own fd
    ~Ext4Image() override;

    void begin() override;
    void write(std::uint64_t offset, std::string_view bytes) override;
    ContentId end() override;
    void discard(ContentId content) override;

    void finish(Tree& tree);  // once; adds lost+found to the tree, if the image is to have one
    std::uint64_t size_bytes() const;  // of the finished image

private:
    class Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace pyro::image
