#include "image/ext4_image.hpp"

#include <ext2fs/ext2fs.h>
#include <ext2fs/ext3_extents.h>
#undef clamp  // e2fsprogs 1.47.1 and later: a macro, which would reach into whatever is compiled with this file
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <cstdlib>
#include <new>
#include <utility>
#include <vector>

namespace pyro::image {
namespace {

constexpr std::uint64_t block_size = 4096;
constexpr std::uint64_t group_blocks = 8 * block_size;  // 128 MiB
constexpr std::uint64_t most_groups = (64ull << 30) / (group_blocks * block_size);
constexpr std::uint64_t backup_blocks = 16;             // of the superblock and most_groups descriptors, where a group begins
constexpr std::uint32_t lost_found_ino = 11;
constexpr std::uint32_t fixed_time = 1577836800;  // 2020-01-01: of what belongs to the file system, not to the image
constexpr std::array<unsigned char, 16> root_uuid{0x70, 0x79, 0x72, 0x6f, 0x65, 0x78, 0x44, 0x34, 0x80, 0x00, 0x72, 0x6f, 0x6f, 0x74, 0x66, 0x73};
constexpr std::array<unsigned char, 16> read_only_uuid{0x70, 0x79, 0x72, 0x6f, 0x65, 0x78, 0x44, 0x34, 0x80, 0x00, 0x73, 0x65, 0x65, 0x64, 0x66, 0x73};

[[noreturn]] void ext4_failed(const std::string& what, errcode_t code) {
    if (code == EXT2_ET_BLOCK_ALLOC_FAIL || code == EXT2_ET_DIR_NO_SPACE || code == EXT2_ET_JOURNAL_TOO_SMALL)
        throw ImageTooSmall{};
    if (code == EXT2_ET_INODE_ALLOC_FAIL)
        throw ImageTooSmall{true};
    if (code == EXT2_ET_NO_MEMORY || code == ENOMEM)
        throw std::bad_alloc();
    if (code > 0 && code < 4096)
        throw Error::from_errno("root image: " + what, static_cast<int>(code));
    throw Error(ErrorCode::internal, "root image: " + what + ": libext2fs error " + std::to_string(code));
}

void ext4_check(errcode_t code, const char* what) {
    if (code)
        ext4_failed(what, code);
}

void pwrite_whole(int fd, std::string_view bytes, std::uint64_t offset) {
    while (!bytes.empty()) {
        const ssize_t n = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            throw Error::from_errno("write the root image");
        bytes.remove_prefix(static_cast<std::size_t>(n));
        offset += static_cast<std::uint64_t>(n);
    }
}

// libext2fs's own manager opens by path; the worker has only a descriptor, which its uid could not open again.
// The name given to open is the descriptor's number.
namespace fd_io {

int fd_of(io_channel channel) { return static_cast<int>(channel->reserved[0]); }

extern "C" {

errcode_t pyro_fd_open(const char* name, int, io_channel* out);
errcode_t pyro_fd_close(io_channel channel) {
    if (--channel->refcount > 0)
        return 0;
    std::free(channel->name);
    std::free(channel);
    return 0;
}
errcode_t pyro_fd_set_blksize(io_channel channel, int size) {
    channel->block_size = size;
    return 0;
}
std::size_t pyro_fd_bytes(io_channel channel, int count) {  // libext2fs: a negative count is in bytes
    return count < 0 ? static_cast<std::size_t>(-static_cast<long>(count))
                     : static_cast<std::size_t>(count) * static_cast<std::size_t>(channel->block_size);
}
errcode_t pyro_fd_read64(io_channel channel, unsigned long long block, int count, void* data) {
    auto* at = static_cast<char*>(data);
    std::size_t left = pyro_fd_bytes(channel, count);
    auto offset = static_cast<off_t>(block * static_cast<unsigned long long>(channel->block_size));
    while (left > 0) {
        const ssize_t n = ::pread(fd_of(channel), at, left, offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno;
        if (n == 0) {  // beyond what was written: zeros, as in the finished sparse file
            std::memset(at, 0, left);
            break;
        }
        at += n, offset += n, left -= static_cast<std::size_t>(n);
    }
    return 0;
}
errcode_t pyro_fd_write64(io_channel channel, unsigned long long block, int count, const void* data) {
    const auto* at = static_cast<const char*>(data);
    std::size_t left = pyro_fd_bytes(channel, count);
    auto offset = static_cast<off_t>(block * static_cast<unsigned long long>(channel->block_size));
    while (left > 0) {
        const ssize_t n = ::pwrite(fd_of(channel), at, left, offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? errno : EIO;
        at += n, offset += n, left -= static_cast<std::size_t>(n);
    }
    return 0;
}
errcode_t pyro_fd_read(io_channel channel, unsigned long block, int count, void* data) {
    return pyro_fd_read64(channel, block, count, data);
}
errcode_t pyro_fd_write(io_channel channel, unsigned long block, int count, const void* data) {
    return pyro_fd_write64(channel, block, count, data);
}
errcode_t pyro_fd_flush(io_channel) { return 0; }
errcode_t pyro_fd_zeroout(io_channel channel, unsigned long long block, unsigned long long count) {
    const auto size = static_cast<unsigned long long>(channel->block_size);
    if (::fallocate(fd_of(channel), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(block * size), static_cast<off_t>(count * size)) == 0)
        return 0;
    return errno == EOPNOTSUPP ? EXT2_ET_UNIMPLEMENTED : static_cast<errcode_t>(errno);
}

}  // extern "C"

io_manager manager() {
    static struct_io_manager instance = [] {
        struct_io_manager m{};
        m.magic = EXT2_ET_MAGIC_IO_MANAGER;
        m.name = "pyro descriptor";
        m.open = pyro_fd_open;
        m.close = pyro_fd_close;
        m.set_blksize = pyro_fd_set_blksize;
        m.read_blk = pyro_fd_read;
        m.write_blk = pyro_fd_write;
        m.flush = pyro_fd_flush;
        m.read_blk64 = pyro_fd_read64;
        m.write_blk64 = pyro_fd_write64;
        m.zeroout = pyro_fd_zeroout;
        return m;
    }();
    return &instance;
}

extern "C" errcode_t pyro_fd_open(const char* name, int, io_channel* out) {
    auto* channel = static_cast<io_channel>(std::calloc(1, sizeof(struct_io_channel)));
    char* copy = ::strdup(name);
    if (!channel || !copy) {
        std::free(channel);
        std::free(copy);
        return EXT2_ET_NO_MEMORY;
    }
    channel->magic = EXT2_ET_MAGIC_IO_CHANNEL;
    channel->manager = manager();
    channel->name = copy;
    channel->block_size = 1024;
    channel->refcount = 1;
    channel->reserved[0] = std::strtol(name, nullptr, 10);
    *out = channel;
    return 0;
}

}  // namespace fd_io

struct Extent {
    std::uint32_t logical;
    std::uint32_t count;
    std::uint64_t physical;
};

bool all_zero(const char* bytes, std::size_t size) {
    return size == 0 || (bytes[0] == 0 && std::memcmp(bytes, bytes + 1, size - 1) == 0);
}

void set_time(std::uint32_t& low, std::uint32_t& extra, std::int64_t seconds, std::uint32_t nanoseconds) {
    low = static_cast<std::uint32_t>(seconds);
    const std::int64_t epoch = (seconds - static_cast<std::int32_t>(low)) >> 32;
    extra = (nanoseconds << 2) | static_cast<std::uint32_t>(epoch & 3);
}

std::uint16_t type_bits(FileType type) {
    switch (type) {
        case FileType::directory: return S_IFDIR;
        case FileType::regular: return S_IFREG;
        case FileType::symlink: return S_IFLNK;
        case FileType::character_device: return S_IFCHR;
        case FileType::block_device: return S_IFBLK;
        case FileType::fifo: return S_IFIFO;
    }
    PYRO_CHECK(false);
    return 0;
}

int entry_type(FileType type) {
    switch (type) {
        case FileType::directory: return EXT2_FT_DIR;
        case FileType::regular: return EXT2_FT_REG_FILE;
        case FileType::symlink: return EXT2_FT_SYMLINK;
        case FileType::character_device: return EXT2_FT_CHRDEV;
        case FileType::block_device: return EXT2_FT_BLKDEV;
        case FileType::fifo: return EXT2_FT_FIFO;
    }
    PYRO_CHECK(false);
    return 0;
}

}  // namespace

class Ext4Image::Impl {
public:
    Impl(int fd, Ext4Options options) : fd_(fd), read_only_(options.size_bytes == 0) {
        if (::ftruncate(fd, 0) != 0)
            throw Error::from_errno("empty the image");
        journal_blocks_ = options.journal_mib * ((1u << 20) / block_size);
        if (!read_only_)
            lay_out(options.size_bytes, options.size_bytes / options.bytes_per_inode);
    }

