#include "image/layer.hpp"

#include <archive.h>
#include <archive_entry.h>
#include <unistd.h>

#include <cerrno>
#include <algorithm>
#include <exception>
#include <memory>
#include <new>
#include <utility>
#include <vector>

namespace pyro::image {
namespace {

struct FreeArchive { void operator()(archive* a) const noexcept { archive_read_free(a); } };
using Archive = std::unique_ptr<archive, FreeArchive>;

constexpr std::size_t end_of_tar = 1024;

[[noreturn]] void layer_invalid(const std::string& why) {
    throw Error(ErrorCode::environment_invalid, why, "the image is damaged or hostile: pull it again, or use another one");
}

std::string archive_reason(archive* a) {
    if (archive_errno(a) == ENOMEM)
        throw std::bad_alloc();
    const char* text = archive_error_string(a);
    return text ? text : "unknown reason";
}

// The packed stream made plain, counted, bounded and hashed. Exactly one layer of compression is undone, so an archive in
// an archive in an archive stays what it is: no tar.
class PlainStream {
public:
    PlainStream(int fd, const TreeLimits& limits, std::uint64_t unpacked_before, const std::function<void(std::uint64_t)>& progress)
        : fd_(fd), limits_(limits), before_(unpacked_before), progress_(progress), packed_buffer_(256 << 10) {
        fill();
        const std::string_view head(packed_buffer_.data(), packed_size_);
        // A zstd stream may begin with a frame to be skipped.
        const bool gzip = head.starts_with("\x1f\x8b"), zstd = head.starts_with("\x28\xb5\x2f\xfd") ||
                   (head.size() >= 4 && (head[0] & 0xf0) == 0x50 && head.substr(1, 3) == "\x2a\x4d\x18");
        for (const auto& [magic, name] : {std::pair{std::string_view("\xfd" "7zXZ"), "xz"}, {std::string_view("BZh"), "bzip2"}})
            if (head.starts_with(magic))
                layer_invalid(std::string("layer is packed by ") + name + ", which images do not know: gzip, zstd or nothing");
        if (!gzip && !zstd)
            return;
        decompressor_.reset(archive_read_new());
        if (!decompressor_)
            throw Error::from_errno("start libarchive", ENOMEM);
        archive_read_append_filter(decompressor_.get(), gzip ? ARCHIVE_FILTER_GZIP : ARCHIVE_FILTER_ZSTD);
        archive_read_set_format(decompressor_.get(), ARCHIVE_FORMAT_RAW);
        archive_entry* entry = nullptr;
        if (archive_read_open(decompressor_.get(), this, nullptr, &PlainStream::read_packed, nullptr) != ARCHIVE_OK ||
            archive_read_next_header(decompressor_.get(), &entry) != ARCHIVE_OK) {
            rethrow_kept();
            layer_invalid("layer cannot be unpacked: " + archive_reason(decompressor_.get()));
        }
    }

    // The next piece, valid until the next call; empty at the end.
    std::string_view next() {
        std::string_view piece;
        if (!decompressor_) {
            if (!fresh_)
                fill();
            fresh_ = false;
            piece = {packed_buffer_.data(), packed_size_};
        } else {
            const void* data = nullptr;
            std::size_t size = 0;
            la_int64_t offset = 0;
            const int status = archive_read_data_block(decompressor_.get(), &data, &size, &offset);
            if (status != ARCHIVE_OK && status != ARCHIVE_EOF) {
                rethrow_kept();
                layer_invalid("layer is cut short or damaged: " + archive_reason(decompressor_.get()));
            }
            if (status == ARCHIVE_OK)
                piece = {static_cast<const char*>(data), size};
        }
        unpacked_ += piece.size();
        if (before_ + unpacked_ > limits_.max_total_bytes)
            layer_invalid("layers unpack to more than the limit of " + std::to_string(limits_.max_total_bytes) + " bytes");
        if (unpacked_ > (256u << 20) && unpacked_ / limits_.max_ratio > packed_)
            layer_invalid("layer unpacks to more than " + std::to_string(limits_.max_ratio) + " times its size");
        hash_.update(piece);
        tail_.append(piece.substr(piece.size() - std::min(piece.size(), end_of_tar)));
        tail_.erase(0, tail_.size() - std::min(tail_.size(), end_of_tar));
        return piece;
    }

    LayerResult finish() {
        while (!next().empty())
            ;
        const bool closed = unpacked_ % 512 == 0 && tail_ == std::string(end_of_tar, '\0');
        return {hash_.finish(), packed_, unpacked_, closed};
    }

