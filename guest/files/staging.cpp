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
        enter = 1,  // a directory that both have
        leave,      // it gets `mode` and `mtime` if `sets`; it had old_mode and old_mtime
        create,     // move in what is staged; a directory gets `mode` if `sets`
        replace,    // exchange what is staged with what is there
        remove,     // move out what is there
    };
    Kind kind = Kind::enter;
    bool sets = false;
    bool any_type = false;  // replace: a directory may give way
    mode_t mode = 0, old_mode = 0;
    ino_t inode = 0;        // of what is moved
    timespec mtime{}, old_mtime{};
    std::uint16_t name_size = 0;
    char name[proto::files::max_name_bytes + 1] = {};
};

struct CloseFile {
    void operator()(std::FILE* file) const noexcept { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

File open_plan(const UniqueFd& run, int flags) {
    UniqueFd fd(::openat(run.get(), plan_name, flags | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!fd) return nullptr;
    File file(::fdopen(fd.get(), "r+"));
    if (file) static_cast<void>(fd.release());
    return file;
}

// Without the part of the name that is not used.
void put_step(std::FILE* plan, const Step& step) {
    if (std::fwrite(&step, offsetof(Step, name) + step.name_size, 1, plan) != 1) fail("write the plan in", ".", errno, ::fileno(plan));
}

// False at the end, whatever a plan that was tampered with says: a name is one component.
bool get_step(std::FILE* plan, Step& step) {
    step = Step{};
    if (std::fread(&step, offsetof(Step, name), 1, plan) != 1) return false;
    if (step.kind < Step::Kind::enter || step.kind > Step::Kind::remove || step.name_size > proto::files::max_name_bytes) return false;
    if (step.name_size > 0 && std::fread(step.name, step.name_size, 1, plan) != 1) return false;
    const std::string_view name(step.name, step.name_size);
    return step.kind == Step::Kind::leave || (name != "." && proto::files::is_path(name) && name.find('/') == std::string_view::npos);
}

Step step_of(Step::Kind kind, const char* name) {
    Step step;
    step.kind = kind;
    step.name_size = static_cast<std::uint16_t>(std::strlen(name));
    std::memcpy(step.name, name, step.name_size);
    return step;
}

int move(int from, int to, const char* name, unsigned flags) { return ::renameat2(from, name, to, name, flags) == 0 ? 0 : errno; }

bool look(int directory, const char* name, struct stat& info) { return ::fstatat(directory, name, &info, AT_SYMLINK_NOFOLLOW) == 0; }

void set_values(Trail& trail, mode_t mode, timespec mtime) {
    const int directory = trail.fd();
    const timespec times[2] = {{0, UTIME_OMIT}, mtime};
    if (::utimensat(directory, ".", times, 0) != 0 || change_mode(directory, mode) != 0) fail("set mode and time of", trail.path(), errno);
}

[[noreturn]] void refuse_conflict(const std::string& path, const char* staged, const char* there) {
    throw Error(ErrorCode::failed_precondition, quoted(path) + " is " + staged + " in the archive and " + there + " in the workspace; nothing was changed",
                "remove or rename it there, or send another archive");
}

// Goes down the staged tree and the root together where both have a directory, and down the staged tree alone to give its
// directories their modes and times, the inner ones first.
class Planner {
public:
    Planner(const UniqueFd& tree, const UniqueFd& root, const std::vector<DirectoryValues>& directories, std::ptrdiff_t replaced_depth, std::FILE* plan)
        : staged_(tree), there_(root), directories_(directories), replaced_depth_(replaced_depth), plan_(plan) {}

    void run() {
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
        if (std::fflush(plan_) != 0) fail("write the plan in", ".", errno, ::fileno(plan_));
    }

private:
    struct Level {
        Names names;
        std::size_t next = 0;
        bool merged = false;
        struct stat old{};  // of the root's directory
    };

    bool replaces_here() const { return static_cast<std::ptrdiff_t>(staged_.depth()) == replaced_depth_; }

    const DirectoryValues* values_of(ino_t inode) const {
        const auto found = std::lower_bound(directories_.begin(), directories_.end(), inode, [](const DirectoryValues& one, ino_t key) { return one.inode < key; });
        return found != directories_.end() && found->inode == inode ? &*found : nullptr;
    }

    void open_level(bool merged) {
        Level level;
        level.merged = merged;
        if (const int error = level.names.read(staged_.fd()); error != 0) fail("read what was unpacked in", staged_.path(), error);
        if (merged && ::fstatat(there_.fd(), ".", &level.old, 0) != 0) fail("look at", there_.path(), errno);
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
        const bool exists = look(there_.fd(), name, old);
        if (!exists && errno != ENOENT) fail("look at", joined(there_.path(), name), errno);
        const bool replaces = replaces_here();
        if (exists && !replaces && directory && S_ISDIR(old.st_mode)) {
            put_step(plan_, step_of(Step::Kind::enter, name));
            if (const int error = there_.enter(name); error != 0) fail("unpack into", joined(there_.path(), name), error == EXDEV ? EBUSY : error);
            return descend(name, true);
        }
        if (exists && !replaces && directory)
            refuse_conflict(joined(there_.path(), name), "a directory", S_ISLNK(old.st_mode) ? "a symbolic link" : "none");
        if (exists && !replaces && S_ISDIR(old.st_mode)) refuse_conflict(joined(there_.path(), name), "no directory", "one");
        Step step = step_of(exists ? Step::Kind::replace : Step::Kind::create, name);
        step.any_type = replaces;
        step.inode = info.st_ino;
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
            step.inode = info.st_ino;
            put_step(plan_, step);
        }
    }

    void leave_merged() {
        const Level& level = levels_.back();
        struct stat staged{};
        if (::fstatat(staged_.fd(), ".", &staged, 0) != 0) fail("read what was unpacked in", staged_.path(), errno);
        Step step = step_of(Step::Kind::leave, "");
        if (const DirectoryValues* values = values_of(staged.st_ino)) {
            step.sets = true;
            step.mode = values->mode;
            step.mtime = values->mtime;
        }
        step.old_mode = level.old.st_mode & 07777;
        step.old_mtime = level.old.st_mtim;
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
    std::FILE* plan_;
    std::vector<Level> levels_;
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

// What another process did since the plan was made: it ends the run.
[[noreturn]] void refuse_changed(const std::string& path, int error) {
    if (error == EACCES || error == EPERM || error == ENOSPC || error == EDQUOT || error == EBUSY || error == EROFS) fail("replace", path, error);
    throw Error(ErrorCode::failed_precondition, quoted(path) + " was changed by somebody else while the archive was applied; nothing was changed",
                "try again when nothing else changes these files");
}

void do_step(Sides& at, const Step& step) {
    const auto path = [&] { return joined(at.there.path(), step.name); };
    int error = 0;
    struct stat info{};
    switch (step.kind) {
        case Step::Kind::enter:
            error = at.there.enter(step.name);
            if (error == 0) error = at.staged.enter(step.name);
            break;
        case Step::Kind::leave:
            if (step.sets) set_values(at.there, step.mode, step.mtime);
            at.there.leave();
            at.staged.leave();
            return;
        case Step::Kind::create:
            error = move(at.staged.fd(), at.there.fd(), step.name, RENAME_NOREPLACE);
            if (error == 0 && step.sets) error = change_mode(at.there.fd(), step.name, step.mode);
            break;
        case Step::Kind::replace:
            error = move(at.staged.fd(), at.there.fd(), step.name, RENAME_EXCHANGE);
            if (error == 0 && !step.any_type && look(at.staged.fd(), step.name, info) && S_ISDIR(info.st_mode)) error = EEXIST;
            if (error == 0 && step.sets) error = change_mode(at.there.fd(), step.name, step.mode);
            break;
        case Step::Kind::remove: error = move(at.there.fd(), at.removed.get(), step.name, RENAME_NOREPLACE); break;
    }
    if (error != 0) refuse_changed(path(), error);
}

// Also of a step that was not done, or half: what is where tells. False if it is impossible.
bool undo_step(Sides& at, const Step& step) {
    const char* name = step.name;
    struct stat there{}, aside{};
    const bool exists = look(at.there.fd(), name, there);
    // Its owner may have to make it writable before it can be moved.
    const auto ready = [&] { return !S_ISDIR(there.st_mode) || (there.st_mode & 0700) == 0700 || change_mode(at.there.fd(), name, 0700) == 0; };
    switch (step.kind) {
        case Step::Kind::create:
            if (!exists || there.st_ino != step.inode || look(at.staged.fd(), name, aside)) return true;
            return ready() && move(at.there.fd(), at.staged.fd(), name, RENAME_NOREPLACE) == 0;
        case Step::Kind::replace:
            if (!exists || there.st_ino != step.inode) return true;
            return ready() && move(at.staged.fd(), at.there.fd(), name, RENAME_EXCHANGE) == 0;
        case Step::Kind::remove:
            if (exists || !look(at.removed.get(), name, aside) || aside.st_ino != step.inode) return true;
            return move(at.removed.get(), at.there.fd(), name, RENAME_NOREPLACE) == 0;
        default: return true;
    }
}

bool undo(const UniqueFd& root, const UniqueFd& run, std::FILE* plan) {
    Sides at = sides_of(root, run);
    std::rewind(plan);
    bool all = true;
    std::size_t lost = 0;  // levels of a directory that somebody took away
    for (Step step; get_step(plan, step);) {
        const bool lost_here = lost > 0;
        if (step.kind == Step::Kind::enter) {
            if (!lost_here) {
                const int error = at.there.enter(step.name);
                if (error == 0 && at.staged.enter(step.name) == 0) continue;
                if (error == 0) at.there.leave();
                all = error == ENOENT && all;
            }
            ++lost;
        } else if (step.kind == Step::Kind::leave) {
            if (lost_here) {
                --lost;
                continue;
            }
            all = (!step.sets || change_mode(at.there.fd(), step.old_mode & 07777) == 0) && all;
            // Of a directory that is somebody else's the time cannot be set; that is not worth to keep anything for.
            const timespec times[2] = {{0, UTIME_OMIT}, step.old_mtime};
            static_cast<void>(::utimensat(at.there.fd(), ".", times, 0));
            at.there.leave();
            at.staged.leave();
        } else if (!lost_here) {
            all = undo_step(at, step) && all;
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

bool same(timespec a, timespec b) { return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec; }

}  // namespace

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
        if (const File plan = open_plan(run, O_RDWR)) {
            if (!undo(root, run, plan.get()))
                throw Error(ErrorCode::failed_precondition, "a killed unpack could not be undone; what it replaced is in " + quoted(name),
                            "take from there what is needed, remove it, and try again");
        }
        remove_run(base, name);
        ++count;
    }
    return count;
}

Staging::Staging(const UniqueFd& root, const UniqueFd& base) : root_(root), base_(base) {
    base_before_ = mtime_of(base);
    for (int attempt = 0; !run_; ++attempt) {
        std::uint64_t number = 0;
        if (::getrandom(&number, sizeof number, 0) != sizeof number) throw Error::from_errno("draw a random number");
        char digits[17];
        std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(number));
        name_ = std::string(staging_prefix) + digits;
        if (::mkdirat(base.get(), name_.c_str(), 0700) != 0) fail("unpack into", ".", errno, base.get());
        UniqueFd run(::openat(base.get(), name_.c_str(), read_directory));
        // Between the two calls another run may have taken it for a killed one's.
        if (!run && (errno != ENOENT || attempt == 100)) fail("unpack into", ".", errno);
        if (run && lock(run, base, name_)) run_ = std::move(run);
        else if (attempt == 100) throw Error(ErrorCode::unavailable, "the staging directory is taken away all the time", "try again");
    }
    base_after_ = mtime_of(base);
    if (::mkdirat(run_.get(), tree_name, 0700) != 0 || ::mkdirat(run_.get(), removed_name, 0700) != 0) {
        const int error = errno;
        remove_run(base_, name_);
        fail("unpack into", ".", error, base.get());
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

void Staging::apply(const std::vector<DirectoryValues>& directories, std::ptrdiff_t replaced_depth) {
    const File plan = open_plan(run_, O_RDWR | O_CREAT | O_EXCL);
    if (!plan) fail("write the plan in", ".", errno, run_.get());
    try {
        Planner(tree_, root_, directories, replaced_depth, plan.get()).run();
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
        for (Step step; get_step(plan.get(), step);) do_step(at, step);
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
