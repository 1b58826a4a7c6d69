#include "image/ext4_reader.hpp"

#include <ext2fs/ext2fs.h>
#include <ext2fs/ext3_extents.h>
#undef clamp  // e2fsprogs 1.47.1 and later: a macro, which would reach into whatever is compiled with this file

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <set>
#include <utility>

namespace pyro::image {
namespace {

constexpr std::size_t max_disk_path = 64 << 10;

[[noreturn]] void disk_damaged(const std::string& what) {
    throw Error(ErrorCode::environment_invalid, "the file system cannot be read: " + what, "check it in the machine, or reset the workspace");
}

void disk_check(errcode_t code, const std::string& what) {
    if (code)
        disk_damaged(what + ": libext2fs error " + std::to_string(code));
}

// What libext2fs reads through; no exception may pass through it.
struct DiskSource {
    ReadAt read;
    std::exception_ptr failure;
};
// libext2fs names a device by text alone; the worker has one thread.
DiskSource* opening_disk = nullptr;

extern "C" {

errcode_t pyro_disk_close(io_channel channel) {
    if (--channel->refcount > 0)
        return 0;
    std::free(channel->name);
    std::free(channel);
    return 0;
}
errcode_t pyro_disk_set_blksize(io_channel channel, int size) {
    channel->block_size = size;
    return 0;
}
errcode_t pyro_disk_read64(io_channel channel, unsigned long long block, int count, void* data) {
    auto* source = static_cast<DiskSource*>(channel->private_data);
    const auto unit = static_cast<std::uint64_t>(channel->block_size);
    const std::size_t size = count < 0 ? static_cast<std::size_t>(-static_cast<long>(count)) : static_cast<std::size_t>(count) * unit;
    if (block > (1ull << 52) / unit)
        return EXT2_ET_SHORT_READ;
    try {
        source->read(block * unit, static_cast<char*>(data), size);
        return 0;
    } catch (...) {
        source->failure = std::current_exception();
        return EXT2_ET_SHORT_READ;
    }
}
errcode_t pyro_disk_read(io_channel channel, unsigned long block, int count, void* data) { return pyro_disk_read64(channel, block, count, data); }
errcode_t pyro_disk_write64(io_channel, unsigned long long, int, const void*) { return EXT2_ET_RO_FILSYS; }
errcode_t pyro_disk_write(io_channel, unsigned long, int, const void*) { return EXT2_ET_RO_FILSYS; }
errcode_t pyro_disk_flush(io_channel) { return 0; }
errcode_t pyro_disk_open(const char* name, int, io_channel* out);

}  // extern "C"

io_manager disk_manager() {
    static struct_io_manager instance = [] {
        struct_io_manager m{};
        m.magic = EXT2_ET_MAGIC_IO_MANAGER;
        m.name = "pyro disk";
        m.open = pyro_disk_open;
        m.close = pyro_disk_close;
        m.set_blksize = pyro_disk_set_blksize;
        m.read_blk = pyro_disk_read;
        m.read_blk64 = pyro_disk_read64;
        m.write_blk = pyro_disk_write;
        m.write_blk64 = pyro_disk_write64;
        m.flush = pyro_disk_flush;
        return m;
    }();
    return &instance;
}

extern "C" errcode_t pyro_disk_open(const char* name, int, io_channel* out) {
    auto* channel = static_cast<io_channel>(std::calloc(1, sizeof(struct struct_io_channel)));
    if (!channel)
        return EXT2_ET_NO_MEMORY;
    channel->magic = EXT2_ET_MAGIC_IO_CHANNEL;
    channel->manager = disk_manager();
    channel->name = ::strdup(name);
    channel->block_size = 1024;
    channel->refcount = 1;
    channel->private_data = opening_disk;
    *out = channel;
    return 0;
}

struct DirectoryNames {
    std::vector<std::pair<std::string, ext2_ino_t>> found;
    std::uint64_t limit;
    bool too_many = false;
};

int collect_name(ext2_ino_t, int entry, ext2_dir_entry* dirent, int, int, char*, void* context) {
    auto* names = static_cast<DirectoryNames*>(context);
    if (entry != DIRENT_OTHER_FILE || dirent->inode == 0)
        return 0;
    if (names->found.size() >= names->limit) {
        names->too_many = true;
        return DIRENT_ABORT;
    }
    names->found.emplace_back(std::string(dirent->name, static_cast<std::size_t>(ext2fs_dirent_name_len(dirent))), dirent->inode);
    return 0;
}

int collect_xattr(char* name, char* value, std::size_t size, void* context) {
    auto* out = static_cast<std::map<std::string, std::string>*>(context);
    const std::string_view key = name;
    if (out->size() < 256 && (key == "security.capability" || key.starts_with("user.")))
        (*out)[std::string(key)] = std::string(value, size);
    return 0;
}

struct BlockList {
    std::vector<std::pair<std::uint64_t, std::uint64_t>> found;  // of the file, of the disk
    bool wrong = false;
};

int collect_block(ext2_filsys, blk64_t* block, e2_blkcnt_t number, blk64_t, int, void* context) {
    auto* list = static_cast<BlockList*>(context);
    if (number < 0)
        return 0;
    if (!list->found.empty() && static_cast<std::uint64_t>(number) <= list->found.back().first) {
        list->wrong = true;
        return BLOCK_ABORT;
    }
    list->found.emplace_back(static_cast<std::uint64_t>(number), *block);
    return 0;
}

}  // namespace

class Ext4Reader::Impl {
public:
    explicit Impl(ReadAt read) {
        source_.read = std::move(read);
        opening_disk = &source_;
        const errcode_t opened = ext2fs_open2("disk", nullptr, EXT2_FLAG_64BITS, 0, 0, disk_manager(), &fs_);
        opening_disk = nullptr;
        rethrow();
        disk_check(opened, "no sound ext4");
        const std::uint32_t unknown = EXT4_FEATURE_INCOMPAT_INLINE_DATA | EXT4_FEATURE_INCOMPAT_ENCRYPT | EXT4_FEATURE_INCOMPAT_EA_INODE |
                                      EXT3_FEATURE_INCOMPAT_JOURNAL_DEV | EXT2_FEATURE_INCOMPAT_COMPRESSION;
        if (fs_->super->s_feature_incompat & unknown)
            close_and_throw(Error(ErrorCode::environment_invalid, "the file system has features that pyro's do not have", "reset the workspace"));
        if (fs_->super->s_feature_incompat & EXT3_FEATURE_INCOMPAT_RECOVER)
            close_and_throw(Error(ErrorCode::failed_precondition, "the disk was not left in order: what was written last is in its journal",
                                  "start the workspace once: pyro workspace start WS").with_detail("cause", "not_clean"));
        try {
            root_ = attributes(EXT2_ROOT_INO, nullptr);
            if (root_.type != FileType::directory)
                disk_damaged("its root is no directory");
        } catch (...) {
            ext2fs_free(fs_);
            throw;
        }
    }
    ~Impl() { ext2fs_free(fs_); }

