// All handlers under one roof, for Router::bind: one serve() for every method of proto/api.hpp.
#pragma once
#include "daemon/service/env_service.hpp"
#include "daemon/service/system_service.hpp"
#include "daemon/service/vm_service.hpp"

namespace pyro::service {

struct Services : EnvService, SystemService, VmService {
    Services(EnvService env, SystemService system, VmService vm)
        : EnvService(std::move(env)), SystemService(std::move(system)), VmService(std::move(vm)) {}
    using EnvService::serve;
    using SystemService::serve;
    using VmService::serve;
};

}  // namespace pyro::service
