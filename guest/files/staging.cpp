#include "guest/files/staging.hpp"

#include "proto/files.hpp"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/random.h>
#include <unistd.h>

namespace pyro::guest::files {
namespace {

constexpr char tree_name[] = "tree";
constexpr char removed_name[] = "removed";
constexpr char plan_name[] = "plan";

struct Step {
    enum class Kind : std::uint8_t {
        enter = 1,  // a directory that both have; with `alone`, that is only looked for in the root. Without a name, the root itself.
        leave,      // it gets `mode` and `mtime` if `sets`; it is removed if `goes`
        create,     // move in what is staged; a directory gets `mode` if `sets`
        replace,    // exchange what is staged with what is there
        remove,     // move out what is there
        end,        // of a plan that is whole
    };
    Kind kind = Kind::enter;
    bool sets = false;
    bool alone = false;
    bool goes = false;      // leave
    bool any_type = false;  // replace: a directory may give way
    bool directory = false; // create: what is staged is one
    bool checks = false;    // replace, remove: what gives way has old_size and old_mtime
    mode_t mode = 0, old_mode = 0;  // old: of the directory entered, or that goes
    std::uint32_t number = 0;       // remove: its name where it goes
    uid_t uid = 0;                  // of the directory that goes
    gid_t gid = 0;
    ino_t inode = 0;        // of what is moved in
    std::int64_t old_size = 0;
    timespec mtime{}, old_mtime{};
    std::uint16_t name_size = 0;
    char name[proto::files::max_name_bytes + 1] = {};
};

struct CloseFile {
    void operator()(std::FILE* file) const noexcept { std::fclose(file); }
};
using PlanFile = std::unique_ptr<std::FILE, CloseFile>;

PlanFile open_plan(const UniqueFd& run, int flags) {
    UniqueFd fd(::openat(run.get(), plan_name, flags | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!fd) return nullptr;
    PlanFile file(::fdopen(fd.get(), "r+"));
    if (file) static_cast<void>(fd.release());
    return file;
}

// Without the part of the name that is not used, and with its size behind it, to be read from either end.
void put_step(std::FILE* plan, const Step& step) {
    const auto size = static_cast<std::uint16_t>(offsetof(Step, name) + step.name_size);
    if (std::fwrite(&step, size, 1, plan) != 1 || std::fwrite(&size, sizeof size, 1, plan) != 1) fail("write the plan in", ".", errno, ::fileno(plan));
}

// False at the end, whatever a plan that was tampered with says: a name is one component.
bool get_step(std::FILE* plan, Step& step) {
    step = Step{};
    std::uint16_t size = 0;
    if (std::fread(&step, offsetof(Step, name), 1, plan) != 1) return false;
    if (step.kind < Step::Kind::enter || step.kind > Step::Kind::end || step.name_size > proto::files::max_name_bytes) return false;
    if (step.name_size > 0 && std::fread(step.name, step.name_size, 1, plan) != 1) return false;
    if (std::fread(&size, sizeof size, 1, plan) != 1 || size != offsetof(Step, name) + step.name_size) return false;
    const bool may_be_root = step.kind == Step::Kind::enter || step.kind == Step::Kind::leave || step.kind == Step::Kind::end;
    const std::string_view name(step.name, step.name_size);
    return (may_be_root && name.empty()) || (name != "." && proto::files::is_path(name) && name.find('/') == std::string_view::npos);
}

// The step that ends at `end`, which becomes where it begins. False at the beginning.
bool get_step_before(std::FILE* plan, long& end, Step& step) {
    std::uint16_t size = 0;
    if (end < static_cast<long>(sizeof size) || std::fseek(plan, end - static_cast<long>(sizeof size), SEEK_SET) != 0) return false;
    if (std::fread(&size, sizeof size, 1, plan) != 1 || end < static_cast<long>(size + sizeof size)) return false;
    end -= static_cast<long>(size + sizeof size);
    return std::fseek(plan, end, SEEK_SET) == 0 && get_step(plan, step);
}

Step step_of(Step::Kind kind, const char* name) {
    Step step;
    step.kind = kind;
    step.name_size = static_cast<std::uint16_t>(std::strlen(name));
    std::memcpy(step.name, name, step.name_size);
    return step;
}

int move(int from, const char* name, int to, const char* new_name, unsigned flags) { return ::renameat2(from, name, to, new_name, flags) == 0 ? 0 : errno; }
int move(int from, int to, const char* name, unsigned flags) { return move(from, name, to, name, flags); }

bool look(int directory, const char* name, struct stat& info) { return ::fstatat(directory, name, &info, AT_SYMLINK_NOFOLLOW) == 0; }

void set_values(Trail& trail, mode_t mode, timespec mtime) {
    const int directory = trail.fd();
    const timespec times[2] = {{0, UTIME_OMIT}, mtime};
    if (::utimensat(directory, ".", times, 0) != 0 || change_mode(directory, mode) != 0) fail("set mode and time of", trail.path(), errno);
}

bool same(timespec a, timespec b) { return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec; }

// Another process was faster: it ends the run.
Error changed_meanwhile(const std::string& path, const std::string& source) {
    return Error(ErrorCode::failed_precondition, quoted(path) + " was changed by somebody else while " + source + " was applied; nothing was changed",
                 "try again when nothing else changes these files");
}

// Not by its inode: on an overlay a file may have another one when it is written to or moved first.
bool same_content(const struct stat& info, mode_t type, std::int64_t size, timespec mtime) {
    return (info.st_mode & S_IFMT) == (type & S_IFMT) && info.st_size == size && same(info.st_mtim, mtime);
}

// Goes down the staged tree and the root together where both have a directory, and down the staged tree alone to give its
// directories their modes and times, the inner ones first.
class Planner {
public:
    Planner(const UniqueFd& tree, const UniqueFd& root, const std::vector<DirectoryValues>& directories, std::ptrdiff_t replaced_depth,
            const Removals& removals, const std::string& source, std::FILE* plan)
        : staged_(tree), there_(root), directories_(directories), replaced_depth_(replaced_depth), removals_(removals), source_(source), plan_(plan) {}

    void run() {
        if (!removals_.files.empty() || !removals_.directories.empty()) remove_first();
        put_enter("", false);
        open_level(true);
        while (true) {
            Level& level = levels_.back();
            if (level.next < level.names.items.size()) {
                // A copy: the level may move in memory.
                const std::string name = level.names.name(level.names.items[level.next++]);
                visit(name.c_str(), level.merged);
                continue;
            }
            const bool merged = level.merged;
            if (merged && replaces_here()) plan_removals();
            if (merged) leave_merged();
            else finish_new(levels_[levels_.size() - 2].merged);
            levels_.pop_back();
            if (levels_.empty()) break;
            staged_.leave();
            if (merged) there_.leave();
        }
        put_step(plan_, step_of(Step::Kind::end, ""));
        if (std::fflush(plan_) != 0) fail("write the plan in", ".", errno, ::fileno(plan_));
    }

private:
    struct Level {
        Names names;
        std::size_t next = 0;
        bool merged = false;
    };

    [[noreturn]] void refuse_conflict(const std::string& path, const char* staged, const char* there) const {
        throw Error(ErrorCode::failed_precondition, quoted(path) + " is " + staged + " in " + source_ + " and " + there + " in the workspace; nothing was changed",
                    "remove or rename it there, or send another");
    }

    // The directory that `there_` leads to.
    void put_enter(const char* name, bool alone) {
        struct stat old{};
        if (::fstatat(there_.fd(), ".", &old, 0) != 0) fail("look at", there_.path(), errno);
        Step step = step_of(Step::Kind::enter, name);
        step.alone = alone;
        step.old_mode = old.st_mode & 07777;
        step.old_mtime = old.st_mtim;
        put_step(plan_, step);
    }

    // What gives way must be what was looked at when it was decided that it does.
    void expect(Step& step, const std::string& path, const struct stat& old) const {
        const auto expected = removals_.expected.find(path);
        if (expected == removals_.expected.end()) return;
        const struct stat& then = expected->second;
        if (!same_content(old, then.st_mode, then.st_size, then.st_mtim)) throw changed_meanwhile(path, source_);
        step.checks = true;
        step.old_mode = old.st_mode;
        step.old_size = old.st_size;
        step.old_mtime = old.st_mtim;
    }

    // In the order of the tree, so that a directory is left when all in it is gone.
    void remove_first() {
        struct Removal {
            std::vector<std::string_view> names;
            bool directory;
        };
        std::vector<Removal> all;
        for (const std::string& path : removals_.files) all.push_back({components(path), false});
        for (const std::string& path : removals_.directories) all.push_back({components(path), true});
        std::sort(all.begin(), all.end(), [](const Removal& a, const Removal& b) { return a.names < b.names; });
        put_enter("", true);
        for (Removal& removal : all) {
            std::string name;
            if (!removal.directory) name = removal.names.back(), removal.names.pop_back();
            std::size_t common = 0;
            while (common < removal.names.size() && common < there_.depth() && removal.names[common] == there_.name(common)) ++common;
            while (there_.depth() > common) leave_emptied();
            for (; common < removal.names.size(); ++common) {
                const std::string next(removal.names[common]);
                if (there_.enter(next.c_str()) != 0) throw changed_meanwhile(joined(there_.path(), next), source_);
                put_enter(next.c_str(), true);
            }
            if (removal.directory) continue;
            struct stat old{};
            const std::string path = joined(there_.path(), name);
            if (!look(there_.fd(), name.c_str(), old) || S_ISDIR(old.st_mode)) throw changed_meanwhile(path, source_);
            Step step = step_of(Step::Kind::remove, name.c_str());
            step.number = removed_++;
            expect(step, path, old);
            put_step(plan_, step);
            gone_.insert(path);
        }
        while (there_.depth() > 0) leave_emptied();
        Step step = step_of(Step::Kind::leave, "");
        step.alone = true;
        put_step(plan_, step);
    }

    // A directory in which nothing is left goes, unless something comes there.
    void leave_emptied() {
        const std::string path = there_.path(), name = there_.name(there_.depth() - 1);
        Step step = step_of(Step::Kind::leave, name.c_str());
        step.alone = true;
        const auto below = removals_.written.lower_bound(path + "/");
        if (below == removals_.written.end() || !below->starts_with(path + "/")) {
            Names names;
            struct stat old{};
            if (const int error = names.read(there_.fd()); error != 0) fail("look into", path, error);
            if (::fstatat(there_.fd(), ".", &old, 0) != 0) fail("look at", path, errno);
            step.goes = std::all_of(names.items.begin(), names.items.end(),
                                    [&](const Names::Item& item) { return gone_.contains(joined(path, names.name(item))); });
            step.old_mode = old.st_mode & 07777;
            step.uid = old.st_uid;
            step.gid = old.st_gid;
        }
        put_step(plan_, step);
        if (step.goes) gone_.insert(path);
        there_.leave();
    }

    bool replaces_here() const { return static_cast<std::ptrdiff_t>(staged_.depth()) == replaced_depth_; }

    const DirectoryValues* values_of(ino_t inode) const {
        const auto found = std::lower_bound(directories_.begin(), directories_.end(), inode, [](const DirectoryValues& one, ino_t key) { return one.inode < key; });
        return found != directories_.end() && found->inode == inode ? &*found : nullptr;
    }

    void open_level(bool merged) {
        Level level;
        level.merged = merged;
        if (const int error = level.names.read(staged_.fd()); error != 0) fail("read what was unpacked in", staged_.path(), error);
        levels_.push_back(std::move(level));
    }

    void descend(const char* name, bool merged) {
        if (const int error = staged_.enter(name); error != 0) fail("read what was unpacked as", joined(staged_.path(), name), error);
        open_level(merged);
    }

    void visit(const char* name, bool merged) {
        struct stat info{};
        if (!look(staged_.fd(), name, info)) fail("read what was unpacked as", joined(staged_.path(), name), errno);
        const bool directory = S_ISDIR(info.st_mode);
        if (!merged) {
            if (directory) descend(name, false);
            return;
        }
        struct stat old{};
        bool exists = look(there_.fd(), name, old);
        if (!exists && errno != ENOENT) fail("look at", joined(there_.path(), name), errno);
        exists = exists && !(!gone_.empty() && gone_.contains(joined(there_.path(), name)));
        const bool replaces = replaces_here();
        if (exists && !replaces && directory && S_ISDIR(old.st_mode)) {
            if (const int error = there_.enter(name); error != 0) fail("unpack into", joined(there_.path(), name), error == EXDEV ? EBUSY : error);
            put_enter(name, false);
            return descend(name, true);
        }
        if (exists && !replaces && directory)
            refuse_conflict(joined(there_.path(), name), "a directory", S_ISLNK(old.st_mode) ? "a symbolic link" : "none");
        if (exists && !replaces && S_ISDIR(old.st_mode)) refuse_conflict(joined(there_.path(), name), "no directory", "one");
        Step step = step_of(exists ? Step::Kind::replace : Step::Kind::create, name);
        step.any_type = replaces;
        step.inode = info.st_ino;
        step.directory = directory;
        if (exists) expect(step, joined(there_.path(), name), old);
        if (directory) {
            // To be moved, it must be writable for its owner.
            const DirectoryValues* values = values_of(info.st_ino);
            step.sets = values && (values->mode & 0700) != 0700;
            if (step.sets) step.mode = values->mode;
        }
        put_step(plan_, step);
        if (directory) descend(name, false);
    }

    void plan_removals() {
        Names names;
        if (const int error = names.read(there_.fd()); error != 0) fail("look into", there_.path(), error);
        for (const Names::Item& item : names.items) {
            const char* name = names.name(item);
            struct stat info{};
            if ((there_.depth() == 0 && is_staging(name)) || look(staged_.fd(), name, info) || !look(there_.fd(), name, info)) continue;
            Step step = step_of(Step::Kind::remove, name);
            step.number = removed_++;
            put_step(plan_, step);
        }
    }

    void leave_merged() {
        struct stat staged{};
        if (::fstatat(staged_.fd(), ".", &staged, 0) != 0) fail("read what was unpacked in", staged_.path(), errno);
        Step step = step_of(Step::Kind::leave, there_.depth() == 0 ? "" : there_.name(there_.depth() - 1).c_str());
        if (const DirectoryValues* values = values_of(staged.st_ino)) {
            step.sets = true;
            step.mode = values->mode;
            step.mtime = values->mtime;
        }
        put_step(plan_, step);
    }

    void finish_new(bool is_moved) {
        struct stat staged{};
        if (::fstatat(staged_.fd(), ".", &staged, 0) != 0) fail("read what was unpacked in", staged_.path(), errno);
        if (const DirectoryValues* values = values_of(staged.st_ino)) set_values(staged_, is_moved ? values->mode | 0700 : values->mode, values->mtime);
    }

    Trail staged_, there_;
    const std::vector<DirectoryValues>& directories_;
    const std::ptrdiff_t replaced_depth_;
    const Removals& removals_;
    const std::string& source_;
    std::FILE* plan_;
    std::vector<Level> levels_;
    std::set<std::string> gone_;  // what is not there any more when the tree is merged
    std::uint32_t removed_ = 0;
};

// The staged tree, the root, and what gives way: in the same place of each.
struct Sides {
    Trail staged, there;
    UniqueFd removed;
};

Sides sides_of(const UniqueFd& root, const UniqueFd& run) {
    const UniqueFd tree(open_beneath_at(run.get(), tree_name, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0));
    UniqueFd removed(open_beneath_at(run.get(), removed_name, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0));
    if (!tree || !removed) fail("open", "the staging directory", errno);
    return Sides{Trail(tree), Trail(root), std::move(removed)};
}

void do_step(Sides& at, const Step& step, const std::string& source) {
    const auto path = [&] { return joined(at.there.path(), step.name); };
    const bool root = step.name_size == 0;
    const std::string number = std::to_string(step.number);
    int error = 0;
    struct stat info{};
    const auto is_expected = [&](int directory, const char* name) {
        return !step.checks || (look(directory, name, info) && same_content(info, step.old_mode, step.old_size, step.old_mtime));
    };
    switch (step.kind) {
        case Step::Kind::enter:
            if (!root) error = at.there.enter(step.name);
            if (error == 0 && !root && !step.alone) error = at.staged.enter(step.name);
            break;
        case Step::Kind::leave:
            if (step.sets) set_values(at.there, step.mode, step.mtime);
            at.there.leave();
            if (!step.alone) at.staged.leave();
            if (step.goes && ::unlinkat(at.there.fd(), step.name, AT_REMOVEDIR) != 0) error = errno;
            break;
        case Step::Kind::create:
            error = move(at.staged.fd(), at.there.fd(), step.name, RENAME_NOREPLACE);
            if (error == 0 && step.sets) error = change_mode(at.there.fd(), step.name, step.mode);
            break;
        case Step::Kind::replace:
            error = move(at.staged.fd(), at.there.fd(), step.name, RENAME_EXCHANGE);
            if (error == 0 && !step.any_type && look(at.staged.fd(), step.name, info) && S_ISDIR(info.st_mode)) error = EEXIST;
            if (error == 0 && !is_expected(at.staged.fd(), step.name)) error = EEXIST;
            if (error == 0 && step.sets) error = change_mode(at.there.fd(), step.name, step.mode);
            break;
        case Step::Kind::remove:
            error = move(at.there.fd(), step.name, at.removed.get(), number.c_str(), RENAME_NOREPLACE);
            if (error == 0 && !is_expected(at.removed.get(), number.c_str())) error = EEXIST;
            break;
        case Step::Kind::end: break;
    }
    if (error == EACCES || error == EPERM || error == ENOSPC || error == EDQUOT || error == EBUSY || error == EROFS) fail("replace", path(), error);
    if (error == EXDEV)
        throw Error(ErrorCode::failed_precondition, quoted(path()) + " is a directory of the workspace's baseline, which cannot be moved away whole; nothing was changed",
                    "remove it first, with what is in it");
    if (error != 0) throw changed_meanwhile(path(), source);
}

// Also of a step that was not done, or half: what is where tells. False if it is impossible.
bool undo_move(Sides& at, const Step& step) {
    const char* name = step.name;
    const std::string number = std::to_string(step.number);
    struct stat there{}, aside{};
    const bool exists = look(at.there.fd(), name, there);
    // Its owner may have to make it writable before it can be moved.
    const auto ready = [&] { return !S_ISDIR(there.st_mode) || (there.st_mode & 0700) == 0700 || change_mode(at.there.fd(), name, 0700) == 0; };
    switch (step.kind) {
        case Step::Kind::create:
            // An overlay may forget the inode of a directory.
            if (!exists || (there.st_ino != step.inode && !(step.directory && S_ISDIR(there.st_mode))) || look(at.staged.fd(), name, aside)) return true;
            return ready() && move(at.there.fd(), at.staged.fd(), name, RENAME_NOREPLACE) == 0;
        case Step::Kind::replace:
            if (!exists || there.st_ino != step.inode) return true;
            return ready() && move(at.staged.fd(), at.there.fd(), name, RENAME_EXCHANGE) == 0;
        case Step::Kind::remove:
            if (!look(at.removed.get(), number.c_str(), aside)) return true;
            return move(at.removed.get(), number.c_str(), at.there.fd(), name, RENAME_NOREPLACE) == 0;
        default: return true;
    }
}

// Back into the directory that was left. 0 or errno.
int undo_leave(Sides& at, const Step& step) {
    if (step.goes && ::mkdirat(at.there.fd(), step.name, 0700) == 0 && ::geteuid() == 0
        && ::fchownat(at.there.fd(), step.name, step.uid, step.gid, AT_SYMLINK_NOFOLLOW) != 0) return errno;
    int error = at.there.enter(step.name);
    if (error != 0) return error;
    if (!step.alone && at.staged.enter(step.name) != 0) {
        at.there.leave();
        return ENOTDIR;
    }
    struct stat info{};
    // Its owner may have to make it writable again before something can be moved in it.
    if (::fstatat(at.there.fd(), ".", &info, 0) == 0 && (info.st_mode & 0700) != 0700 && info.st_uid == ::geteuid())
        error = change_mode(at.there.fd(), (info.st_mode & 07777) | 0700);
    return error;
}

// The last step first.
bool undo(const UniqueFd& root, const UniqueFd& run, std::FILE* plan) {
    Step step;
    if (std::fseek(plan, 0, SEEK_END) != 0) return false;
    long end = std::ftell(plan);
    // A plan that was not written to its end: nothing had been moved.
    if (!get_step_before(plan, end, step) || step.kind != Step::Kind::end) return true;
    Sides at = sides_of(root, run);
    bool all = true;
    std::size_t lost = 0;  // levels of a directory that somebody took away
    while (get_step_before(plan, end, step)) {
        const bool named = step.name_size > 0;
        if (step.kind == Step::Kind::leave) {
            const int error = lost > 0 || !named ? 0 : undo_leave(at, step);
            if (error != 0) all = error == ENOENT && all;
            if (lost > 0 || error != 0) ++lost;
        } else if (step.kind == Step::Kind::enter) {
            if (lost > 0) {
                --lost;
                continue;
            }
            struct stat info{};
            if (::fstatat(at.there.fd(), ".", &info, 0) != 0 || ((info.st_mode & 07777) != step.old_mode && change_mode(at.there.fd(), step.old_mode & 07777) != 0))
                all = false;
            // Of a directory that is somebody else's the time cannot be set; that is not worth to keep anything for.
            const timespec times[2] = {{0, UTIME_OMIT}, step.old_mtime};
            static_cast<void>(::utimensat(at.there.fd(), ".", times, 0));
            if (named) at.there.leave();
            if (named && !step.alone) at.staged.leave();
        } else if (lost == 0) {
            all = undo_move(at, step) && all;
        }
    }
    return all;
}

void remove_run(const UniqueFd& base, const std::string& name) {
    Trail trail(base);
    Removed removed;
    if (trail.enter(name.c_str()) != 0) return;
    remove_content(trail, removed);
    ::unlinkat(base.get(), name.c_str(), AT_REMOVEDIR);
}

bool lock(const UniqueFd& run, const UniqueFd& base, const std::string& name) {
    struct stat held{}, named{};
    return ::flock(run.get(), LOCK_EX | LOCK_NB) == 0 && ::fstat(run.get(), &held) == 0 && look(base.get(), name.c_str(), named)
           && held.st_ino == named.st_ino && held.st_uid == ::geteuid();
}

constexpr int read_directory = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;

timespec mtime_of(const UniqueFd& directory) {
    struct stat info{};
    ::fstat(directory.get(), &info);
    return info.st_mtim;
}

}  // namespace

UniqueFd staging_base(const UniqueFd& root, const std::string& staging) {
    UniqueFd base(staging.empty() ? ::openat(root.get(), ".", read_directory) : ::open(staging.c_str(), read_directory));
    struct stat here{}, there{};
    if (!base || ::fstat(base.get(), &here) != 0 || ::fstat(root.get(), &there) != 0) fail("stage in", staging.empty() ? "." : staging, errno);
    if (here.st_dev != there.st_dev)
        throw Error(ErrorCode::failed_precondition, quoted(staging) + " is on another file system than the workspace", "stage in a directory of the same one");
    return base;
}

int StagedWay::go_to(const std::vector<std::string_view>& names) {
    std::size_t same_names = 0;
    while (same_names < names.size() && same_names < at.depth() && names[same_names] == at.name(same_names)) ++same_names;
    while (at.depth() > same_names) at.leave();
    for (; same_names < names.size(); ++same_names) {
        const std::string name(names[same_names]);
        int error = at.enter(name.c_str());
        if (error == ENOENT) {
            if (::mkdirat(at.fd(), name.c_str(), 0755) != 0) fail("make", joined(at.path(), name), errno, tree_.get());
            give(name.c_str(), joined(at.path(), name));
            error = at.enter(name.c_str());
        }
        if (error == ENOTDIR || error == ELOOP) return error;
        if (error != 0) fail("make", joined(at.path(), name), error, tree_.get());
    }
    return 0;
}

void StagedWay::give(const char* name, const std::string& path) {
    if (owner_ && ::fchownat(at.fd(), name, owner_->uid, owner_->gid, AT_SYMLINK_NOFOLLOW) != 0) fail("give away", path, errno);
}

std::uint64_t recover_killed(const UniqueFd& root, const UniqueFd& base) {
    Names names;
    if (const int error = names.read(base.get()); error != 0) fail("look into", ".", error);
    std::uint64_t count = 0;
    for (const Names::Item& item : names.items) {
        const std::string name = names.name(item);
        if (!is_staging(name) || item.type != DT_DIR) continue;
        const UniqueFd run(::openat(base.get(), name.c_str(), read_directory));
        if (!run || !lock(run, base, name)) continue;
        // Without a plan nothing had been moved.
        if (const PlanFile plan = open_plan(run, O_RDWR)) {
            if (!undo(root, run, plan.get()))
                throw Error(ErrorCode::failed_precondition, "a killed run could not be undone; what it replaced is in " + quoted(name),
                            "take from there what is needed, remove it, and try again");
        }
        remove_run(base, name);
        ++count;
    }
    return count;
}

Staging::Staging(const UniqueFd& root, const UniqueFd& base, std::string source) : root_(root), base_(base), source_(std::move(source)) {
    base_before_ = mtime_of(base);
    for (int attempt = 0; !run_; ++attempt) {
        std::uint64_t number = 0;
        if (::getrandom(&number, sizeof number, 0) != sizeof number) throw Error::from_errno("draw a random number");
        char digits[17];
        std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(number));
        name_ = std::string(staging_prefix) + digits;
        if (::mkdirat(base.get(), name_.c_str(), 0700) != 0) fail("stage in", ".", errno, base.get());
        UniqueFd run(::openat(base.get(), name_.c_str(), read_directory));
        // Between the two calls another run may have taken it for a killed one's.
        if (!run && (errno != ENOENT || attempt == 100)) fail("stage in", ".", errno);
        if (run && lock(run, base, name_)) run_ = std::move(run);
        else if (attempt == 100) throw Error(ErrorCode::unavailable, "the staging directory is taken away all the time", "try again");
    }
    base_after_ = mtime_of(base);
    if (::mkdirat(run_.get(), tree_name, 0700) != 0 || ::mkdirat(run_.get(), removed_name, 0700) != 0) {
        const int error = errno;
        remove_run(base_, name_);
        fail("stage in", ".", error, base.get());
    }
    tree_ = UniqueFd(::openat(run_.get(), tree_name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

Staging::~Staging() {
    try {
        if (keep_) return;
        const timespec now = mtime_of(base_);
        remove_run(base_, name_);
        const timespec times[2] = {{0, UTIME_OMIT}, same(now, base_after_) ? base_before_ : now};
        ::utimensat(base_.get(), ".", times, 0);
    } catch (const Error&) {
        // The next run finds it without a lock and tries again.
    }
}

void Staging::apply(const std::vector<DirectoryValues>& directories, std::ptrdiff_t replaced_depth, const Removals& removals) {
    const PlanFile plan = open_plan(run_, O_RDWR | O_CREAT | O_EXCL);
    if (!plan) fail("write the plan in", ".", errno, run_.get());
    try {
        Planner(tree_, root_, directories, replaced_depth, removals, source_, plan.get()).run();
    } catch (const Error&) {
        ::unlinkat(run_.get(), plan_name, 0);
        throw;
    }
    // From here on it takes a SIGKILL to leave it half done.
    sigset_t all;
    ::sigfillset(&all);
    ::sigprocmask(SIG_BLOCK, &all, nullptr);
    try {
        Sides at = sides_of(root_, run_);
        std::rewind(plan.get());
        for (Step step; get_step(plan.get(), step) && step.kind != Step::Kind::end;) do_step(at, step, source_);
        // Without its plan the run is done, and what is left of it is only to be removed.
        if (::unlinkat(run_.get(), plan_name, 0) != 0) fail("remove the plan in", ".", errno);
    } catch (const Error& error) {
        if (undo(root_, run_, plan.get())) throw;
        keep_ = true;
        throw Error(ErrorCode::failed_precondition, error.message() + "; and not everything could be put back where it was: the rest is in " + quoted(name_),
                    "take from there what is needed and remove it, or reset the workspace");
    }
}

}  // namespace pyro::guest::files
