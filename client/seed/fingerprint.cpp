#include "client/seed/fingerprint.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>

#include "client/seed/git.hpp"
#include "client/seed/packing.hpp"

namespace pyro::client::seed {
namespace {

constexpr std::size_t deepest = 200;  // directories held open at once
constexpr std::string_view format = "pyro-seed 1 " PYRO_VERSION;

struct Unreliable {};  // there is no fingerprint

bool earlier(const timespec& a, const timespec& b) { return a.tv_sec != b.tv_sec ? a.tv_sec < b.tv_sec : a.tv_nsec < b.tv_nsec; }

// Whether the kernel itself keeps its times, for every change. Those of a network's or a program's are what somebody says.
bool keeps_times(int fd) {
    struct statfs info {};
    if (::fstatfs(fd, &info) != 0)
        return false;
    switch (static_cast<unsigned long>(info.f_type) & 0xffffffffUL) {
        case 0xEF53:      // ext2, 3, 4
        case 0x58465342:  // xfs
        case 0x9123683E:  // btrfs
        case 0xCA451A4E:  // bcachefs
        case 0xF2F52010:  // f2fs
        case 0x2FC12FC1:  // zfs
        case 0x01021994:  // tmpfs
        case 0x794C7630:  // overlayfs
            return true;
        default:
            return false;
    }
}

// In the order of their bytes.
std::vector<std::string> listed(int directory) {
    UniqueFd fd(::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    const std::unique_ptr<DIR, int (*)(DIR*)> listing(fd ? ::fdopendir(fd.get()) : nullptr, &::closedir);
    if (!listing)
        throw Unreliable();
    fd.release();
    std::vector<std::string> names;
    errno = 0;
    while (const dirent* item = ::readdir(listing.get())) {
        if (const std::string_view name = item->d_name; name != "." && name != "..")
            names.emplace_back(name);
        errno = 0;
    }
    if (errno != 0)
        throw Unreliable();
    std::sort(names.begin(), names.end());
    return names;
}

class Fingerprinting {
public:
    explicit Fingerprinting(std::uint64_t entries) : left_(entries) {
        // What one user may not read another may.
        std::vector<gid_t> groups(static_cast<std::size_t>(std::max(::getgroups(0, nullptr), 0)));
        if (::getgroups(static_cast<int>(groups.size()), groups.data()) < 0)
            throw Unreliable();
        add_number(::geteuid());
        add_number(::getegid());
        for (const gid_t group : groups)
            add_number(group);
    }

    // `name` in `directory` and, unless it is in `without`, everything below it.
    void add_tree(int directory, const std::string& name, const std::string& path, std::string_view without = {}) {
        std::vector<Level> levels;
        descend(levels, directory, name, path);
        while (!levels.empty()) {
            Level& level = levels.back();
            if (level.next == level.names.size()) {
                levels.pop_back();
                continue;
            }
            const std::string entry = level.names[level.next++];
            const std::string whole = level.path + "/" + entry;
            if (levels.size() == 1 && entry == without)
                continue;
            if (levels.size() == deepest)
                throw Unreliable();
            descend(levels, level.fd.get(), entry, whole);
        }
    }

    // A file that may be missing, which counts as well.
    void add_if_there(int directory, const std::string& name, const std::string& path) {
        struct stat info {};
        if (::fstatat(directory, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0)
            return add_tree(directory, name, path);
        if (errno != ENOENT)
            throw Unreliable();
        add(path);
    }

    Fingerprint finish() { return {hash_.finish(), newest_}; }

private:
    struct Level {
        UniqueFd fd;
        std::string path;
        std::vector<std::string> names;
        std::size_t next = 0;
    };

    // Adds what `name` is; goes into it if it is a directory.
    void descend(std::vector<Level>& levels, int directory, const std::string& name, const std::string& path) {
        struct stat info {};
        if (left_-- == 0 || ::fstatat(directory, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0)
            throw Unreliable();
        if (!known_.contains(info.st_dev)) {
            const UniqueFd fd(::openat(directory, name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
            if (!fd || !keeps_times(fd.get()))
                throw Unreliable();
            known_.insert(info.st_dev);
        }
        add(path);
        add_number(info.st_dev);
        add_number(info.st_ino);
        add_number(info.st_mode);
        add_number(static_cast<std::uint64_t>(info.st_size));
        for (const timespec& time : {info.st_mtim, info.st_ctim}) {
            add_number(static_cast<std::uint64_t>(time.tv_sec));
            add_number(static_cast<std::uint64_t>(time.tv_nsec));
        }
        if (earlier(newest_, info.st_ctim))
            newest_ = info.st_ctim;
        if (!S_ISDIR(info.st_mode))
            return;
        UniqueFd fd(::openat(directory, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        if (!fd)
            throw Unreliable();
        std::vector<std::string> names = listed(fd.get());
        levels.push_back({std::move(fd), path, std::move(names), 0});
    }

    void add(std::string_view text) {
        add_number(text.size());
        hash_.update(text);
    }
    void add_number(std::uint64_t number) {
        char bytes[sizeof number];
        std::memcpy(bytes, &number, sizeof number);
        hash_.update({bytes, sizeof bytes});
    }

    Sha256 hash_;
    timespec newest_{};
    std::uint64_t left_;
    std::set<dev_t> known_;
};

// The commit and the list of files; objects are named by what they hold.
void add_repository(Fingerprinting& to, const Repository& repository) {
    const int own = repository.git_fd.get(), common = repository.common_fd.get();
    for (const char* name : {"HEAD", "index", "commondir", "gitdir"})
        to.add_if_there(own, name, repository.git_directory + "/" + name);
    for (const char* name : {"packed-refs", "refs", "config"})
        to.add_if_there(common, name, repository.common_directory + "/" + name);
}

std::string real_name(const std::string& path) {
    const std::unique_ptr<char, void (*)(void*)> real(::realpath(path.c_str(), nullptr), &std::free);
    return real ? real.get() : std::string();
}

// The directory, if it is the user's alone.
UniqueFd open_own(const std::string& directory) {
    UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    struct stat info {};
    if (!fd || ::fstat(fd.get(), &info) != 0 || info.st_uid != ::geteuid() || (info.st_mode & 077) != 0)
        return {};
    return fd;
}

// Makes it only in a directory of the user's own: with another one's HOME (sudo) nothing is left in there.
UniqueFd make_own(const std::string& directory) {
    bool own = false;
    for (std::size_t end = 0; end != std::string::npos;) {
        end = directory.find('/', end + 1);
        const std::string part = directory.substr(0, end);
        struct stat info {};
        if (::stat(part.c_str(), &info) == 0)
            own = info.st_uid == ::geteuid();
        else if (!own || ::mkdir(part.c_str(), 0700) != 0)
            return {};
    }
    return open_own(directory);
}

std::string cached_name(const std::string& path, SourceKind kind) {
    const std::string real = real_name(path);
    return real.empty() ? real : Digest::of(std::to_string(static_cast<int>(kind)) + real).hex();
}

// Fields, each ended by a 0, and the digest of all before it.
std::string encode_packed(const Packed& packed, const Fingerprint& print) {
    std::string text;
    const auto put = [&](std::string_view field) { text += std::string(field) + '\0'; };
    put(format);
    put(print.key.str());
    put(packed.key.str());
    put(std::to_string(static_cast<int>(packed.kind)));
    put(packed.root);
    for (const std::uint64_t number : {packed.files, packed.directories, packed.symlinks, packed.bytes, packed.stream_bytes, packed.skipped_count})
        put(std::to_string(number));
    put(packed.commit);
    put(packed.branch);
    for (const Skipped& skipped : packed.skipped) {
        put(skipped.path);
        put(skipped.reason);
    }
    return text + Digest::of(text).str();
}

// Nothing if it is damaged, of another version or of another state of the source.
std::optional<Packed> decode_packed(const std::string& text, const Fingerprint& now) {
    const std::size_t end = text.rfind('\0') + 1;
    if (end == 0 || Digest::of(std::string_view(text).substr(0, end)).str() != text.substr(end))
        return std::nullopt;
    std::vector<std::string> fields;
    for (std::size_t at = 0; at < end;) {
        const std::size_t stop = text.find('\0', at);
        fields.push_back(text.substr(at, stop - at));
        at = stop + 1;
    }
    constexpr std::size_t fixed = 13;
    if (fields.size() < fixed || fields.size() % 2 != fixed % 2 || fields[0] != format || fields[1] != now.key.str())
        return std::nullopt;
    const auto number = [](const std::string& field) {
        std::uint64_t value = 0;
        std::from_chars(field.data(), field.data() + field.size(), value);
        return value;
    };
    Packed packed;
    packed.key = Digest::parse(fields[2]);
    packed.kind = static_cast<SourceKind>(number(fields[3]));
    packed.root = fields[4];
    packed.files = number(fields[5]);
    packed.directories = number(fields[6]);
    packed.symlinks = number(fields[7]);
    packed.bytes = number(fields[8]);
    packed.stream_bytes = number(fields[9]);
    packed.skipped_count = number(fields[10]);
    packed.commit = fields[11];
    packed.branch = fields[12];
    for (std::size_t at = fixed; at < fields.size(); at += 2)
        packed.skipped.push_back({fields[at], fields[at + 1]});
    return packed;
}

void drop_oldest(int directory) {
    std::vector<std::pair<timespec, std::string>> found;
    for (const std::string& name : listed(directory)) {
        struct stat info {};
        if (::fstatat(directory, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0)
            found.emplace_back(info.st_mtim, name);
    }
    if (found.size() <= PackedCache::most_entries)
        return;
    std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return earlier(a.first, b.first); });
    for (std::size_t i = 0; i < found.size() - PackedCache::most_entries; ++i)
        ::unlinkat(directory, found[i].second.c_str(), 0);
}

}  // namespace

std::optional<Fingerprint> fingerprint(const std::string& path, SourceKind kind, std::uint64_t entries) {
    try {
        Fingerprinting prints(entries);
        if (kind == SourceKind::checkout) {
            const TemporaryDirectory scratch;  // for git, which is asked only about checkouts that are submodules
            const Repository repository = Repository::find(path, Git(scratch.path(), {}));
            const std::string top = repository.top.empty() ? "/" : repository.top;
            prints.add_tree(AT_FDCWD, top, top, ".git");
            struct stat info {};
            if (::fstatat(repository.top_fd.get(), ".git", &info, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISDIR(info.st_mode))
                prints.add_if_there(repository.top_fd.get(), ".git", top + "/.git");
            add_repository(prints, repository);
        } else {
            const std::string real = real_name(path);
            if (real.empty())
                return std::nullopt;
            prints.add_tree(AT_FDCWD, real, real);
        }
        return prints.finish();
    } catch (const Unreliable&) {
        return std::nullopt;
    } catch (const Error&) {
        return std::nullopt;  // what is wrong with it pack() says
    }
}

std::string PackedCache::usual_directory() {
    const auto absolute = [](const char* value) { return value && *value == '/'; };
    if (const char* cache = std::getenv("XDG_CACHE_HOME"); absolute(cache))
        return std::string(cache) + "/pyro/seeds";
    const char* home = std::getenv("HOME");
    return absolute(home) ? std::string(home) + "/.cache/pyro/seeds" : std::string();
}

std::optional<Packed> PackedCache::find(const std::string& path, SourceKind kind, const Fingerprint& now) const {
    const UniqueFd directory = directory_.empty() ? UniqueFd() : open_own(directory_);
    const std::string name = cached_name(path, kind);
    const UniqueFd file(directory && !name.empty() ? ::openat(directory.get(), name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC) : -1);
    if (!file)
        return std::nullopt;
    try {
        std::optional<Packed> packed = decode_packed(read_up_to(file.get(), 8u << 20), now);
        if (packed)
            ::utimensat(directory.get(), name.c_str(), nullptr, 0);  // used just now
        return packed;
    } catch (const Error&) {
        return std::nullopt;  // it cannot be read: nothing is known
    }
}

void PackedCache::remember(const std::string& path, const Packed& packed, const Fingerprint& before, const timespec& began, const Fingerprint& after) const {
    const timespec settled{began.tv_sec - racy_seconds, began.tv_nsec};
    if (directory_.empty() || before.key != after.key || !earlier(before.newest, settled))
        return;
    const UniqueFd directory = make_own(directory_);
    const std::string name = cached_name(path, packed.kind);
    if (!directory || name.empty())
        return;
    const std::string temporary = "." + name + "." + std::to_string(::getpid());
    try {
        const UniqueFd file(::openat(directory.get(), temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
        if (!file)
            return;
        write_all(file.get(), encode_packed(packed, before));  // not synced: what a crash makes of it is found out
    } catch (const Error&) {
        ::unlinkat(directory.get(), temporary.c_str(), 0);  // a full disk
        return;
    }
    if (::renameat(directory.get(), temporary.c_str(), directory.get(), name.c_str()) != 0)
        ::unlinkat(directory.get(), temporary.c_str(), 0);
    try {
        drop_oldest(directory.get());
    } catch (const Unreliable&) {
        // It cannot be listed: the next one tries again.
    }
}

void PackedCache::forget(const std::string& path, SourceKind kind) const {
    if (const UniqueFd directory = directory_.empty() ? UniqueFd() : open_own(directory_))
        ::unlinkat(directory.get(), cached_name(path, kind).c_str(), 0);
}

}  // namespace pyro::client::seed
