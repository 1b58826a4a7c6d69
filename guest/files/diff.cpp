#include "common/patch/patch.hpp"
#include "guest/files/operations.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <iterator>
#include <map>
#include <set>
#include <sys/xattr.h>
#include <unistd.h>

namespace pyro::guest::files {
namespace {

using patch::File;
using patch::Mode;
using proto::files::Change;
using proto::files::ChangeKind;
using proto::files::Done;
using proto::files::Note;
using proto::files::Reason;

constexpr std::uint64_t shown_bytes = 8 << 20;       // of either version of a file
constexpr std::ptrdiff_t shown_lines = 500'000;
constexpr std::size_t looked_at_for_nul = 8000;      // as patch::make
constexpr std::uint64_t renamed_bytes = 64 << 20;    // of one file; and of all that are compared for renames:
constexpr std::uint64_t all_renamed_bytes = 512 << 20;
constexpr int read_attempts = 3;

Mode mode_of(const struct stat& info) {
    if (S_ISREG(info.st_mode)) return info.st_mode & 0100 ? Mode::executable : Mode::regular;
    return S_ISDIR(info.st_mode) ? Mode::directory : S_ISLNK(info.st_mode) ? Mode::symlink : Mode::other;
}

// Why something could not be read, where that ends nothing but its own comparison.
Reason reason_of(int error, const std::string& path) {
    switch (error) {
        case EXDEV: return Reason::mount_point;
        case EACCES: case EPERM: return Reason::unreadable;
        case ENOENT: case ENOTDIR: case ELOOP: case ENXIO: case EAGAIN: case ESTALE: return Reason::changed;
        default: fail("compare", path, error);
    }
}

// How many files and hunks are in what make() wrote. Lines of content have something in front of them.
std::size_t count_lines(std::string_view text, std::string_view beginning) {
    std::size_t count = text.starts_with(beginning);
    const std::string whole = "\n" + std::string(beginning);
    for (std::size_t at = text.find(whole); at != std::string_view::npos; at = text.find(whole, at + 1)) ++count;
    return count;
}

// Reads until the buffer is full or the file ends. -1 with errno.
ssize_t read_full(int fd, char* to, std::size_t size) {
    std::size_t got = 0;
    while (got < size) {
        const ssize_t n = ::read(fd, to + got, size - got);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -1;
        if (n == 0) break;
        got += static_cast<std::size_t>(n);
    }
    return static_cast<ssize_t>(got);
}

UniqueFd open_content(int directory, const char* name) {
    return UniqueFd(open_beneath_at(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0));
}

// 0 or errno.
int read_target(int directory, const char* name, std::string& target) {
    target.assign(proto::files::max_target_bytes + 1, '\0');
    const ssize_t length = ::readlinkat(directory, name, target.data(), target.size());
    if (length < 0) return errno == EINVAL ? ENOENT : errno;
    target.resize(static_cast<std::size_t>(length));
    return 0;
}

bool is_still(const struct stat& a, const struct stat& b) {
    const auto same = [](const timespec& x, const timespec& y) { return x.tv_sec == y.tv_sec && x.tv_nsec == y.tv_nsec; };
    return a.st_size == b.st_size && a.st_mode == b.st_mode && same(a.st_mtim, b.st_mtim) && same(a.st_ctim, b.st_ctim);
}

// One of the two trees that are compared.
class Version {
public:
    explicit Version(const UniqueFd& top) : top_(top) {}

    // The file or link at `path`, as it was at one time. Why not, if there is a reason.
    std::optional<Reason> read(const std::string& path, Mode expected, File& file) const {
        file = {};
        if (expected == Mode::absent) return std::nullopt;
        Trail trail(top_);
        std::string name;
        if (const int error = go(trail, path, name); error != 0) return reason_of(error, path);
        if (expected == Mode::symlink) {
            file.mode = expected;
            const int error = read_target(trail.fd(), name.c_str(), file.bytes);
            return error == 0 ? std::nullopt : std::optional(reason_of(error, path));
        }
        const UniqueFd fd = open_content(trail.fd(), name.c_str());
        if (!fd) return reason_of(errno, path);
        for (int attempt = 0; attempt < read_attempts; ++attempt) {
            struct stat before{}, after{};
            if (::fstat(fd.get(), &before) != 0) fail("compare", path, errno);
            if (!S_ISREG(before.st_mode)) return Reason::changed;
            if (static_cast<std::uint64_t>(before.st_size) > shown_bytes) return Reason::too_large;
            file.bytes.resize(static_cast<std::size_t>(before.st_size) + 1);
            const ssize_t got = ::lseek(fd.get(), 0, SEEK_SET) < 0 ? -1 : read_full(fd.get(), file.bytes.data(), file.bytes.size());
            if (got < 0 || ::fstat(fd.get(), &after) != 0) fail("compare", path, errno);
            file.bytes.resize(static_cast<std::size_t>(got));
            file.mode = mode_of(after);
            if (got != after.st_size || !is_still(before, after)) continue;
            return std::count(file.bytes.begin(), file.bytes.end(), '\n') > shown_lines ? std::optional(Reason::too_large) : std::nullopt;
        }
        return Reason::changed;
    }