    std::exception_ptr kept;  // what a libarchive callback may not throw

    void rethrow_kept() {
        if (kept)
            std::rethrow_exception(std::exchange(kept, nullptr));
    }

private:
    void fill() {
        ssize_t n;
        do
            n = ::read(fd_, packed_buffer_.data(), packed_buffer_.size());
        while (n < 0 && errno == EINTR);
        if (n < 0)
            throw Error::from_errno("read a layer");
        packed_size_ = static_cast<std::size_t>(n);
        packed_ += packed_size_;
        fresh_ = true;
        progress_(packed_);
    }

    static la_ssize_t read_packed(archive* a, void* self_pointer, const void** buffer) {
        auto* self = static_cast<PlainStream*>(self_pointer);
        try {
            if (!self->fresh_)
                self->fill();
        } catch (...) {
            self->kept = std::current_exception();
            archive_set_error(a, EIO, "read failed");
            return -1;
        }
        self->fresh_ = false;
        *buffer = self->packed_buffer_.data();
        return static_cast<la_ssize_t>(self->packed_size_);
    }

    int fd_;
    const TreeLimits& limits_;
    std::uint64_t before_;
    const std::function<void(std::uint64_t)>& progress_;
    std::vector<char> packed_buffer_;
    std::size_t packed_size_ = 0;
    bool fresh_ = false;
    std::uint64_t packed_ = 0, unpacked_ = 0;
    Sha256 hash_;
    std::string tail_;  // the last bytes, as many as end a tar
    Archive decompressor_;
};

la_ssize_t read_plain(archive* a, void* stream_pointer, const void** buffer) {
    auto* stream = static_cast<PlainStream*>(stream_pointer);
    try {
        const std::string_view piece = stream->next();
        *buffer = piece.data();
        return static_cast<la_ssize_t>(piece.size());
    } catch (...) {
        stream->kept = std::current_exception();
        archive_set_error(a, EIO, "read failed");
        return -1;
    }
}

// What a host's security modules or an overlay's own bookkeeping left on a file means something else in a guest.
bool is_kept(std::string_view name) {
    if (name == "security.selinux" || name == "security.evm" || name == "security.ima" || name.starts_with("trusted.overlay.") ||
        name.starts_with("user.overlay."))
        return false;
    if (name == "system.posix_acl_access" || name == "system.posix_acl_default")
        return true;
    for (const std::string_view space : {"user.", "trusted.", "security."})
        if (name.starts_with(space))
            return name.size() > space.size() && name.size() < 256;
    return false;
}

// As the kernel hands them out: a version, then tag, permissions and id of each entry.
bool is_access_list(std::string_view value) {
    if (value.size() < 4 || value.size() % 8 != 4 || value.substr(0, 4) != std::string_view("\2\0\0\0", 4))
        return false;
    for (std::size_t at = 4; at < value.size(); at += 8) {
        const auto tag = static_cast<unsigned char>(value[at]);
        if (value[at + 1] != 0 || tag == 0 || tag > 0x20 || (tag & (tag - 1)) != 0 || static_cast<unsigned char>(value[at + 2]) > 7 || value[at + 3] != 0)
            return false;
    }
    return true;
}

std::uint32_t checked_id(const std::string& path, la_int64_t id, const char* what) {
    if (id < 0 || id > 0xfffffffe)
        layer_invalid("entry " + printable(path) + " has an impossible " + what);
    return static_cast<std::uint32_t>(id);
}

Entry read_entry(archive_entry* raw) {
    const char* path = archive_entry_pathname(raw);
    if (!path)
        layer_invalid("layer has an entry with an unreadable name");
    Entry entry;
    entry.path = path;
    Inode& inode = entry.attributes;
    inode.mode = static_cast<std::uint16_t>(archive_entry_perm(raw) & 07777);
    inode.uid = checked_id(entry.path, archive_entry_uid(raw), "uid");
    inode.gid = checked_id(entry.path, archive_entry_gid(raw), "gid");
    // The years ext4 can hold.
    constexpr std::int64_t first = -(1ll << 31), last = (3ll << 32) + (1ll << 31) - 1;
    inode.mtime = std::clamp<std::int64_t>(archive_entry_mtime(raw), first, last);
    inode.mtime_nsec = static_cast<std::uint32_t>(std::clamp<long>(archive_entry_mtime_nsec(raw), 0, 999999999));
    if (inode.mtime < 0 && inode.mtime_nsec > 0) {  // libarchive reads "-1.5" as -1 and a half
        inode.mtime = std::max(inode.mtime - 1, first);
        inode.mtime_nsec = 1000000000 - inode.mtime_nsec;
    }
    archive_entry_xattr_reset(raw);
    const char* name = nullptr;
    const void* value = nullptr;
    std::size_t size = 0;
    while (archive_entry_xattr_next(raw, &name, &value, &size) == ARCHIVE_OK) {
        const std::string_view key = name ? name : "";
        if (!is_kept(key))
            continue;
        const std::string_view bytes(static_cast<const char*>(value), value ? size : 0);
        if (key.starts_with("system.") && !is_access_list(bytes))
            layer_invalid("entry " + printable(entry.path) + " has an access control list that is none");
        inode.xattrs.insert_or_assign(std::string(key), std::string(bytes));
    }
    if (const char* target = archive_entry_hardlink(raw)) {
        entry.is_hard_link = true;
        entry.link_target = target;
        inode.type = FileType::regular;
        return entry;
    }
    switch (archive_entry_filetype(raw)) {
        case AE_IFREG: inode.type = FileType::regular; break;
        case AE_IFDIR: inode.type = FileType::directory; break;
        case AE_IFIFO: inode.type = FileType::fifo; break;
        case AE_IFLNK: {
            inode.type = FileType::symlink;
            const char* target = archive_entry_symlink(raw);
            entry.attributes.target = target ? target : "";
            inode.size = entry.attributes.target.size();
            break;
        }
        case AE_IFCHR:
        case AE_IFBLK:
            inode.type = archive_entry_filetype(raw) == AE_IFCHR ? FileType::character_device : FileType::block_device;
            inode.major = static_cast<std::uint32_t>(archive_entry_rdevmajor(raw));
            inode.minor = static_cast<std::uint32_t>(archive_entry_rdevminor(raw));
            if (inode.major > 0xfff || inode.minor > 0xfffff)
                layer_invalid("entry " + printable(entry.path) + " has an impossible device number");
            break;
        default: layer_invalid("entry " + printable(entry.path) + " is of a kind no file system has");
    }
    return entry;
}

}  // namespace

LayerResult apply_layer(int fd, Tree& tree, ContentStore& store, std::uint64_t unpacked_before,
                        const std::function<void(std::uint64_t)>& progress, const std::function<void(Entry&)>& change) {
    PlainStream stream(fd, tree.limits(), unpacked_before, progress);
    const Archive tar(archive_read_new());
    if (!tar)
        throw Error::from_errno("start libarchive", ENOMEM);
    archive_read_support_format_tar(tar.get());
    std::string last = "the beginning";
    const auto check = [&](int status, const char* doing) {
        if (status >= ARCHIVE_WARN)
            return;
        stream.rethrow_kept();
        layer_invalid(std::string("layer cannot be read ") + doing + " after " + last + ": " + archive_reason(tar.get()));
    };
    check(archive_read_open(tar.get(), &stream, nullptr, &read_plain, nullptr), "as a tar");
    tree.begin_layer();
    while (true) {
        archive_entry* raw = nullptr;
        const int status = archive_read_next_header(tar.get(), &raw);
        if (status == ARCHIVE_EOF)
            break;
        check(status, "further");
        Entry entry = read_entry(raw);
        last = "entry " + printable(entry.path);
        if (change)
            change(entry);
        const Tree::Place place = tree.place(entry);
        if (place.skip)
            continue;
        if (entry.attributes.type == FileType::regular && !entry.is_hard_link) {
            const la_int64_t size = archive_entry_size(raw);
            if (size < 0 || static_cast<std::uint64_t>(size) > tree.limits().max_total_bytes)
                layer_invalid("entry " + printable(entry.path) + " is larger than the limit of " +
                              std::to_string(tree.limits().max_total_bytes) + " bytes");
            entry.attributes.size = static_cast<std::uint64_t>(size);
            if (size > 0) {
                store.begin();
                while (true) {
                    const void* data = nullptr;
                    std::size_t length = 0;
                    la_int64_t offset = 0;
                    const int block = archive_read_data_block(tar.get(), &data, &length, &offset);
                    if (block == ARCHIVE_EOF)
                        break;
                    check(block, "inside");
                    if (offset < 0 || static_cast<std::uint64_t>(offset) + length > entry.attributes.size)
                        layer_invalid("entry " + printable(entry.path) + " has data beyond its size");
                    store.write(static_cast<std::uint64_t>(offset), {static_cast<const char*>(data), length});
                }
                entry.attributes.content = store.end();
            }
        }
        tree.insert(place, std::move(entry));
    }
    tree.end_layer();
    stream.rethrow_kept();
    return stream.finish();
}

}  // namespace pyro::image
