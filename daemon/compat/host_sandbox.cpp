#include "daemon/compat/host_sandbox.hpp"

#include "common/error.hpp"

#include <ctime>
#include <fcntl.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

namespace pyro::compat {

namespace {

constexpr std::size_t chunk_bytes = 64 << 10;
constexpr std::size_t chunks_held = 4;  // read ahead of the client by that many chunks, no more

std::int64_t clock_ns(clockid_t clock) {
    timespec now{};
    ::clock_gettime(clock, &now);
    return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

std::pair<UniqueFd, UniqueFd> make_pipe() {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) != 0) throw Error::from_errno("make a pipe");
    return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

}  // namespace

std::vector<std::string> bubblewrap_arguments(const SandboxPlan& plan) {
    const agent::ExecSpec& command = plan.command;
    std::vector<std::string> args{"bwrap", "--unshare-all", "--die-with-parent", "--clearenv",
                                  "--bind", plan.root, "/",
                                  "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/run", "--hostname", "sandbox"};
    for (const std::string& variable : command.env) {
        const std::size_t equals = variable.find('=');
        args.insert(args.end(), {"--setenv", variable.substr(0, equals), variable.substr(equals + 1)});
    }
    args.insert(args.end(), {"--setenv", "HOME", "/tmp", "--chdir", command.cwd.empty() ? "/" : command.cwd, "--"});
    // The shell tells "not found" from "not executable" by its exit status, which bubblewrap does not.
    args.insert(args.end(), {"/bin/sh", "-c", "exec \"$@\"", "sh"});
    args.insert(args.end(), command.argv.begin(), command.argv.end());
    return args;
}

HostSandbox::HostSandbox(supervise::Supervisor& supervisor, io::Executor executor, std::string id, bool tty)
    : supervisor_(supervisor), id_(std::move(id)), tty_(tty), filled_(executor), taken_(executor), tasks_(executor) {}

HostSandbox::~HostSandbox() = default;

io::Task<std::shared_ptr<HostSandbox>> HostSandbox::start(supervise::Supervisor& supervisor, io::Executor executor, SandboxPlan plan) {
    PYRO_CHECK(plan.peer.uid != 0);
    supervise::Command command;
    command.path = plan.bubblewrap;
    command.argv = bubblewrap_arguments(plan);
    command.as = plan.peer;
    command.fresh_proc = true;  // it mounts one of its own
    command.dies_with_daemon = true;
    command.controlling_terminal = plan.command.tty;
    command.limits.push_back(supervise::ResourceLimit{RLIMIT_CORE, 0});
    if (plan.file_max > 0) command.limits.push_back(supervise::ResourceLimit{RLIMIT_FSIZE, plan.file_max});

    std::shared_ptr<HostSandbox> sandbox(new HostSandbox(supervisor, executor, plan.id, plan.command.tty));
    if (plan.command.tty) {
        int master = -1, slave = -1;
        winsize size{};
        size.ws_col = plan.command.cols;
        size.ws_row = plan.command.rows;
        if (::openpty(&master, &slave, nullptr, nullptr, &size) != 0) throw Error::from_errno("make a terminal");
        UniqueFd terminal(slave);
        if (::fchown(slave, plan.peer.uid, static_cast<gid_t>(-1)) != 0) throw Error::from_errno("give the terminal to its user");
        sandbox->stdout_.emplace(executor, UniqueFd(master));
        for (int number : {0, 1, 2}) command.fds.push_back(supervise::PassedFd{terminal.duplicate(), number});
    } else {
        auto [out_read, out_write] = make_pipe();
        auto [err_read, err_write] = make_pipe();
        command.fds.push_back(supervise::PassedFd{std::move(out_write), 1});
        command.fds.push_back(supervise::PassedFd{std::move(err_write), 2});
        sandbox->stdout_.emplace(executor, std::move(out_read));
        sandbox->stderr_.emplace(executor, std::move(err_read));
        if (plan.command.has_stdin) {
            auto [in_read, in_write] = make_pipe();
            command.fds.push_back(supervise::PassedFd{std::move(in_read), 0});
            sandbox->stdin_.emplace(executor, std::move(in_write));
        }
    }

    supervise::Scope scope;
    scope.name = plan.id;
    scope.tasks_max = 4096;
    scope.memory_max = plan.memory_max;
    std::function<void(const supervise::ProcessIdentity&)> unrecorded;  // it dies with the daemon, so nobody looks for it
    sandbox->process_ = co_await supervisor.spawn(std::move(command), std::move(scope), std::move(unrecorded));
    sandbox->started_ns_ = clock_ns(CLOCK_MONOTONIC);
    sandbox->open_outputs_ = sandbox->stderr_ ? 2 : 1;
    sandbox->tasks_.spawn(sandbox->pump(*sandbox->stdout_, proto::agent::Output::out));
    if (sandbox->stderr_) sandbox->tasks_.spawn(sandbox->pump(*sandbox->stderr_, proto::agent::Output::err));
    co_return sandbox;
}

io::Task<void> HostSandbox::pump(io::Stream& from, proto::agent::Output stream) {
    std::uint64_t offset = 0;
    for (;;) {
        while (ready_.size() >= chunks_held) {
            taken_.reset();
            co_await taken_.wait(tasks_.token());
        }
        std::string bytes(chunk_bytes, '\0');
        std::size_t n = 0;
        try {
            n = co_await from.read_some(bytes, tasks_.token());
        } catch (const Error&) {
            n = 0;  // a terminal whose last user is gone answers EIO: that is its end
        }
        if (n == 0) break;
        bytes.resize(n);
        ready_.push_back(agent::Chunk{stream, std::move(bytes), offset});
        offset += n;
        filled_.set();
    }
    --open_outputs_;
    filled_.set();
}

io::Task<void> HostSandbox::started(std::stop_token) { co_return; }  // start() returned

io::Task<std::optional<agent::Chunk>> HostSandbox::read(std::stop_token stop) {
    while (ready_.empty()) {
        if (open_outputs_ == 0) co_return std::nullopt;
        filled_.reset();
        co_await filled_.wait(stop);
    }
    agent::Chunk chunk = std::move(ready_.front());
    ready_.pop_front();
    taken_.set();
    co_return chunk;
}

io::Task<void> HostSandbox::write_stdin(std::string bytes, std::stop_token stop) {
    std::optional<io::Stream>& to = tty_ ? stdout_ : stdin_;
    if (!to) co_return;
    try {
        co_await to->write_all(std::move(bytes), stop);
    } catch (const Error&) {
        // It reads no more: as in a pipeline, that is its own business.
    }
}

void HostSandbox::close_stdin() {
    if (!tty_) stdin_.reset();
}

void HostSandbox::resize(std::uint16_t cols, std::uint16_t rows) {
    if (!tty_) return;
    winsize size{};
    size.ws_col = cols;
    size.ws_row = rows;
    ::ioctl(stdout_->native_handle(), TIOCSWINSZ, &size);
}

void HostSandbox::kill() { process_->kill(); }

io::Task<agent::ExitStatus> HostSandbox::exited(std::stop_token stop) {
    const supervise::ExitStatus ended = co_await process_->wait(stop);
    agent::ExitStatus status;
    // bubblewrap passes its command's status on; for a command that a signal ended that is 128 + the signal.
    const int signal = ended.signal != 0 ? ended.signal : ended.code > 128 && ended.code < 128 + 65 ? ended.code - 128 : 0;
    status.kind = signal != 0 ? agent::ExitStatus::Kind::signalled : agent::ExitStatus::Kind::exited;
    status.signal = static_cast<std::uint8_t>(signal);
    status.exit_code = static_cast<std::uint8_t>(ended.code);
    status.duration_ns = static_cast<std::uint64_t>(clock_ns(CLOCK_MONOTONIC) - started_ns_);
    status.wall_clock_ns = static_cast<std::uint64_t>(clock_ns(CLOCK_REALTIME));
    co_return status;
}

io::Task<void> HostSandbox::close() {
    process_->kill();
    tasks_.stop();
    co_await tasks_.join();
    std::stop_token unbounded;  // a killed scope empties
    co_await supervisor_.remove(id_, unbounded);
}

}  // namespace pyro::compat
