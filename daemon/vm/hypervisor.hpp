// The seam between machines and the program that runs them.
#pragma once
#include "common/unique_fd.hpp"
#include "daemon/io/stream.hpp"
#include "daemon/io/task.hpp"
#include "daemon/supervise/supervisor.hpp"
#include "daemon/vm/memory_image.hpp"

#include <chrono>
#include <functional>
#include <cstdint>
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

// Layers, each on the one before.
struct Disks {
    std::string root_image;        // raw, shared by many machines, only ever read; empty: nothing but zeros
    std::string base;              // qcow2, what a template had written when it was saved; only ever read; empty: none
    std::string overlay;           // qcow2: this machine's own writes
    bool overlay_exists = false;   // else launch() makes it
    std::uint64_t bytes = 0;       // of the whole, a multiple of 512
    std::string seed;              // of a second disk: raw, at most seed_bytes, only ever read; empty: that disk is nothing but zeros
};

// The second disk is there in every machine, always of this size: a guest that has not opened it may go on with another one.
inline constexpr std::uint64_t seed_bytes = 64ull << 30;

// What a memory image depends on beside its disk.
struct ImageBasis {
    std::string fingerprint;       // of the programs, the devices, the processor's features, the sizes: equal or useless
    std::uint64_t tsc_khz = 0;     // of the host's time stamp counter, which the image's guest goes on to count time by
};

struct LaunchPlan {
    std::string id;                // names the scope
    MachineSpec spec;
    Disks disks;
    std::string directory;         // exists, root only: the machine's sockets
    uid_t uid = 0;                 // the VMM runs as it, and as the group of the same number
    bool dies_with_daemon = false;
    std::shared_ptr<const MemoryImage> resume;  // go on from here instead of booting
    UniqueFd memory;               // the guest's memory, to be kept after save(): an unsealed memfd of its size
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
    // Of an instance launched with `memory`: when it returns, the guest has stopped for good, its devices' state is in
    // `devices`, and its memory and its disk will not change once the VMM has ended.
    virtual io::Task<void> save(UniqueFd devices, std::stop_token stop) = 0;
    // Puts an image below the second disk of an instance launched without one, whose guest has not opened that disk.
    virtual io::Task<void> set_seed(UniqueFd image, std::stop_token stop) = 0;
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
    // For a machine of this size with a disk of `disk_bytes` and no other device than launch() gives.
    virtual io::Task<ImageBasis> image_basis(MachineSpec spec, std::uint64_t disk_bytes, std::stop_token stop) = 0;
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
