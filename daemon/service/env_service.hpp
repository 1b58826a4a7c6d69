// env.*: environments for users.
#pragma once
#include "daemon/env/cache.hpp"
#include "daemon/rpc/call.hpp"
#include "daemon/vm/registry.hpp"
#include "daemon/workspace/registry.hpp"
#include "proto/env.hpp"

namespace pyro::service {

class EnvService {
public:
    // `prepare_pulled`: a memory image is made behind each pull.
    EnvService(env::EnvironmentCache& environments, vm::MachineRegistry& machines, workspace::WorkspaceRegistry& workspaces, bool prepare_pulled)
        : environments_(environments), machines_(machines), workspaces_(workspaces), prepare_pulled_(prepare_pulled) {}

    io::Task<proto::EnvListResult> serve(proto::EnvList, proto::EnvListParams, rpc::Call&);
    io::Task<proto::EnvPullResult> serve(proto::EnvPull, proto::EnvPullParams, rpc::Call&);
    io::Task<proto::EnvInspectResult> serve(proto::EnvInspect, proto::EnvInspectParams, rpc::Call&);
    io::Task<proto::EnvPruneResult> serve(proto::EnvPrune, proto::EnvPruneParams, rpc::Call&);
    io::Task<proto::EnvPruneResult> serve(proto::EnvRemove, proto::EnvRemoveParams, rpc::Call&);
    io::Task<proto::EnvPullResult> serve(proto::EnvImport, proto::EnvImportParams, rpc::Call&);
    io::Task<proto::EnvPullResult> serve(proto::EnvCommit, proto::EnvCommitParams, rpc::Call&);

private:
    io::Task<void> prepare(std::string digest, std::stop_token stop);
    io::Task<proto::EnvPruneResult> removed(env::PruneOutcome outcome, bool changed, rpc::Call& call);
    io::Task<env::PullOutcome> commit(std::shared_ptr<workspace::Workspace> workspace, const proto::EnvCommitParams& params, rpc::Call& call);

    env::EnvironmentCache& environments_;
    vm::MachineRegistry& machines_;
    workspace::WorkspaceRegistry& workspaces_;
    bool prepare_pulled_;
};

// Says a pull's progress to whoever waits for the call.
env::ProgressSink progress_of(rpc::Call& call);

}  // namespace pyro::service