    // A number that equal contents have in common, or nothing.
    std::optional<std::string> digest(const std::string& path, Mode mode) const {
        Trail trail(top_);
        std::string name, bytes;
        if (go(trail, path, name) != 0) return std::nullopt;
        if (mode == Mode::symlink) return read_target(trail.fd(), name.c_str(), bytes) == 0 ? std::optional("link:" + bytes) : std::nullopt;
        const UniqueFd fd = open_content(trail.fd(), name.c_str());
        if (!fd) return std::nullopt;
        std::uint64_t sum = 14695981039346656037u, size = 0;  // FNV-1a
        bytes.resize(256 << 10);
        while (true) {
            const ssize_t got = read_full(fd.get(), bytes.data(), bytes.size());
            if (got < 0) return std::nullopt;
            if (got == 0) return std::to_string(size) + ":" + std::to_string(sum);
            size += static_cast<std::uint64_t>(got);
            for (const char c : std::string_view(bytes).substr(0, static_cast<std::size_t>(got))) sum = (sum ^ static_cast<unsigned char>(c)) * 1099511628211u;
        }
    }

    // A link that leads to itself: whoever looks beneath it gets an error, not nothing.
    bool is_loop(const std::string& path) const {
        const UniqueFd fd(open_beneath_at(top_.get(), path.c_str(), O_PATH, 0));
        return !fd && errno == ELOOP;
    }

    bool is_binary(const std::string& path) const {
        Trail trail(top_);
        std::string name;
        char begin[looked_at_for_nul];
        const UniqueFd fd = go(trail, path, name) == 0 ? open_content(trail.fd(), name.c_str()) : UniqueFd();
        const ssize_t got = fd ? read_full(fd.get(), begin, sizeof begin) : -1;
        return got < 0 || std::memchr(begin, '\0', static_cast<std::size_t>(got)) != nullptr;
    }

    UniqueFd open(const std::string& path) const {
        Trail trail(top_);
        std::string name;
        if (const int error = go(trail, path, name); error != 0) return UniqueFd();
        return open_content(trail.fd(), name.c_str());
    }

private:
    static int go(Trail& trail, const std::string& path, std::string& name) {
        std::vector<std::string_view> names = components(path);
        name = names.back();
        names.pop_back();
        int error = 0;
        trail.follow(names, error);
        return error;
    }
    const UniqueFd& top_;
};

// 1: equal, 0: not, -1 with errno.
int compare(int a, int b) {
    std::string left(128 << 10, '\0'), right(left.size(), '\0');
    while (true) {
        const ssize_t one = read_full(a, left.data(), left.size());
        const ssize_t other = one < 0 ? -1 : read_full(b, right.data(), right.size());
        if (other < 0) return -1;
        if (one != other || std::memcmp(left.data(), right.data(), static_cast<std::size_t>(one)) != 0) return 0;
        if (one == 0) return 1;
    }
}

struct Candidate {
    std::string path, old_path;
    Mode before, after;
    std::uint64_t size_before, size_after;
    std::optional<Reason> note;
    bool over_directory, under_directory;  // a directory is there before, or after
    bool stays = false;                    // it goes, and the patch cannot say so
    bool goes_elsewhere = false;           // renamed: told with its new name
};

// Goes down the root and the lower directory together: along what the upper one names, and along all names where a directory
// hides the lower one or there is only one of them. What the upper directory has is only a hint: what is compared is what is seen.
class Differences {
public:
    Differences(const UniqueFd& root, const UniqueFd& lower, const UniqueFd& upper, const DiffOptions& options)
        : merged_(root), lower_(lower), upper_(upper), paths_(options.paths.begin(), options.paths.end()) {
        if (paths_.contains(".")) paths_.clear();
        level(Sides{true, true, !options.verify});
    }

    std::vector<Candidate> candidates;
    std::vector<Note> notes;
    std::set<std::string> occupied;    // what stays below a directory that goes, though no file of it is told
    std::uint64_t left_out = 0;

private:
    struct Sides {
        bool merged, lower, upper;
    };

