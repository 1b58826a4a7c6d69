// The daemon's memory: pyro.db in the state directory (synced; survives everything) and run.db in the run directory
// (unsynced; machines and leases die with the boot).
#pragma once
#include "common/unique_fd.hpp"
#include "daemon/io/offload.hpp"
#include "daemon/io/task.hpp"
#include "daemon/state/rows.hpp"

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace pyro::state {

class Database;

// Owns both databases and the locks on their directories. Called on the domain thread. What returns a Task writes synced
// to pyro.db on a worker, in the order in which they are awaited; everything else is quick and done on return. The store
// outlives its Tasks.
//
// When a directory cannot be written, writes fail with Error(quota_exceeded | failed_precondition) that says why, reads go
// on, and write_failure() tells it until a write succeeds again.
class Store {
public:
    struct Paths {
        std::string state_directory;  // both exist
        std::string run_directory;
    };
    // Blocks; for the start of the daemon. Error(failed_precondition) when another daemon uses a directory, or a database
    // is from a newer version.
    explicit Store(Paths paths);
    ~Store();

    // --- machines (run.db). An id that is not there, or is another user's, is nothing, false or Error(not_found).
    void insert_machine(const MachineRow& row);
    void update_machine(const MachineRow& row);  // the whole row, by id and owner
    void take_spare(const MachineRow& row);      // what was the record of a spare, by id, is this machine's
    void set_machine_state(const std::string& id, MachineState state, const std::string& failure = {});
    void set_machine_process(const std::string& id, const ProcessRecord& process);
    bool remove_machine(const std::string& id);
    std::optional<MachineRow> find_machine(Viewer viewer, const std::string& id);
    std::vector<MachineRow> list_machines(Viewer viewer);  // newest first
    std::vector<MachineRow> all_machines();                // for reconciliation and the reaper: every owner's

    // --- uid leases (run.db)
    // A uid of [first, last] nobody holds and `usable` accepts (all when empty), never used ones first, then the one
    // released longest ago; Error(quota_exceeded) when there is none.
    uid_t lease_uid(uid_t owner_uid, const std::string& machine_id, uid_t first, uid_t last,
                    const std::function<bool(uid_t)>& usable = {});
    void release_uid(uid_t uid);
    void release_stray_uids();  // those leased to machines that have no row

    // --- environments and references (pyro.db)
    // An upsert keeps created_at and, once public, stays public.
    io::Task<void> upsert_environment(EnvironmentRow row);
    // The environment and the name for it in one transaction: neither is ever seen without the other.
    io::Task<void> upsert_environment(EnvironmentRow row, ReferenceRow reference);
    io::Task<void> upsert_reference(ReferenceRow row);  // Error(not_found) when its owner has no such environment
    // With its references. The viewer's own; an administrator's call removes every owner's. True when something went.
    io::Task<bool> remove_environment(Viewer viewer, std::string digest);
    io::Task<bool> remove_reference(Viewer viewer, std::string name);  // the viewer's own
    // Remembers the use to the hour, so that most runs cost no synced write.
    io::Task<void> touch_environment(uid_t owner_uid, std::string digest, std::int64_t now);
    // By digest: the viewer's own row first, then a public one, then (administrators) anybody's.
    std::optional<EnvironmentRow> find_environment(Viewer viewer, const std::string& digest);
    // By name: the viewer's own reference first, else the newest to a public environment. What another user named is no
    // administrator's name.
    std::optional<EnvironmentRow> find_environment_by_reference(Viewer viewer, const std::string& name);
    std::vector<EnvironmentRow> list_environments(Viewer viewer);  // last used first
    std::vector<ReferenceRow> list_references(Viewer viewer);      // by name
    std::vector<EnvironmentRow> all_environments();                // for prune and reconciliation
    std::vector<ReferenceRow> all_references() { return list_references(Viewer{0, true}); }

    // --- workspaces (pyro.db)
    io::Task<void> put_workspace(WorkspaceRow row);          // inserts it, or replaces the row of that id
    io::Task<void> remove_workspace(std::string id);
    std::vector<WorkspaceRow> all_workspaces();              // every owner's, for the start of the daemon

    // Why the last write failed, until one succeeds.
    const std::optional<std::string>& write_failure() const noexcept { return write_failure_; }

private:
    template <class F>
    auto write_run(F body);
    io::Task<void> write_synced(std::function<void(Database&)> body);
    void rewrite_machine(const MachineRow& row, std::string_view which);
    void must_change(const std::string& id);

    UniqueFd state_lock_;
    UniqueFd run_lock_;
    std::unique_ptr<Database> run_;
    std::unique_ptr<Database> reader_;   // pyro.db, domain thread
    std::unique_ptr<Database> writer_;   // pyro.db, only on the worker
    std::optional<std::string> write_failure_;
    io::WorkerPool worker_{1};           // one thread: one writer, in order. Last: it ends before what it uses
};

}  // namespace pyro::state