    void lay_out(std::uint64_t size_bytes, std::uint64_t inodes) {
        if (::ftruncate(fd_, static_cast<off_t>(size_bytes)) != 0)
            throw Error::from_errno("size the image");
        ext2_super_block param{};
        ext2fs_blocks_count_set(&param, size_bytes / block_size);
        param.s_rev_level = EXT2_DYNAMIC_REV;
        param.s_log_block_size = 2;
        param.s_log_cluster_size = 2;
        param.s_inode_size = 256;
        param.s_inodes_count = static_cast<std::uint32_t>(std::min<std::uint64_t>(inodes, 0xffff0000u));
        ext2fs_set_feature_dir_index(&param);
        ext2fs_set_feature_xattr(&param);
        if (read_only_) {
            param.s_log_groups_per_flex = 9;  // all of them: tables may lie where the content has left room
        } else {
            param.s_log_groups_per_flex = 4;
            param.s_reserved_gdt_blocks = 127;  // grows online to 1 TiB
            ext2fs_set_feature_resize_inode(&param);
        }
        ext2fs_set_feature_filetype(&param);
        ext2fs_set_feature_extents(&param);
        ext2fs_set_feature_64bit(&param);
        ext2fs_set_feature_flex_bg(&param);
        ext2fs_set_feature_sparse_super(&param);
        ext2fs_set_feature_large_file(&param);
        ext2fs_set_feature_huge_file(&param);
        ext2fs_set_feature_dir_nlink(&param);
        ext2fs_set_feature_extra_isize(&param);
        ext2fs_set_feature_metadata_csum(&param);
        ext4_check(ext2fs_initialize(std::to_string(fd_).c_str(), EXT2_FLAG_64BITS, &param, fd_io::manager(), &fs_), "make the file system");
        fs_->now = fixed_time;
        ext2_super_block& super = *fs_->super;
        const auto& fixed_uuid = read_only_ ? read_only_uuid : root_uuid;
        std::copy(fixed_uuid.begin(), fixed_uuid.end(), super.s_uuid);
        std::memcpy(super.s_hash_seed, fixed_uuid.data(), fixed_uuid.size());
        super.s_def_hash_version = EXT2_HASH_HALF_MD4;
        super.s_flags = (super.s_flags & ~std::uint32_t{EXT2_FLAGS_UNSIGNED_HASH}) | EXT2_FLAGS_SIGNED_HASH;
        super.s_checksum_type = EXT2_CRC32C_CHKSUM;
        super.s_mkfs_time = super.s_lastcheck = super.s_wtime = fixed_time;
        super.s_max_mnt_count = -1;
        super.s_min_extra_isize = super.s_want_extra_isize = sizeof(ext2_inode_large) - EXT2_GOOD_OLD_INODE_SIZE;
        super.s_default_mount_opts = EXT2_DEFM_XATTR_USER | EXT2_DEFM_ACL;
        super.s_errors = EXT2_ERRORS_RO;
        ext2fs_r_blocks_count_set(&super, 0);
        std::memcpy(super.s_volume_name, read_only_ ? "pyro-seed" : "pyro-root", 9);
        ext2fs_init_csum_seed(fs_);
        mark_contents();
        ext4_check(ext2fs_allocate_tables(fs_), "lay out the file system");
        for (dgrp_t group = 0; group < fs_->group_desc_count; ++group) {
            ext2fs_bg_flags_set(fs_, group, EXT2_BG_INODE_ZEROED);
            ext2fs_group_desc_csum_set(fs_, group);
        }
        size_bytes_ = size_bytes;
    }