    void note(Reason reason, const std::string& path) {
        notes_bytes_ += path.size();
        if (notes.size() == proto::files::max_pack_notes || notes_bytes_ > proto::files::max_pack_notes_bytes) ++left_out;
        else notes.push_back(Note{reason, path.empty() ? "." : path});
    }

    // Is it, or what is below it, asked for?
    bool is_wanted(const std::string& path, bool directory) const {
        if (paths_.empty() || paths_.contains(path)) return true;
        for (std::size_t slash = path.find('/'); slash != std::string::npos; slash = path.find('/', slash + 1))
            if (paths_.contains(path.substr(0, slash))) return true;
        if (!directory) return false;
        const auto below = paths_.lower_bound(path + "/");
        return below != paths_.end() && below->starts_with(path + "/");
    }

    std::vector<std::string> names_in(Trail& trail) {
        Names names;
        if (const int error = names.read(trail.fd()); error != 0) note(reason_of(error, path_), path_);
        std::vector<std::string> all;
        for (const Names::Item& item : names.items) all.emplace_back(names.name(item));
        std::sort(all.begin(), all.end());
        return all;
    }

    // Of the directory that path_ names and these trails are in.
    void level(Sides in) {
        std::vector<std::string> names;
        if (in.upper) {
            names = names_in(upper_);
        } else {
            const std::vector<std::string> merged = in.merged ? names_in(merged_) : std::vector<std::string>();
            const std::vector<std::string> lower = in.lower ? names_in(lower_) : std::vector<std::string>();
            std::set_union(merged.begin(), merged.end(), lower.begin(), lower.end(), std::back_inserter(names));
        }
        if (in.lower && !in.merged && names.empty()) occupied.insert(path_);
        const std::size_t before = path_.size();
        bool too_long = false;
        for (const std::string& name : names) {
            if (path_.empty() && is_staging(name)) continue;
            if (!path_.empty()) path_ += '/';
            path_ += name;
            const bool fits = path_.size() <= proto::files::max_patch_path_bytes;
            const bool compared = fits && !patch::is_dot_git(name);
            if (compared) visit(name.c_str(), in);
            else if (!in.merged) occupied.insert(path_);
            path_.resize(before);
            too_long = too_long || !fits;
        }
        if (too_long) note(Reason::too_long, path_);
    }

    void visit(const char* name, Sides in) {
        struct stat now{}, then{};
        const auto look = [&](bool there, Trail& trail, struct stat& info) {
            if (!there) return Mode::absent;
            if (::fstatat(trail.fd(), name, &info, AT_SYMLINK_NOFOLLOW) == 0) return mode_of(info);
            if (errno != ENOENT) fail("look at", path_, errno);
            return Mode::absent;
        };
        const Mode before = look(in.lower, lower_, then), after = look(in.merged, merged_, now);
        const bool was_directory = before == Mode::directory, is_directory = after == Mode::directory;
        if (!is_wanted(path_, was_directory || is_directory)) return;
        if ((!was_directory && before != Mode::absent) || (!is_directory && after != Mode::absent)) {
            if (is_wanted(path_, false)) tell(name, was_directory ? Mode::absent : before, is_directory ? Mode::absent : after, then, now,
                                              was_directory && !is_directory, is_directory && !was_directory);
        }
        if (was_directory || is_directory) descend(name, Sides{is_directory, was_directory, in.upper && was_directory && is_directory});
    }

    void descend(const char* name, Sides in) {
        const auto enter = [&](bool& there, Trail& trail) {
            if (!there) return;
            if (const int error = trail.enter(name); error != 0) {
                there = false;
                if (error != ENOENT) note(reason_of(error, path_), path_);
            }
        };
        const bool wanted_merged = in.merged, wanted_lower = in.lower;
        enter(in.merged, merged_);
        enter(in.lower, lower_);
        // What could not be looked into is not what is gone.
        const bool whole = in.merged == wanted_merged && in.lower == wanted_lower;
        // Not a directory there, or one that hides the lower one: all names count.
        const bool hinted = in.upper && whole && upper_.enter(name) == 0;
        in.upper = hinted && !hides_lower();
        if (whole) level(in);
        if (hinted) upper_.leave();
        if (in.lower) lower_.leave();
        if (in.merged) merged_.leave();
    }

