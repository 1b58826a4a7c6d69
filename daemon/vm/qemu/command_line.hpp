// QEMU's command line as a pure function.
#pragma once
#include "daemon/supervise/command.hpp"
#include "daemon/vm/hypervisor.hpp"
#include "daemon/vm/qemu/qmp.hpp"

namespace pyro::vm::qemu {

// What runs in every machine, and with what.
struct Programs {
    std::string qemu;          // absolute path
    std::string kernel;        // vmlinux or bzImage
    std::string initramfs;
};

// The descriptors of one machine. Disks may be absent in a probe.
struct Descriptors {
    UniqueFd kernel, initramfs;
    UniqueFd root, base, overlay;
    UniqueFd seed;             // image of the second disk; absent: zeros
    UniqueFd seed_frame;       // an empty qcow2 of seed_bytes, only read; there where the overlay is
    UniqueFd memory;           // a memfd; absent: memory of its own
    UniqueFd devices;          // a saved state to go on from
    UniqueFd qmp, agent;       // listening sockets
    UniqueFd console;          // a connected socket
    UniqueFd messages;         // what QEMU itself says: its stdout and stderr
};

struct Launch {
    MachineSpec spec;
    uid_t uid = 0;
    std::vector<gid_t> groups;
    bool dies_with_daemon = false;
    Accelerator accelerator = Accelerator::tcg;
    std::uint64_t disk_bytes = 0;  // virtual size; the overlay may be little larger
    std::uint64_t tsc_khz = 0; // of the host; for an emulated guest
    bool verbose_kernel = false;
    bool randomize_emulated = false;  // user-space address layout of an emulated guest; one on KVM always has its own
};

// Where QEMU finds the state to go on from.
inline constexpr int devices_fd = 64;

// The program with its credentials, namespaces and limits; it owns the descriptors. Pure.
supervise::Command command_line(const Programs& programs, const Launch& launch, Descriptors descriptors);

// What puts an image below the second disk of a QEMU that runs without one. The first of them takes its descriptor.
std::vector<Qmp::Command> insert_seed();

// Bytes for the whole scope: the guest's memory, and beside it translated code, devices, QEMU itself.
std::uint64_t memory_limit(const MachineSpec& spec, Accelerator accelerator);

}  // namespace pyro::vm::qemu
