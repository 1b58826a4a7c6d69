#include "common/error.hpp"
#include "daemon/io/stream.hpp"
#include "daemon/supervise/cgroup.hpp"
#include "daemon/supervise/spawn.hpp"
#include "daemon/supervise/supervisor.hpp"

#include <algorithm>
#include <csignal>
#include <cstring>
#include <sstream>

#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

namespace pyro::supervise {

std::string ExitStatus::describe() const {
    if (out_of_memory) return "killed: out of memory";
    if (!known) return "ended";
    return signal != 0 ? "killed by signal " + std::to_string(signal) : "exit status " + std::to_string(code);
}

const std::string& boot_id() {
    static const std::string id = [] {
        std::string text = read_file("/proc/sys/kernel/random/boot_id", 128);
        while (!text.empty() && text.back() == '\n') text.pop_back();
        return text;
    }();
    return id;
}

std::optional<ProcessIdentity> identify(pid_t pid) {
    const UniqueFd fd(::open(("/proc/" + std::to_string(pid) + "/stat").c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) return std::nullopt;
    char buffer[4096];
    const ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
    if (n <= 0) return std::nullopt;  // it went between open and read
    const std::string text(buffer, static_cast<std::size_t>(n));
    // The name, field 2, may hold anything, parentheses too: count from the last one.
    const auto name_end = text.rfind(')');
    if (name_end == std::string::npos) return std::nullopt;
    std::istringstream in(text.substr(name_end + 1));
    std::string skipped;
    for (int field = 3; field < 22; ++field) in >> skipped;
    ProcessIdentity out;
    out.pid = pid;
    if (!(in >> out.start_time)) return std::nullopt;
    out.boot_id = boot_id();
    return out;
}

namespace {

// Also of a process that its parent has not collected, which signals still find.
bool has_ended(int pidfd) noexcept {
    pollfd ready{pidfd, POLLIN, 0};
    return ::poll(&ready, 1, 0) == 1;
}

UniqueFd open_pidfd(pid_t pid) { return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))); }

class PlainProcess final : public Process {
public:
    PlainProcess(std::shared_ptr<const CgroupTree> cgroups, std::string scope, ProcessIdentity identity, UniqueFd pidfd, bool is_child)
        : cgroups_(std::move(cgroups)), scope_(std::move(scope)), identity_(std::move(identity)), pidfd_(std::move(pidfd)),
          is_child_(is_child) {}
    ~PlainProcess() override { collect(); }

    const ProcessIdentity& identity() const noexcept override { return identity_; }

    io::Task<ExitStatus> wait(std::stop_token stop) override {
        while (!status_) {
            co_await io::wait_readable(pidfd_.get(), stop);
            collect();
        }
        co_return *status_;
    }

    void signal(int number) noexcept override { ::syscall(SYS_pidfd_send_signal, pidfd_.get(), number, nullptr, 0); }

    void kill() noexcept override {
        // The group first: once its leader is collected, its number may be another's.
        if (!status_ && alive()) ::kill(-identity_.pid, SIGKILL);
        signal(SIGKILL);
        cgroups_->kill(scope_);
    }

private:
    bool alive() const noexcept { return !has_ended(pidfd_.get()); }

    void collect() noexcept {
        if (status_) return;
        if (!is_child_) {
            if (!alive()) status_ = ended({});
            return;
        }
        siginfo_t info{};
        if (::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd_.get()), &info, WEXITED | WNOHANG) != 0) {
            status_ = ended({});  // somebody else collected it
        } else if (info.si_pid != 0) {
            status_ = ended(info);
        }
    }

    // Asked while the scope is there.
    ExitStatus ended(const siginfo_t& info) const noexcept {
        ExitStatus out;
        out.known = info.si_pid != 0;
        if (out.known) (info.si_code == CLD_EXITED ? out.code : out.signal) = info.si_status;
        const bool killed = !out.known || out.signal == SIGKILL;
        out.out_of_memory = killed && cgroups_->out_of_memory(scope_);
        return out;
    }

    std::shared_ptr<const CgroupTree> cgroups_;
    std::string scope_;
    ProcessIdentity identity_;
    UniqueFd pidfd_;
    bool is_child_;
    std::optional<ExitStatus> status_;
};

