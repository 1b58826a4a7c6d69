// All machines of this daemon: limits, lookup, what is found again after a restart, and what is due to go.
#pragma once
#include "daemon/vm/machine.hpp"

#include <functional>
#include <map>
#include <vector>

namespace pyro::vm {

struct MachineRequest {
    uid_t owner_uid = 0;
    state::MachineKind kind = state::MachineKind::run;
    std::string disk;              // of a workspace: the id of the machine that had it; empty: a new one
    std::string environment, environment_digest;
    MachineSpec spec;
    bool network = false;
    bool allow_host_compat = false;
    std::int64_t ttl_seconds = 0;  // 0: none
};

struct RegistryConfig {
    std::string run_directory;      // exists, root only; RUN/vm/ID/ below it, 100 bytes with the socket's name
    std::string overlay_directory;  // exists, root only
    QuotaLimits limits;
    std::size_t boots_at_once = 0;  // 0: one per core
    std::chrono::nanoseconds boot_patience = std::chrono::seconds(20);
    TemplateOptions templates;
    SpareOptions spares;
};

// The store, the hypervisor and the uids outlive it. reconcile() before anything else, shut_down() at the end.
class MachineRegistry {
public:
    MachineRegistry(io::Executor executor, state::Store& store, Hypervisor& hypervisor, VmUids& uids, RegistryConfig config);
    ~MachineRegistry();

    // Takes up what an earlier daemon left: running `vm` machines are adopted, transitional states rolled back, what belongs
    // to a call removed, and so is everything of this instance that no record names. `workspaces`: the machines whose disks are
    // workspaces', and what of the commands in them is to be taken up where it was left.
    io::Task<void> reconcile(std::map<std::string, agent::Resumption> workspaces = {});

    // Checks the limits and writes the record, all at once. Nothing runs yet. A machine on a disk that is there has its id.
    io::Task<std::shared_ptr<Machine>> create(MachineRequest request, std::stop_token stop = {});
    // For one that is started at once: a spare may become it, whose guest runs already and knows nothing. `at_best` is start()'s.
    io::Task<std::shared_ptr<Machine>> create(MachineRequest request, RootImage root, StartKind at_best, std::stop_token stop);
    // Another user's machine is not found. Look up again after every suspension instead of keeping the machine.
    std::shared_ptr<Machine> find(state::Viewer viewer, const std::string& id) const;
    std::shared_ptr<Machine> get(state::Viewer viewer, const std::string& id) const;  // Error(not_found), also for one of a workspace
    std::vector<std::shared_ptr<Machine>> list(state::Viewer viewer) const;           // newest first
    io::Task<void> remove(std::shared_ptr<Machine> machine);                          // closes and forgets it
    // The same behind the caller's back: nobody finds it from now on. Its place in the quota is free once it is gone; create()
    // waits for that.
    void retire(std::shared_ptr<Machine> machine);
    // Has a spare made for the next machine like this one, behind the caller's back; retire() does it by itself.
    void replenish(const Machine& machine);
    // The layers of a machine's disk on its root image, the topmost first; those below the first are never written to.
    std::vector<std::string> disk_files(const std::string& id) const;
    // What a closed machine of a workspace left.
    void remove_disk(const std::string& id);
    // All that were retired until now are gone.
    io::Task<void> retired(std::stop_token stop);
    // What was made ahead for environments for which `keep` is false goes.
    void forget_environments(const std::function<bool(const std::string& digest)>& keep);
    // Removes what is past its time now, without waiting for the timer; returns the ids.
    io::Task<std::vector<std::string>> reap_expired(state::Viewer viewer);

    const BootStatistics& statistics() const noexcept { return services_.statistics; }
    const Quota& quota() const noexcept { return quota_; }
    void set_limits(QuotaLimits limits) { quota_.set_limits(limits); }
    TemplateCache& templates() noexcept { return templates_; }
    SparePool& spares() noexcept { return spares_; }

    // Ends what is bound to calls and lets go of the rest.
    io::Task<void> shut_down();

private:
    using Workspaces = std::map<std::string, agent::Resumption>;
    io::Task<void> take_up(state::MachineRow row, const Workspaces& workspaces);
    io::Task<void> remove_strays(const Workspaces& workspaces);
    io::Task<void> reap();
    io::Task<void> probe();
    void add(std::shared_ptr<Machine> machine);
    io::Task<std::shared_ptr<Machine>> record(MachineRequest request, std::shared_ptr<const Template> spare_of, std::stop_token stop);
    io::Task<Quota::Reservation> reserve(uid_t owner, std::int64_t mem_mib, std::stop_token stop);
    io::Task<void> finish(std::shared_ptr<Machine> machine);

    io::Executor executor_;
    state::Store& store_;
    Quota quota_;
    io::Semaphore boots_;
    GuestServices guests_;
    TemplateCache templates_;
    SparePool spares_;
    MachineServices services_;
    std::map<std::string, std::shared_ptr<Machine>> machines_;
    std::uint64_t retired_ = 0, gone_ = 0;  // how many ever were
    io::Event one_gone_;
    io::Event changed_;   // another machine may be the next to expire
    io::TaskGroup tasks_;
};

}  // namespace pyro::vm
