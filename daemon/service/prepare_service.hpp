// env.prepare: everything a fast start needs, made ahead.
#pragma once
#include "daemon/env/cache.hpp"
#include "daemon/rpc/call.hpp"
#include "daemon/vm/registry.hpp"
#include "proto/env.hpp"

namespace pyro::service {

class PrepareService {
public:
    PrepareService(env::EnvironmentCache& environments, vm::MachineRegistry& machines) : environments_(environments), machines_(machines) {}

    io::Task<proto::EnvPrepareResult> serve(proto::EnvPrepare, proto::EnvPrepareParams, rpc::Call&);

private:
    io::Task<bool> installed(const std::string& name, rpc::Call& call);
    io::Task<void> run_once(rpc::Call& call, const std::string& name, std::shared_ptr<const env::Lease> environment);

    env::EnvironmentCache& environments_;
    vm::MachineRegistry& machines_;
};

}  // namespace pyro::service
