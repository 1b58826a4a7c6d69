// What changed in a workspace, as its guest says and this checked.
#pragma once
#include "daemon/workspace/guest_program.hpp"
#include "proto/workspace.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace pyro::service {

struct WorkspaceChanges {
    std::vector<proto::FileChange> changes;  // the first of them
    std::uint64_t total = 0;
    std::string patch;
    std::string digest;                      // of the patch
};

struct DiffOptions {
    std::vector<std::string> paths;
    bool verify = false;
    std::int64_t max_bytes = 64 << 20;
};
// Against the baseline. Error(guest_failed) when what the guest says is no patch of files in the workspace; `pool` reads it.
io::Task<WorkspaceChanges> diff_of(io::WorkerPool& pool, std::shared_ptr<workspace::Workspace> workspace, DiffOptions options, std::stop_token stop);
// The same for a look at it: without the patch.
io::Task<WorkspaceChanges> changes_of(io::WorkerPool& pool, std::shared_ptr<workspace::Workspace> workspace, std::stop_token stop);

// The first of what a guest says, as much as an answer holds.
std::vector<proto::FileChange> shown_changes(const std::vector<proto::files::Record>& records);

}  // namespace pyro::service
