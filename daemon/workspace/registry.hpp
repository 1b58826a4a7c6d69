// All workspaces of this daemon: lookup by id and name, what is found again after a restart, and what is due to sleep or to go.
#pragma once
#include "daemon/workspace/workspace.hpp"

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

namespace pyro::workspace {

struct WorkspaceRequest {
    uid_t owner_uid = 0;
    std::string environment;                     // as the user named it
    std::shared_ptr<const env::Lease> lease;
    vm::MachineSpec spec;
    std::string name;                            // empty: none
    std::string labels;                          // a JSON object
    std::int64_t ttl_seconds = 0, idle_seconds = 0;  // 0: never
    vm::StartKind at_best = vm::StartKind::spare;
};

struct WorkspaceOptions {
    std::string directory;                       // exists, root only
    std::size_t per_user = 200;
    std::uint64_t journal_bytes = 16u << 20;
};

// The store, the machines and the environments outlive it. open() before the machines are taken up, take_up() after; leave() before
// they shut down, and it goes after them.
class WorkspaceRegistry {
public:
    WorkspaceRegistry(io::Executor executor, state::Store& store, vm::MachineRegistry& machines, env::EnvironmentCache& environments, SeedStore& seeds,
                      io::WorkerPool& files, WorkspaceOptions options);
    ~WorkspaceRegistry();

    // By the id of the machine whose disk a workspace has: what is known of the commands that ran in it.
    std::map<std::string, agent::Resumption> open();
    io::Task<void> take_up();
    io::Task<void> leave();

    // A place for a workspace that is about to be made: its name is taken, its owner's quota counts it, and it is found, `creating`.
    std::shared_ptr<Workspace> reserve(const WorkspaceRequest& request);
    // Its machine on its disk; it goes again when that fails.
    io::Task<void> create(std::shared_ptr<Workspace> reserved, const WorkspaceRequest& request, std::shared_ptr<const Seed> seed, std::stop_token stop);
    void give_up(const std::shared_ptr<Workspace>& reserved);

    void set_limit(std::size_t per_user) noexcept { options_.per_user = per_user; }

    // By id, name, or a unique beginning of an id; another user's is not found. Error(not_found | invalid_argument).
    std::shared_ptr<Workspace> get(state::Viewer viewer, const std::string& key) const;
    std::vector<std::shared_ptr<Workspace>> list(state::Viewer viewer) const;  // last used first
    io::Task<void> remove(std::shared_ptr<Workspace> workspace);
    io::Task<std::vector<std::string>> reap_expired(state::Viewer viewer);
    // Error(invalid_argument | failed_precondition) where it cannot be the name of this workspace.
    void check_name(uid_t owner, const std::string& name, const Workspace* but) const;

private:
    io::Task<void> tend();
    io::Task<void> sleep(std::shared_ptr<Workspace> workspace);
    io::Task<void> remove_quietly(std::shared_ptr<Workspace> workspace);

    WorkspaceServices services_;
    SeedStore& seeds_;
    WorkspaceOptions options_;
    std::map<std::string, std::shared_ptr<Workspace>> workspaces_;
    std::set<std::string> busy_;  // ids of those being put to sleep or removed by time
    io::Event changed_;
    io::TaskGroup tasks_;
};

}  // namespace pyro::workspace
