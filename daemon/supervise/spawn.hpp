// The part between fork and exec. Private to daemon/supervise.
#pragma once
#include "daemon/supervise/cgroup.hpp"
#include "daemon/supervise/command.hpp"

#include <string>
#include <vector>

namespace pyro::supervise {

// A child that has its descriptors, waits for one byte on `gate`, and gives up when the gate closes instead.
// `outcome` reads end of file when the program was executed, else a ChildFailure.
struct GatedChild {
    pid_t pid = -1;
    UniqueFd pidfd;
    UniqueFd gate;
    UniqueFd outcome;
};

// What the child could not do; written whole (it is smaller than PIPE_BUF).
struct ChildFailure {
    int step;
    int error;
};
const char* describe_step(int step) noexcept;

// The child is in its scope before it looks at the gate.
GatedChild fork_gated(const Command& command, const ScopeEntrance& entrance);

}  // namespace pyro::supervise