    ~Impl() {
        if (fs_)
            ext2fs_free(fs_);
    }
    Impl(const Impl&) = delete;
    Impl& operator=(const Impl&) = delete;

    void begin() {
        PYRO_CHECK(!open_);
        open_ = true;
        position_ = 0;
        zero_blocks_ = 0;
        partial_.clear();
        current_.clear();
    }

    void write(std::uint64_t offset, std::string_view bytes) {
        PYRO_CHECK(open_);
        if (offset < position_)
            throw Error(ErrorCode::environment_invalid, "a sparse file's pieces overlap", "the image is damaged or hostile");
        if (offset > position_ && !partial_.empty()) {
            partial_.append(std::min(offset - position_, block_size - partial_.size()), '\0');
            if (partial_.size() == block_size)
                flush_partial(position_ / block_size);
        }
        if (offset / block_size > position_ / block_size)
            zero_blocks_ = 0;  // zeros before a hole are part of it
        position_ = offset;
        if (partial_.empty() && position_ % block_size != 0)
            partial_.assign(position_ % block_size, '\0');
        if (!partial_.empty()) {
            const std::size_t take = std::min<std::size_t>(bytes.size(), block_size - partial_.size());
            partial_.append(bytes.substr(0, take));
            const std::uint64_t block = position_ / block_size;
            position_ += take;
            bytes.remove_prefix(take);
            if (partial_.size() == block_size)
                flush_partial(block);
        }
        if (const std::size_t whole = bytes.size() / block_size; whole > 0) {
            put_sparse(position_ / block_size, bytes.substr(0, whole * block_size));
            position_ += whole * block_size;
            bytes.remove_prefix(whole * block_size);
        }
        if (!bytes.empty()) {
            partial_.assign(bytes);
            position_ += bytes.size();
        }
    }

