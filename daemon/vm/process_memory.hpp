// How much memory a running VM has to itself, as the kernel counts it.
#pragma once
#include "daemon/supervise/supervisor.hpp"

#include <cstdint>
#include <optional>
#include <string_view>

namespace pyro::vm {

// Of pages that nobody else has: what the guest and the VMM wrote. What is shared with a template or another VM is no part.
struct ProcessMemory {
    std::int64_t private_bytes = 0;
    std::int64_t code_bytes = 0;  // of an emulator's translated code, counted apart: a cache, bounded by its own setting
};

// The sums over what /proc/PID/smaps says.
ProcessMemory sum_smaps(std::string_view smaps);
// Blocks for about a millisecond. Nothing when that process is gone.
std::optional<ProcessMemory> process_memory(const supervise::ProcessIdentity& process);

}  // namespace pyro::vm
