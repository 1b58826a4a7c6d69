#include "daemon/supervise/spawn.hpp"

#include "common/error.hpp"
#include "daemon/supervise/jail.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace pyro::supervise {
namespace {

enum Step : int { enter_scope, pass_fds, new_session, terminal, namespaces, enter_jail, limits, groups, bounding_set, group_id, user_id, capabilities_, no_new_privs,
                  parent_death, directory, signals, execute };
constexpr std::array step_names{"enter its cgroup", "pass its file descriptors", "make a session", "take its terminal", "make its namespaces", "enter its jail", "set its limits", "set its groups",
                                "drop its bounding set", "set its group", "set its user", "drop its capabilities",
                                "set no_new_privs", "tie it to the daemon", "change to its directory", "reset its signals", "execute it"};

constexpr int first_free_fd = 3;

// Everything the child needs, made before the fork: it must not allocate.
struct Prepared {
    const char* path;
    int program_fd;           // of `path`, where it could be opened
    int jail_fd;              // its mount namespace; -1: none
    const char* cwd;
    char* const* argv;
    char* const* env;
    const PassedFd* fds;
    int* moved;               // scratch, as long as fds
    std::size_t fd_count;
    int highest_target;
    int null_fd;
    int gate_fd;
    int outcome_fd;
    const Command* command;
    const int* entries;       // files of cgroups, to each of which it writes 0
    std::size_t entry_count;
};

[[noreturn]] void give_up(int outcome_fd, Step step) noexcept {
    const ChildFailure failure{step, errno};
    [[maybe_unused]] const ssize_t ignored = ::write(outcome_fd, &failure, sizeof failure);
    ::_exit(127);
}

// Sources first go above every target, so that placing one cannot overwrite another; then the child's own, right above them.
void place_descriptors(Prepared& p) noexcept {
    constexpr int owned = 4;
    int* const mine[owned] = {&p.outcome_fd, &p.gate_fd, &p.program_fd, &p.jail_fd};
    const int above = p.highest_target + 1, far_above = above + owned;
    for (int* fd : mine) {
        if (*fd < 0) continue;
        const int moved = ::fcntl(*fd, F_DUPFD_CLOEXEC, far_above);
        if (moved < 0) give_up(p.outcome_fd, pass_fds);
        *fd = moved;
    }
    const int null = ::fcntl(p.null_fd, F_DUPFD_CLOEXEC, far_above);
    if (null < 0) give_up(p.outcome_fd, pass_fds);
    for (std::size_t i = 0; i < p.fd_count; ++i) {
        p.moved[i] = ::fcntl(p.fds[i].fd.get(), F_DUPFD_CLOEXEC, far_above);
        if (p.moved[i] < 0) give_up(p.outcome_fd, pass_fds);
    }
    for (int number = 0; number < first_free_fd; ++number)
        if (::dup2(null, number) < 0) give_up(p.outcome_fd, pass_fds);
    for (std::size_t i = 0; i < p.fd_count; ++i)
        if (::dup2(p.moved[i], p.fds[i].number) < 0) give_up(p.outcome_fd, pass_fds);
    for (int number = first_free_fd; number < above; ++number) {
        bool wanted = false;
        for (std::size_t i = 0; i < p.fd_count; ++i) wanted = wanted || p.fds[i].number == number;
        if (!wanted) ::close(number);
    }
    int next = above;
    for (int* fd : mine) {
        if (*fd < 0) continue;
        if (::dup3(*fd, next, O_CLOEXEC) < 0) give_up(p.outcome_fd, pass_fds);
        *fd = next++;
    }
    ::syscall(SYS_close_range, static_cast<unsigned>(next), ~0U, 0U);
}

void drop_privileges(const Prepared& p) noexcept {
    const Credentials& as = *p.command->as;
    // Raw calls: the C library's versions want to tell threads that this child does not have.
    if (::syscall(SYS_setgroups, as.groups.size(), as.groups.data()) != 0) give_up(p.outcome_fd, groups);
    for (int capability = 0;; ++capability) {
        const int held = ::prctl(PR_CAPBSET_READ, capability, 0, 0, 0);
        if (held < 0) break;  // past the kernel's last one
        if (held == 1 && ::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0) give_up(p.outcome_fd, bounding_set);
    }
    if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0) give_up(p.outcome_fd, capabilities_);
    if (::syscall(SYS_setresgid, as.gid, as.gid, as.gid) != 0) give_up(p.outcome_fd, group_id);
    if (::syscall(SYS_setresuid, as.uid, as.uid, as.uid) != 0) give_up(p.outcome_fd, user_id);
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct none[2]{};
    if (::syscall(SYS_capset, &header, none) != 0) give_up(p.outcome_fd, capabilities_);
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) give_up(p.outcome_fd, no_new_privs);
}