    ContentId end() {
        PYRO_CHECK(open_);
        open_ = false;
        if (!partial_.empty()) {
            const std::uint64_t block = (position_ - 1) / block_size;
            partial_.resize(block_size, '\0');
            flush_partial(block);
        }
        contents_.push_back(std::move(current_));
        current_.clear();
        return static_cast<ContentId>(contents_.size() - 1);
    }

    void discard(ContentId content) {
        flush_device();
        for (const Extent& extent : contents_[content])  // never used again, so that it costs nothing to leave it
            ::fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(extent.physical * block_size),
                        static_cast<off_t>(extent.count * block_size));
        contents_[content] = {};
    }

    void finish(Tree& tree) {
        if (read_only_) {
            lay_out_around_contents(tree.entries());
        } else {
            tree.ensure_directory("lost+found", 0700);
            mark_contents();
        }
        reserve_inodes();
        number_inodes(tree);
        for (const Numbered& one : order_)
            write_inode(tree, one);
        flush_device();
        if (!read_only_) {
            ext4_check(ext2fs_create_resize_inode(fs_), "reserve room to grow");
            ext4_check(ext2fs_add_journal_inode2(fs_, static_cast<blk_t>(journal_blocks_), ~0ull, EXT2_MKJOURNAL_LAZYINIT | EXT2_MKJOURNAL_NO_MNT_CHECK),
                       "make the journal");
        }
        fs_->super->s_state = EXT2_VALID_FS;
        ext2_filsys fs = std::exchange(fs_, nullptr);
        ext4_check(ext2fs_close_free(&fs), "write the file system");
    }

    std::uint64_t size_bytes() const { return size_bytes_; }

private:
    struct Numbered {
        InodeId id;
        ext2_ino_t ino, parent;
    };

    void mark_contents() {
        for (const auto& extents : contents_)
            for (const Extent& extent : extents)
                ext2fs_block_alloc_stats_range(fs_, extent.physical, extent.count, +1);
    }

