#include "client/seed/unpack.hpp"

#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <utility>

#include "client/seed/packing.hpp"
#include "common/unique_fd.hpp"

namespace pyro::client::seed {
namespace {

constexpr const char* staged_name = "tree";

[[noreturn]] void stream_invalid(const std::string& why) {
    throw Error(ErrorCode::invalid_argument, "the export is refused: " + why, "look at it in the machine: what it sent is no plain tree of files");
}

[[noreturn]] void in_the_way(const std::string& path, const char* what, bool force_helps) {
    throw Error(ErrorCode::failed_precondition, printable(path) + " exists" + what,
                force_helps ? "name another destination, or replace what is there with --force" : "name another destination, or remove it first");
}

// Entries of the stream with every rule about them applied, counted.
class StreamEntries {
public:
    StreamEntries(const Source& stream, const UnpackOptions& options) : options_(options), tar_(stream, false, options.limits, options.stop) {}

    bool next(Entry& entry) {
        while (true) {
            TarReader::Item item;
            if (!tar_.next(item)) {
                if (!tar_.finish())
                    stream_invalid("the stream is cut short");
                return false;
            }
            const std::string shown = printable(item.entry.path);
            if (!item.other.empty() || item.hard_link)
                stream_invalid(shown + " is " + (item.hard_link ? "a hard link" : item.other));
            entry = std::move(item.entry);
            entry.path = relative_path(entry.path);
            if (strip(entry))
                continue;
            if (options_.leave_out && options_.leave_out(entry.path)) {
                ++taken.left_out;
                continue;
            }
            check(entry, shown);
            return true;
        }
    }

    bool content(TarReader::Piece& piece) { return tar_.content(piece); }

    Unpacked taken;

private:
    // True for the root and what is above it. The name of a single file does not matter.
    bool strip(Entry& entry) const {
        const std::string& prefix = options_.prefix;
        const std::string path = std::exchange(entry.path, prefix.empty() ? entry.path : std::string());
        const bool directory = entry.type == EntryType::directory;
        if (directory && (path.empty() || path == prefix || (prefix.starts_with(path) && prefix[path.size()] == '/')))
            return true;
        if (prefix.empty())
            return false;
        if (path.starts_with(prefix) && path.size() > prefix.size() && path[prefix.size()] == '/')
            entry.path = path.substr(prefix.size() + 1);
        else if (path == prefix && options_.shape == Shape::file)
            entry.path = path.substr(path.rfind('/') + 1);
        else
            stream_invalid(printable(path) + " is not in " + printable(prefix));
        return false;
    }

    void check(Entry& entry, const std::string& shown) {
        if (entry.path.empty())
            stream_invalid(shown + " stands in the place of the tree itself");
        if (entry.type == EntryType::symlink && (entry.target.empty() || entry.target.size() > max_target))
            stream_invalid(shown + " is a link with an impossible target");
        entry.mode = kept_mode(entry.type, entry.mode);
        (entry.type == EntryType::directory ? taken.directories : entry.type == EntryType::symlink ? taken.symlinks : taken.files)++;
        if (taken.directories + taken.symlinks + taken.files > options_.limits.entries)
            stream_invalid("it has more than the limit of " + std::to_string(options_.limits.entries) + " entries");
        if (entry.size > options_.limits.bytes || taken.bytes > options_.limits.bytes - entry.size)
            stream_invalid("with " + shown + " it has more than the limit of " + std::to_string(options_.limits.bytes) + " bytes");
        taken.bytes += entry.size;
    }

