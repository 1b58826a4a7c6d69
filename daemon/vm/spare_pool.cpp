#include "daemon/vm/spare_pool.hpp"

#include "common/error.hpp"
#include "common/log.hpp"
#include "daemon/vm/template_build.hpp"

#include <algorithm>
#include <ctime>

namespace pyro::vm {

struct SparePool::Spare {
    std::shared_ptr<const Template> from;
    bool outlives_daemon = false;
    std::unique_ptr<Guest> guest;  // gone once it was taken
    bool ready = false;
    std::stop_source taken;        // or not wanted any more
};

SparePool::SparePool(const GuestServices& services, state::Store& store, io::Semaphore& boots, SpareOptions options)
    : services_(services), store_(store), boots_(boots), options_(options), tasks_(services.executor) {}

SparePool::~SparePool() = default;

std::size_t SparePool::waiting() const noexcept {
    return static_cast<std::size_t>(std::ranges::count_if(spares_, [](const auto& spare) { return spare->ready; }));
}

void SparePool::remove_unless(const std::function<bool(const std::shared_ptr<const Template>&)>& keep) {
    for (auto at = spares_.begin(); at != spares_.end();) {
        const std::shared_ptr<Spare> spare = *at;
        if (keep(spare->from)) {
            ++at;
            continue;
        }
        at = spares_.erase(at);
        spare->taken.request_stop();
    }
}

// A template that was replaced was replaced for a reason, its disk may have been cut under its spares, say: nobody gets those.
void SparePool::drop_outdated(const std::shared_ptr<const Template>& current) {
    remove_unless([&](const auto& from) { return from->key != current->key || from == current; });
}

std::unique_ptr<Guest> SparePool::take(const std::shared_ptr<const Template>& from, bool outlives_daemon) {
    drop_outdated(from);
    const auto found = std::ranges::find_if(
        spares_, [&](const auto& spare) { return spare->ready && spare->from == from && spare->outlives_daemon == outlives_daemon; });
    if (found == spares_.end()) return nullptr;
    const std::shared_ptr<Spare> spare = *found;
    spares_.erase(found);
    spare->taken.request_stop();
    return std::move(spare->guest);
}

void SparePool::replenish(const SpareRecipe& recipe) {
    if (tasks_.token().stop_requested()) return;
    drop_outdated(recipe.from);
    const auto is_like = [&](const auto& spare) { return spare->from == recipe.from && spare->outlives_daemon == recipe.workspace.has_value(); };
    const auto of_kind = static_cast<std::size_t>(std::ranges::count_if(spares_, is_like));
    for (std::size_t count = of_kind; count < options_.per_key; ++count) {
        if (spares_.size() >= options_.total) {
            // The one that waits longest makes room, if there is one of another kind.
            const auto oldest = std::ranges::find_if(spares_, [&](const auto& spare) { return spare->ready && !is_like(spare); });
            if (oldest == spares_.end()) return;
            (*oldest)->taken.request_stop();
            spares_.erase(oldest);
        }
        auto spare = std::make_shared<Spare>();
        spare->from = recipe.from;
        spare->outlives_daemon = recipe.workspace.has_value();
        spare->guest = std::make_unique<Guest>(services_, new_guest_id());
        spares_.push_back(spare);
        Guest::Launch launch;
        launch.spec = recipe.spec;
        launch.root_image = recipe.root_image;
        launch.disk_bytes = recipe.disk_bytes;
        launch.from = recipe.from;
        launch.dies_with_daemon = !spare->outlives_daemon;
        tasks_.spawn(keep(std::move(spare), std::move(launch), recipe.workspace));
    }
}

io::Task<void> SparePool::make(Guest& guest, Guest::Launch launch, std::optional<agent::Workspace> workspace, std::stop_token stop) {
    const auto place = co_await boots_.acquire(0, stop);
    if (!launch.dies_with_daemon) {
        record(guest, launch.spec);
        launch.before_exec = [this, id = guest.id()](const supervise::ProcessIdentity& process) { store_.set_machine_process(id, record_of(process)); };
    }
    guest.claim_uid(0);
    co_await guest.launch(std::move(launch), stop);
    co_await guest.hello(stop);
    // The emulator translates code when it is first run: by these, not by their like for a user.
    agent::Identity identity = nobodys_identity();
    identity.workspace = std::move(workspace);
    guest.channel()->start(identity);
    co_await guest.ready(stop);
    std::vector<std::vector<std::string>> commands{{"true"}};
    co_await warm_up(*guest.channel(), std::move(commands), stop);
}

void SparePool::record(const Guest& guest, const MachineSpec& spec) {
    state::MachineRow row;
    row.id = guest.id();
    row.kind = state::MachineKind::spare;
    row.vcpu_count = spec.vcpu_count;
    row.mem_mib = spec.mem_mib;
    row.disk_gib = spec.disk_gib;
    row.created_at = std::time(nullptr);
    store_.insert_machine(row);
}

void SparePool::forget(const Guest& guest) {
    try {
        store_.remove_machine(guest.id());
    } catch (const Error& e) {
        log::say(log::Level::warning, "the record of a spare VM stays until the next start: " + e.message());
    }
}

// From its making to its end, or to its taking.
io::Task<void> SparePool::keep(std::shared_ptr<Spare> spare, Guest::Launch launch, std::optional<agent::Workspace> workspace) {
    const std::stop_token stop = tasks_.token();
    std::exception_ptr stopped;
    try {
        co_await make(*spare->guest, std::move(launch), std::move(workspace), stop);
        spare->ready = true;
        io::Deadline time_is_up(services_.executor, options_.keep, spare->taken.get_token());
        const std::stop_callback on_stop(stop, [&] { spare->taken.request_stop(); });
        co_await spare->guest->instance()->exited(time_is_up.token());
    } catch (const Cancelled&) {
        stopped = std::current_exception();
    } catch (const Error& e) {
        log::say(log::Level::warning, "no spare VM: " + e.message());
    }
    if (!spare->guest) co_return;  // somebody's
    std::erase(spares_, spare);
    co_await spare->guest->remove(true);
    if (spare->outlives_daemon) forget(*spare->guest);
    if (stopped && stop.stop_requested()) std::rethrow_exception(stopped);
}

io::Task<void> SparePool::close() {
    tasks_.stop();
    co_await tasks_.join();
}

}  // namespace pyro::vm