    const Inode& root() const { return root_; }
    void read(std::uint64_t at, char* to, std::size_t size) { source_.read(at, to, size); }

    void walk(std::uint64_t max_entries, const std::function<bool(const DiskEntry&)>& visit) {
        struct Level {
            std::string path;
            std::vector<std::pair<std::string, ext2_ino_t>> names;
            std::size_t next = 0;
        };
        std::set<ext2_ino_t> directories{EXT2_ROOT_INO};
        std::uint64_t seen = 0;
        std::vector<Level> levels;
        levels.push_back({"", entries(EXT2_ROOT_INO, max_entries), 0});
        while (!levels.empty()) {
            Level& level = levels.back();
            if (level.next == level.names.size()) {
                levels.pop_back();
                continue;
            }
            const auto& [name, number] = level.names[level.next++];
            if (++seen > max_entries)
                disk_damaged("it has more than " + std::to_string(max_entries) + " files");
            if (name.empty() || name.size() > 255 || name.find('/') != std::string::npos || name.find('\0') != std::string::npos || name == "." || name == "..")
                disk_damaged("a name in " + printable("/" + level.path) + " is none");
            DiskEntry entry;
            entry.number = number;
            entry.path = level.path.empty() ? name : level.path + "/" + name;
            if (entry.path.size() > max_disk_path)
                disk_damaged("its directories are too deep");
            entry.attributes = attributes(number, &entry.socket);
            if (!visit(entry) || entry.attributes.type != FileType::directory)
                continue;
            if (!directories.insert(number).second)
                disk_damaged("the directory " + printable("/" + entry.path) + " has two names");
            levels.push_back({entry.path, entries(number, max_entries - seen), 0});
        }
    }

