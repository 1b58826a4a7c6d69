#include "image/commit.hpp"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <tuple>

#include "common/digest.hpp"
#include "common/unique_fd.hpp"
#include "image/ext4_reader.hpp"
#include "image/import.hpp"

namespace pyro::image {
namespace {

using nlohmann::json;

constexpr const char* layer_part = "layer.part";
constexpr std::size_t copy_piece = 1u << 20;

struct FreeWriter { void operator()(archive* a) const noexcept { archive_write_free(a); } };
struct FreeArchiveEntry { void operator()(archive_entry* e) const noexcept { archive_entry_free(e); } };
using ArchiveWriter = std::unique_ptr<archive, FreeWriter>;

[[noreturn]] void writer_failed(archive* a) {
    const char* text = archive_error_string(a);
    const int number = archive_errno(a);
    if (number > 0 && number < 4096)
        throw Error::from_errno("write the layer", number);
    throw Error(ErrorCode::internal, std::string("write the layer: ") + (text ? text : "unknown reason"));
}

// A tar, hashed as it is, packed, and hashed again.
class LayerWriter {
public:
    explicit LayerWriter(int fd) : fd_(fd), packed_(archive_write_new()), tar_(archive_write_new()) {
        if (!packed_ || !tar_)
            throw Error::from_errno("start libarchive", ENOMEM);
        archive_write_set_format_raw(packed_.get());
        if (archive_write_add_filter_zstd(packed_.get()) != ARCHIVE_OK || archive_write_set_filter_option(packed_.get(), "zstd", "compression-level", "1") != ARCHIVE_OK)
            throw Error(ErrorCode::internal, "libarchive has no zstd");
        archive_write_set_bytes_in_last_block(packed_.get(), 1);
        need(packed_.get(), archive_write_open(packed_.get(), this, nullptr, &LayerWriter::to_file, nullptr));
        const std::unique_ptr<archive_entry, FreeArchiveEntry> one(archive_entry_new());
        archive_entry_set_filetype(one.get(), AE_IFREG);
        archive_entry_set_pathname(one.get(), "layer");
        need(packed_.get(), archive_write_header(packed_.get(), one.get()));
        archive_write_set_format_pax_restricted(tar_.get());
        archive_write_add_filter_none(tar_.get());
        need(tar_.get(), archive_write_open(tar_.get(), this, nullptr, &LayerWriter::to_packer, nullptr));
    }

    archive* tar() const { return tar_.get(); }
    void need(archive* a, la_ssize_t status) {
        if (kept_)
            std::rethrow_exception(std::exchange(kept_, nullptr));
        if (status < ARCHIVE_WARN)
            writer_failed(a);
    }

    struct Written {
        Digest digest, diff_id;
        std::uint64_t size = 0;
    };
    Written finish() {
        need(tar_.get(), archive_write_close(tar_.get()));
        need(packed_.get(), archive_write_close(packed_.get()));
        return {of_file_.finish(), of_tar_.finish(), size_};
    }

private:
    static la_ssize_t to_packer(archive* a, void* self_pointer, const void* data, std::size_t size) {
        auto* self = static_cast<LayerWriter*>(self_pointer);
        self->of_tar_.update({static_cast<const char*>(data), size});
        if (archive_write_data(self->packed_.get(), data, size) != static_cast<la_ssize_t>(size)) {
            archive_set_error(a, archive_errno(self->packed_.get()), "packing failed");
            return -1;
        }
        return static_cast<la_ssize_t>(size);
    }
    static la_ssize_t to_file(archive* a, void* self_pointer, const void* data, std::size_t size) {
        auto* self = static_cast<LayerWriter*>(self_pointer);
        const std::string_view bytes(static_cast<const char*>(data), size);
        try {
            write_all(self->fd_, bytes);
        } catch (...) {
            self->kept_ = std::current_exception();
            archive_set_error(a, EIO, "writing failed");
            return -1;
        }
        self->of_file_.update(bytes);
        self->size_ += size;
        return static_cast<la_ssize_t>(size);
    }

