#include "image/directory_image.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <vector>

#include "common/unique_fd.hpp"

namespace pyro::image {
namespace {

constexpr const char* spool_name = ".pyro-unpack";

void unpack_check(int status, const std::string& what) {
    if (status != 0)
        throw Error::from_errno(what);
}

UniqueFd open_below(int directory, const char* name, int flags, unsigned mode = 0) {
    const int fd = ::openat(directory, name, flags | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd < 0)
        throw Error::from_errno("open " + printable(name) + " of the unpacked tree");
    return UniqueFd(fd);
}

}  // namespace

class DirectoryImage::Impl {
public:
    explicit Impl(int directory) : directory_(directory) {
        unpack_check(::mkdirat(directory, spool_name, 0700), "make room to unpack");
        spool_ = open_below(directory, spool_name, O_RDONLY | O_DIRECTORY);
    }

    void begin() {
        name_ = std::to_string(count_);
        file_ = open_below(spool_.get(), name_.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600);
    }

    void write(std::uint64_t offset, std::string_view bytes) {
        while (!bytes.empty()) {
            const ssize_t n = ::pwrite(file_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
            if (n < 0 && errno == EINTR)
                continue;
            if (n <= 0)
                throw Error::from_errno("write a file of the unpacked tree");
            bytes.remove_prefix(static_cast<std::size_t>(n));
            offset += static_cast<std::uint64_t>(n);
        }
    }

    ContentId end() {
        file_.reset();
        return count_++;
    }

    void discard(ContentId content) {
        unpack_check(::unlinkat(spool_.get(), std::to_string(content).c_str(), 0), "drop a replaced file");
    }

    void finish(const Tree& tree) {
        fill(tree, 0, UniqueFd(::fcntl(directory_, F_DUPFD_CLOEXEC, 3)));
        for (const auto& [id, spooled] : linked_)
            unpack_check(::unlinkat(spool_.get(), spooled.c_str(), 0), "leave the unpacked tree tidy");
        unpack_check(::unlinkat(directory_, spool_name, AT_REMOVEDIR), "leave the unpacked tree tidy");
        spool_.reset();
    }

private:
    void fill(const Tree& tree, InodeId id, UniqueFd here) {
        for (const auto& [name, child] : tree.at(id).children) {
            const Inode& node = tree.at(child);
            if (id == 0 && name == spool_name)
                throw Error(ErrorCode::environment_invalid, "entry " + printable(name) + " has a reserved name");
            switch (node.type) {
                case FileType::directory: {
                    unpack_check(::mkdirat(here.get(), name.c_str(), 0700), "make directory " + printable(name));
                    fill(tree, child, open_below(here.get(), name.c_str(), O_RDONLY | O_DIRECTORY));
                    break;
                }
                case FileType::regular: regular(node, child, here.get(), name); break;
                case FileType::symlink:
                    unpack_check(::symlinkat(node.target.c_str(), here.get(), name.c_str()), "make symlink " + printable(name));
                    times(here.get(), name, node);
                    break;
                case FileType::character_device:
                case FileType::block_device:
                case FileType::fifo: break;
            }
        }
        const Inode& node = tree.at(id);
        // The owner must be able to read and remove what he was given.
        unpack_check(::fchmod(here.get(), (node.mode & 0777) | 0700), "set the mode of a directory");
        const timespec both[2] = {{node.mtime, static_cast<long>(node.mtime_nsec)}, {node.mtime, static_cast<long>(node.mtime_nsec)}};
        unpack_check(::futimens(here.get(), both), "set the time of a directory");
    }

    // A file with several names stays in the spool until each has been linked from there.
    void regular(const Inode& node, InodeId id, int here, const std::string& name) {
        const std::string spooled = node.content == no_content ? "e" + std::to_string(id) : std::to_string(node.content);
        if (node.links > 1 && linked_.contains(id)) {
            unpack_check(::linkat(spool_.get(), spooled.c_str(), here, name.c_str(), 0), "make hard link " + printable(name));
            return;
        }
        const UniqueFd file = open_below(spool_.get(), spooled.c_str(), node.content == no_content ? O_RDWR | O_CREAT | O_EXCL : O_RDWR, 0600);
        unpack_check(::ftruncate(file.get(), static_cast<off_t>(node.size)), "size file " + printable(name));
        if (node.links > 1) {
            unpack_check(::linkat(spool_.get(), spooled.c_str(), here, name.c_str(), 0), "put file " + printable(name));
            linked_.emplace(id, spooled);
        } else {
            unpack_check(::renameat(spool_.get(), spooled.c_str(), here, name.c_str()), "put file " + printable(name));
        }
        const timespec both[2] = {{node.mtime, static_cast<long>(node.mtime_nsec)}, {node.mtime, static_cast<long>(node.mtime_nsec)}};
        unpack_check(::futimens(file.get(), both), "set the time of " + printable(name));
        unpack_check(::fchmod(file.get(), (node.mode & 0777) | 0400), "set the mode of " + printable(name));
    }

    static void times(int here, const std::string& name, const Inode& node) {
        const timespec both[2] = {{node.mtime, static_cast<long>(node.mtime_nsec)}, {node.mtime, static_cast<long>(node.mtime_nsec)}};
        unpack_check(::utimensat(here, name.c_str(), both, AT_SYMLINK_NOFOLLOW), "set the time of " + printable(name));
    }

    int directory_;
    UniqueFd spool_, file_;
    std::string name_;
    ContentId count_ = 0;
    std::map<InodeId, std::string> linked_;  // files with several names: where they are spooled
};

DirectoryImage::DirectoryImage(int directory) : impl_(std::make_unique<Impl>(directory)) {}
DirectoryImage::~DirectoryImage() = default;
void DirectoryImage::begin() { impl_->begin(); }
void DirectoryImage::write(std::uint64_t offset, std::string_view bytes) { impl_->write(offset, bytes); }
ContentId DirectoryImage::end() { return impl_->end(); }
void DirectoryImage::discard(ContentId content) { impl_->discard(content); }
void DirectoryImage::finish(const Tree& tree) { impl_->finish(tree); }

}  // namespace pyro::image
