// One workspace: a disk that stays, the machine that runs on it now and then, and the commands run there.
#pragma once
#include "daemon/env/cache.hpp"
#include "daemon/vm/registry.hpp"
#include "daemon/workspace/exec.hpp"
#include "daemon/workspace/seeds.hpp"

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace pyro::workspace {

// What workspaces are made with. Outlives them all.
struct WorkspaceServices {
    io::Executor executor;
    state::Store& store;
    vm::MachineRegistry& machines;
    env::EnvironmentCache& environments;
    io::WorkerPool& files;
    std::string directory;                          // WORKSPACES/ID/exec/EXEC/
    std::uint64_t journal_bytes = 16u << 20;        // of one command
    std::size_t execs_kept = 256;                   // that ended, of one workspace
    std::size_t execs_running = 64;                 // of one workspace at once
    std::function<void()> on_change;                // another workspace may be the next to expire or to fall asleep
};

enum class State { creating, running, stopped, failed };

// One change of life at a time; close() interrupts whatever runs and comes before the last reference goes. Everything that needs
// the machine starts it if it sleeps.
class Workspace : public std::enable_shared_from_this<Workspace> {
public:
    Workspace(WorkspaceServices& services, state::WorkspaceRow row);
    ~Workspace();

    const std::string& id() const noexcept { return row_.id; }
    const state::WorkspaceRow& row() const noexcept { return row_; }
    State state() const noexcept;
    const std::string& failure() const noexcept { return failure_; }
    std::optional<vm::StartKind> started_as() const noexcept { return started_as_; }
    const env::EnvironmentManifest& environment() const { return environment_->manifest(); }

    // Before create(): what the client says of its seed, a JSON object.
    void describe_seed(std::string seed) { row_.seed = std::move(seed); }
    // For a new one: its machine, from a spare or an image where `at_best` allows, and its row.
    io::Task<void> create(std::shared_ptr<const env::Lease> environment, std::shared_ptr<const Seed> seed, vm::StartKind at_best, std::stop_token stop) {
        return unless_deleted(make(std::move(environment), std::move(seed), at_best, stop), stop);
    }
    // For one that a row tells of, before the machines are taken up: reads its commands, and says what is known of those that ran.
    agent::Resumption read_execs();
    // And after that: its environment, its seed, and its machine where that still runs. What is missing makes it failed.
    io::Task<void> take_up(std::shared_ptr<const Seed> seed);

    // Until it is made, or the registry has it no longer.
    io::Task<void> wait_made(std::stop_token stop) { return made_.wait(stop); }
    void forgotten() noexcept { made_.set(); }  // for the registry

    void check_open() const;  // Error where nothing can be done with it: it is being made, has failed, was deleted
    // The machine, running.
    io::Task<std::shared_ptr<vm::Machine>> running(std::stop_token stop) { return unless_deleted(wake(stop), stop); }
    io::Task<void> stop(std::stop_token stop) { return unless_deleted(put_to_sleep(stop), stop); }
    // A fresh disk with the same seed, under the same id. Until the new machine is there the old disk is kept.
    io::Task<void> reset(std::stop_token stop) { return unless_deleted(start_anew(stop), stop); }
    // Ends and removes everything, the row last. Idempotent.
    io::Task<void> close();
    // Ends nothing: the machine and its commands go on, for the next daemon.
    io::Task<void> leave();

    io::Task<std::shared_ptr<Exec>> exec(std::string exec_id, agent::ExecSpec spec, std::chrono::seconds timeout, std::stop_token stop);
    // By id, or a unique beginning of one. Error(not_found).
    std::shared_ptr<Exec> find_exec(const std::string& id) const;
    std::shared_ptr<Exec> last_exec() const;
    std::vector<std::shared_ptr<Exec>> execs() const;  // newest first
    std::size_t running_execs() const;

    // Its disk as it is now, the topmost layer first, open to be read; what a running guest writes is copied into `directory` first,
    // while it stands still. What it may write later is not in it.
    io::Task<std::vector<env::DiskFile>> copy_disk(std::string directory, std::stop_token stop) { return unless_deleted(copy_layers(std::move(directory), stop), stop); }

    // Processes that ended commands left running; none where it sleeps, or its guest does not answer soon.
    io::Task<std::int64_t> left_processes(std::stop_token stop);

    // Held while the tree is changed as a whole: patches, syncs, writes.
    io::Semaphore& changing() noexcept { return changing_; }

    // It is being used: by a command, a file, somebody who looks.
    class Use {
    public:
        explicit Use(std::shared_ptr<Workspace> workspace);
        ~Use();
        Use(const Use&) = delete;
        Use& operator=(const Use&) = delete;

    private:
        std::shared_ptr<Workspace> workspace_;
    };
    bool in_use() const noexcept { return uses_ > 0 || running_execs() > 0; }

    io::Task<void> update(state::WorkspaceRow row);  // name, labels, times; Error when it could not be written, and nothing changed
    void count_export();
    // What the last whole diff was, for who wants to know whether it still is.
    struct DiffSeen {
        std::int64_t max_bytes = 0;
        std::string digest;  // empty: there was none since the last reset, or start of the daemon
    };
    DiffSeen diff_seen;
    std::string execution_mode() const;

private:
    std::string exec_directory() const { return services_.directory + "/" + row_.id + "/exec"; }
    // What its deletion interrupted is told so; `stop` is the caller's own.
    template <class T>
    io::Task<T> unless_deleted(io::Task<T> change, std::stop_token stop);
    io::Task<void> make(std::shared_ptr<const env::Lease> environment, std::shared_ptr<const Seed> seed, vm::StartKind at_best, std::stop_token stop);
    io::Task<std::shared_ptr<vm::Machine>> wake(std::stop_token stop);
    io::Task<void> put_to_sleep(std::stop_token stop);
    io::Task<void> start_anew(std::stop_token stop);
    io::Task<std::vector<env::DiskFile>> copy_layers(std::string directory, std::stop_token stop);
    vm::MachineRequest machine_request() const;
    vm::StartRequest start_request(vm::StartKind at_best) const;
    io::Task<std::shared_ptr<vm::Machine>> new_machine(vm::StartKind at_best, std::stop_token stop);
    io::Task<void> end_machine(const std::string& why);
    void on_exec_end();
    io::Task<void> drop(std::shared_ptr<Exec> exec);
    io::Task<void> drop_execs(bool from_disk);
    void touch();
    io::Task<void> save_quietly();

    WorkspaceServices& services_;
    state::WorkspaceRow row_;
    std::shared_ptr<const env::Lease> environment_;
    std::shared_ptr<const Seed> seed_;
    std::shared_ptr<vm::Machine> machine_;
    std::map<std::string, std::shared_ptr<Exec>> execs_;
    std::vector<std::string> order_;          // of their starts
    std::string failure_;
    std::optional<vm::StartKind> started_as_;
    bool creating_ = false, closed_ = false;
    std::size_t uses_ = 0;
    std::int64_t saved_activity_ = 0;
    io::Semaphore gate_, changing_;
    io::Event made_;
    std::stop_source closing_;
    io::TaskGroup tasks_;
};

}  // namespace pyro::workspace