    int fd_;
    Sha256 of_tar_, of_file_;
    std::uint64_t size_ = 0;
    std::exception_ptr kept_;
    ArchiveWriter packed_, tar_;
};

enum class Fate { keep, drop, drop_below, empty };

// What belongs to one machine, or to pyro.
Fate fate_of(const DiskEntry& entry) {
    static const std::set<std::string, std::less<>> hollow{"run", "tmp", "dev", "proc", "sys"}, gone{".pyro", "lost+found"},
        own{"var/lib/systemd/random-seed", "var/lib/systemd/credential.secret"}, ids{"etc/machine-id", "var/lib/dbus/machine-id"};
    const bool directory = entry.attributes.type == FileType::directory;
    if (entry.socket || gone.contains(entry.path) || own.contains(entry.path))
        return Fate::drop;
    if (directory && hollow.contains(entry.path))
        return Fate::drop_below;
    if (entry.attributes.type == FileType::regular && ids.contains(entry.path))
        return Fate::empty;
    constexpr std::string_view host_keys = "etc/ssh/ssh_host_";
    if (!directory && entry.path.starts_with(host_keys) && entry.path.find("_key") != std::string::npos)
        return Fate::drop;
    return Fate::keep;
}

class Committer {
public:
    Committer(Ext4Reader& disk, LayerWriter& out, std::uint64_t max_bytes, Events& events)
        : disk_(disk), out_(out), max_bytes_(max_bytes), events_(events), zeros_(copy_piece, '\0'), buffer_(copy_piece, '\0') {}

    bool take(const DiskEntry& entry) {
        const Fate fate = fate_of(entry);
        if (fate == Fate::drop)
            return false;
        write(entry, fate == Fate::empty);
        return fate != Fate::drop_below;
    }

private:
    void write(const DiskEntry& entry, bool empty) {
        const Inode& inode = entry.attributes;
        const std::unique_ptr<archive_entry, FreeArchiveEntry> header(archive_entry_new());
        archive_entry* e = header.get();
        archive_entry_set_pathname(e, entry.path.c_str());
        archive_entry_set_perm(e, inode.mode);
        archive_entry_set_uid(e, inode.uid);
        archive_entry_set_gid(e, inode.gid);
        archive_entry_set_mtime(e, inode.mtime, static_cast<long>(inode.mtime_nsec));
        std::vector<Ext4Reader::Piece> pieces;
        bool content = false;
        switch (inode.type) {
            case FileType::directory: archive_entry_set_filetype(e, AE_IFDIR); break;
            case FileType::symlink:
                archive_entry_set_filetype(e, AE_IFLNK);
                archive_entry_set_symlink(e, inode.target.c_str());
                break;
            case FileType::character_device:
            case FileType::block_device:
                archive_entry_set_filetype(e, inode.type == FileType::character_device ? AE_IFCHR : AE_IFBLK);
                archive_entry_set_rdevmajor(e, inode.major);
                archive_entry_set_rdevminor(e, inode.minor);
                break;
            case FileType::fifo: archive_entry_set_filetype(e, AE_IFIFO); break;
            case FileType::regular:
                archive_entry_set_filetype(e, AE_IFREG);
                if (inode.links > 1 && !empty) {
                    const auto [first, added] = linked_.emplace(entry.number, entry.path);
                    if (!added) {
                        archive_entry_set_hardlink(e, first->second.c_str());
                        archive_entry_set_size(e, 0);
                        break;
                    }
                }
                content = !empty && inode.size > 0;
                archive_entry_set_size(e, content ? static_cast<la_int64_t>(inode.size) : 0);
                if (content)
                    pieces = disk_.pieces(entry);
                break;
        }
        if (!archive_entry_hardlink(e))
            for (const auto& [name, value] : inode.xattrs)
                archive_entry_xattr_add_entry(e, name.c_str(), value.data(), value.size());
        if (content) {
            std::uint64_t held = 0;
            for (const Ext4Reader::Piece& piece : pieces)
                held += piece.size;
            total_ += held;
            if (total_ > max_bytes_ || inode.size > max_bytes_)
                throw Error(ErrorCode::quota_exceeded, "the workspace's disk holds more than the " + std::to_string(max_bytes_ >> 20) + " MiB that an image may have",
                            "remove what is not needed, or raise environments.max_image_mib in pyrod.toml");
            if (held < inode.size) {
                for (const Ext4Reader::Piece& piece : pieces)
                    archive_entry_sparse_add_entry(e, static_cast<la_int64_t>(piece.offset), static_cast<la_int64_t>(piece.size));
                if (pieces.empty())
                    archive_entry_sparse_add_entry(e, static_cast<la_int64_t>(inode.size), 0);
            }
        }
        out_.need(out_.tar(), archive_write_header(out_.tar(), e));
        if (content)
            copy(inode.size, pieces);
        out_.need(out_.tar(), archive_write_finish_entry(out_.tar()));
    }

