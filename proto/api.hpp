// The only list of the public methods.
#pragma once
#include "proto/env.hpp"
#include "proto/exec.hpp"
#include "proto/file.hpp"
#include "proto/system.hpp"
#include "proto/vm.hpp"
#include "proto/workspace.hpp"

namespace pyro::proto {

using Api = Methods<SystemStatus, SystemDoctor, EnvList, EnvPull, EnvInspect, EnvPrepare, EnvPrune, EnvRemove, EnvImport, EnvCommit, VmRun, VmCreate, VmStart, VmExec, VmStop,
                    VmDelete, VmStatus, VmNetworkInfo, VmList, VmReapExpired, WorkspaceCreate, WorkspaceList, WorkspaceStatus, WorkspaceSummary,
                    WorkspaceUpdate, WorkspaceStart, WorkspaceStop, ExecStart, ExecList, ExecAttach, ExecKill, ExecLogs, FileList, FileRead, FileWrite,
                    WorkspacePatchApply, WorkspaceDiff, WorkspaceSyncPush, WorkspaceExport, WorkspaceReset, WorkspaceDelete, WorkspaceReapExpired>;

}  // namespace pyro::proto
