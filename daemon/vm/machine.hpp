// One microVM and its life: creating -> booting -> running -> stopping -> stopped | failed.
#pragma once
#include "daemon/io/event.hpp"
#include "daemon/io/task_group.hpp"
#include "daemon/state/store.hpp"
#include "daemon/vm/guest.hpp"
#include "daemon/vm/quota.hpp"
#include "daemon/vm/root_image.hpp"
#include "daemon/vm/spare_pool.hpp"
#include "daemon/vm/template_cache.hpp"

#include <memory>
#include <optional>
#include <string>

namespace pyro::vm {

// How a machine got going: a boot of its own, from a template's image, or from a guest that had been restored ahead.
enum class StartKind { cold, restored, spare };

// For doctor: how starts went since the daemon started.
struct BootStatistics {
    std::uint64_t attempts = 0;
    std::uint64_t succeeded = 0;
    std::uint64_t restored = 0; // of these, from an image
    std::uint64_t spares = 0;   // and from a spare
    std::uint64_t hung = 0;     // no sign of life for the whole of the patience
    std::uint64_t retried = 0;
};

// What machines are made with. Outlives them all.
struct MachineServices {
    const GuestServices& guests;
    state::Store& store;
    io::Semaphore& boots;                 // how many at once; users in turn
    TemplateCache& templates;
    SparePool& spares;
    BootStatistics statistics;
};

struct StartRequest {
    RootImage root;
    std::optional<agent::ExecSpec> first_command;  // travels with the start: no round trip of its own
    StartKind at_best = StartKind::spare;          // what may be tried
    std::optional<agent::Workspace> workspace;     // is mounted when it is ready
    std::string seed;                              // image of its baseline, raw ext4; empty where that says it is not seeded
};

// Owns its VMM, channel, uid, sockets, overlay and share of the quota. The row is written before each act. One operation
// at a time; close() interrupts whatever runs, and comes before the last reference goes.
class Machine : public std::enable_shared_from_this<Machine> {
public:
    // A spare is the guest to become this machine; its id is the row's.
    Machine(MachineServices& services, state::MachineRow row, Quota::Reservation reservation, std::unique_ptr<Guest> spare = nullptr);
    ~Machine();

    const std::string& id() const noexcept { return row_.id; }
    const state::MachineRow& row() const noexcept { return row_; }

    // From creating or stopped to running; what was written to the disk before is there again. Returns once the guest is
    // ready, with the session of the first command, if there was one. The command runs at most once: a boot is tried again
    // only when the guest never said a word. On failure the state is failed, and the error's details have the console.
    io::Task<std::shared_ptr<agent::ExecSession>> start(StartRequest request, std::stop_token stop);
    std::shared_ptr<agent::ExecSession> exec(const agent::ExecSpec& spec);  // Error(failed_precondition) unless running
    // A command of before, after a restart of the daemon, if it was named at reconciliation; once. Null when it is not there.
    std::shared_ptr<agent::ExecSession> adopt_exec(std::uint32_t number);
    // How many processes of commands that ended run on.
    io::Task<std::uint32_t> count_left(std::stop_token stop);
    // What a running guest has written is on its disk, in order, and stays as it is until thaw(), or so long. Error(failed_precondition)
    // unless running.
    io::Task<void> freeze(std::chrono::seconds most, std::stop_token stop);
    void thaw();
    // Asks the guest to power off; after `grace`, QEMU is ended. The disk stays. Fine in any state.
    io::Task<void> stop(std::chrono::nanoseconds grace, std::stop_token stop);
    // Ends and removes everything but a workspace's disk, the record last. Idempotent, from any state, any number of callers; the first one's
    // reason is what whoever used the machine is told.
    io::Task<void> close(std::string reason = "it was deleted");

    // From now on it belongs to a call: a daemon that finds its record removes it.
    void bind_to_call();
    // Whether the guest of the last start said anything: a first command may then have run, whatever start() said.
    bool guest_spoke() const noexcept { return guest_->spoke(); }
    StartKind started_as() const noexcept { return started_as_; }  // of the last start
    // What a spare for the next machine like this one is made of; nothing when there is no template for it.
    std::optional<SpareRecipe> spare_recipe() const;

    // Fires when it is being deleted, by its owner or because its time is over.
    std::stop_token closing() const noexcept { return closing_.get_token(); }
    // Once it is not running any more, for whatever reason: which.
    io::Task<std::string> ended(std::stop_token stop);
    // A channel's error is seldom the cause: what is known of the end of the VM instead, after waiting for it a moment.
    io::Task<Error> explain(Error seen);

private:
    friend class MachineRegistry;
    io::Task<void> adopt(agent::Resumption known);  // a running machine of an earlier daemon
    io::Task<void> let_go();                  // the daemon ends, the VM does not

    io::Task<std::shared_ptr<agent::ExecSession>> boot(StartRequest request, std::stop_token stop);
    io::Task<std::shared_ptr<agent::ExecSession>> attempt(const StartRequest& request, std::shared_ptr<const Template> from, std::stop_token stop);
    TemplateSource source_of(const StartRequest& request) const;
    io::Task<void> tear_down(bool with_disk); // everything but the record
    io::Task<void> watch(std::uint64_t life);
    void running();
    void move_to(state::MachineState state, const std::string& failure = {});
    void end(state::MachineState state, const std::string& reason);
    Error with_console(Error error) const;

    MachineServices& services_;
    state::MachineRow row_;
    Quota::Reservation reservation_;
    std::unique_ptr<Guest> guest_;
    bool is_spare_;                           // not yet told who it is
    StartKind started_as_ = StartKind::cold;
    std::shared_ptr<const Template> from_;    // what it went on from, or the next one may
    std::string root_image_;
    std::optional<agent::Workspace> workspace_;  // of the last start
    std::uint64_t disk_bytes_ = 0;
    io::Semaphore gate_;
    std::stop_source closing_;
    io::Event ended_;
    std::string end_reason_;
    std::string close_reason_;
    std::uint64_t life_ = 0;                  // counts starts
    bool closed_ = false;
    io::TaskGroup tasks_;
};

}  // namespace pyro::vm
