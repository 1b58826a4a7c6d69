// exec.*: commands in workspaces.
#pragma once
#include "daemon/rpc/call.hpp"
#include "daemon/workspace/registry.hpp"
#include "proto/exec.hpp"

namespace pyro::service {

class ExecService {
public:
    explicit ExecService(workspace::WorkspaceRegistry& workspaces) : workspaces_(workspaces) {}

    io::Task<proto::ExecOutcome> serve(proto::ExecStart, proto::ExecStartParams, rpc::Call&);
    io::Task<proto::ExecListResult> serve(proto::ExecList, proto::ExecListParams, rpc::Call&);
    io::Task<proto::ExecOutcome> serve(proto::ExecAttach, proto::ExecAttachParams, rpc::Call&);
    io::Task<proto::ExecInfo> serve(proto::ExecKill, proto::ExecKillParams, rpc::Call&);
    io::Task<proto::ExecOutcome> serve(proto::ExecLogs, proto::ExecLogsParams, rpc::Call&);

private:
    workspace::WorkspaceRegistry& workspaces_;
};

}  // namespace pyro::service