    // libarchive wants holes too, and leaves them out.
    void copy(std::uint64_t size, const std::vector<Ext4Reader::Piece>& pieces) {
        std::uint64_t at = 0;
        const auto fill = [&](std::uint64_t until) {
            while (at < until) {
                const std::size_t now = static_cast<std::size_t>(std::min<std::uint64_t>(zeros_.size(), until - at));
                out_.need(out_.tar(), archive_write_data(out_.tar(), zeros_.data(), now));
                at += now;
            }
        };
        for (const Ext4Reader::Piece& piece : pieces) {
            fill(piece.offset);
            for (std::uint64_t done = 0; done < piece.size;) {
                const std::size_t now = static_cast<std::size_t>(std::min<std::uint64_t>(buffer_.size(), piece.size - done));
                disk_.read(piece.at + done, buffer_.data(), now);
                out_.need(out_.tar(), archive_write_data(out_.tar(), buffer_.data(), now));
                done += now, at += now, copied_ += now;
                events_.progress("commit", "", copied_, 0);
            }
        }
        fill(size);
    }

    Ext4Reader& disk_;
    LayerWriter& out_;
    std::uint64_t max_bytes_, total_ = 0, copied_ = 0;
    Events& events_;
    std::string zeros_, buffer_;
    std::map<std::uint32_t, std::string> linked_;
};

struct Package {
    std::string name, version, manager;
    bool operator==(const Package&) const = default;
    auto operator<=>(const Package&) const = default;
};
constexpr std::size_t max_packages = 20'000, max_database = 64u << 20;

// "Key: value" paragraphs of dpkg, "K:value" ones of apk.
void read_paragraphs(const std::string& text, std::string_view name_key, std::string_view version_key, const char* manager, std::vector<Package>& out) {
    Package now;
    bool installed = true;
    const auto close = [&] {
        if (!now.name.empty() && installed && out.size() < max_packages)
            out.push_back({now.name, now.version, manager});
        now = {};
        installed = true;
    };
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        const auto value = [&](std::string_view key) {
            std::string_view rest = std::string_view(line).substr(key.size());
            while (rest.starts_with(' '))
                rest.remove_prefix(1);
            return std::string(rest.substr(0, 256));
        };
        if (line.empty())
            close();
        else if (line.starts_with(name_key))
            now.name = value(name_key);
        else if (line.starts_with(version_key))
            now.version = value(version_key);
        else if (line.starts_with("Status:"))
            installed = line.ends_with(" installed");
    }
    close();
}

std::vector<DiskLayer> disk_of(const json& request) {
    std::vector<DiskLayer> out;
    for (const json& layer : request.at("disk"))
        out.push_back(DiskLayer{layer.at("fd").get<int>(), layer.at("format").get<std::string>() == "qcow2"});
    return out;
}

}  // namespace

json commit_image(const json& request, Events& events) {
    const int directory = request.at("directory_fd").get<int>();
    const json limits = request.value("limits", json::object());
    Ext4Reader disk(open_disk(disk_of(request)));
    LayerWriter::Written written;
    {
        const UniqueFd file(::openat(directory, layer_part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
        if (!file)
            throw Error::from_errno("make the layer");
        LayerWriter writer(file.get());
        Committer committer(disk, writer, limits.value("total_bytes", TreeLimits().max_total_bytes), events);
        disk.walk(limits.value("entries", TreeLimits().max_entries), [&](const DiskEntry& entry) { return committer.take(entry); });
        written = writer.finish();
    }
    if (::renameat(directory, layer_part, directory, written.digest.hex().c_str()) != 0)
        throw Error::from_errno("keep the layer");
    const json layers = json::array({json{{"digest", written.digest.str()}, {"diff_id", written.diff_id.str()}, {"size", written.size},
                                          {"media_type", "application/vnd.oci.image.layer.v1.tar+zstd"}}});
    return describe_image(directory, request.value("config", json::object()), layers);
}

json list_packages(const json& request) {
    const int image = request.at("image_fd").get<int>();
    std::vector<Package> found;
    try {
        Ext4Reader disk(open_disk({DiskLayer{image, false}}));
        if (const auto status = disk.text("/var/lib/dpkg/status", max_database))
            read_paragraphs(*status, "Package:", "Version:", "dpkg", found);
        for (const std::string& name : disk.names("/var/lib/dpkg/status.d"))  // as distroless images have it
            if (!name.ends_with(".md5sums") && found.size() < max_packages)
                if (const auto status = disk.text("/var/lib/dpkg/status.d/" + name, max_database))
                    read_paragraphs(*status, "Package:", "Version:", "dpkg", found);
        if (const auto installed = disk.text("/lib/apk/db/installed", max_database))
            read_paragraphs(*installed, "P:", "V:", "apk", found);
    } catch (const Error& error) {
        if (error.code() != ErrorCode::environment_invalid)
            throw;
    }
    std::sort(found.begin(), found.end());
    found.erase(std::unique(found.begin(), found.end()), found.end());
    json out = json::array();
    for (const Package& package : found)
        out.push_back({{"name", package.name}, {"version", package.version}, {"manager", package.manager}});
    return {{"packages", std::move(out)}};
}

}  // namespace pyro::image
