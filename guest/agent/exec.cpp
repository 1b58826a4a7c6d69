#include "guest/agent/exec.hpp"

#include "common/error.hpp"
#include "guest/agent/machine.hpp"
#include "guest/agent/users.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <grp.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

namespace pyro::guest {

using proto::agent::ExecSpec;
using proto::agent::ExitStatus;

namespace {

constexpr char default_path[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
constexpr std::size_t pipe_size = 1 << 20;  // the most there is without a privilege: few switches between a command and us

std::uint64_t clock_ns(clockid_t clock) {
    timespec now{};
    ::clock_gettime(clock, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(now.tv_nsec);
}

struct Pipe {
    UniqueFd read, write;
};

Pipe make_pipe() {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) != 0) throw Error::from_errno("create a pipe");
    return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

void make_nonblocking(const UniqueFd& fd) { ::fcntl(fd.get(), F_SETFL, ::fcntl(fd.get(), F_GETFL) | O_NONBLOCK); }

// What the child reports: that it stands by, or where it could not become the command.
enum class Stage : int { none, terminal, groups, directory, program };
struct StartFailure {
    Stage stage = Stage::none;
    int error_number = 0;
};

// The streams of a command without a terminal, ours not blocking, and its word about its start.
struct Streams {
    Pipe in, out, err, start;
};

Streams make_streams(bool with_input) {
    Streams made{{}, make_pipe(), make_pipe(), make_pipe()};
    if (with_input) {
        made.in = make_pipe();
        ::fcntl(made.in.write.get(), F_SETPIPE_SZ, pipe_size);
        make_nonblocking(made.in.write);
    } else {
        made.in.read = open_file("/dev/null", O_RDONLY);
    }
    ::fcntl(made.out.write.get(), F_SETPIPE_SZ, pipe_size);
    for (const Pipe* pipe : {&made.out, &made.err, &made.start}) make_nonblocking(pipe->read);
    return made;
}

// Everything the child needs, made before the fork or read from an order.
struct Plan {
    std::string program, cwd;
    int own_program = -1;  // instead of `program`
    std::vector<char*> argv, env;
    User user;
    int in = -1, out = -1, err = -1, failure = -1;
    bool tty = false;
};

[[noreturn]] void give_up(int failure_fd, Stage stage) noexcept {
    const StartFailure failure{stage, errno};
    if (::write(failure_fd, &failure, sizeof failure) < 0) ::_exit(126);
    ::_exit(126);
}

// What is the same for all commands: first of all in the child.
void be_ordinary(int failure_fd) noexcept {
    ::setsid();
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    const sched_param ordinary{};
    if (::sched_setscheduler(0, SCHED_OTHER, &ordinary) != 0) give_up(failure_fd, Stage::groups);  // we are a batch process
    if (::geteuid() == 0) {
        const rlimit files{1024, 524288};
        ::setrlimit(RLIMIT_NOFILE, &files);
        if (::setgroups(0, nullptr) != 0) give_up(failure_fd, Stage::groups);
    }
    ::umask(022);
}

[[noreturn]] void become(const Plan& plan) noexcept {
    const auto give_up = [&plan](Stage stage) { guest::give_up(plan.failure, stage); };
    if (plan.tty && ::ioctl(plan.in, TIOCSCTTY, 0) != 0) give_up(Stage::terminal);
    // The sources are above 2: the agent holds 0, 1 and 2 itself.
    if (::dup2(plan.in, 0) < 0 || ::dup2(plan.out, 1) < 0 || ::dup2(plan.err, 2) < 0) give_up(Stage::terminal);
    // Root without groups is what we are.
    const User& user = plan.user;
    if (::geteuid() == 0 && (user.uid != 0 || user.gid != 0 || !user.groups.empty()) &&
        (::setgroups(user.groups.size(), user.groups.data()) != 0 || ::setgid(user.gid) != 0 || ::setuid(user.uid) != 0))
        give_up(Stage::groups);
    if (::chdir(plan.cwd.c_str()) != 0) give_up(Stage::directory);
    if (plan.own_program >= 0) ::execveat(plan.own_program, "", plan.argv.data(), plan.env.data(), AT_EMPTY_PATH);
    else ::execve(plan.program.c_str(), plan.argv.data(), plan.env.data());
    give_up(Stage::program);
    ::_exit(126);
}

// A copy of this process that is born in its cgroup (no migration, which would wait for an RCU grace period) and without our
// ways with signals.
pid_t fork_into(int cgroup) {
    clone_args args{};
    args.exit_signal = SIGCHLD;
    args.flags = CLONE_CLEAR_SIGHAND;
    if (cgroup >= 0) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = static_cast<__aligned_u64>(cgroup);
    }
    return static_cast<pid_t>(::syscall(SYS_clone3, &args, sizeof args));
}

// This program, by a descriptor that was opened while it was still the only one that ran: a path would be looked up in a root
// that belongs to others.
int own_program() {
    static const UniqueFd self(::open("/proc/self/exe", O_PATH | O_CLOEXEC));
    return self.get();
}

// How a standby is told what to become: this, the groups, then program, directory, arguments and environment, each ended by a
// zero.
struct Order {
    std::uint32_t size = 0;  // of what follows
    uid_t uid = 0;
    gid_t gid = 0;
    std::uint32_t groups = 0, arguments = 0, variables = 0;
    bool has_stdin = false, own_program = false;
};

// An empty pipe takes it at once.
constexpr std::size_t max_order = 64 << 10;

std::string order_for(const Plan& plan, bool has_stdin) {
    std::string body(reinterpret_cast<const char*>(plan.user.groups.data()), plan.user.groups.size() * sizeof(gid_t));
    const auto add = [&body](const char* text) { body.append(text, std::strlen(text) + 1); };
    add(plan.program.c_str()), add(plan.cwd.c_str());
    for (const char* argument : plan.argv)
        if (argument) add(argument);
    for (const char* variable : plan.env)
        if (variable) add(variable);
    Order order;
    order.size = static_cast<std::uint32_t>(body.size());
    order.uid = plan.user.uid, order.gid = plan.user.gid;
    order.groups = static_cast<std::uint32_t>(plan.user.groups.size());
    order.arguments = static_cast<std::uint32_t>(plan.argv.size() - 1), order.variables = static_cast<std::uint32_t>(plan.env.size() - 1);
    order.has_stdin = has_stdin, order.own_program = plan.own_program >= 0;
    return std::string(reinterpret_cast<const char*>(&order), sizeof order) + body;
}

void read_order(int fd, void* to, std::size_t size) noexcept {
    for (std::size_t done = 0; done < size;) {
        const ssize_t n = ::read(fd, static_cast<char*>(to) + done, size - done);
        if (n == 0) ::_exit(0);  // the agent has no use for this process
        if (n > 0) done += static_cast<std::size_t>(n);
    }
}

// In the child. Nothing else of ours stays open: it would outlive the commands it belongs to.
[[noreturn]] void wait_and_become(const Streams& streams, int order_fd) noexcept {
    const int failure = streams.start.write.get();
    be_ordinary(failure);
    std::array keep{streams.in.read.get(), streams.out.write.get(), streams.err.write.get(), failure, order_fd, own_program()};
    std::sort(keep.begin(), keep.end());
    int next = 3;
    for (const int fd : keep) {
        if (fd > next) ::close_range(static_cast<unsigned>(next), static_cast<unsigned>(fd) - 1, 0);
        next = fd + 1;
    }
    ::close_range(static_cast<unsigned>(next), ~0u, 0);
    const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    const StartFailure waits{};
    if (null < 0 || ::write(failure, &waits, sizeof waits) < 0) ::_exit(126);

    Order order;
    read_order(order_fd, &order, sizeof order);
    static char body[max_order];
    read_order(order_fd, body, order.size);
    Plan plan;
    const char* at = body;
    plan.user.uid = order.uid, plan.user.gid = order.gid;
    plan.user.groups.resize(order.groups);
    std::memcpy(plan.user.groups.data(), at, order.groups * sizeof(gid_t));
    at += order.groups * sizeof(gid_t);
    const auto text = [&at] { return std::exchange(at, at + std::strlen(at) + 1); };
    plan.program = text(), plan.cwd = text();
    if (order.own_program) plan.own_program = own_program();
    for (std::uint32_t i = 0; i < order.arguments; ++i) plan.argv.push_back(const_cast<char*>(text()));
    for (std::uint32_t i = 0; i < order.variables; ++i) plan.env.push_back(const_cast<char*>(text()));
    plan.argv.push_back(nullptr), plan.env.push_back(nullptr);
    plan.in = order.has_stdin ? streams.in.read.get() : null;
    plan.out = streams.out.write.get(), plan.err = streams.err.write.get(), plan.failure = failure;
    become(plan);
}

bool is_told(const Standby& standby, const std::string& order) {
    if (order.size() > max_order) return false;
    try {
        write_all(standby.order.get(), order);
        return true;
    } catch (const Error&) {
        return false;  // somebody ended it
    }
}

// A cgroup's memory.events, read: what happens from now on is urgent news to a poll. None where there is none.
UniqueFd watch_memory(const std::string& cgroup) noexcept {
    if (cgroup.empty()) return {};
    UniqueFd events(::open((cgroup + "/memory.events").c_str(), O_RDONLY | O_CLOEXEC));
    char all[1024];
    if (events && ::read(events.get(), all, sizeof all) < 0) events.reset();
    return events;
}

bool any_oom_kill(const UniqueFd& memory_events) {
    pollfd news{memory_events.get(), POLLPRI, 0};
    if (!memory_events || ::poll(&news, 1, 0) <= 0) return false;
    char all[1024] = {};
    if (::pread(memory_events.get(), all, sizeof all - 1, 0) < 0) return false;
    const char* const kills = std::strstr(all, "oom_kill ");
    return kills && std::strtoull(kills + 9, nullptr, 10) > 0;
}

}  // namespace

std::string find_program(const std::string& name, const std::string& path) {
    if (name.find('/') != std::string::npos) return name;
    std::string candidate, found_without_right;
    for (std::size_t at = 0; at <= path.size();) {
        const std::size_t colon = std::min(path.find(':', at), path.size());
        candidate = colon == at ? "." : path.substr(at, colon - at);
        candidate += "/" + name;
        struct stat s{};
        if (::stat(candidate.c_str(), &s) == 0 && S_ISREG(s.st_mode)) {
            if (s.st_mode & 0111) return candidate;
            if (found_without_right.empty()) found_without_right = candidate;
        }
        at = colon + 1;
    }
    return found_without_right;
}

std::vector<std::string> merge_env(const std::vector<const std::vector<std::string>*>& layers) {
    std::vector<std::string> merged;
    for (const auto* layer : layers)
        for (const std::string& entry : *layer) {
            const std::size_t equals = entry.find('=');
            if (equals == std::string::npos || equals == 0) continue;
            const std::string_view name(entry.data(), equals + 1);
            const auto same = std::find_if(merged.begin(), merged.end(), [&](const std::string& m) { return m.starts_with(name); });
            if (same == merged.end()) merged.push_back(entry);
            else *same = entry;
        }
    return merged;
}

void keep_own_program() {
    if (own_program() < 0) throw Error::from_errno("open this program");
}

Standby stand_by(std::string cgroup_path) {
    Streams streams = make_streams(true);
    Pipe order = make_pipe();
    UniqueFd cgroup;
    if (!cgroup_path.empty()) cgroup = open_file(cgroup_path, O_RDONLY | O_DIRECTORY);
    const pid_t pid = fork_into(cgroup.get());
    if (pid < 0) throw Error::from_errno("fork");
    if (pid == 0) wait_and_become(streams, order.read.get());
    UniqueFd memory_events = watch_memory(cgroup_path);
    return {pid, std::move(cgroup_path), std::move(memory_events), std::move(streams.in.write), std::move(streams.out.read), std::move(streams.err.read),
            std::move(order.write), std::move(streams.start.read), false};
}

bool hear(Standby& standby) {
    StartFailure word;
    const ssize_t n = ::read(standby.start.get(), &word, sizeof word);
    if (n < 0) return true;  // nothing yet
    standby.waits = n == sizeof word && word.stage == Stage::none;
    return standby.waits;
}

Exec::Exec(std::uint32_t number, Poll& poll) : number_(number), poll_(poll) {}

Exec::~Exec() {
    for (Output& output : outputs_)
        if (output.watched) poll_.forget(output.fd.get());
    if (input_watched_) poll_.forget(input_fd_.get());
    if (start_fd_) poll_.forget(start_fd_.get());
}

void Exec::fail(int exit_code, int error_number, const std::string& what) {
    ExitStatus status;
    status.kind = ExitStatus::Kind::not_started;
    status.exit_code = static_cast<std::uint8_t>(exit_code);
    status.error_number = error_number;
    status.error = what.substr(0, 900) + (error_number ? std::string(": ") + std::strerror(error_number) : "");
    status.wall_clock_ns = clock_ns(CLOCK_REALTIME);
    status_ = status;
    exit_pending = true;
}

void Exec::start(const ExecSpec& spec, const std::vector<std::string>& base_env, std::string cgroup) {
    cgroup_ = std::move(cgroup);
    memory_events_ = watch_memory(cgroup_);
    start(spec, base_env, std::optional<Standby>());
}

void Exec::start(const ExecSpec& spec, const std::vector<std::string>& base_env, Standby standby) {
    cgroup_ = standby.cgroup;
    memory_events_ = std::move(standby.memory_events);
    start(spec, base_env, std::optional(std::move(standby)));
}

void Exec::start(const ExecSpec& spec, const std::vector<std::string>& base_env, std::optional<Standby> standby) {
    started_at_ = clock_ns(CLOCK_MONOTONIC);
    for (Output& output : outputs_) output.end_pending = true;
    if (spec.argv.empty() || spec.argv.front().empty()) return fail(127, ENOENT, "the command is empty");
    const auto has_zero = [](const std::vector<std::string>& list) {
        return std::any_of(list.begin(), list.end(), [](const std::string& s) { return s.find('\0') != std::string::npos; });
    };
    if (has_zero(spec.argv) || has_zero(spec.env)) return fail(126, EINVAL, "an argument contains a zero byte");

    Plan plan;
    const bool superuser = ::geteuid() == 0;
    std::string error;
    // One of our own is root's by number: nothing in the image has a say in it.
    std::optional<User> user = spec.builtin ? User{} : find_user(spec.user, read_small_file("/etc/passwd"), read_small_file("/etc/group"), error);
    if (!user) return fail(126, 0, error);
    plan.user = std::move(*user);
    std::vector<std::string> defaults{std::string("PATH=") + default_path, "HOME=" + plan.user.home, "SHELL=" + plan.user.shell};
    if (!plan.user.name.empty()) defaults.push_back("USER=" + plan.user.name), defaults.push_back("LOGNAME=" + plan.user.name);
    if (spec.tty) defaults.push_back("TERM=xterm");
    std::vector<std::string> env = merge_env({&defaults, &base_env, &spec.env});
    const auto path = std::find_if(env.begin(), env.end(), [](const std::string& e) { return e.starts_with("PATH="); });
    plan.cwd = !spec.cwd.empty() ? spec.cwd : ::access(plan.user.home.c_str(), X_OK) == 0 ? plan.user.home : "/";
    std::vector<std::string> argv = spec.argv;
    if (spec.builtin) {
        plan.own_program = own_program();
        argv.insert(argv.begin(), "pyro-guest");
    } else {
        plan.program = find_program(spec.argv.front(), path->substr(5));
        if (plan.program.empty()) return fail(127, ENOENT, spec.argv.front());
    }
    program_ = plan.program.empty() ? argv.front() : plan.program, directory_ = plan.cwd;
    for (std::string& argument : argv) plan.argv.push_back(argument.data());
    for (std::string& entry : env) plan.env.push_back(entry.data());
    plan.argv.push_back(nullptr);
    plan.env.push_back(nullptr);

    const auto hand_over = [&](const UniqueFd& fd, gid_t group) {
        if (::fchown(fd.get(), plan.user.uid, group) != 0) throw Error::from_errno("hand over a stream");
    };
    try {
        UniqueFd terminal_end, cgroup;
        Streams streams;
        tty_ = plan.tty = spec.tty;
        if (tty_) {
            UniqueFd terminal = open_file("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK);
            int unlock = 0;
            if (::ioctl(terminal.get(), TIOCSPTLCK, &unlock) != 0) throw Error::from_errno("unlock a terminal");
            terminal_end = UniqueFd(::ioctl(terminal.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
            if (!terminal_end) throw Error::from_errno("open a terminal");
            if (superuser) hand_over(terminal_end, static_cast<gid_t>(-1));
            streams.start = make_pipe();
            make_nonblocking(streams.start.read);
            outputs_[0].fd = std::move(terminal);
            input_fd_ = outputs_[0].fd.duplicate();
            resize(spec.cols, spec.rows);
            plan.in = plan.out = plan.err = terminal_end.get();
        } else {
            // /dev/stdout and the like are opened anew by name: they must be the user's. They are root's already.
            const auto hand_over_all = [&](std::initializer_list<const UniqueFd*> ends) {
                if (superuser && (plan.user.uid != 0 || plan.user.gid != 0))
                    for (const UniqueFd* end : ends) hand_over(*end, plan.user.gid);
            };
            if (standby) {
                hand_over_all({&standby->in, &standby->out, &standby->err});
                if (!is_told(*standby, order_for(plan, spec.has_stdin))) standby.reset();
            }
            if (standby) {
                streams.in.write = std::move(standby->in), streams.out.read = std::move(standby->out);
                streams.err.read = std::move(standby->err), streams.start.read = std::move(standby->start);
                pid_ = standby->pid;
            } else {
                streams = make_streams(spec.has_stdin);
                hand_over_all({&streams.out.read, &streams.err.read});
                if (spec.has_stdin) hand_over_all({&streams.in.write});
            }
            outputs_[0].fd = std::move(streams.out.read), outputs_[1].fd = std::move(streams.err.read);
            if (spec.has_stdin) input_fd_ = std::move(streams.in.write);
            plan.in = streams.in.read.get(), plan.out = streams.out.write.get(), plan.err = streams.err.write.get();
        }
        input_closed_ = !input_fd_;
        plan.failure = streams.start.write.get();
        if (!standby) {
            if (!cgroup_.empty()) cgroup = open_file(cgroup_, O_RDONLY | O_DIRECTORY);
            const pid_t pid = fork_into(cgroup.get());
            if (pid < 0) throw Error::from_errno("fork");
            if (pid == 0) {
                be_ordinary(plan.failure);
                become(plan);
            }
            pid_ = pid;
        }
        start_fd_ = std::move(streams.start.read);
    } catch (const Error& e) {
        outputs_[0].fd.reset(), outputs_[1].fd.reset();
        close_input();
        return fail(126, 0, e.message());
    }
    poll_.watch(start_fd_.get(), false, number_, Source::start);
    watch_output(Source::out);
    watch_output(Source::err);
}

void Exec::on_start() {
    if (!start_fd_) return;
    StartFailure failure;
    ssize_t n = 0;
    do n = ::read(start_fd_.get(), &failure, sizeof failure);
    while (n == sizeof failure && failure.stage == Stage::none);  // it stood by
    if (n < 0) return;  // not yet
    poll_.forget(start_fd_.get());
    start_fd_.reset();
    if (n == sizeof failure) {
        const bool missing = failure.stage == Stage::program && failure.error_number == ENOENT;
        const std::string run = "run " + program_ + (missing && ::access(program_.c_str(), F_OK) == 0 ? ", whose interpreter or loader the image lacks" : "");
        const std::string names[] = {"start", "take the terminal", "become the user", "enter " + directory_, run};
        fail(missing ? 127 : 126, failure.error_number, names[static_cast<int>(failure.stage)]);
        exit_pending = false;  // told once the process is reaped
    } else {
        started_ = proto::agent::Started{static_cast<std::uint32_t>(pid_), clock_ns(CLOCK_REALTIME)};
        started_pending = true;
    }
}

void Exec::on_exit(int wait_status) {
    on_start();  // its word comes before its end
    const bool not_started = status_.has_value();
    ExitStatus status = status_.value_or(ExitStatus());
    if (!not_started) {
        status.kind = WIFSIGNALED(wait_status) ? ExitStatus::Kind::signalled : ExitStatus::Kind::exited;
        status.exit_code = static_cast<std::uint8_t>(WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 0);
        status.signal = static_cast<std::uint8_t>(WIFSIGNALED(wait_status) ? WTERMSIG(wait_status) : 0);
        status.oom = any_oom_kill(memory_events_);
    }
    status.wall_clock_ns = clock_ns(CLOCK_REALTIME);
    status.duration_ns = clock_ns(CLOCK_MONOTONIC) - started_at_;
    status_ = status;
    pid_ = 0;
    exit_pending = true;
    for (const Source source : {Source::out, Source::err}) on_readable(source);  // what it left in the pipes
}

bool Exec::exit_deliverable() const noexcept {
    return exit_pending && pid_ == 0 && status_ &&
           std::all_of(outputs_.begin(), outputs_.end(), [](const Output& o) { return (o.ended() || o.drained) && o.sent == o.ring.end(); });
}

void Exec::watch_output(Source source) {
    Output& output = outputs_[source == Source::out ? 0 : 1];
    const bool wanted = output.fd && output.ring.room() > 0;
    if (wanted == output.watched) return;
    if (wanted) poll_.watch(output.fd.get(), false, number_, source);
    else if (output.fd) poll_.forget(output.fd.get());
    output.watched = wanted;
}

void Exec::on_readable(Source source) {
    Output& output = outputs_[source == Source::out ? 0 : 1];
    // Not for ever: others wait too, and what remains is reported again.
    // Streams, in pieces as large as can be: each read wakes a command that waits for room, which then runs first.
    for (std::size_t budget = pipe_size; output.fd && output.ring.room() > 0;) {
        const std::span<char> space = output.ring.prepare(output.read_size);
        const ssize_t n = ::read(output.fd.get(), space.data(), space.size());
        if (n > 0) {
            output.ring.commit(static_cast<std::size_t>(n));
            if (static_cast<std::size_t>(n) == output.read_size) output.read_size = std::min(2 * output.read_size, pipe_size);
            if (status_ && pid_ == 0) {
                // More than any pipe holds: what comes now is from a process left behind, which the end need not wait for.
                output.read_since_exit += static_cast<std::size_t>(n);
                if (output.read_since_exit > 1 << 20) output.drained = true;
            }
            if (static_cast<std::size_t>(n) >= budget) break;
            budget -= static_cast<std::size_t>(n);
            continue;
        }
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) {
            if (status_ && pid_ == 0) output.drained = true;
            break;
        }
        // The end; a terminal says it with EIO once nobody has it open.
        if (output.watched) poll_.forget(output.fd.get());
        output.watched = false;
        output.fd.reset();
        output.end_pending = true;
    }
    watch_output(source);
}

void Exec::acknowledge(proto::agent::Output which, std::uint64_t offset) {
    Output& o = output(which);
    if (offset > o.sent) return;  // of bytes never sent: nonsense
    o.ring.drop_before(offset);
    watch_output(which == proto::agent::Output::out ? Source::out : Source::err);
}

void Exec::resume(std::uint64_t out, std::uint64_t err) {
    const std::uint64_t from[] = {out, err};
    for (std::size_t i = 0; i < 2; ++i) {
        Output& o = outputs_[i];
        o.sent = std::clamp(from[i], o.ring.begin(), o.ring.end());
        o.ring.drop_before(o.sent);
        o.end_pending = true;
        watch_output(i == 0 ? Source::out : Source::err);
    }
    started_pending = started_.has_value();
    exit_pending = status_.has_value() && pid_ == 0;
    input_ack_pending = true;
}

void Exec::take_input(std::uint64_t offset, std::string_view bytes) {
    // What was sent twice is dropped, what does not follow is void: the host goes on from the acknowledged offset.
    const std::uint64_t end = input_.end() + arrived_size_;
    if (offset > end || input_end_) return;
    bytes.remove_prefix(std::min(bytes.size(), static_cast<std::size_t>(end - offset)));
    bytes = bytes.substr(0, input_.room() - arrived_size_);
    if (bytes.empty()) return;
    arrived_.push_back(bytes);
    arrived_size_ += bytes.size();
}

void Exec::deliver_input() {
    if (arrived_.empty()) return;
    std::size_t done = 0;
    if (input_closed_) {
        done = arrived_size_;
    } else if (input_.size() == 0 && !tty_) {
        // The usual case: straight on, without a copy.
        std::vector<iovec> pieces;
        for (const std::string_view bytes : arrived_) pieces.push_back({const_cast<char*>(bytes.data()), bytes.size()});
        const ssize_t n = ::writev(input_fd_.get(), pieces.data(), static_cast<int>(std::min<std::size_t>(pieces.size(), IOV_MAX)));
        if (n > 0) done = static_cast<std::size_t>(n);
    }
    std::size_t skipped = done;
    if (input_.size() == 0) input_.skip(done);
    for (std::string_view bytes : arrived_) {
        const std::size_t count = std::min(skipped, bytes.size());
        skipped -= count;
        input_.append(bytes.substr(count));
    }
    arrived_.clear();
    arrived_size_ = 0;
    flush_input();
}

bool Exec::takes_pages(std::uint64_t offset, std::size_t length, std::size_t before) const noexcept {
    return !tty_ && !input_closed_ && !input_end_ && input_.size() == 0 && offset == input_.end() + before && before + length <= input_.room();
}

void Exec::take_pages(int pipe, std::size_t count) {
    while (count > 0 && !input_closed_) {
        const ssize_t n = ::splice(pipe, nullptr, input_fd_.get(), nullptr, count, SPLICE_F_NONBLOCK);
        if (n > 0) {
            input_.skip(static_cast<std::size_t>(n));
            count -= static_cast<std::size_t>(n);
        } else if (n == 0 || errno != EINTR) {
            break;  // it is full, or nobody reads it any more
        }
    }
    while (count > 0) {
        const std::span<char> space = input_.prepare(count);
        const ssize_t n = ::read(pipe, space.data(), space.size());
        if (n < 0 && errno == EINTR) continue;
        PYRO_CHECK(n > 0);
        input_.commit(static_cast<std::size_t>(n));
        count -= static_cast<std::size_t>(n);
    }
    if (input_closed_) input_.drop_before(input_.end());
    flush_input();
}

void Exec::end_input(std::uint64_t offset) {
    deliver_input();
    if (offset != input_.end() || input_end_) return;
    input_end_ = offset;
    flush_input();
}

void Exec::on_writable() { flush_input(); }

void Exec::flush_input() {
    while (!input_closed_ && input_.size() > 0) {
        const std::string_view bytes = input_.at(input_.begin(), 64 << 10);
        const ssize_t n = ::write(input_fd_.get(), bytes.data(), bytes.size());
        if (n > 0) {
            input_.drop_before(input_.begin() + static_cast<std::size_t>(n));
        } else if (n < 0 && errno == EAGAIN) {
            break;
        } else if (n == 0 || errno != EINTR) {
            close_input();  // nobody reads it any more
        }
    }
    bool terminal_full = false;
    if (!input_closed_ && input_end_ && input_.size() == 0) {
        constexpr char end_of_transmission = 4;
        terminal_full = tty_ && ::write(input_fd_.get(), &end_of_transmission, 1) < 0 && errno == EAGAIN;
        if (!terminal_full) close_input();
    }
    const bool wanted = !input_closed_ && (input_.size() > 0 || terminal_full);
    if (wanted != input_watched_) {
        if (wanted) poll_.watch(input_fd_.get(), true, number_, Source::input);
        else if (input_fd_) poll_.forget(input_fd_.get());
        input_watched_ = wanted;
    }
    acknowledge_input_if_due();
}

void Exec::acknowledge_input_if_due() {
    if (input_.begin() - input_acknowledged_ < proto::agent::input_window / 8) return;
    input_acknowledged_ = input_.begin();
    input_ack_pending = true;
}

void Exec::close_input() {
    if (input_watched_) poll_.forget(input_fd_.get());
    input_watched_ = false;
    input_fd_.reset();
    input_closed_ = true;
    input_.drop_before(input_.end());
    input_ack_pending = true;
}

void Exec::resize(std::uint16_t cols, std::uint16_t rows) noexcept {
    winsize size{};
    size.ws_col = cols;
    size.ws_row = rows;
    if (tty_ && outputs_[0].fd) ::ioctl(outputs_[0].fd.get(), TIOCSWINSZ, &size);
}

void Exec::signal(int number) noexcept {
    if (pid_ == 0 || number < 1 || number >= NSIG) return;
    pid_t group = 0;
    if (tty_ && outputs_[0].fd && ::ioctl(outputs_[0].fd.get(), TIOCGPGRP, &group) == 0 && group > 0) ::kill(-group, number);
    else if (::kill(-pid_, number) != 0) ::kill(pid_, number);  // before its setsid it leads no group
}

void Exec::kill() noexcept {
    if (!cgroup_.empty()) {
        const UniqueFd all(::open((cgroup_ + "/cgroup.kill").c_str(), O_WRONLY | O_CLOEXEC));
        if (all && ::write(all.get(), "1", 1) == 1) return;
    }
    if (pid_ != 0 && ::kill(-pid_, SIGKILL) != 0) ::kill(pid_, SIGKILL);
}

}  // namespace pyro::guest
