// workspace.*: the life of workspaces.
#pragma once
#include "daemon/env/cache.hpp"
#include "daemon/rpc/call.hpp"
#include "daemon/workspace/registry.hpp"
#include "proto/exec.hpp"
#include "proto/workspace.hpp"

namespace pyro::service {

class WorkspaceService {
public:
    WorkspaceService(env::EnvironmentCache& environments, workspace::WorkspaceRegistry& workspaces, workspace::SeedStore& seeds, io::WorkerPool& pool)
        : environments_(environments), workspaces_(workspaces), seeds_(seeds), pool_(pool) {}

    io::Task<proto::WorkspaceInfo> serve(proto::WorkspaceCreate, proto::WorkspaceCreateParams, rpc::Call&);
    io::Task<proto::WorkspaceListResult> serve(proto::WorkspaceList, proto::WorkspaceListParams, rpc::Call&);
    io::Task<proto::WorkspaceInfo> serve(proto::WorkspaceStatus, proto::WorkspaceStatusParams, rpc::Call&);
    io::Task<proto::WorkspaceSummaryResult> serve(proto::WorkspaceSummary, proto::WorkspaceSummaryParams, rpc::Call&);
    io::Task<proto::WorkspaceInfo> serve(proto::WorkspaceUpdate, proto::WorkspaceUpdateParams, rpc::Call&);
    io::Task<proto::WorkspaceInfo> serve(proto::WorkspaceStart, proto::WorkspaceStartParams, rpc::Call&);
    io::Task<proto::WorkspaceInfo> serve(proto::WorkspaceStop, proto::WorkspaceStopParams, rpc::Call&);
    io::Task<proto::WorkspaceInfo> serve(proto::WorkspaceReset, proto::WorkspaceResetParams, rpc::Call&);
    io::Task<proto::WorkspaceDeleteResult> serve(proto::WorkspaceDelete, proto::WorkspaceDeleteParams, rpc::Call&);
    io::Task<proto::WorkspaceReapExpiredResult> serve(proto::WorkspaceReapExpired, proto::WorkspaceReapExpiredParams, rpc::Call&);

private:
    io::Task<std::shared_ptr<const workspace::Seed>> seed_for(const proto::WorkspaceCreateParams& params, rpc::Call& call);

    env::EnvironmentCache& environments_;
    workspace::WorkspaceRegistry& workspaces_;
    workspace::SeedStore& seeds_;
    io::WorkerPool& pool_;  // reads patches
};

proto::WorkspaceInfo info_of(const workspace::Workspace& workspace);

}  // namespace pyro::service
