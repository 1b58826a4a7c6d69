#include "daemon/vm/machine.hpp"

#include "common/crash_point.hpp"

#include "daemon/vm/root_image.hpp"

#include <algorithm>
#include <cerrno>
#include <ctime>

#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

namespace pyro::vm {
namespace {

using namespace std::chrono_literals;
using state::MachineState;

constexpr int boot_attempts = 3;
constexpr auto moment_to_end = 2s;     // for a process that is about to be collected, or a QEMU told to quit
constexpr auto adoption_patience = 10s;
constexpr std::size_t shown_console = 2048;

std::string random_bytes(std::size_t count) {
    std::string out(count, '\0');
    for (std::size_t done = 0; done < count;) {
        const ssize_t n = ::getrandom(out.data() + done, count - done, 0);
        if (n < 0 && errno != EINTR) throw Error::from_errno("draw random bytes");
        if (n > 0) done += static_cast<std::size_t>(n);
    }
    return out;
}

std::string hexadecimal(const std::string& bytes) {
    std::string out;
    for (const char c : bytes)
        for (const int shift : {4, 0}) out += "0123456789abcdef"[static_cast<unsigned char>(c) >> shift & 15];
    return out;
}

agent::Identity fresh_identity(const std::string& hostname) {
    agent::Identity identity;
    identity.hostname = hostname;
    identity.machine_id = hexadecimal(random_bytes(16));
    identity.entropy = random_bytes(64);
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    identity.wall_clock_ns = static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(now.tv_nsec);
    return identity;
}

state::ProcessRecord record_of(const supervise::ProcessIdentity& process) {
    return {process.pid, process.start_time, process.boot_id};
}

// Stops when either does.
class EitherStop {
public:
    EitherStop(std::stop_token a, std::stop_token b) : a_(std::move(a), Request{source_}), b_(std::move(b), Request{source_}) {}
    std::stop_token token() const noexcept { return source_.get_token(); }

private:
    struct Request {
        std::stop_source source;
        void operator()() noexcept { source.request_stop(); }
    };
    std::stop_source source_;
    std::stop_callback<Request> a_, b_;
};

void remove_file(const std::string& path) {
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) throw Error::from_errno("remove " + path);
}

}  // namespace

Machine::Machine(MachineServices& services, state::MachineRow row, Quota::Reservation reservation)
    : services_(services), row_(std::move(row)), reservation_(std::move(reservation)), gate_(services.executor, 1),
      ended_(services.executor), tasks_(services.executor) {}

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
    std::string tail = console_.size() > shown_console ? console_.substr(console_.size() - shown_console) : console_;
    while (!tail.empty() && tail.back() == '\n') tail.pop_back();
    if (tail.empty()) return error;
    const auto line = tail.rfind('\n');
    if (error.hint().empty()) error.with_hint("its last words: " + tail.substr(line == std::string::npos ? 0 : line + 1));
    return std::move(error).with_detail("console", tail);
}

io::Task<void> Machine::end_instance() {
    if (channel_) co_await channel_->close();
    channel_.reset();
    if (!instance_) co_return;
    instance_->on_progress({});
    instance_->kill();
    co_await instance_->exited(std::stop_token());
    console_ = instance_->console_tail();
    instance_.reset();
}

io::Task<void> Machine::tear_down(bool with_disk) {
    co_await end_instance();
    for (const char* name : {"/qmp", "/agent"}) remove_file(directory() + name);
    if (::rmdir(directory().c_str()) != 0 && errno != ENOENT) throw Error::from_errno("remove " + directory());
    if (with_disk) remove_file(overlay());
    uid_.release();
}