// Whoever reads the outcome is the daemon. Its pid would not tell: in a namespace of its own, this child sees none.
bool daemon_is_gone(int outcome_fd) noexcept {
    pollfd reader{outcome_fd, 0, 0};
    return ::poll(&reader, 1, 0) == 1 && (reader.revents & POLLERR) != 0;
}

// The mounts are copied, so that the /proc is seen by this program alone.
void enter_jail_of(int mount_namespace, int outcome_fd) noexcept {
    constexpr unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    if (::setns(mount_namespace, CLONE_NEWNS) != 0 || ::unshare(CLONE_NEWNS) != 0) give_up(outcome_fd, enter_jail);
    // Of processes alone; before Linux 5.8 what else there is comes with them.
    if (::mount("proc", "/proc", "proc", flags, "subset=pid,hidepid=2") != 0 && ::mount("proc", "/proc", "proc", flags, "hidepid=2") != 0)
        give_up(outcome_fd, enter_jail);
}

// Best effort: who needs it says so himself, and where nothing covers /proc all is well without.
void mount_fresh_proc() noexcept {
    if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return;
    ::mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr);
}

[[noreturn]] void child(Prepared p) noexcept {
    for (std::size_t i = 0; i < p.entry_count; ++i)
        if (::write(p.entries[i], "0", 1) != 1) give_up(p.outcome_fd, enter_scope);
    place_descriptors(p);
    if (::setsid() < 0) give_up(p.outcome_fd, new_session);
    if (p.command->controlling_terminal && ::ioctl(0, TIOCSCTTY, 0) != 0) give_up(p.outcome_fd, terminal);
    char byte;
    ssize_t n;
    do n = ::read(p.gate_fd, &byte, 1); while (n < 0 && errno == EINTR);
    if (n != 1) ::_exit(127);  // the daemon went, or thought better of it
    if (const int flags = p.command->unshare_flags & ~CLONE_NEWPID; flags != 0 && ::unshare(flags) != 0) give_up(p.outcome_fd, namespaces);
    if (p.jail_fd >= 0) enter_jail_of(p.jail_fd, p.outcome_fd);
    if (p.command->fresh_proc) mount_fresh_proc();
    // The daemon's own is as high as it gets; what select() can count is what programs expect.
    rlimit files{};
    if (::getrlimit(RLIMIT_NOFILE, &files) != 0) give_up(p.outcome_fd, limits);
    files.rlim_cur = files.rlim_max < FD_SETSIZE ? files.rlim_max : rlim_t{FD_SETSIZE};
    if (::setrlimit(RLIMIT_NOFILE, &files) != 0) give_up(p.outcome_fd, limits);
    for (const ResourceLimit& limit : p.command->limits) {
        const rlimit value{limit.value, limit.value};
        if (::setrlimit(static_cast<__rlimit_resource>(limit.resource), &value) != 0) give_up(p.outcome_fd, limits);
    }
    if (p.command->as) drop_privileges(p);
    if (p.command->dies_with_daemon) {
        // After the change of user, which clears it; and the daemon may have gone before.
        if (::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0) give_up(p.outcome_fd, parent_death);
        if (daemon_is_gone(p.outcome_fd)) ::_exit(127);
    }
    if (::chdir(p.cwd) != 0) give_up(p.outcome_fd, directory);
    ::umask(077);
    for (int number = 1; number < NSIG; ++number) {
        struct sigaction standard{};
        standard.sa_handler = SIG_DFL;
        ::sigaction(number, &standard, nullptr);  // fails only for those that cannot be changed
    }
    sigset_t empty;
    ::sigemptyset(&empty);
    if (::sigprocmask(SIG_SETMASK, &empty, nullptr) != 0) give_up(p.outcome_fd, signals);
    ::execve(p.path, p.argv, p.env);
    // The way to the program need not be open to whom it runs as: a build in a home directory.
    if (errno == EACCES && p.program_fd >= 0) ::syscall(SYS_execveat, p.program_fd, "", p.argv, p.env, AT_EMPTY_PATH);
    give_up(p.outcome_fd, execute);
}