    // Only what overlayfs itself can set on an ordinary mount: a user's own "user.overlay." means nothing.
    bool hides_lower() {
        const std::string held = "/proc/self/fd/" + std::to_string(upper_.fd());
        const auto has = [&](const char* attribute, bool but_x) {
            char value = 0;
            const ssize_t size = ::getxattr(held.c_str(), attribute, &value, sizeof value);
            if (size < 0 && errno != ENODATA && errno != EOPNOTSUPP && errno != ERANGE) fail("look at the overlay's", path_, errno);
            return size < 0 ? errno == ERANGE : !(but_x && value == 'x');
        };
        // "x" says that there are whiteouts in the form of attributes, no more.
        return has("trusted.overlay.opaque", true) || has("trusted.overlay.redirect", false);
    }

    void tell(const char* name, Mode before, Mode after, const struct stat& then, const struct stat& now, bool over_directory, bool under_directory) {
        std::optional<Reason> why;
        if (before == Mode::other || after == Mode::other) {
            if (before == after && (then.st_mode & S_IFMT) == (now.st_mode & S_IFMT) && then.st_rdev == now.st_rdev) return;
            why = Reason::special;
        } else if (before == Mode::symlink && after == Mode::symlink) {
            std::string old_target, target;
            if (const int error = read_target(lower_.fd(), name, old_target); error != 0) why = reason_of(error, path_);
            if (const int error = read_target(merged_.fd(), name, target); error != 0) why = reason_of(error, path_);
            if (!why && target == old_target) return;
        } else if (before == after && patch::is_file(before) && then.st_size == now.st_size) {
            const UniqueFd old_file = open_content(lower_.fd(), name);
            const int old_error = errno;
            const UniqueFd file = open_content(merged_.fd(), name);
            if (!old_file || !file) why = reason_of(old_file ? errno : old_error, path_);
            else if (const int equal = compare(old_file.get(), file.get()); equal < 0) fail("compare", path_, errno);
            else if (equal == 1) return;
        }
        if (candidates.size() == proto::files::max_changes) {
            ++left_out;
            return;
        }
        const auto size = [](Mode mode, const struct stat& info) { return mode == Mode::absent ? 0 : static_cast<std::uint64_t>(info.st_size); };
        candidates.push_back(Candidate{path_, {}, before, after, size(before, then), size(after, now), why, over_directory, under_directory});
    }