    const UnpackOptions& options_;
    TarReader tar_;
};

[[noreturn]] void failed(const std::string& doing, const std::string& path) {
    throw Error::from_errno(doing + " " + printable(path)).with_hint("see whether you may write there and whether there is room");
}

UniqueFd open_directory(int parent, const std::string& name) {
    return UniqueFd(::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

// Removes what `name` in `parent` is, through no link and, however deep it is, on no stack: each directory of it is emptied
// by moving its directories up into `parent` first.
void remove_tree(int parent, const std::string& name) {
    std::uint64_t moved = 0;
    std::vector<std::string> todo{name};
    while (!todo.empty()) {
        const std::string at = std::move(todo.back());
        todo.pop_back();
        UniqueFd fd = open_directory(parent, at);
        if (!fd) {
            ::unlinkat(parent, at.c_str(), 0);
            continue;
        }
        const std::unique_ptr<DIR, int (*)(DIR*)> listing(::fdopendir(fd.duplicate().release()), &::closedir);
        while (const dirent* item = listing ? ::readdir(listing.get()) : nullptr) {
            const std::string_view child = item->d_name;
            if (child == "." || child == ".." || ::unlinkat(fd.get(), item->d_name, 0) == 0)
                continue;
            const std::string up = name + "." + std::to_string(moved++);
            if (::renameat(fd.get(), item->d_name, parent, up.c_str()) == 0)
                todo.push_back(up);
        }
        ::unlinkat(parent, at.c_str(), AT_REMOVEDIR);
    }
}

// A directory of our own in `base`, which holds `tree` until that is moved to its place; what is left goes with it.
class Staging {
public:
    explicit Staging(int base) : base_(base) {
        for (int attempt = 0; attempt < 100; ++attempt) {
            name_ = ".pyro-export-" + std::to_string(::getpid()) + "-" + std::to_string(attempt);
            if (::mkdirat(base_, name_.c_str(), 0700) == 0) {
                fd_ = open_directory(base_, name_);
                if (!fd_)
                    failed("open", name_);
                return;
            }
            if (errno != EEXIST)
                break;
        }
        name_.clear();
        throw Error::from_errno("write there").with_hint("name a destination in a directory that you can write to");
    }
    ~Staging() {
        remove_tree(fd_.get(), staged_name);
        ::unlinkat(base_, name_.c_str(), AT_REMOVEDIR);
    }
    Staging(const Staging&) = delete;
    Staging& operator=(const Staging&) = delete;
    int fd() const noexcept { return fd_.get(); }

private:
    int base_;
    std::string name_;
    UniqueFd fd_;
};

void set_times(int fd, const char* name, const Entry& entry) {
    const timespec times[2] = {{0, UTIME_OMIT}, {static_cast<time_t>(entry.mtime), static_cast<long>(entry.mtime_nsec)}};
    if ((name ? ::utimensat(fd, name, times, AT_SYMLINK_NOFOLLOW) : ::futimens(fd, times)) != 0)
        failed("set the time of", entry.path);
}

void write_content(int file, const Entry& entry, StreamEntries& stream) {
    TarReader::Piece piece;
    while (stream.content(piece)) {
        while (!piece.bytes.empty()) {
            const ssize_t n = ::pwrite(file, piece.bytes.data(), piece.bytes.size(), static_cast<off_t>(piece.offset));
            if (n < 0 && errno == EINTR)
                continue;
            if (n <= 0)
                failed("write", entry.path);
            piece.offset += static_cast<std::uint64_t>(n);
            piece.bytes.remove_prefix(static_cast<std::size_t>(n));
        }
    }
    if (::ftruncate(file, static_cast<off_t>(entry.size)) != 0 || ::fchmod(file, entry.mode) != 0)
        failed("write", entry.path);
    set_times(file, nullptr, entry);
}

UniqueFd create(int directory, const char* name, unsigned mode) {
    return UniqueFd(::openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode));
}

// Finds directories below one, and keeps those above the last open, the deepest of them: a tree is gone through in order, down or
// up, however deep it is.
class Directories {
public:
    explicit Directories(UniqueFd root) : root_(std::move(root)) {}

    // The one that `path` is in. Throws where there is none.
    int of(const std::string& path) {
        const std::size_t slash = path.rfind('/');
        const std::string_view wanted = slash == std::string::npos ? std::string_view() : std::string_view(path).substr(0, slash);
        while (!open_.empty() && !leads_to(std::string_view(last_).substr(0, open_.back().size), wanted))
            open_.pop_back();
        for (std::size_t at = open_.empty() ? 0 : open_.back().size + 1; at < wanted.size();) {
            const std::size_t end = std::min(wanted.find('/', at), wanted.size());
            UniqueFd next = open_directory(open_.empty() ? root_.get() : open_.back().fd.get(), std::string(wanted.substr(at, end - at)));
            if (!next && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP))
                stream_invalid(printable(path) + " lies in no directory of the tree");
            if (!next)
                failed("open the directory of", path);
            open_.push_back({end, std::move(next)});
            if (open_.size() > open_at_most)
                open_.pop_front();
            at = end + 1;
        }
        last_ = wanted;
        return open_.empty() ? root_.get() : open_.back().fd.get();
    }

    static std::string name_of(const std::string& path) { return path.substr(path.rfind('/') + 1); }

private:
    static constexpr std::size_t open_at_most = 32;
    struct Level {
        std::size_t size;  // of its path, which last_ begins with
        UniqueFd fd;
    };
    static bool leads_to(std::string_view directory, std::string_view path) {
        return path.starts_with(directory) && (path.size() == directory.size() || path[directory.size()] == '/');
    }

    UniqueFd root_;
    std::string last_;
    std::deque<Level> open_;
};

class Unpacking {
public:
    Unpacking(const Source& source, const std::string& destination, const UnpackOptions& options)
        : source_(source), destination_(destination), options_(options) {
        while (destination_.size() > 1 && destination_.ends_with('/'))
            destination_.pop_back();
        struct stat info {};
        const auto look = options.follow ? &::stat : &::lstat;
        if (options.shape == Shape::tree && look(destination_.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) {
            base_ = open_file(destination_, O_RDONLY | O_DIRECTORY | (options.follow ? 0 : O_NOFOLLOW));
            return;
        }
        const std::size_t slash = destination_.rfind('/');
        name_ = destination_.substr(slash == std::string::npos ? 0 : slash + 1);
        const std::string parent = slash == std::string::npos ? "." : slash == 0 ? "/" : destination_.substr(0, slash);
        base_ = UniqueFd(::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!base_)
            throw Error::from_errno("open " + printable(parent)).with_hint("make the directory first, or name another destination");
        check_destination();
    }

    Unpacked run() {
        StreamEntries stream(source_, options_);
        const Staging staging(base_.get());
        if (options_.shape == Shape::tree)
            write_tree(stream, staging.fd());
        else if (options_.shape == Shape::file)
            write_file(stream, staging.fd());
        else
            write_archive(stream, staging.fd());
        if (name_.empty())
            merge(staging.fd());
        else
            move_to_place(staging.fd());
        if (options_.shape == Shape::tree)
            finish_directories();
        return stream.taken;
    }

private:
    // Before a byte is read: what is in the way then is in the way later.
    void check_destination() const {
        struct stat info {};
        if (::fstatat(base_.get(), name_.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0)
            return;
        if (S_ISDIR(info.st_mode))
            in_the_way(destination_, " and is a directory", false);
        if (!options_.force)
            in_the_way(destination_, "", true);
    }

    void write_tree(StreamEntries& stream, int staging) {
        if (::mkdirat(staging, staged_name, 0777) != 0)
            failed("make", staged_name);
        Directories at(open_directory(staging, staged_name));
        const auto made = [](bool done, const Entry& entry) {
            if (!done && errno == EEXIST)
                stream_invalid(printable(entry.path) + " comes twice");
            if (!done)
                failed("write", entry.path);
        };
        for (Entry entry; stream.next(entry);) {
            const int parent = at.of(entry.path);
            const std::string name = Directories::name_of(entry.path);
            if (entry.type == EntryType::directory) {
                made(::mkdirat(parent, name.c_str(), 0700) == 0, entry);
                directories_.push_back(entry);
            } else if (entry.type == EntryType::symlink) {
                made(::symlinkat(entry.target.c_str(), parent, name.c_str()) == 0, entry);
                set_times(parent, name.c_str(), entry);
            } else {
                const UniqueFd file = create(parent, name.c_str(), 0600);
                made(static_cast<bool>(file), entry);
                write_content(file.get(), entry, stream);
            }
        }
    }

    void write_file(StreamEntries& stream, int staging) {
        Entry entry, more;
        if (!stream.next(entry) || entry.type != EntryType::file)
            stream_invalid("it is not the one file that was asked for");
        const UniqueFd file = create(staging, staged_name, 0600);
        if (!file)
            failed("write", destination_);
        write_content(file.get(), entry, stream);
        if (stream.next(more))
            stream_invalid("it is more than the one file that was asked for");
        if (::fsync(file.get()) != 0)
            failed("write", destination_);
    }

    void write_archive(StreamEntries& stream, int staging) {
        UniqueFd file = create(staging, staged_name, 0666);
        if (!file)
            failed("write", destination_);
        const auto free_writer = [](archive* a) { archive_write_free(a); };
        const std::unique_ptr<archive, decltype(free_writer)> zstd(archive_write_new(), free_writer);
        const std::unique_ptr<archive_entry, void (*)(archive_entry*)> whole(archive_entry_new(), &archive_entry_free);
        const auto check = [&](bool done) {
            if (!done)
                throw Error::from_errno("write " + printable(destination_), archive_errno(zstd.get()) > 0 ? archive_errno(zstd.get()) : EIO);
        };
        check(archive_write_add_filter_zstd(zstd.get()) == ARCHIVE_OK);
        check(archive_write_set_format_raw(zstd.get()) == ARCHIVE_OK);
        check(archive_write_set_bytes_in_last_block(zstd.get(), 1) == ARCHIVE_OK);  // no zeros behind the compressed bytes
        check(archive_write_open_fd(zstd.get(), file.get()) == ARCHIVE_OK);
        archive_entry_set_filetype(whole.get(), AE_IFREG);
        check(archive_write_header(zstd.get(), whole.get()) == ARCHIVE_OK);
        TarWriter tar([&](std::string_view bytes) {
            check(archive_write_data(zstd.get(), bytes.data(), bytes.size()) == static_cast<la_ssize_t>(bytes.size()));
        }, options_.stop);
        for (Entry entry; stream.next(entry);) {
            tar.begin(entry);
            TarReader::Piece piece;
            std::uint64_t have = 0;
            while (entry.type == EntryType::file && stream.content(piece)) {
                if (piece.offset < have)
                    stream_invalid(printable(entry.path) + " is told out of order");
                tar.zeros(piece.offset - have);
                tar.data(piece.bytes);
                have = piece.offset + piece.bytes.size();
            }
            if (entry.type == EntryType::file)
                tar.zeros(entry.size - have);
        }
        tar.finish();
        check(archive_write_close(zstd.get()) == ARCHIVE_OK);
        if (::fsync(file.get()) != 0)
            failed("write", destination_);
    }

    void move_to_place(int staging) {
        const bool tree = options_.shape == Shape::tree;
        // A directory takes nothing's place by itself.
        if (options_.force && tree && ::unlinkat(base_.get(), name_.c_str(), 0) != 0 && errno != ENOENT)
            failed("replace", destination_);
        if (::renameat2(staging, staged_name, base_.get(), name_.c_str(), options_.force && !tree ? 0 : RENAME_NOREPLACE) == 0)
            return;
        if (errno == EEXIST || errno == EISDIR)
            check_destination();
        failed("write", destination_);
    }

    // First whether it can be done, then the doing. Directories that are on both sides are gone into, by their path; the others
    // are moved whole.
    void merge(int staging) {
        UniqueFd tree = open_directory(staging, staged_name);
        for (const bool move : {false, true}) {
            std::vector<std::string> todo{""};
            while (!todo.empty()) {
                const std::string path = std::move(todo.back());
                todo.pop_back();
                const auto below = [&](int root) {
                    UniqueFd fd = path.empty() ? open_directory(root, ".") : try_open_beneath(root, path, O_RDONLY | O_DIRECTORY);
                    if (!fd)
                        failed("open", destination_ + "/" + path);
                    return fd;
                };
                const UniqueFd from = below(tree.get()), to = below(base_.get());
                for (const std::string& name : names_in(from.get())) {
                    if (options_.stop.stop_requested())
                        throw Cancelled();
                    const std::string whole = path.empty() ? name : path + "/" + name;
                    if (merge_one(from.get(), to.get(), name, whole, move))
                        todo.push_back(whole);
                }
            }
        }
    }

    // True where both are directories.
    bool merge_one(int from, int to, const std::string& name, const std::string& path, bool move) {
        const std::string shown = destination_ + "/" + path;
        struct stat ours {}, theirs {};
        if (::fstatat(from, name.c_str(), &ours, AT_SYMLINK_NOFOLLOW) != 0)
            failed("look at", shown);
        const bool there = ::fstatat(to, name.c_str(), &theirs, AT_SYMLINK_NOFOLLOW) == 0;
        if (!there && errno != ENOENT)
            failed("look at", shown);
        if (there && S_ISDIR(theirs.st_mode)) {
            if (!S_ISDIR(ours.st_mode))
                in_the_way(shown, " and is a directory", false);
            existing_.push_back(path);
            return true;
        }
        if (there && !options_.force)
            in_the_way(shown, "", true);
        if (!move)
            return false;
        if (there && S_ISDIR(ours.st_mode) && ::unlinkat(to, name.c_str(), 0) != 0)
            failed("replace", shown);
        if (::renameat2(from, name.c_str(), to, name.c_str(), there && !S_ISDIR(ours.st_mode) ? 0 : RENAME_NOREPLACE) != 0)
            failed("write", shown);
        return false;
    }

    static std::vector<std::string> names_in(int directory) {
        std::vector<std::string> names;
        const std::unique_ptr<DIR, int (*)(DIR*)> listing(::fdopendir(UniqueFd(::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)).release()), &::closedir);
        if (!listing)
            failed("list", "a directory");
        while (const dirent* item = ::readdir(listing.get()))
            if (const std::string_view name = item->d_name; name != "." && name != "..")
                names.emplace_back(name);
        std::sort(names.begin(), names.end());
        return names;
    }

    // Last, and the deepest first: a mode may forbid what is done in a directory, or moving it.
    void finish_directories() {
        UniqueFd root = name_.empty() ? base_.duplicate() : open_directory(base_.get(), name_);
        if (!root)
            failed("open", destination_);
        Directories at(std::move(root));
        std::sort(existing_.begin(), existing_.end());
        for (auto entry = directories_.rbegin(); entry != directories_.rend(); ++entry) {
            if (std::binary_search(existing_.begin(), existing_.end(), entry->path))
                continue;
            const UniqueFd fd = open_directory(at.of(entry->path), Directories::name_of(entry->path));
            if (!fd || ::fchmod(fd.get(), entry->mode) != 0)
                failed("set the mode of", entry->path);
            set_times(fd.get(), nullptr, *entry);
        }
    }

    const Source& source_;
    std::string destination_;
    const UnpackOptions& options_;
    UniqueFd base_;      // where the destination's name is; the destination itself where that is a directory to merge into
    std::string name_;   // in base_; empty for merging
    std::vector<Entry> directories_;
    std::vector<std::string> existing_;
};

}  // namespace

Unpacked unpack(const Source& stream, const std::string& destination, const UnpackOptions& options) {
    if (destination.empty())
        throw Error(ErrorCode::invalid_argument, "an export needs a destination", "name a path");
    return Unpacking(stream, destination, options).run();
}

}  // namespace pyro::client::seed
