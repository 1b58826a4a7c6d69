// Any tree that the merger lets through, written as ext4 and read back by libext2fs: the same, and no block used twice.
#include <ext2fs/ext2fs.h>
#undef clamp
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "common/unique_fd.hpp"
#include "image/ext4_image.hpp"
#include "tree_ops.hpp"

namespace {

using namespace pyro;
using image::FileType;

constexpr std::size_t block = 4096;

// Hands on to the image, and remembers.
class Recorder final : public image::ContentStore {
public:
    explicit Recorder(image::Ext4Image& image) : image_(image) {}
    void begin() override {
        image_.begin();
        now_.clear();
    }
    void write(std::uint64_t offset, std::string_view bytes) override {
        image_.write(offset, bytes);
        now_.resize(offset, '\0');
        now_.append(bytes);
    }
    image::ContentId end() override {
        const image::ContentId id = image_.end();
        contents[id] = std::move(now_);
        now_.clear();
        return id;
    }
    void discard(image::ContentId content) override {
        image_.discard(content);
        PYRO_CHECK(contents.erase(content) == 1);
    }
    std::map<image::ContentId, std::string> contents;

private:
    image::Ext4Image& image_;
    std::string now_;
};

// Pieces with rising offsets: data, zeros and gaps, of lengths around those of blocks and of the shortest hole.
std::uint64_t write_content(fuzz::Bytes& bytes, Recorder& store, std::size_t& left) {
    std::uint64_t at = 0;
    for (int pieces = bytes.byte() % 6; pieces >= 0; --pieces) {
        const std::uint8_t how = bytes.byte();
        at += how & 0x40 ? bytes.number(2) * (how & 0x20 ? block : 1) % (1 << 20) : 0;
        std::size_t length = bytes.number(2) % (how & 0x10 ? 100000 : 5000);
        if (how & 0x08)
            length = length / block * block + (how & 3) - 1;
        length = std::min(length, left);
        left -= length;
        store.write(at, std::string(length, how & 0x80 ? '\0' : static_cast<char>(how | 1)));
        at += length;
    }
    return at + (bytes.byte() % 8 == 0 ? bytes.number(2) * 8 : 0);  // a hole may be at the end too
}

void check(errcode_t code) {
    if (code) {
        std::fprintf(stderr, "libext2fs cannot read the image: error %ld\n", static_cast<long>(code));
        std::abort();
    }
}

class Reader {
public:
    Reader(const std::string& path, const image::Tree& tree, const Recorder& store) : tree_(tree), store_(store) {
        check(ext2fs_open(path.c_str(), EXT2_FLAG_64BITS, 0, 0, unix_io_manager, &fs_));
        check(ext2fs_read_bitmaps(fs_));
    }
    ~Reader() { ext2fs_close_free(&fs_); }

    void compare() {
        std::vector<std::pair<image::InodeId, ext2_ino_t>> todo{{0, EXT2_ROOT_INO}};
        compare_inode(0, EXT2_ROOT_INO);
        while (!todo.empty()) {
            const auto [id, ino] = todo.back();
            todo.pop_back();
            std::map<std::string, ext2_ino_t> names;
            const auto each = [](ext2_dir_entry* entry, int, int, char*, void* to) {
                auto& all = *static_cast<std::map<std::string, ext2_ino_t>*>(to);
                const std::string name(entry->name, static_cast<std::size_t>(ext2fs_dirent_name_len(entry)));
                const bool fresh = all.emplace(name, entry->inode).second;
                PYRO_CHECK(fresh);
                return 0;
            };
            check(ext2fs_dir_iterate(fs_, ino, 0, nullptr, each, &names));
            PYRO_CHECK(names.at(".") == ino && names.contains(".."));
            const auto& children = tree_.at(id).children;
            PYRO_CHECK(names.size() == children.size() + 2);
            for (const auto& [name, child] : children) {
                const ext2_ino_t child_ino = names.at(name);
                const auto [seen, fresh] = inodes_.emplace(child, child_ino);
                PYRO_CHECK(seen->second == child_ino);
                if (fresh)
                    compare_inode(child, child_ino);
                if (tree_.at(child).type == FileType::directory)
                    todo.emplace_back(child, child_ino);
            }
        }
    }

private:
    void compare_inode(image::InodeId id, ext2_ino_t ino) {
        const image::Inode& node = tree_.at(id);
        ext2_inode_large inode{};
        check(ext2fs_read_inode_full(fs_, ino, EXT2_INODE(&inode), sizeof inode));  // verifies its checksum
        PYRO_CHECK(ext2fs_test_inode_bitmap2(fs_->inode_map, ino));
        PYRO_CHECK((inode.i_mode & 07777) == node.mode && inode_uid(inode) == node.uid && inode_gid(inode) == node.gid);
        PYRO_CHECK(static_cast<std::int32_t>(inode.i_mtime) + (static_cast<std::int64_t>(inode.i_mtime_extra & 3) << 32) == node.mtime);
        PYRO_CHECK(inode.i_mtime_extra >> 2 == node.mtime_nsec);
        if (node.type != FileType::directory)
            PYRO_CHECK(inode.i_links_count == node.links);
        count_blocks(ino);
        if (node.type == FileType::regular)
            compare_content(ino, node);
        if (node.type == FileType::symlink) {
            std::string target(node.target.size(), '\0');
            if (ext2fs_is_fast_symlink(EXT2_INODE(&inode)))
                std::memcpy(target.data(), inode.i_block, target.size());
            else
                read(ino, 0, target);
            PYRO_CHECK(EXT2_I_SIZE(&inode) == node.target.size() && target == node.target);
        }
        if (node.type == FileType::character_device || node.type == FileType::block_device) {
            const std::uint32_t old = inode.i_block[0], now = inode.i_block[1];
            PYRO_CHECK(node.major == (now ? now >> 8 & 0xfff : old >> 8) && node.minor == (now ? (now & 0xff) | (now >> 12 & 0xfff00) : old & 0xff));
        }
        compare_xattrs(ino, node);
    }

