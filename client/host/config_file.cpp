#include "client/host/config_file.hpp"

#include "common/error.hpp"
#include "common/patch/lines.hpp"

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <optional>

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

namespace pyro::host {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t config_bytes = 64u << 20;

// The file that all links lead to.
std::string real_path(const std::string& path) {
    std::error_code failed;
    const fs::path found = fs::canonical(path, failed);
    if (!failed) return found.string();
    if (fs::is_symlink(fs::symlink_status(path, failed)))
        throw Error(ErrorCode::failed_precondition, path + " is a link that leads nowhere", "mend the link, or remove it");
    return path;
}

std::optional<struct stat> status_of(const std::string& path) {
    struct stat found{};
    if (::stat(path.c_str(), &found) == 0) {
        if (!S_ISREG(found.st_mode)) throw Error(ErrorCode::failed_precondition, path + " is not a file", "move it out of the way");
        return found;
    }
    if (errno == ENOENT) return std::nullopt;
    throw Error::from_errno("look at " + path);
}

// The directory that keeps the file's own program, and us, from writing at the same time.
class LockBeside {
public:
    explicit LockBeside(std::string path) : path_(std::move(path)) {
        using namespace std::chrono_literals;
        // Whoever holds it renews it; one that is older was left behind by somebody who was killed.
        constexpr auto stale = 10s;
        const UniqueFd changes(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
        if (!changes || ::inotify_add_watch(changes.get(), fs::path(path_).parent_path().c_str(), IN_DELETE | IN_MOVED_FROM) < 0)
            throw Error::from_errno("watch " + path_);
        for (const auto deadline = std::chrono::steady_clock::now() + 15s; ::mkdir(path_.c_str(), 0777) != 0;) {
            if (errno != EEXIST) throw Error::from_errno("make " + path_);
            struct stat found{};
            if (::stat(path_.c_str(), &found) == 0 && std::chrono::system_clock::now() - std::chrono::system_clock::from_time_t(found.st_mtime) > stale) {
                if (::rmdir(path_.c_str()) != 0 && errno != ENOENT) throw Error::from_errno("remove the stale lock " + path_);
                continue;
            }
            if (std::chrono::steady_clock::now() > deadline)
                throw Error(ErrorCode::unavailable, "another program holds " + path_, "try again, or remove that directory if no such program runs");
            // Something beside it has gone, or a second is over, in which it may have become stale.
            pollfd gone{changes.get(), POLLIN, 0};
            char events[4096];
            if (::poll(&gone, 1, 1000) > 0)
                while (::read(changes.get(), events, sizeof events) > 0) {}
        }
    }
    ~LockBeside() { ::rmdir(path_.c_str()); }
    LockBeside(const LockBeside&) = delete;
    LockBeside& operator=(const LockBeside&) = delete;

private:
    std::string path_;
};

class Temporary {
public:
    explicit Temporary(const std::string& beside) : path_(beside + ".XXXXXX") {
        fd_.reset(::mkostemp(path_.data(), O_CLOEXEC));
        if (!fd_) throw Error::from_errno("make a file beside " + beside);
    }
    ~Temporary() { if (!path_.empty()) ::unlink(path_.c_str()); }
    Temporary(const Temporary&) = delete;
    Temporary& operator=(const Temporary&) = delete;
    int fd() const { return fd_.get(); }
    void become(const std::string& path) {
        if (::fsync(fd()) != 0) throw Error::from_errno("write " + path);
        if (::rename(path_.c_str(), path.c_str()) != 0) throw Error::from_errno("replace " + path);
        path_.clear();
    }

private:
    std::string path_;
    UniqueFd fd_;
};

void replace(const std::string& path, const std::string& text, const std::optional<struct stat>& before, unsigned new_mode) {
    Temporary temporary(path);
    if (before) {
        const bool mine = before->st_uid == ::geteuid() && before->st_gid == ::getegid();
        if (!mine && ::fchown(temporary.fd(), before->st_uid, before->st_gid) != 0 && before->st_uid != ::geteuid())
            throw Error(ErrorCode::failed_precondition, path + " belongs to another user", "run this as that user");
    }
    if (::fchmod(temporary.fd(), before ? before->st_mode & 07777 : new_mode) != 0) throw Error::from_errno("set the mode of " + path);
    try {
        write_all(temporary.fd(), text);
    } catch (Error& e) {
        throw e.add_context(path + " is as it was");
    }
    temporary.become(path);
}

// A line that a comma more or less does not change.
std::string_view without_comma(std::string_view line) {
    line = line.substr(0, line.find_last_not_of("\r\n") + 1);
    return line.ends_with(',') ? line.substr(0, line.size() - 1) : line;
}

}  // namespace

std::string Rewritten::lines() const {
    const auto old_lines = patch::split_lines(before), new_lines = patch::split_lines(after);
    const auto compared = [](std::vector<std::string_view> lines) {
        for (std::string_view& line : lines) line = without_comma(line);
        return lines;
    };
    constexpr std::uint64_t work = 1u << 24;
    const patch::LineDiff diff = patch::diff_lines(compared(old_lines), compared(new_lines), work);
    std::string out;
    const auto show = [&](char sign, std::string_view line) { out += sign + std::string(line.substr(0, line.find_last_not_of("\r\n") + 1)) + "\n"; };
    std::size_t from = 0, to = 0;
    while (from < old_lines.size() || to < new_lines.size()) {
        if (from < old_lines.size() && diff.deleted[from]) show('-', old_lines[from++]);
        else if (to < new_lines.size() && diff.added[to]) show('+', new_lines[to++]);
        else ++from, ++to;
    }
    return out;
}

std::string read_config(const ConfigFile& file) {
    const std::string path = real_path(file.path);
    return status_of(path) ? read_file(path, config_bytes) : std::string();
}

Rewritten rewrite_config(const ConfigFile& file, bool dry_run, const std::function<std::string(const std::string&)>& edit) {
    if (dry_run) {
        const std::string before = read_config(file);
        return {before, edit(before)};
    }
    const std::string path = real_path(file.path);
    const fs::path folder = fs::path(path).parent_path();
    // Not before it is known that there will be something to write.
    if (std::error_code failed; !fs::exists(folder, failed)) {
        if (edit(std::string()).empty()) return {};
        fs::create_directories(folder, failed);
        if (failed) throw Error::from_errno("make " + folder.string(), failed.value());
        if ((file.new_mode & 077) == 0) ::chmod(folder.c_str(), 0700);
    }
    // Of several of us one writes at a time.
    const UniqueFd directory = open_file(folder.string(), O_RDONLY | O_DIRECTORY);
    while (::flock(directory.get(), LOCK_EX) != 0)
        if (errno != EINTR) throw Error::from_errno("lock " + folder.string());
    std::optional<LockBeside> lock;
    if (file.lock_beside) lock.emplace(path + ".lock");

    const auto status = status_of(path);
    Rewritten done;
    done.before = status ? read_file(path, config_bytes) : std::string();
    done.after = edit(done.before);
    if (done.after == done.before) return done;
    replace(path, done.after, status, file.new_mode);
    ::fsync(directory.get());
    return done;
}

}  // namespace pyro::host
