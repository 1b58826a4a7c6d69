// All handlers under one roof, for Router::bind: one serve() for every method of proto/api.hpp.
#pragma once
#include "daemon/service/env_service.hpp"
#include "daemon/service/prepare_service.hpp"
#include "daemon/service/system_service.hpp"
#include "daemon/service/vm_service.hpp"

namespace pyro::service {

struct Services : EnvService, PrepareService, SystemService, VmService {
    Services(EnvService env, PrepareService prepare, SystemService system, VmService vm)
        : EnvService(std::move(env)), PrepareService(std::move(prepare)), SystemService(std::move(system)), VmService(std::move(vm)) {}
    using EnvService::serve;
    using PrepareService::serve;
    using SystemService::serve;
    using VmService::serve;
};

}  // namespace pyro::service