    // Not less than what `entries` names and the contents take; the rest is a hole.
    void lay_out_around_contents(std::uint64_t entries) {
        const std::uint64_t inodes = entries + EXT2_GOOD_OLD_FIRST_INO + 1;
        std::uint64_t blocks = cursor_ + 2 * entries + 64;  // directories, 14 entries in a block or more, and long symlinks
        for (const auto& extents : contents_)
            if (extents.size() > 4)
                blocks += extents.size() / 100 + 4;
        const auto needed = [&](std::uint64_t groups) { return blocks + inodes / 16 + groups * (backup_blocks + 4); };
        std::uint64_t groups = 1;
        while (groups <= most_groups && needed(groups) > groups * group_blocks)
            ++groups;
        if (groups > most_groups)
            throw ImageTooSmall{};
        lay_out(groups * group_blocks * block_size, inodes);
    }

    // Blocks are handed out in order and never twice; the bitmap is marked at the end.
    std::pair<std::uint64_t, std::uint32_t> allocate(std::uint64_t want) {
        if (!fs_) {  // around what only has one place, whatever the size will be
            const std::uint64_t in_group = cursor_ % group_blocks;
            const std::uint64_t start = cursor_ + (in_group < backup_blocks ? backup_blocks - in_group : 0);
            const std::uint64_t count = std::min(want, group_blocks - start % group_blocks);
            if (start + count > most_groups * group_blocks)
                throw ImageTooSmall{};
            cursor_ = start + count;
            return {start, static_cast<std::uint32_t>(count)};
        }
        const std::uint64_t total = ext2fs_blocks_count(fs_->super);
        blk64_t first = 0, used = 0;
        if (cursor_ + want >= total || ext2fs_find_first_zero_block_bitmap2(fs_->block_map, cursor_, total - 1, &first) != 0)
            throw ImageTooSmall{};
        std::uint64_t end = std::min<std::uint64_t>(first + want, total);
        if (ext2fs_find_first_set_block_bitmap2(fs_->block_map, first, end - 1, &used) == 0)
            end = used;
        cursor_ = end;
        return {first, static_cast<std::uint32_t>(end - first)};
    }

    void append_blocks(std::vector<Extent>& extents, std::uint64_t logical, std::string_view bytes) {
        if (logical + bytes.size() / block_size > 0xffffffffull)
            throw Error(ErrorCode::environment_invalid, "a file is larger than ext4 can hold");
        while (!bytes.empty()) {
            const auto [physical, count] = allocate(bytes.size() / block_size);
            device_write(physical, bytes.substr(0, count * block_size));
            bytes.remove_prefix(count * block_size);
            std::uint32_t left = count;
            std::uint64_t at = physical;
            if (!extents.empty()) {
                Extent& last = extents.back();
                if (last.logical + last.count == logical && last.physical + last.count == physical) {
                    const auto grow = static_cast<std::uint32_t>(std::min<std::uint64_t>(left, EXT_INIT_MAX_LEN - last.count));
                    last.count += grow, logical += grow, at += grow, left -= grow;
                }
            }
            while (left > 0) {
                const auto take = static_cast<std::uint32_t>(std::min<std::uint64_t>(left, EXT_INIT_MAX_LEN));
                extents.push_back({static_cast<std::uint32_t>(logical), take, at});
                logical += take, at += take, left -= take;
            }
        }
    }

    // Long runs of zeros become holes, wherever the pieces they arrive in begin and end.
    void put_sparse(std::uint64_t logical, std::string_view bytes) {
        constexpr std::size_t shortest_hole = 16;
        static const std::string zeros(shortest_hole * block_size, '\0');
        std::size_t from = 0;  // of what is not yet put
        const auto put = [&](std::size_t to) {
            if (to > from)
                append_blocks(current_, logical + from / block_size, bytes.substr(from, to - from));
            from = to;
        };
        for (std::size_t at = 0; at < bytes.size(); at += block_size) {
            if (all_zero(bytes.data() + at, block_size)) {
                put(at);
                ++zero_blocks_;
                from = at + block_size;
                continue;
            }
            if (zero_blocks_ > 0 && zero_blocks_ < shortest_hole)
                append_blocks(current_, logical + at / block_size - zero_blocks_, std::string_view(zeros).substr(0, zero_blocks_ * block_size));
            zero_blocks_ = 0;
        }
        put(bytes.size());
    }

    void flush_partial(std::uint64_t block) {
        put_sparse(block, partial_);
        partial_.clear();
    }

