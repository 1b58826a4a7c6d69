// Machines run by QEMU.
#pragma once
#include "daemon/vm/accelerator.hpp"
#include "daemon/vm/hypervisor.hpp"
#include "daemon/vm/qemu/command_line.hpp"

namespace pyro::vm::qemu {

struct BackendConfig {
    Programs programs;
    std::string run_directory;       // root only: the probe's memory and sockets
    std::string kvm_device = "/dev/kvm";
    std::vector<std::string> more_files;  // in QEMU's jail, beside those it is known to need
    bool randomize_emulated = false; // user-space address layout of emulated guests
    std::uint64_t io_bytes_per_second = 0;  // of each machine, read and written each, on the disk that has the overlays; 0: no limit
    dev_t io_device = 0;
    uid_t probe_uid = 65534;         // runs the trial guest, which has no disk and no network
};

// The supervisor and the executor outlive it. close() before it goes: that kills what still runs.
std::unique_ptr<Hypervisor> make_qemu_hypervisor(io::Executor executor, supervise::Supervisor& supervisor, BackendConfig config);

}  // namespace pyro::vm::qemu