class PlainSupervisor final : public Supervisor {
public:
    PlainSupervisor(const std::string& instance, const std::string& delegated) : cgroups_(std::make_shared<CgroupTree>(instance, delegated)) {}

    const Capabilities& capabilities() const noexcept override { return cgroups_->capabilities(); }

    io::Task<std::shared_ptr<Process>> spawn(Command command, Scope scope,
                                             std::function<void(const ProcessIdentity&)> before_exec) override {
        check_scope_name(scope.name);
        io::Executor executor = co_await io::this_executor();
        GatedChild child;
        std::exception_ptr failure;
        try {
            cgroups_->create(scope);
            child = fork_gated(command, cgroups_->entrance(scope.name));
        } catch (...) {
            failure = std::current_exception();
        }
        if (failure) {
            cgroups_->remove(scope.name);
            std::rethrow_exception(failure);
        }
        std::shared_ptr<PlainProcess> process;
        try {
            auto identity = identify(child.pid);
            PYRO_CHECK(identity);  // our own child, not collected
            process = std::make_shared<PlainProcess>(cgroups_, scope.name, *identity, std::move(child.pidfd), true);
            if (before_exec) before_exec(*identity);
            const char go = 1;
            // A child that died at its gate has closed it; its outcome tells.
            if (::write(child.gate.get(), &go, 1) != 1 && errno != EPIPE) throw Error::from_errno("open the gate of " + command.path);
            command.fds.clear();
        } catch (...) {
            failure = std::current_exception();
        }
        child.gate.reset();
        if (!failure) {
            ChildFailure report{};
            io::Stream outcome(executor, std::move(child.outcome));
            auto* bytes = reinterpret_cast<char*>(&report);
            const bool failed = co_await outcome.read_exactly(std::span<char>(bytes, sizeof report), std::stop_token());
            if (!failed) co_return process;
            failure = std::make_exception_ptr(
                Error(ErrorCode::failed_precondition,
                      "cannot start " + command.path + ": could not " + describe_step(report.step) + ": " + std::strerror(report.error),
                      report.error == ENOENT ? "install the program, or correct its path" : ""));
        }
        if (process) {
            process->kill();
            co_await process->wait(std::stop_token());
        }
        co_await remove(scope.name, std::stop_token());
        std::rethrow_exception(failure);
    }

    std::shared_ptr<Process> adopt(const ProcessIdentity& identity, const Scope& scope) override {
        check_scope_name(scope.name);
        if (identity.boot_id != boot_id() || identity.pid <= 0) return nullptr;
        UniqueFd pidfd = open_pidfd(identity.pid);
        if (!pidfd) return nullptr;
        // Compared after the pidfd was opened: what has this start time now is what the pidfd means, or that has ended.
        if (identify(identity.pid) != identity || has_ended(pidfd.get())) return nullptr;
        return std::make_shared<PlainProcess>(cgroups_, scope.name, identity, std::move(pidfd), false);
    }

    io::Task<void> remove(std::string scope_name, std::stop_token stop) override {
        check_scope_name(scope_name);
        for (;;) {
            cgroups_->kill(scope_name);
            const std::vector<pid_t> members = cgroups_->members(scope_name);
            if (members.empty()) break;
            for (const pid_t pid : members) {
                const UniqueFd pidfd = open_pidfd(pid);
                if (pidfd) co_await io::wait_readable(pidfd.get(), stop);
            }
        }
        cgroups_->remove(scope_name);
    }

    std::vector<std::string> scopes() const override { return cgroups_->scopes(); }

private:
    static void check_scope_name(const std::string& name) {
        const bool good = !name.empty() && name.size() <= 100 && std::ranges::all_of(name, [](char c) {
            return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
        });
        if (!good) throw Error(ErrorCode::invalid_argument, "not a scope name: " + name);
    }

    std::shared_ptr<CgroupTree> cgroups_;
};

}  // namespace

std::unique_ptr<Supervisor> make_plain_supervisor(std::string instance, const std::string& delegated) {
    return std::make_unique<PlainSupervisor>(instance, delegated);
}

}  // namespace pyro::supervise
