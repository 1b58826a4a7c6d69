// Guests restored ahead of need: nobody's yet, warmed, waiting.
#pragma once
#include "daemon/io/event.hpp"
#include "daemon/io/task_group.hpp"
#include "daemon/state/store.hpp"
#include "daemon/vm/guest.hpp"
#include "daemon/vm/template.hpp"

#include <chrono>
#include <cstddef>
#include <functional>
#include <list>
#include <memory>
#include <string>

namespace pyro::vm {

struct SpareOptions {
    std::size_t per_key = 1;                  // of one template; 0: none at all
    std::size_t total = 8;                    // together: each has some 25 MiB of its own
    std::chrono::seconds keep{600};           // unused
};

// What one is made of.
struct SpareRecipe {
    std::shared_ptr<const Template> from;
    MachineSpec spec;
    std::string root_image;
    std::uint64_t disk_bytes = 0;
    // For a workspace, whose machine outlives the daemon: it is mounted ahead, without a seed, which comes when it is taken.
    std::optional<agent::Workspace> workspace;
};

// A spare has no owner and no name: it ends with the daemon. Its process does by itself, or else has a record by which the next
// daemon finds it. What makes it somebody's is sent when it is taken; taken once, it never comes back. close() before it goes.
class SparePool {
public:
    SparePool(const GuestServices& services, state::Store& store, io::Semaphore& boots, SpareOptions options);
    ~SparePool();

    // One that goes on from this very template; nothing when there is none. The record of one that outlives the daemon is the
    // caller's from now on.
    std::unique_ptr<Guest> take(const std::shared_ptr<const Template>& from, bool outlives_daemon);
    // Makes what is missing of that kind, behind the caller's back. For after a use.
    void replenish(const SpareRecipe& recipe);
    void remove_unless(const std::function<bool(const std::shared_ptr<const Template>& from)>& keep);
    std::size_t waiting() const noexcept;
    void set_options(SpareOptions options) noexcept { options_ = options; }  // for those made from now on
    io::Task<void> close();

private:
    struct Spare;
    void drop_outdated(const std::shared_ptr<const Template>& current);
    io::Task<void> keep(std::shared_ptr<Spare> spare, Guest::Launch launch, std::optional<agent::Workspace> workspace);
    io::Task<void> make(Guest& guest, Guest::Launch launch, std::optional<agent::Workspace> workspace, std::stop_token stop);
    void record(const Guest& guest, const MachineSpec& spec);
    void forget(const Guest& guest);

    const GuestServices& services_;
    state::Store& store_;
    io::Semaphore& boots_;
    SpareOptions options_;
    std::list<std::shared_ptr<Spare>> spares_;  // being made, or waiting
    io::TaskGroup tasks_;
};

}  // namespace pyro::vm
