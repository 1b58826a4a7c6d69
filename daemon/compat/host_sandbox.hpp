// A command in a bubblewrap sandbox on the host, for hosts where no guest boots: `--allow-host-compat`.
#pragma once
#include "daemon/agent/channel.hpp"
#include "daemon/io/task_group.hpp"
#include "daemon/supervise/supervisor.hpp"

#include <deque>
#include <memory>
#include <optional>
#include <string>

namespace pyro::compat {

struct SandboxPlan {
    std::string id;                 // names the scope
    std::string bubblewrap;
    std::string root;               // the unpacked tree: the peer's own directory, for this command alone
    supervise::Credentials peer;    // who asked; never root, which the caller has refused
    agent::ExecSpec command;        // its user is not looked at: the sandbox has one
    std::uint64_t memory_max = 0;   // bytes, its file systems in memory included; 0: no limit
    std::uint64_t file_max = 0;     // bytes of one file; 0: no limit
};

// bubblewrap's arguments: everything unshared, the tree as /, fresh /proc, /dev, /tmp and /run, no host file, no network.
// Pure.
std::vector<std::string> bubblewrap_arguments(const SandboxPlan& plan);

// Owns the process and its pipes, or its terminal. Looks like an agent::ExecSession to whoever streams it.
class HostSandbox {
public:
    // Error(failed_precondition) where bubblewrap cannot be executed.
    static io::Task<std::shared_ptr<HostSandbox>> start(supervise::Supervisor& supervisor, io::Executor executor, SandboxPlan plan);
    ~HostSandbox();

    io::Task<void> started(std::stop_token stop);
    io::Task<std::optional<agent::Chunk>> read(std::stop_token stop);
    io::Task<void> write_stdin(std::string bytes, std::stop_token stop);
    void close_stdin();
    void resize(std::uint16_t cols, std::uint16_t rows);
    void kill();
    io::Task<agent::ExitStatus> exited(std::stop_token stop);
    io::Task<void> close();  // before the last owner goes: kills what runs and waits for it

private:
    HostSandbox(supervise::Supervisor& supervisor, io::Executor executor, std::string id, bool tty);
    io::Task<void> pump(io::Stream& from, proto::agent::Output stream);

    supervise::Supervisor& supervisor_;
    std::string id_;
    bool tty_;
    std::int64_t started_ns_ = 0;
    std::shared_ptr<supervise::Process> process_;
    std::optional<io::Stream> stdin_, stdout_, stderr_;
    std::deque<agent::Chunk> ready_;
    std::size_t open_outputs_ = 0;
    io::Event filled_, taken_;
    io::TaskGroup tasks_;
};

}  // namespace pyro::compat