    // One buffer in front of the file, so that thousands of small files are few writes.
    void device_write(std::uint64_t physical, std::string_view bytes) {
        if (!device_.empty() && (device_at_ + device_.size() / block_size != physical || device_.size() + bytes.size() > (1u << 20)))
            flush_device();
        if (bytes.size() >= (1u << 20)) {
            pwrite_whole(fd_, bytes, physical * block_size);
            return;
        }
        if (device_.empty())
            device_at_ = physical;
        device_.append(bytes);
    }

    void flush_device() {
        if (!device_.empty())
            pwrite_whole(fd_, device_, device_at_ * block_size);
        device_.clear();
    }

    void reserve_inodes() {
        for (ext2_ino_t ino = 1; ino < EXT2_FIRST_INODE(fs_->super); ++ino)
            if (ino != EXT2_ROOT_INO)
                ext2fs_inode_alloc_stats2(fs_, ino, +1, 0);
        ext2_inode_large bad{};
        ext4_check(ext2fs_write_inode_full(fs_, EXT2_BAD_INO, EXT2_INODE(&bad), sizeof bad), "write an inode");
    }

    // Depth first in the order of names.
    void number_inodes(const Tree& tree) {
        numbers_.assign(1, EXT2_ROOT_INO);
        ext2_ino_t next = read_only_ ? lost_found_ino : lost_found_ino + 1;
        const auto number = [&](InodeId id) -> ext2_ino_t& {
            if (numbers_.size() <= id)
                numbers_.resize(id + 1, 0);
            return numbers_[id];
        };
        const InodeId lost_found = read_only_ ? 0 : tree.root().children.find("lost+found")->second;
        order_.push_back({0, EXT2_ROOT_INO, EXT2_ROOT_INO});
        if (!read_only_)
            number(lost_found) = lost_found_ino;
        std::vector<std::pair<InodeId, ext2_ino_t>> todo{{0, EXT2_ROOT_INO}};
        while (!todo.empty()) {
            const auto [directory, directory_ino] = todo.back();
            todo.pop_back();
            std::vector<std::pair<InodeId, ext2_ino_t>> below;
            for (const auto& [name, id] : tree.at(directory).children) {
                ext2_ino_t& ino = number(id);
                if (ino != 0 && id != lost_found)
                    continue;  // a further hard link
                if (ino == 0)
                    ino = next++;
                if (ino > fs_->super->s_inodes_count)
                    throw ImageTooSmall{true};
                order_.push_back({id, ino, directory_ino});
                if (tree.at(id).type == FileType::directory)
                    below.emplace_back(id, ino);
            }
            todo.insert(todo.end(), below.rbegin(), below.rend());
        }
    }

