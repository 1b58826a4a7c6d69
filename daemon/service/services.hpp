// All handlers under one roof, for Router::bind: one serve() for every method of proto/api.hpp.
#pragma once
#include "daemon/service/env_service.hpp"
#include "daemon/service/exec_service.hpp"
#include "daemon/service/file_service.hpp"
#include "daemon/service/prepare_service.hpp"
#include "daemon/service/system_service.hpp"
#include "daemon/service/vm_service.hpp"
#include "daemon/service/workspace_service.hpp"

namespace pyro::service {

struct Services : EnvService, PrepareService, SystemService, VmService, WorkspaceService, ExecService, FileService {
    Services(EnvService env, PrepareService prepare, SystemService system, VmService vm, WorkspaceService workspace, ExecService exec, FileService file)
        : EnvService(std::move(env)), PrepareService(std::move(prepare)), SystemService(std::move(system)), VmService(std::move(vm)),
          WorkspaceService(std::move(workspace)), ExecService(std::move(exec)), FileService(std::move(file)) {}
    using EnvService::serve;
    using PrepareService::serve;
    using SystemService::serve;
    using VmService::serve;
    using WorkspaceService::serve;
    using ExecService::serve;
    using FileService::serve;
};

}  // namespace pyro::service