    std::vector<Piece> pieces(ext2_ino_t number, std::uint64_t size) {
        ext2_inode_large inode{};
        read_inode(number, inode);
        std::vector<Piece> out;
        if (size == 0)
            return out;
        const std::uint64_t block = fs_->blocksize, blocks = ext2fs_blocks_count(fs_->super);
        const auto add = [&](std::uint64_t of_file, std::uint64_t of_disk, std::uint64_t count) {
            if (of_disk == 0 || of_disk >= blocks || count > blocks - of_disk)
                disk_damaged("a file leads beyond the disk");
            if (of_file > size / block)
                return;  // allocated beyond its end
            Piece piece{of_file * block, std::min(count * block, size - of_file * block), of_disk * block};
            if (piece.size == 0)
                return;
            if (!out.empty() && piece.offset < out.back().offset + out.back().size)
                disk_damaged("parts of a file lie on each other");
            if (!out.empty() && out.back().offset + out.back().size == piece.offset && out.back().at + out.back().size == piece.at)
                out.back().size += piece.size;
            else
                out.push_back(piece);
        };
        if (inode.i_flags & EXT4_EXTENTS_FL) {
            ext2_extent_handle_t handle = nullptr;
            disk_check(ext2fs_extent_open(fs_, number, &handle), "the parts of a file");
            const std::unique_ptr<ext2_extent_handle, void (*)(ext2_extent_handle_t)> closing(handle, ext2fs_extent_free);
            std::uint64_t steps = 0;
            for (int step = EXT2_EXTENT_ROOT;; step = EXT2_EXTENT_NEXT) {
                ext2fs_extent extent{};
                const errcode_t got = ext2fs_extent_get(handle, step, &extent);
                rethrow();
                if (got == EXT2_ET_EXTENT_NO_NEXT || got == EXT2_ET_NO_CURRENT_NODE)
                    break;
                disk_check(got, "the parts of a file");
                if (++steps > 64'000'000)
                    disk_damaged("a file has too many parts");
                if ((extent.e_flags & EXT2_EXTENT_FLAGS_LEAF) && !(extent.e_flags & EXT2_EXTENT_FLAGS_UNINIT))
                    add(extent.e_lblk, extent.e_pblk, extent.e_len);
            }
        } else {
            BlockList list;
            const errcode_t got = ext2fs_block_iterate3(fs_, number, BLOCK_FLAG_DATA_ONLY | BLOCK_FLAG_READ_ONLY, nullptr, collect_block, &list);
            rethrow();
            disk_check(list.wrong ? EXT2_ET_BAD_BLOCK_NUM : got, "the blocks of a file");
            for (const auto& [of_file, of_disk] : list.found)
                add(of_file, of_disk, 1);
        }
        return out;
    }

    std::optional<ext2_ino_t> find(const std::string& path) {
        ext2_ino_t number = 0;
        const errcode_t got = ext2fs_namei_follow(fs_, EXT2_ROOT_INO, EXT2_ROOT_INO, path.c_str(), &number);
        rethrow();
        if (got)
            return std::nullopt;
        return number;
    }

    Inode attributes(ext2_ino_t number, bool* socket) {
        ext2_inode_large inode{};
        read_inode(number, inode);
        Inode out;
        out.mode = inode.i_mode & 07777;
        out.uid = inode_uid(inode);
        out.gid = inode_gid(inode);
        out.links = inode.i_links_count;
        out.mtime = static_cast<std::int32_t>(inode.i_mtime);
        if (EXT2_INODE_SIZE(fs_->super) > EXT2_GOOD_OLD_INODE_SIZE && inode.i_extra_isize >= 12) {
            out.mtime += static_cast<std::int64_t>(inode.i_mtime_extra & 3) << 32;
            out.mtime_nsec = std::min<std::uint32_t>(inode.i_mtime_extra >> 2, 999'999'999);
        }
        switch (inode.i_mode & LINUX_S_IFMT) {
            case LINUX_S_IFDIR: out.type = FileType::directory; break;
            case LINUX_S_IFREG:
                out.type = FileType::regular;
                out.size = EXT2_I_SIZE(&inode);
                break;
            case LINUX_S_IFLNK:
                out.type = FileType::symlink;
                out.target = link_target(number, inode);
                out.size = out.target.size();
                break;
            case LINUX_S_IFCHR:
            case LINUX_S_IFBLK:
                out.type = LINUX_S_ISCHR(inode.i_mode) ? FileType::character_device : FileType::block_device;
                if (inode.i_block[0]) {
                    out.major = inode.i_block[0] >> 8 & 0xff;
                    out.minor = inode.i_block[0] & 0xff;
                } else {
                    out.major = (inode.i_block[1] & 0xfff00) >> 8;
                    out.minor = (inode.i_block[1] & 0xff) | (inode.i_block[1] >> 12 & 0xfff00);
                }
                break;
            case LINUX_S_IFIFO: out.type = FileType::fifo; break;
            case LINUX_S_IFSOCK:
                out.type = FileType::fifo;
                if (socket)
                    *socket = true;
                break;
            default: disk_damaged("inode " + std::to_string(number) + " is of no kind");
        }
        ext2_xattr_handle* handle = nullptr;
        if (ext2fs_xattrs_open(fs_, number, &handle) == 0) {
            const errcode_t got = ext2fs_xattrs_read(handle);
            if (got == 0)
                ext2fs_xattrs_iterate(handle, collect_xattr, &out.xattrs);
            ext2fs_xattrs_close(&handle);
            rethrow();
            disk_check(got, "extended attributes");
        }
        return out;
    }