    void write_inode(const Tree& tree, const Numbered& one) {
        const ext2_ino_t ino = one.ino;
        const Inode& node = tree.at(one.id);
        const bool directory = node.type == FileType::directory;
        ext2fs_inode_alloc_stats2(fs_, ino, +1, directory);
        ext2_inode_large inode{};
        inode.i_mode = static_cast<std::uint16_t>(type_bits(node.type) | node.mode);
        inode.i_uid = static_cast<std::uint16_t>(node.uid);
        inode.i_gid = static_cast<std::uint16_t>(node.gid);
        inode.osd2.linux2.l_i_uid_high = static_cast<std::uint16_t>(node.uid >> 16);
        inode.osd2.linux2.l_i_gid_high = static_cast<std::uint16_t>(node.gid >> 16);
        inode.i_extra_isize = sizeof(ext2_inode_large) - EXT2_GOOD_OLD_INODE_SIZE;
        set_time(inode.i_mtime, inode.i_mtime_extra, node.mtime, node.mtime_nsec);
        set_time(inode.i_atime, inode.i_atime_extra, node.mtime, node.mtime_nsec);
        set_time(inode.i_ctime, inode.i_ctime_extra, node.mtime, node.mtime_nsec);
        set_time(inode.i_crtime, inode.i_crtime_extra, node.mtime, node.mtime_nsec);
        inode.i_links_count = static_cast<std::uint16_t>(node.links);

        std::vector<Extent> extents;
        std::uint64_t size = 0;
        switch (node.type) {
            case FileType::directory: {
                std::size_t subdirectories = 0;
                for (const auto& [name, child] : node.children)
                    subdirectories += tree.at(child).type == FileType::directory;
                inode.i_links_count = subdirectories + 2 > 65000 ? 1 : static_cast<std::uint16_t>(subdirectories + 2);
                extents = write_directory(tree, one);
                for (const Extent& extent : extents)
                    size += extent.count * block_size;
                break;
            }
            case FileType::regular:
                size = node.size;
                if (node.content != no_content)
                    extents = contents_[node.content];
                break;
            case FileType::symlink:
                size = node.target.size();
                if (size < sizeof inode.i_block) {
                    std::memcpy(inode.i_block, node.target.data(), size);
                } else {
                    std::string block = node.target;
                    block.resize(block_size, '\0');
                    append_blocks(extents, 0, block);
                    ext2fs_block_alloc_stats_range(fs_, extents[0].physical, 1, +1);
                }
                break;
            case FileType::character_device:
            case FileType::block_device:
                if (node.major < 256 && node.minor < 256)
                    inode.i_block[0] = node.major << 8 | node.minor;
                else
                    inode.i_block[1] = (node.minor & 0xff) | node.major << 8 | (node.minor & ~0xffu) << 12;
                break;
            case FileType::fifo: break;
        }
        inode.i_size = static_cast<std::uint32_t>(size);
        inode.i_size_high = static_cast<std::uint32_t>(size >> 32);
        if (directory || node.type == FileType::regular || !extents.empty()) {
            inode.i_flags |= EXT4_EXTENTS_FL;
            put_extents(ino, inode, extents);
        } else {
            ext4_check(ext2fs_write_inode_full(fs_, ino, EXT2_INODE(&inode), sizeof inode), "write an inode");
        }
        if (!node.xattrs.empty())
            write_xattrs(ino, node);
    }

    void put_extents(ext2_ino_t ino, ext2_inode_large& inode, const std::vector<Extent>& extents) {
        auto* header = reinterpret_cast<ext3_extent_header*>(inode.i_block);
        header->eh_magic = EXT3_EXT_MAGIC;
        header->eh_max = 4;
        std::uint64_t blocks = 0;
        for (const Extent& extent : extents)
            blocks += extent.count;
        ext4_check(ext2fs_iblk_set(fs_, EXT2_INODE(&inode), blocks), "count blocks");
        if (extents.size() <= 4) {
            auto* slot = reinterpret_cast<ext3_extent*>(header + 1);
            header->eh_entries = static_cast<std::uint16_t>(extents.size());
            for (const Extent& extent : extents) {
                slot->ee_block = extent.logical;
                slot->ee_len = static_cast<std::uint16_t>(extent.count);
                slot->ee_start = static_cast<std::uint32_t>(extent.physical);
                slot->ee_start_hi = static_cast<std::uint16_t>(extent.physical >> 32);
                ++slot;
            }
            ext4_check(ext2fs_write_inode_full(fs_, ino, EXT2_INODE(&inode), sizeof inode), "write an inode");
            return;
        }
        ext4_check(ext2fs_write_inode_full(fs_, ino, EXT2_INODE(&inode), sizeof inode), "write an inode");
        ext2_extent_handle_t raw = nullptr;
        ext4_check(ext2fs_extent_open(fs_, ino, &raw), "open an extent tree");
        const std::unique_ptr<ext2_extent_handle, void (*)(ext2_extent_handle_t)> handle(raw, ext2fs_extent_free);
        for (const Extent& extent : extents) {
            ext2fs_extent leaf{};
            leaf.e_pblk = extent.physical;
            leaf.e_lblk = extent.logical;
            leaf.e_len = extent.count;
            ext4_check(ext2fs_extent_insert(raw, EXT2_EXTENT_INSERT_AFTER, &leaf), "insert an extent");
            ext4_check(ext2fs_extent_fix_parents(raw), "insert an extent");
        }
    }