std::vector<char*> pointers(const std::vector<std::string>& strings) {
    std::vector<char*> out;
    for (const std::string& s : strings) out.push_back(const_cast<char*>(s.c_str()));
    out.push_back(nullptr);
    return out;
}

std::pair<UniqueFd, UniqueFd> make_pipe() {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) != 0) throw Error::from_errno("make a pipe");
    return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

// While the child still has the daemon's handlers, no signal may reach it.
class BlockSignals {
public:
    BlockSignals() {
        sigset_t all;
        ::sigfillset(&all);
        ::pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    ~BlockSignals() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

private:
    sigset_t before_;
};

// fork with a pidfd, into a cgroup where `directory` is one. Without CLONE_VM, so the child waits at its gate without stopping
// anybody.
long fork_into(int directory, int namespaces, int& pidfd) noexcept {
    clone_args args{};
    args.flags = CLONE_PIDFD | static_cast<unsigned>(namespaces);
    args.pidfd = reinterpret_cast<__aligned_u64>(&pidfd);
    args.exit_signal = SIGCHLD;
    if (directory >= 0) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = static_cast<__aligned_u64>(directory);
    }
    return ::syscall(SYS_clone3, &args, sizeof args);
}

}  // namespace

const char* describe_step(int step) noexcept {
    const auto at = static_cast<std::size_t>(step);
    return at < step_names.size() ? step_names[at] : "start it";
}

GatedChild fork_gated(const Command& command, const ScopeEntrance& entrance) {
    if (command.path.empty() || command.path.front() != '/')
        throw Error(ErrorCode::invalid_argument, "a program's path must be absolute: " + command.path);
    if (command.argv.empty()) throw Error(ErrorCode::invalid_argument, "a program needs its name as first argument: " + command.path);
    const std::vector<char*> argv = pointers(command.argv);
    const std::vector<char*> env = pointers(command.env);
    std::vector<int> moved(command.fds.size());
    int highest = first_free_fd - 1;
    for (const PassedFd& passed : command.fds) {
        if (passed.number < 0 || passed.number > 1000)
            throw Error(ErrorCode::invalid_argument, "no such file descriptor number: " + std::to_string(passed.number));
        highest = std::max(highest, passed.number);
    }
    const UniqueFd null = open_file("/dev/null", O_RDWR);
    auto [gate_read, gate_write] = make_pipe();
    auto [outcome_read, outcome_write] = make_pipe();
    std::vector<int> entries;
    for (const UniqueFd& tasks : entrance.tasks) entries.push_back(tasks.get());
    const std::size_t of_v1 = entries.size();
    if (entrance.procs) entries.push_back(entrance.procs.get());
    const UniqueFd program(::open(command.path.c_str(), O_PATH | O_CLOEXEC));  // what cannot be opened, the child tells
    Prepared prepared{command.path.c_str(), program.get(), command.jail ? command.jail->mount_namespace() : -1, command.cwd.c_str(), argv.data(), env.data(), command.fds.data(), moved.data(),
                            command.fds.size(), highest, null.get(), gate_read.get(), outcome_write.get(), &command, entries.data(), of_v1};
    int pidfd = -1;
    long pid;
    {
        const BlockSignals block;
        const int new_pids = command.unshare_flags & CLONE_NEWPID;
        pid = fork_into(entrance.directory.get(), new_pids, pidfd);
        if (pid == 0) child(prepared);
        if (pid < 0 && errno == ENOSYS) {  // a container's filter, say, that does not know clone3
            prepared.entry_count = entries.size();
            pid = ::syscall(SYS_clone, CLONE_PIDFD | SIGCHLD | new_pids, nullptr, &pidfd, nullptr, nullptr);
            if (pid == 0) child(prepared);
        }
    }
    if (pid < 0) throw Error::from_errno("start " + command.path);
    return GatedChild{static_cast<pid_t>(pid), UniqueFd(pidfd), std::move(gate_write), std::move(outcome_read)};
}

}  // namespace pyro::supervise