    void compare_xattrs(ext2_ino_t ino, const image::Inode& node) {
        ext2_xattr_handle* handle = nullptr;
        check(ext2fs_xattrs_open(fs_, ino, &handle));
        check(ext2fs_xattrs_read(handle));
        std::size_t count = 0;
        check(ext2fs_xattrs_count(handle, &count));
        PYRO_CHECK(count == node.xattrs.size());
        for (const auto& [name, value] : node.xattrs) {
            void* found = nullptr;
            std::size_t size = 0;
            check(ext2fs_xattr_get(handle, name.c_str(), &found, &size));
            PYRO_CHECK(std::string_view(static_cast<char*>(found), size) == value);
            ext2fs_free_mem(&found);
        }
        ext2fs_xattrs_close(&handle);
    }

    void count_blocks(ext2_ino_t ino) {
        const auto each = [](ext2_filsys fs, blk64_t* number, e2_blkcnt_t, blk64_t, int, void* to) {
            PYRO_CHECK(static_cast<std::set<blk64_t>*>(to)->insert(*number).second);
            PYRO_CHECK(ext2fs_test_block_bitmap2(fs->block_map, *number));
            return 0;
        };
        ext2_inode inode{};
        check(ext2fs_read_inode(fs_, ino, &inode));
        if (ext2fs_inode_has_valid_blocks2(fs_, &inode))
            check(ext2fs_block_iterate3(fs_, ino, BLOCK_FLAG_READ_ONLY, nullptr, each, &used_));
    }

    void read(ext2_ino_t ino, std::uint64_t from, std::string& into) {
        ext2_file_t file = nullptr;
        check(ext2fs_file_open2(fs_, ino, nullptr, 0, &file));
        check(ext2fs_file_llseek(file, from, EXT2_SEEK_SET, nullptr));
        unsigned got = 0;
        check(ext2fs_file_read(file, into.data(), static_cast<unsigned>(into.size()), &got));
        into.resize(got);
        ext2fs_file_close(file);
    }

    void compare_content(ext2_ino_t ino, const image::Inode& node) {
        ext2_inode inode{};
        check(ext2fs_read_inode(fs_, ino, &inode));
        PYRO_CHECK(EXT2_I_SIZE(&inode) == node.size);
        if (node.size == 0)
            return;
        std::string expected = node.content == image::no_content ? std::string() : store_.contents.at(node.content);
        expected.resize(node.size, '\0');
        std::string found(node.size, '\1');
        read(ino, 0, found);
        PYRO_CHECK(found == expected);
    }

    const image::Tree& tree_;
    const Recorder& store_;
    ext2_filsys fs_ = nullptr;
    std::map<image::InodeId, ext2_ino_t> inodes_;
    std::set<blk64_t> used_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::Bytes bytes(data, size);
    const UniqueFd file(::memfd_create("image", MFD_CLOEXEC));
    image::Ext4Options options;
    options.size_bytes = bytes.byte() % 4 == 0 ? 0 : 64 << 20;
    options.journal_mib = 4;
    image::TreeLimits limits;
    limits.max_entries = 300;
    image::Ext4Image image(file.get(), options);
    Recorder store(image);
    image::Tree tree(limits, [&store](image::ContentId content) { store.discard(content); });
    std::size_t left = 1 << 20;
    tree.begin_layer();
    try {
        while (!bytes.empty()) {
            if (bytes.byte() % 16 == 0) {
                tree.end_layer();
                tree.begin_layer();
            }
            try {
                image::Entry entry = fuzz::entry_of(bytes);
                const image::Tree::Place place = tree.place(entry);
                if (place.skip)
                    continue;
                if (entry.attributes.type == FileType::regular && !entry.is_hard_link && bytes.byte() % 4) {
                    store.begin();
                    entry.attributes.size = write_content(bytes, store, left);
                    entry.attributes.content = store.end();
                }
                tree.insert(place, std::move(entry));
            } catch (const Error& error) {
                if (error.code() != ErrorCode::environment_invalid)
                    throw;
            }
        }
        tree.end_layer();
        image.finish(tree);
    } catch (const image::ImageTooSmall&) {
        return 0;
    }
    Reader("/proc/self/fd/" + std::to_string(file.get()), tree, store).compare();
    return 0;
}
