#include "daemon/vm/machine.hpp"

#include "common/crash_point.hpp"
#include "daemon/io/either_stop.hpp"

#include <utility>

namespace pyro::vm {
namespace {

using namespace std::chrono_literals;
using state::MachineState;

constexpr int boot_attempts = 3;
constexpr auto moment_to_end = 2s;     // for a process that is about to be collected, or a QEMU told to quit
constexpr auto adoption_patience = 10s;
constexpr std::size_t shown_console = 2048;

}  // namespace

Machine::Machine(MachineServices& services, state::MachineRow row, Quota::Reservation reservation, std::unique_ptr<Guest> spare)
    : services_(services), row_(std::move(row)), reservation_(std::move(reservation)), guest_(std::move(spare)), is_spare_(guest_ != nullptr),
      gate_(services.guests.executor, 1), ended_(services.guests.executor), tasks_(services.guests.executor) {
    if (!guest_) guest_ = std::make_unique<Guest>(services_.guests, row_.id);
}

Machine::~Machine() = default;

void Machine::move_to(MachineState state, const std::string& failure) {
    row_.state = state;
    row_.failure = failure;
    services_.store.update_machine(row_);
    if (state == MachineState::running) crash_point("machine_running");
    if (state == MachineState::stopping) crash_point("machine_stopping");
}

// The machine is down; the record says so last.
void Machine::end(MachineState state, const std::string& reason) {
    end_reason_ = reason;
    row_.vm_uid = 0;
    row_.process = {};
    ended_.set();
    move_to(state, state == MachineState::failed ? reason : "");
}

void Machine::running() {
    end_reason_.clear();
    ended_.reset();
    tasks_.spawn(watch(++life_));
}

Error Machine::with_console(Error error) const {
    const std::string& console = guest_->console();
    std::string tail = console.size() > shown_console ? console.substr(console.size() - shown_console) : console;
    while (!tail.empty() && tail.back() == '\n') tail.pop_back();
    if (tail.empty()) return error;
    const auto line = tail.rfind('\n');
    if (error.hint().empty()) error.with_hint("its last words: " + tail.substr(line == std::string::npos ? 0 : line + 1));
    return std::move(error).with_detail("console", tail);
}

io::Task<void> Machine::tear_down(bool with_disk) {
    co_await guest_->remove(with_disk);
}

io::Task<std::shared_ptr<agent::ExecSession>> Machine::start(StartRequest request, std::stop_token stop) {
    const auto self = shared_from_this();
    const io::EitherStop either(stop, closing_.get_token());
    const auto turn = co_await gate_.acquire(either.token());
    if (closed_ || (row_.state != MachineState::creating && row_.state != MachineState::stopped))
        throw Error(ErrorCode::failed_precondition, "VM " + row_.id + " is " + std::string(closed_ ? "deleted" : to_string(row_.state)),
                    "start a VM once; create another one with pyro vm create");
    std::shared_ptr<agent::ExecSession> session;
    std::exception_ptr failure;
    MachineState left = MachineState::failed;
    std::string why;
    try {
        session = co_await boot(std::move(request), either.token());
    } catch (const Cancelled&) {
        failure = std::current_exception();
        left = MachineState::stopped;
        why = "its start was cancelled";
    } catch (const Error& e) {
        failure = std::current_exception();
        why = e.message();
    }
    if (!failure) co_return session;
    co_await tear_down(false);
    end(left, why);
    if (closing_.stop_requested() && !stop.stop_requested())
        throw Error(ErrorCode::failed_precondition, "VM " + row_.id + " went while it started: " + close_reason_);
    std::rethrow_exception(failure);
}

std::optional<SpareRecipe> Machine::spare_recipe() const {
    if (!from_ || from_->tier != TemplateTier::pristine) return std::nullopt;
    SpareRecipe recipe{from_, MachineSpec{row_.vcpu_count, row_.mem_mib, row_.disk_gib}, root_image_, disk_bytes_, workspace_};
    if (recipe.workspace) recipe.workspace->seeded = false;
    return recipe;
}

TemplateSource Machine::source_of(const StartRequest& request) const {
    TemplateSource source;
    source.tier = guest_->has_disk() && !is_spare_ ? TemplateTier::bare : TemplateTier::pristine;
    source.spec = MachineSpec{row_.vcpu_count, row_.mem_mib, row_.disk_gib};
    source.disk_bytes = disk_bytes_;
    if (source.tier == TemplateTier::pristine) source.root = request.root;
    return source;
}

// A spare, else an image, else a boot of its own: what fails before the guest said a word is followed by the next.
io::Task<std::shared_ptr<agent::ExecSession>> Machine::boot(StartRequest request, std::stop_token stop) {
    const MachineSpec spec{row_.vcpu_count, row_.mem_mib, row_.disk_gib};
    PYRO_CHECK(request.seed.empty() != (request.workspace && request.workspace->seeded));
    root_image_ = request.root.path;
    workspace_ = request.workspace;
    disk_bytes_ = disk_bytes(spec, check_root_image(request.root.path));
    const HostCapabilities host = co_await services_.guests.hypervisor.probe(stop);
    row_.execution_mode = execution_mode(host.accelerator);
    row_.vm_uid = guest_->claim_uid(row_.owner_uid);
    if (is_spare_) row_.process = record_of(guest_->instance()->record().process);
    move_to(MachineState::booting);
    const bool new_disk = is_spare_ || !guest_->has_disk();

    const TemplateSource source = source_of(request);
    TemplateChoice choice;
    if (request.at_best != StartKind::cold) choice = co_await services_.templates.find(source, stop);
    const bool wanted = !choice.key.empty() && !choice.ready;
    from_ = choice.ready;
    io::Semaphore::Permit place;
    bool has_place = !is_spare_;
    if (has_place) place = co_await services_.boots.acquire(row_.owner_uid, stop);
    for (int own_boots = 0;;) {
        ++services_.statistics.attempts;
        const std::shared_ptr<const Template> from = is_spare_ ? nullptr : std::exchange(choice.ready, nullptr);
        started_as_ = is_spare_ ? StartKind::spare : from ? StartKind::restored : StartKind::cold;
        std::optional<Error> failure;
        try {
            auto session = co_await attempt(request, from, stop);
            ++services_.statistics.succeeded;
            if (started_as_ == StartKind::restored) ++services_.statistics.restored;
            if (started_as_ == StartKind::spare) ++services_.statistics.spares;
            move_to(MachineState::running);
            running();
            if (wanted) services_.templates.want(choice.key, source);
            co_return session;
        } catch (const Error& e) {
            failure = e;
        }
        guest_->note_words();
        if (guest_->hung()) ++services_.statistics.hung;
        // Whoever runs still gets the chance to say how it ended.
        failure = co_await explain(std::move(*failure));
        co_await guest_->end();
        const bool ahead = started_as_ != StartKind::cold;  // of the boot that needs nobody's preparation
        if (!ahead) ++own_boots;
        const bool again = (ahead || guest_->launched()) && !guest_->spoke() && own_boots < boot_attempts;
        if (!again) throw with_console(std::move(*failure));
        if (from) services_.templates.discard(from->key, failure->message());
        if (!has_place) place = co_await services_.boots.acquire(row_.owner_uid, stop);
        has_place = true;
        is_spare_ = false;
        if (new_disk) guest_->remove_disk();
        ++services_.statistics.retried;
    }
}

io::Task<std::shared_ptr<agent::ExecSession>> Machine::attempt(const StartRequest& request, std::shared_ptr<const Template> from, std::stop_token stop) {
    const bool is_cold = !is_spare_ && !from;
    if (is_spare_) {
        guest_->forget_words();
        if (!request.seed.empty()) co_await guest_->set_seed(request.seed, stop);
    } else {
        Guest::Launch launch;
        launch.spec = MachineSpec{row_.vcpu_count, row_.mem_mib, row_.disk_gib};
        launch.root_image = request.root.path;
        launch.seed = request.seed;
        launch.disk_bytes = disk_bytes_;
        launch.from = std::move(from);
        launch.dies_with_daemon = row_.kind == state::MachineKind::run;
        launch.before_exec = [this](const supervise::ProcessIdentity& process) {
            row_.process = record_of(process);
            services_.store.set_machine_process(row_.id, row_.process);
            crash_point("process_recorded");
        };
        co_await guest_->launch(std::move(launch), stop);
        crash_point("process_started");
    }
    // A boot takes time, and the clock that is sent is that of now.
    if (is_cold) co_await guest_->hello(stop);
    agent::Identity identity = fresh_identity(row_.id);
    identity.workspace = request.workspace;
    guest_->channel()->start(identity);
    std::shared_ptr<agent::ExecSession> session;
    if (request.first_command) session = guest_->channel()->exec(*request.first_command);
    co_await guest_->ready(stop);
    co_return session;
}

std::shared_ptr<agent::ExecSession> Machine::exec(const agent::ExecSpec& spec) {
    if (closed_ || row_.state != MachineState::running)
        throw Error(ErrorCode::failed_precondition, "VM " + row_.id + " is " + std::string(closed_ ? "deleted" : to_string(row_.state)) + ", not running",
                    row_.state == MachineState::stopped ? "start it: pyro vm start " + row_.id : "create another one with pyro vm create");
    return guest_->channel()->exec(spec);
}

io::Task<void> Machine::watch(std::uint64_t life) {
    const ExitReason reason = co_await guest_->instance()->exited(tasks_.token());
    const auto turn = co_await gate_.acquire(tasks_.token());
    if (life != life_ || row_.state != MachineState::running) co_return;
    co_await tear_down(false);
    end(MachineState::failed, reason.text);
}

io::Task<void> Machine::stop(std::chrono::nanoseconds grace, std::stop_token stop) {
    const auto self = shared_from_this();
    const auto turn = co_await gate_.acquire(stop);
    if (closed_ || row_.state != MachineState::running) co_return;
    move_to(MachineState::stopping);
    // From here on it is stopped whether or not the caller waits; deleting it does not wait for the grace.
    try {
        io::Deadline deadline(services_.guests.executor, grace, closing_.get_token());
        co_await guest_->channel()->shutdown(deadline.token());
        co_await guest_->instance()->exited(deadline.token());
    } catch (const Cancelled&) {
        // The next rung.
    }
    try {
        // What QEMU still holds of the disk is written when it quits, not when it is killed.
        io::Deadline deadline(services_.guests.executor, moment_to_end, closing_.get_token());
        co_await guest_->instance()->quit(deadline.token());
        co_await guest_->instance()->exited(deadline.token());
    } catch (const Cancelled&) {
        // And the last one.
    } catch (const Error&) {
        // It has ended already, or answers no more.
    }
    co_await tear_down(false);
    end(MachineState::stopped, "it was stopped");
}

void Machine::bind_to_call() {
    row_.kind = state::MachineKind::run;
    services_.store.update_machine(row_);
}

io::Task<void> Machine::close(std::string reason) {
    const auto self = shared_from_this();
    if (close_reason_.empty()) close_reason_ = std::move(reason);
    closing_.request_stop();
    const auto turn = co_await gate_.acquire(std::stop_token());
    if (closed_) co_return;
    std::exception_ptr failure;
    try {
        move_to(MachineState::stopping);
    } catch (const Error&) {
        failure = std::current_exception();  // a store that cannot be written keeps nothing alive
    }
    co_await tear_down(row_.kind != state::MachineKind::workspace);  // whose disk is its workspace's
    closed_ = true;
    end_reason_ = close_reason_;
    ended_.set();
    tasks_.stop();
    co_await tasks_.join();
    reservation_.release();
    if (failure) std::rethrow_exception(failure);
    services_.store.remove_machine(row_.id);
}

io::Task<std::string> Machine::ended(std::stop_token stop) {
    const auto self = shared_from_this();
    co_await ended_.wait(stop);
    co_return end_reason_;
}

io::Task<Error> Machine::explain(Error seen) {
    const auto self = shared_from_this();
    std::string reason = close_reason_.empty() ? end_reason_ : close_reason_;
    const bool broken = guest_->instance() && guest_->channel() && guest_->channel()->failure();
    if (reason.empty() && broken) {
        io::Deadline moment(services_.guests.executor, moment_to_end, std::stop_token());
        try {
            const ExitReason exit = co_await guest_->instance()->exited(moment.token());
            guest_->keep_console();
            reason = exit.text;
        } catch (const Cancelled&) {
            // It lives: what was seen is the cause.
        }
    }
    if (reason.empty()) co_return seen;
    Error out(ErrorCode::guest_failed, "the VM ended: " + reason);
    out.with_retryable(true);
    co_return with_console(std::move(out));
}

io::Task<std::uint32_t> Machine::count_left(std::stop_token stop) {
    const auto self = shared_from_this();
    // The channel goes with the machine, which may end while this waits.
    const io::EitherStop either(std::move(stop), closing_.get_token());
    if (closed_ || row_.state != MachineState::running) co_return 0;
    const std::uint32_t count = co_await guest_->channel()->count_left(either.token());
    co_return count;
}

io::Task<void> Machine::freeze(std::chrono::seconds most, std::stop_token stop) {
    const auto self = shared_from_this();
    const io::EitherStop either(std::move(stop), closing_.get_token());
    if (closed_ || row_.state != MachineState::running) throw Error(ErrorCode::failed_precondition, "the VM does not run");
    co_await guest_->channel()->freeze(most, either.token());
}

void Machine::thaw() {
    if (guest_->channel()) guest_->channel()->thaw();
}

std::shared_ptr<agent::ExecSession> Machine::adopt_exec(std::uint32_t number) {
    return guest_->channel() ? guest_->channel()->adopt(number) : nullptr;
}

io::Task<void> Machine::adopt(agent::Resumption known) {
    const auto turn = co_await gate_.acquire(std::stop_token());
    std::string failure = "it ended while no daemon was looking";
    try {
        supervise::ProcessIdentity process{row_.process.pid, row_.process.start_time, row_.process.boot_id};
        const bool there = co_await guest_->adopt(std::move(process), row_.vm_uid, std::move(known), adoption_patience);
        if (there) failure.clear();
    } catch (const Error& e) {
        failure = "it did not answer the restarted daemon: " + e.message();
    } catch (const Cancelled&) {
        failure = "it did not answer the restarted daemon";  // for as long as the patience lasted
    }
    if (failure.empty()) {
        running();
        co_return;
    }
    co_await tear_down(false);
    end(MachineState::failed, failure);
}

io::Task<void> Machine::let_go() {
    const auto self = shared_from_this();
    closing_.request_stop();
    const auto turn = co_await gate_.acquire(std::stop_token());
    tasks_.stop();
    co_await guest_->let_go();
    co_await tasks_.join();
    closed_ = true;
}

}  // namespace pyro::vm
