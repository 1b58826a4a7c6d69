// env.prepare: everything a fast start needs, made ahead.
#pragma once
#include "daemon/env/cache.hpp"
#include "daemon/rpc/call.hpp"
#include "daemon/vm/registry.hpp"
#include "daemon/workspace/registry.hpp"
#include "proto/env.hpp"

namespace pyro::service {

class PrepareService {
public:
    PrepareService(env::EnvironmentCache& environments, vm::MachineRegistry& machines, workspace::WorkspaceRegistry& workspaces)
        : environments_(environments), machines_(machines), workspaces_(workspaces) {}

    io::Task<proto::EnvPrepareResult> serve(proto::EnvPrepare, proto::EnvPrepareParams, rpc::Call&);

private:
    io::Task<bool> installed(const std::string& name, rpc::Call& call);
    io::Task<void> try_workspace(rpc::Call& call, std::shared_ptr<const env::Lease> environment, proto::EnvPrepareResult& result);
    io::Task<void> run_once(rpc::Call& call, const std::string& name, std::shared_ptr<const env::Lease> environment);

    env::EnvironmentCache& environments_;
    vm::MachineRegistry& machines_;
    workspace::WorkspaceRegistry& workspaces_;
};

}  // namespace pyro::service