io::Task<std::shared_ptr<agent::ExecSession>> Machine::start(StartRequest request, std::stop_token stop) {
    const auto self = shared_from_this();
    const EitherStop either(stop, closing_.get_token());
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

io::Task<std::shared_ptr<agent::ExecSession>> Machine::boot(StartRequest request, std::stop_token stop) {
    check_root_image(request.root_image);
    const HostCapabilities host = co_await services_.hypervisor.probe(stop);
    row_.execution_mode = execution_mode(host.accelerator);
    uid_ = services_.uids.claim(row_.owner_uid, row_.id);
    row_.vm_uid = uid_.uid();
    move_to(MachineState::booting);
    if (::mkdir(directory().c_str(), 0700) != 0 && errno != EEXIST) throw Error::from_errno("make " + directory());
    const bool overlay_exists = ::access(overlay().c_str(), F_OK) == 0;

    const auto place = co_await services_.boots.acquire(row_.owner_uid, stop);
    for (int number = 1;; ++number) {
        ++services_.statistics.attempts;
        std::optional<Error> failure;
        try {
            auto session = co_await attempt(request, overlay_exists, stop);
            ++services_.statistics.succeeded;
            move_to(MachineState::running);
            running();
            co_return session;
        } catch (const Error& e) {
            failure = e;
        }
        if (hung_) ++services_.statistics.hung;
        // Whoever runs still gets the chance to say how it ended.
        failure = co_await explain(std::move(*failure));
        co_await end_instance();
        const bool again = instance_launched_ && !guest_spoke_ && number < boot_attempts;
        if (!again) throw with_console(std::move(*failure));
        if (!overlay_exists) remove_file(overlay());
        ++services_.statistics.retried;
    }
}

io::Task<std::shared_ptr<agent::ExecSession>> Machine::attempt(const StartRequest& request, bool overlay_exists, std::stop_token stop) {
    guest_spoke_ = hung_ = instance_launched_ = false;
    LaunchPlan plan;
    plan.id = row_.id;
    plan.spec = MachineSpec{row_.vcpu_count, row_.mem_mib, row_.disk_gib};
    plan.disks.root_image = request.root_image;
    plan.disks.overlay = overlay();
    plan.disks.overlay_exists = overlay_exists;
    plan.directory = directory();
    plan.uid = row_.vm_uid;
    plan.dies_with_daemon = row_.kind == state::MachineKind::run;
    plan.before_exec = [this](const supervise::ProcessIdentity& process) {
        row_.process = record_of(process);
        services_.store.set_machine_process(row_.id, row_.process);
        crash_point("process_recorded");
    };
    instance_ = co_await services_.hypervisor.launch(std::move(plan), stop);
    instance_launched_ = true;
    crash_point("process_started");
    io::Stream stream = co_await instance_->connect_agent(stop);
    channel_ = std::make_unique<agent::Channel>(services_.executor, std::move(stream));
    channel_->start(fresh_identity(row_.id));
    std::shared_ptr<agent::ExecSession> session;
    if (request.first_command) session = channel_->exec(*request.first_command);

    const auto patience = std::make_shared<io::Deadline>(services_.executor, services_.boot_patience, stop);
    instance_->on_progress([patience, &limit = services_.boot_patience] { patience->extend(limit); });
    try {
        co_await channel_->hello(patience->token());
        guest_spoke_ = true;
        patience->extend(services_.boot_patience);
        co_await channel_->ready(patience->token());
    } catch (const Cancelled&) {
        if (!patience->expired()) throw;
        hung_ = true;
        throw Error(ErrorCode::guest_failed, "the VM gave no sign of life for " +
                        std::to_string(std::chrono::duration_cast<std::chrono::seconds>(services_.boot_patience).count()) + " s while it booted")
            .with_retryable(true);
    }
    instance_->on_progress({});
    co_return session;
}

std::shared_ptr<agent::ExecSession> Machine::exec(const agent::ExecSpec& spec) {
    if (closed_ || row_.state != MachineState::running)
        throw Error(ErrorCode::failed_precondition, "VM " + row_.id + " is " + std::string(closed_ ? "deleted" : to_string(row_.state)) + ", not running",
                    row_.state == MachineState::stopped ? "start it: pyro vm start " + row_.id : "create another one with pyro vm create");
    return channel_->exec(spec);
}

io::Task<void> Machine::watch(std::uint64_t life) {
    const ExitReason reason = co_await instance_->exited(tasks_.token());
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
        io::Deadline deadline(services_.executor, grace, closing_.get_token());
        co_await channel_->shutdown(deadline.token());
        co_await instance_->exited(deadline.token());
    } catch (const Cancelled&) {
        // The next rung.
    }
    try {
        // What QEMU still holds of the disk is written when it quits, not when it is killed.
        io::Deadline deadline(services_.executor, moment_to_end, closing_.get_token());
        co_await instance_->quit(deadline.token());
        co_await instance_->exited(deadline.token());
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
    co_await tear_down(true);
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
    if (reason.empty() && instance_ && channel_ && channel_->failure()) {
        io::Deadline moment(services_.executor, moment_to_end, std::stop_token());
        try {
            const ExitReason exit = co_await instance_->exited(moment.token());
            if (instance_) console_ = instance_->console_tail();
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

io::Task<void> Machine::adopt() {
    const auto turn = co_await gate_.acquire(std::stop_token());
    InstanceRecord record;
    record.id = row_.id;
    record.directory = directory();
    record.process = supervise::ProcessIdentity{row_.process.pid, row_.process.start_time, row_.process.boot_id};
    std::string failure = "it ended while no daemon was looking";
    try {
        instance_ = co_await services_.hypervisor.adopt(std::move(record), std::stop_token());
        if (instance_) {
            failure = "it did not answer the restarted daemon";
            uid_ = services_.uids.again(row_.vm_uid);
            io::Deadline patience(services_.executor, adoption_patience, std::stop_token());
            io::Stream stream = co_await instance_->connect_agent(patience.token());
            std::optional<agent::Resumption> resumption;
            resumption.emplace();
            channel_ = std::make_unique<agent::Channel>(services_.executor, std::move(stream), std::move(resumption));
            const agent::Hello hello = co_await channel_->hello(patience.token());
            // Commands of calls that ended with the daemon: nobody can read them any more. A session dropped is a command killed.
            for (const auto& exec : hello.execs) channel_->adopt(exec.exec);
            failure.clear();
        }
    } catch (const Error& e) {
        failure += ": " + e.message();
    } catch (const Cancelled&) {
        // The patience.
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
    if (channel_) co_await channel_->close();
    channel_.reset();
    if (instance_) instance_->release();
    instance_.reset();
    uid_.keep();
    co_await tasks_.join();
    closed_ = true;
}

}  // namespace pyro::vm
