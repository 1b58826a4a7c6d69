// file.* and what else goes in and out of /workspace: patches, syncs, exports.
#pragma once
#include "daemon/rpc/call.hpp"
#include "daemon/workspace/registry.hpp"
#include "proto/file.hpp"

namespace pyro::service {

class FileService {
public:
    FileService(workspace::WorkspaceRegistry& workspaces, io::WorkerPool& pool) : workspaces_(workspaces), pool_(pool) {}

    io::Task<proto::FileListResult> serve(proto::FileList, proto::FileListParams, rpc::Call&);
    io::Task<proto::FileReadResult> serve(proto::FileRead, proto::FileReadParams, rpc::Call&);
    io::Task<proto::FileWriteResult> serve(proto::FileWrite, proto::FileWriteParams, rpc::Call&);
    io::Task<proto::WorkspacePatchApplyResult> serve(proto::WorkspacePatchApply, proto::WorkspacePatchApplyParams, rpc::Call&);
    io::Task<proto::WorkspaceDiffResult> serve(proto::WorkspaceDiff, proto::WorkspaceDiffParams, rpc::Call&);
    io::Task<proto::TransferResult> serve(proto::WorkspaceSyncPush, proto::WorkspaceSyncPushParams, rpc::Call&);
    io::Task<proto::TransferResult> serve(proto::WorkspaceExport, proto::WorkspaceExportParams, rpc::Call&);

private:
    workspace::WorkspaceRegistry& workspaces_;
    io::WorkerPool& pool_;  // reads patches
};

}  // namespace pyro::service