    // Linear blocks: the kernel reads them with dir_index too.
    std::vector<Extent> write_directory(const Tree& tree, const Numbered& one) {
        const ext2_ino_t ino = one.ino;
        constexpr std::size_t usable = block_size - sizeof(ext2_dir_entry_tail);
        std::vector<Extent> extents;
        std::string block(block_size, '\0');
        std::size_t used = 0, last = 0;
        std::uint64_t logical = 0;
        const auto close_block = [&] {
            auto* entry = reinterpret_cast<ext2_dir_entry*>(block.data() + last);
            ext4_check(ext2fs_set_rec_len(fs_, static_cast<unsigned>(usable - last), entry), "write a directory");
            ext2fs_initialize_dirent_tail(fs_, EXT2_DIRENT_TAIL(block.data(), block_size));
            ext4_check(ext2fs_dir_block_csum_set(fs_, ino, reinterpret_cast<ext2_dir_entry*>(block.data())), "write a directory");
            append_blocks(extents, logical++, block);
            block.assign(block_size, '\0');
            used = 0;
        };
        const auto put = [&](std::string_view name, ext2_ino_t to, int type) {
            const std::size_t need = (8 + name.size() + 3) & ~std::size_t{3};
            if (used + need > usable)
                close_block();
            auto* entry = reinterpret_cast<ext2_dir_entry*>(block.data() + used);
            entry->inode = to;
            ext2fs_dirent_set_name_len(entry, static_cast<int>(name.size()));
            ext2fs_dirent_set_file_type(entry, type);
            std::memcpy(entry->name, name.data(), name.size());
            ext4_check(ext2fs_set_rec_len(fs_, static_cast<unsigned>(need), entry), "write a directory");
            last = used;
            used += need;
        };
        put(".", ino, EXT2_FT_DIR);
        put("..", one.parent, EXT2_FT_DIR);
        for (const auto& [name, child] : tree.at(one.id).children)
            put(name, numbers_[child], entry_type(tree.at(child).type));
        close_block();
        for (const Extent& extent : extents)
            ext2fs_block_alloc_stats_range(fs_, extent.physical, extent.count, +1);
        return extents;
    }

    void write_xattrs(ext2_ino_t ino, const Inode& node) {
        ext2_xattr_handle* raw = nullptr;
        ext4_check(ext2fs_xattrs_open(fs_, ino, &raw), "open attributes");
        const auto close = [](ext2_xattr_handle* handle) { ext2fs_xattrs_close(&handle); };
        const std::unique_ptr<ext2_xattr_handle, decltype(close)> handle(raw, close);
        ext4_check(ext2fs_xattrs_read(raw), "read attributes");
        for (const auto& [name, value] : node.xattrs)  // each set writes the inode
            ext4_check(ext2fs_xattr_set(raw, name.c_str(), value.data(), value.size()), "write attributes");
    }

    int fd_;
    bool read_only_;
    std::uint64_t size_bytes_ = 0;
    ext2_filsys fs_ = nullptr;  // of a read-only image once all content is there
    std::uint64_t cursor_ = 0;
    std::uint32_t journal_blocks_ = 0;
    bool open_ = false;
    std::uint64_t position_ = 0;  // of the open file: where the next byte goes
    std::string partial_;         // its unfinished block
    std::size_t zero_blocks_ = 0; // at its end, not yet decided on
    std::vector<Extent> current_;
    std::vector<std::vector<Extent>> contents_;
    std::string device_;
    std::uint64_t device_at_ = 0;
    std::vector<ext2_ino_t> numbers_;                       // by InodeId
    std::vector<Numbered> order_;                           // as written, the directory before what is in it
};

Ext4Image::Ext4Image(int fd, Ext4Options options) : impl_(std::make_unique<Impl>(fd, options)) {}
Ext4Image::~Ext4Image() = default;
void Ext4Image::begin() { impl_->begin(); }
void Ext4Image::write(std::uint64_t offset, std::string_view bytes) { impl_->write(offset, bytes); }
ContentId Ext4Image::end() { return impl_->end(); }
void Ext4Image::discard(ContentId content) { impl_->discard(content); }
void Ext4Image::finish(Tree& tree) { impl_->finish(tree); }
std::uint64_t Ext4Image::size_bytes() const { return impl_->size_bytes(); }

}  // namespace pyro::image