    Trail merged_, lower_, upper_;
    std::set<std::string> paths_;
    std::string path_;  // empty for the root
    std::size_t notes_bytes_ = 0;
};

bool starts_below(const std::set<std::string>& paths, const std::string& path) {
    const auto below = paths.lower_bound(path + "/");
    return below != paths.end() && below->starts_with(path + "/");
}

// What the patch cannot remove may be where it would write something: that is left out too, or nothing of it could be applied.
void find_obstacles(std::vector<Candidate>& candidates, std::set<std::string>& occupied, const Version& lower) {
    std::set<std::string> replaced;  // directories with a file in their place
    for (const Candidate& one : candidates)
        if (one.over_directory) replaced.insert(one.path);
    const auto is_in_replaced = [&](const std::string& path) {
        for (std::size_t slash = path.find('/'); slash != std::string::npos; slash = path.find('/', slash + 1))
            if (replaced.contains(path.substr(0, slash))) return true;
        return false;
    };
    for (Candidate& one : candidates) {
        if (one.before == Mode::absent || one.after != Mode::absent || (!one.under_directory && !is_in_replaced(one.path))) continue;
        one.stays = one.note || (is_file(one.before) && (one.size_before > shown_bytes || lower.is_binary(one.path)));
        // git apply looks for what it makes beneath a link that it removes.
        if (one.stays || (one.under_directory && one.before == Mode::symlink && lower.is_loop(one.path))) occupied.insert(one.path);
    }
    if (occupied.empty()) return;
    for (Candidate& one : candidates) {
        bool blocked = one.over_directory && starts_below(occupied, one.path);
        for (std::size_t slash = one.path.find('/'); slash != std::string::npos && !blocked; slash = one.path.find('/', slash + 1))
            blocked = occupied.contains(one.path.substr(0, slash));
        if (blocked && one.after != Mode::absent && !one.note) one.note = Reason::in_the_way;
    }
}

void find_renames(std::vector<Candidate>& candidates, const Version& lower, const Version& merged) {
    const auto may_go = [](const Candidate& one) {
        // git apply takes a renamed link for one that is still there, and writes nothing beyond it.
        const bool makes_way = one.before == Mode::symlink && one.under_directory;
        return one.after == Mode::absent && !one.note && !one.stays && !makes_way && one.size_before > 0 && one.size_before <= renamed_bytes;
    };
    const auto may_come = [](const Candidate& one) { return one.before == Mode::absent && !one.note && one.size_after > 0 && one.size_after <= renamed_bytes; };
    std::set<std::uint64_t> sizes_gone, sizes_come;
    for (const Candidate& one : candidates) {
        if (may_go(one)) sizes_gone.insert(one.size_before);
        if (may_come(one)) sizes_come.insert(one.size_after);
    }
    std::vector<patch::Moved> gone, come;
    std::vector<Candidate*> gone_of, come_of;
    std::uint64_t left = all_renamed_bytes;
    for (Candidate& one : candidates) {
        const bool goes = may_go(one), comes = may_come(one);
        const std::uint64_t size = goes ? one.size_before : one.size_after;
        if ((!goes && !comes) || !(goes ? sizes_come : sizes_gone).contains(size) || size > left) continue;
        left -= size;
        const auto digest = (goes ? lower : merged).digest(one.path, goes ? one.before : one.after);
        if (!digest) continue;
        (goes ? gone : come).push_back(patch::Moved{one.path, goes ? one.before : one.after, *digest});
        (goes ? gone_of : come_of).push_back(&one);
    }
    for (const patch::Pair& pair : patch::pair_renames(gone, come)) {
        Candidate& from = *gone_of[pair.deleted];
        Candidate& to = *come_of[pair.added];
        if (is_file(from.before)) {
            const UniqueFd old_file = lower.open(from.path), file = merged.open(to.path);
            if (!old_file || !file || compare(old_file.get(), file.get()) != 1) continue;
        }
        to.old_path = from.path;
        to.before = from.before;
        from.goes_elsewhere = true;
    }
}

ChangeKind kind_of_change(Mode before, Mode after, bool same_content) {
    if (before == Mode::absent) return ChangeKind::added;
    if (after == Mode::absent) return ChangeKind::deleted;
    if (patch::is_file(before) != patch::is_file(after) || (before != after && !patch::is_file(before))) return ChangeKind::type;
    return same_content ? ChangeKind::mode : ChangeKind::modified;
}

UniqueFd open_layer(const std::string& name) {
    UniqueFd fd(::open(name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!fd) fail("open the overlay's", name, errno);
    return fd;
}

}  // namespace

void diff(const UniqueFd& root, const DiffOptions& options) {
    const UniqueFd lower_fd = open_layer(options.lower), upper_fd = open_layer(options.upper);
    Differences walk(root, lower_fd, upper_fd, options);
    std::vector<Candidate>& candidates = walk.candidates;
    std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) { return a.path < b.path; });
    const Version lower(lower_fd), merged(root);
    find_obstacles(candidates, walk.occupied, lower);
    find_renames(candidates, lower, merged);

    Output out(STDOUT_FILENO);
    std::string report;
    Done done;
    done.left_out = walk.left_out;
    const patch::ParseLimits most;  // of who reads it
    std::size_t files = 0, hunks = 0;
    bool is_full = false;
    for (const Candidate& one : candidates) {
        if (one.goes_elsewhere) continue;
        Change change;
        change.path = one.path;
        change.old_path = one.old_path;
        change.note = one.note;
        change.kind = one.old_path.empty() ? kind_of_change(one.before, one.after, false) : ChangeKind::renamed;
        patch::Made made;
        if (is_full && !change.note) change.note = Reason::limit;
        if (!change.note && !one.old_path.empty()) {
            made = patch::make_rename(one.old_path, one.before, one.path, one.after);
        } else if (!change.note) {
            File before, after;
            change.note = lower.read(one.path, one.before, before);
            if (!change.note) change.note = merged.read(one.path, one.after, after);
            if (!change.note && before == after) continue;  // it is what it was by now
            if (!change.note) {
                change.kind = kind_of_change(before.mode, after.mode, before.bytes == after.bytes);
                made = patch::make(one.path, before, after);
            }
        }
        change.binary = made.stat.binary;
        if (change.binary) made.text.clear();
        files += count_lines(made.text, "diff --git ");
        hunks += count_lines(made.text, "@@ -");
        if (done.bytes + made.text.size() > options.max_bytes || files > most.files || hunks > most.hunks) {
            is_full = true;
            change.note = Reason::limit;
            made = {};
        }
        if (change.note == Reason::limit || change.note == Reason::too_large) ++done.left_out;
        if (!change.note && !change.binary) change.added = made.stat.added, change.deleted = made.stat.deleted;
        done.bytes += made.text.size();
        out.put(std::string_view(made.text));
        ++done.files;
        report += encode(change);
    }
    out.flush();
    for (const Note& note : walk.notes) report += encode(note);
    done.more = done.left_out > 0;
    write_all(STDERR_FILENO, report + encode(done));
}

}  // namespace pyro::guest::files
