// /workspace: what is written there lies on the root disk, on top of a baseline that is only ever read.
#pragma once
#include "proto/agent.hpp"

namespace pyro::guest {

// Mounts it, once: a guest that is told again who it is keeps the one it has. Throws Error.
void mount_workspace(const proto::agent::Workspace& workspace);

// For the end, when nothing runs any more: the root disk is left as after any clean unmount.
void unmount_workspace() noexcept;

}  // namespace pyro::guest
