// The seam between machines and the program that runs them.
#pragma once
#include "daemon/io/stream.hpp"
#include "daemon/io/task.hpp"
#include "daemon/supervise/supervisor.hpp"

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace pyro::vm {

// How large a machine is. Bounds are the request's (proto/vm.hpp).
struct MachineSpec {
    std::int64_t vcpu_count = 1;
    std::int64_t mem_mib = 1024;
    std::int64_t disk_gib = 8;     // at least; never smaller than the root image
};

enum class Accelerator { kvm, tcg };
// The word of the public contract: guest_kvm, guest_tcg.
constexpr std::string_view execution_mode(Accelerator a) { return a == Accelerator::kvm ? "guest_kvm" : "guest_tcg"; }

// What this host can do, and how that is known.
struct HostCapabilities {
    Accelerator accelerator = Accelerator::tcg;
    std::string reason;            // why this one: for doctor, whole sentences
    std::string cure;              // what would make it faster; empty when nothing
};

struct Disks {
    std::string root_image;        // raw, shared by many machines, only ever read
    std::string overlay;           // qcow2: this machine's own writes
    bool overlay_exists = false;   // else launch() makes it
};

struct LaunchPlan {
    std::string id;                // names the scope
    MachineSpec spec;
    Disks disks;
    std::string directory;         // exists, root only: the machine's sockets
    uid_t uid = 0;                 // the VMM runs as it, and as the group of the same number
    bool dies_with_daemon = false;
    std::function<void(const supervise::ProcessIdentity&)> before_exec;  // the place to write the record
};

// How to find a running VMM again.
struct InstanceRecord {
    std::string id;
    std::string directory;
    supervise::ProcessIdentity process;
    bool operator==(const InstanceRecord&) const = default;
};

// Why a VMM ended.
struct ExitReason {
    bool by_guest = false;         // it powered off or reset itself, which a panic does too
    std::string text;              // "QEMU ended: killed by signal 9"
};

// One running VMM process.
class Instance {
public:
    virtual ~Instance() = default;                                       // kills what was not release()d, never waits
    virtual io::Task<io::Stream> connect_agent(std::stop_token stop) = 0;  // one connection at a time
    virtual io::Task<void> quit(std::stop_token stop) = 0;               // asks the VMM to end at once; see exited()
    virtual void kill() noexcept = 0;                                    // and everything it started
    // Once it and all it started are gone. Any number of waiters.
    virtual io::Task<ExitReason> exited(std::stop_token stop) = 0;
    // Called for each sign of life (console output, events), boundedly often, until replaced.
    virtual void on_progress(std::function<void()> listener) = 0;
    virtual std::string console_tail() const = 0;                        // last words of the guest and of the VMM
    virtual InstanceRecord record() const = 0;
    virtual void release() noexcept = 0;                                 // it goes on without us; to be adopted later
};

class Hypervisor {
public:
    virtual ~Hypervisor() = default;
    // Boots a guest where that is needed to know; remembered per boot, kernel and version.
    virtual io::Task<HostCapabilities> probe(std::stop_token stop) = 0;
    // Returns with the VMM executed and the guest about to run. The caller owns the sockets' directory and the overlay
    // from before the call, also when it fails.
    virtual io::Task<std::unique_ptr<Instance>> launch(LaunchPlan plan, std::stop_token stop) = 0;
    // Nothing when that process is gone; a process that does not answer is killed and is nothing too.
    virtual io::Task<std::unique_ptr<Instance>> adopt(InstanceRecord record, std::stop_token stop) = 0;
    // Ends what may be left of a machine that is not in memory: its process, if that is known, and its scope. Idempotent.
    virtual io::Task<void> clear(InstanceRecord record, std::stop_token stop) = 0;
    // Machines of this daemon's instance that something may still run of.
    virtual std::vector<std::string> leftovers() const = 0;
    // Waits for what dropped instances left to do. None may be in use any more.
    virtual io::Task<void> close() = 0;
};

}  // namespace pyro::vm
