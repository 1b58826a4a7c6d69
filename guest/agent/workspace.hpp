// /workspace: what is written there lies on the root disk, on top of a baseline that is only ever read.
#pragma once
#include "proto/agent.hpp"

namespace pyro::guest {

// Mounts it. A guest that is told again who it is keeps what it has, unless that is to be another one: a guest that waited has it
// mounted ahead, without a seed. Throws Error.
void mount_workspace(const proto::agent::Workspace& workspace);

// For the end, when nothing runs any more: the root disk is left as after any clean unmount.
void unmount_workspace() noexcept;

}  // namespace pyro::guest
