// The only list of the public methods.
#pragma once
#include "proto/env.hpp"
#include "proto/system.hpp"
#include "proto/vm.hpp"

namespace pyro::proto {

using Api = Methods<SystemStatus, SystemDoctor, EnvList, EnvPull, EnvInspect, EnvPrepare, EnvPrune, VmRun, VmCreate, VmStart, VmExec, VmStop,
                    VmDelete, VmStatus, VmNetworkInfo, VmList, VmReapExpired>;

}  // namespace pyro::proto
