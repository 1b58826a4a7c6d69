#include "client/seed/packing.hpp"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>

namespace pyro::client::seed {

namespace {
bool names_git(const std::string& path) { return path == ".git" || path.ends_with("/.git"); }
}  // namespace

SourceKind source_kind(const std::string& path) {
    struct stat info {};
    if (::stat(path.c_str(), &info) != 0)
        throw Error::from_errno("look at " + printable(path)).with_hint("name a directory, a tar archive or a Git checkout");
    if (S_ISREG(info.st_mode))
        return names_git(path) ? SourceKind::checkout : SourceKind::archive;
    if (!S_ISDIR(info.st_mode))
        throw Error(ErrorCode::invalid_argument, printable(path) + " is neither a directory nor a file",
                    "name a directory, a tar archive or a Git checkout");
    return names_git(path) || ::lstat((path + "/.git").c_str(), &info) == 0 ? SourceKind::checkout : SourceKind::directory;
}

Packed pack(const std::string& path, const Sink& sink, const PackOptions& options) {
    Packing packing(sink, options);
    packing.packed.kind = options.kind ? *options.kind : source_kind(path);
    packing.packed.root = path;
    switch (packing.packed.kind) {
        case SourceKind::directory: pack_directory(path, packing); break;
        case SourceKind::archive: pack_archive(path, packing); break;
        case SourceKind::checkout: pack_checkout(path, packing); break;
    }
    return packing.finish();
}

void Packing::begin(const Entry& entry) {
    (entry.type == EntryType::directory ? packed.directories : entry.type == EntryType::symlink ? packed.symlinks : packed.files)++;
    if (packed.directories + packed.symlinks + packed.files > options.limits.entries)
        throw Error(ErrorCode::invalid_argument, printable(packed.root) + " has more than " + std::to_string(options.limits.entries) + " entries",
                    "name a smaller part of it");
    if (entry.type == EntryType::file) {
        if (entry.size > options.limits.bytes || packed.bytes > options.limits.bytes - entry.size)
            throw Error(ErrorCode::invalid_argument, printable(packed.root) + " has more than " + std::to_string(options.limits.bytes) +
                        " bytes of files, with " + printable(entry.path), "name a smaller part of it");
        packed.bytes += entry.size;
    }
    writer.begin(entry);
}

void Packing::skip(const std::string& path, std::string reason) {
    if (packed.skipped_count++ < options.listed_skips)
        packed.skipped.push_back({path, std::move(reason)});
}

Packed Packing::finish() {
    packed.key = writer.finish();
    packed.stream_bytes = writer.written();
    return std::move(packed);
}

const char* special_kind(const struct stat& info) noexcept {
    switch (info.st_mode & S_IFMT) {
        case S_IFREG: case S_IFDIR: case S_IFLNK: return nullptr;
        case S_IFSOCK: return "a socket";
        case S_IFIFO: return "a fifo";
        default: return "a device";
    }
}

Entry entry_of(std::string path, const struct stat& info) {
    Entry entry;
    if (const char* special = special_kind(info))
        throw Error(ErrorCode::invalid_argument, printable(path) + " is " + special, "remove it, or name a directory without it");
    entry.type = S_ISDIR(info.st_mode) ? EntryType::directory : S_ISLNK(info.st_mode) ? EntryType::symlink : EntryType::file;
    entry.path = std::move(path);
    entry.mode = kept_mode(entry.type, info.st_mode);
    entry.mtime = info.st_mtim.tv_sec;
    entry.mtime_nsec = static_cast<std::uint32_t>(info.st_mtim.tv_nsec);
    entry.size = entry.type == EntryType::file ? static_cast<std::uint64_t>(info.st_size) : 0;
    return entry;
}

UniqueFd try_open_beneath(int directory, const std::string& path, int flags) {
    open_how how{};
    how.flags = static_cast<unsigned>(flags | O_CLOEXEC);
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
    return UniqueFd(static_cast<int>(::syscall(SYS_openat2, directory, path.c_str(), &how, sizeof how)));
}

bool same_file(const struct stat& a, const struct stat& b) noexcept {
    return a.st_dev == b.st_dev && a.st_ino == b.st_ino && (a.st_mode & S_IFMT) == (b.st_mode & S_IFMT);
}

bool unchanged(const struct stat& a, const struct stat& b) noexcept {
    const auto same = [](const timespec& x, const timespec& y) { return x.tv_sec == y.tv_sec && x.tv_nsec == y.tv_nsec; };
    return same_file(a, b) && a.st_size == b.st_size && same(a.st_mtim, b.st_mtim) && same(a.st_ctim, b.st_ctim);
}

bool send_range(int fd, std::uint64_t offset, std::uint64_t size, TarWriter& writer) {
    thread_local std::string buffer(256 << 10, '\0');
    const std::uint64_t end = offset + size;
    struct stat info {};
    if (::fstat(fd, &info) != 0)
        throw Error::from_errno("look at a file");
    // Asking for the next hole costs a call that a file without any does not need.
    const bool sparse = info.st_blocks * 512 < info.st_size;
    while (offset < end) {
        std::uint64_t until = end;
        if (sparse) {
            const off_t data = ::lseek(fd, static_cast<off_t>(offset), SEEK_DATA);
            if (data < 0 && errno == ENXIO) {
                if (::fstat(fd, &info) != 0 || static_cast<std::uint64_t>(info.st_size) < end)
                    return false;
                return writer.zeros(end - offset), true;
            }
            if (data >= 0) {
                const std::uint64_t from = std::min(static_cast<std::uint64_t>(data), end);
                writer.zeros(from - offset);
                offset = from;
                const off_t hole = ::lseek(fd, static_cast<off_t>(offset), SEEK_HOLE);
                if (hole > 0)
                    until = std::min(static_cast<std::uint64_t>(hole), end);
            }
        }
        while (offset < until) {
            const ssize_t n = ::pread(fd, buffer.data(), std::min<std::uint64_t>(buffer.size(), until - offset), static_cast<off_t>(offset));
            if (n < 0 && errno == EINTR)
                continue;
            if (n < 0)
                throw Error::from_errno("read");
            if (n == 0)
                return false;
            writer.data({buffer.data(), static_cast<std::size_t>(n)});
            offset += static_cast<std::uint64_t>(n);
        }
    }
    return true;
}

std::optional<std::string> read_link(int fd, const std::string& name) {
    std::string target(max_target + 2, '\0');
    const ssize_t n = ::readlinkat(fd, name.c_str(), target.data(), target.size());
    if (n < 0)
        return std::nullopt;
    target.resize(static_cast<std::size_t>(n));
    return target;
}

std::string temporary_parent() {
    const char* asked = std::getenv("TMPDIR");
    return asked && *asked ? asked : "/var/tmp";
}

UniqueFd unlinked_temporary() {
    const std::string parent = temporary_parent();
    const int fd = ::open(parent.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0)
        return UniqueFd(fd);
    std::string name = parent + "/pyro-seed-XXXXXX";  // a file system without O_TMPFILE
    UniqueFd file(::mkostemp(name.data(), O_CLOEXEC));
    if (!file)
        throw Error::from_errno("make a temporary file in " + parent).with_hint("set TMPDIR to a directory with enough room");
    ::unlink(name.c_str());
    return file;
}

TemporaryDirectory::TemporaryDirectory() : path_(temporary_parent() + "/pyro-seed-XXXXXX") {
    if (!::mkdtemp(path_.data()))
        throw Error::from_errno("make a temporary directory in " + temporary_parent()).with_hint("set TMPDIR to a directory you can write to");
}

TemporaryDirectory::~TemporaryDirectory() {
    std::error_code ignored;  // nothing to tell anybody about, and nowhere to throw to
    std::filesystem::remove_all(path_, ignored);
}

}  // namespace pyro::client::seed
