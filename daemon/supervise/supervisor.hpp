// Starting, finding again and ending the programs the daemon owns.
#pragma once
#include "daemon/io/task.hpp"
#include "daemon/supervise/command.hpp"

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

namespace pyro::supervise {

// A process that cannot be confused with another that got its pid later.
struct ProcessIdentity {
    pid_t pid = 0;
    std::uint64_t start_time = 0;  // field 22 of /proc/PID/stat, in clock ticks since boot
    std::string boot_id;           // /proc/sys/kernel/random/boot_id
    bool operator==(const ProcessIdentity&) const = default;
};

struct ExitStatus {
    int code = 0;                  // meaningful when signal is 0
    int signal = 0;
    bool out_of_memory = false;    // its scope reached memory_max, and something in it was killed for that
    bool known = true;             // false for an adopted process, which is not our child: only that it ended is known
    std::string describe() const;  // "exit status 1", "killed by signal 9", "killed: out of memory", "ended"
};

// A running or ended program. Dropping the last reference does not end it; kill() does.
class Process {
public:
    virtual ~Process() = default;
    virtual const ProcessIdentity& identity() const noexcept = 0;
    virtual io::Task<ExitStatus> wait(std::stop_token stop = {}) = 0;  // any number of waiters; remembers the status
    virtual void signal(int number) noexcept = 0;                 // the program alone
    virtual void kill() noexcept = 0;                             // SIGKILL to it and all it started (its scope)
};

// What a program and everything it starts live in.
struct Scope {
    std::string name;              // unique within the instance, [a-z0-9-]
    // 0 is no limit of its own. Memory and tasks are limits the host must be able to set where it has cgroups of that kind.
    std::uint64_t memory_max = 0;  // bytes; beyond it all in the scope are killed
    std::uint64_t tasks_max = 0;
    std::uint64_t cpu_percent = 0; // of one processor
    std::uint64_t io_bytes_per_second = 0;  // read, and written, each, on `io_device`
    dev_t io_device = 0;           // a whole disk
};

// What this host lets the supervisor enforce.
struct Capabilities {
    bool kills_whole_tree = false;  // also what left its process group and session
    bool limits_memory = false;
    bool limits_tasks = false;
    bool limits_cpu = false;
    bool limits_io = false;
    std::string how;                // for doctor: where the cgroups are, or why there are none
};

class Supervisor {
public:
    virtual ~Supervisor() = default;
    virtual const Capabilities& capabilities() const noexcept = 0;
    // Returns once the program was executed. A program that cannot be is Error(failed_precondition) with the reason.
    // `before_exec` is called with the identity while the child still waits: the place to write the record.
    virtual io::Task<std::shared_ptr<Process>> spawn(Command command, Scope scope,
                                                     std::function<void(const ProcessIdentity&)> before_exec = {}) = 0;
    // The process of an earlier daemon, if it is still that one.
    virtual std::shared_ptr<Process> adopt(const ProcessIdentity& identity, const Scope& scope) = 0;
    // Ends whatever still runs in a scope and removes the scope itself; returns once nothing of it is left. Idempotent.
    virtual io::Task<void> remove(std::string scope_name, std::stop_token stop = {}) = 0;
    // The scopes of this instance that exist, an earlier daemon's too. Only known where there are cgroups.
    virtual std::vector<std::string> scopes() const = 0;
};

// A session per scope, and cgroup directories where they are writable: below this daemon's own cgroup, or below `delegated`, one
// that the service manager leaves to us and that lasts longer than we do. `instance` tells this daemon's scopes from another's on
// the same host.
std::unique_ptr<Supervisor> make_plain_supervisor(std::string instance, const std::string& delegated = {});

// Who a running process is; nothing when there is no such process.
std::optional<ProcessIdentity> identify(pid_t pid);
// /proc/sys/kernel/random/boot_id without its newline.
const std::string& boot_id();

}  // namespace pyro::supervise