    std::vector<std::pair<std::string, ext2_ino_t>> entries(ext2_ino_t directory, std::uint64_t limit) {
        DirectoryNames names{{}, limit, false};
        const errcode_t got = ext2fs_dir_iterate2(fs_, directory, 0, nullptr, collect_name, &names);
        rethrow();
        disk_check(got, "a directory");
        if (names.too_many)
            disk_damaged("it has too many files");
        std::sort(names.found.begin(), names.found.end());
        return std::move(names.found);
    }

private:
    void rethrow() {
        if (source_.failure)
            std::rethrow_exception(std::exchange(source_.failure, nullptr));
    }

    [[noreturn]] void close_and_throw(Error error) {
        ext2fs_free(fs_);
        throw error;
    }

    void read_inode(ext2_ino_t number, ext2_inode_large& inode) {
        if (number == 0 || number > fs_->super->s_inodes_count)
            disk_damaged("a name leads to no inode");
        const errcode_t got = ext2fs_read_inode_full(fs_, number, reinterpret_cast<ext2_inode*>(&inode), sizeof inode);
        rethrow();
        disk_check(got, "inode " + std::to_string(number));
    }

    std::string link_target(ext2_ino_t number, ext2_inode_large& inode) {
        const std::uint64_t size = EXT2_I_SIZE(&inode);
        if (size == 0 || size >= fs_->blocksize)
            disk_damaged("a link of impossible length");
        if (ext2fs_is_fast_symlink(reinterpret_cast<ext2_inode*>(&inode)))
            return std::string(reinterpret_cast<const char*>(inode.i_block), std::min<std::size_t>(size, sizeof inode.i_block));
        std::string target(size, '\0');
        for (const Piece& piece : pieces(number, size))
            source_.read(piece.at, target.data() + piece.offset, piece.size);
        return target;
    }

    DiskSource source_;
    ext2_filsys fs_ = nullptr;
    Inode root_;
};

Ext4Reader::Ext4Reader(ReadAt read) : impl_(std::make_unique<Impl>(std::move(read))) {}
Ext4Reader::~Ext4Reader() = default;
void Ext4Reader::walk(std::uint64_t max_entries, const std::function<bool(const DiskEntry&)>& visit) { impl_->walk(max_entries, visit); }
const Inode& Ext4Reader::root() const { return impl_->root(); }
std::vector<Ext4Reader::Piece> Ext4Reader::pieces(const DiskEntry& file) { return impl_->pieces(file.number, file.attributes.size); }
void Ext4Reader::read(std::uint64_t at, char* to, std::size_t size) { impl_->read(at, to, size); }

std::optional<std::string> Ext4Reader::text(const std::string& path, std::size_t limit) {
    const std::optional<ext2_ino_t> number = impl_->find(path);
    if (!number)
        return std::nullopt;
    const Inode inode = impl_->attributes(*number, nullptr);
    if (inode.type != FileType::regular)
        return std::nullopt;
    if (inode.size > limit)
        disk_damaged(printable(path) + " is too large");
    std::string out(inode.size, '\0');
    for (const Piece& piece : impl_->pieces(*number, inode.size))
        impl_->read(piece.at, out.data() + piece.offset, piece.size);
    return out;
}

std::vector<std::string> Ext4Reader::names(const std::string& directory) {
    const std::optional<ext2_ino_t> number = impl_->find(directory);
    std::vector<std::string> out;
    if (!number || impl_->attributes(*number, nullptr).type != FileType::directory)
        return out;
    for (const auto& [name, inode] : impl_->entries(*number, 100'000))
        out.push_back(name);
    return out;
}

}  // namespace pyro::image
