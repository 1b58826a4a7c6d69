#include "daemon/workspace/workspace.hpp"

#include "common/crash_point.hpp"
#include "common/error.hpp"
#include "common/log.hpp"
#include "daemon/env/files.hpp"
#include "daemon/io/either_stop.hpp"
#include "daemon/workspace/root_image.hpp"

#include <algorithm>
#include <ctime>

#include <fcntl.h>
#include <sys/stat.h>

namespace pyro::workspace {
namespace {

constexpr std::chrono::seconds stop_grace{10}, answer_patience{2}, freeze_most{60};
constexpr std::int64_t activity_interval = 60;  // seconds between two writes of when it was last used

void make_directory(const std::string& path) {
    if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) throw Error::from_errno("make " + path);
}

}  // namespace

Workspace::Workspace(WorkspaceServices& services, state::WorkspaceRow row)
    : services_(services), row_(std::move(row)), saved_activity_(row_.last_activity_at), gate_(services.executor, 1), changing_(services.executor, 1),
      made_(services.executor), tasks_(services.executor) {
    if (!row_.machine_id.empty()) made_.set();
}

Workspace::~Workspace() = default;

State Workspace::state() const noexcept {
    if (creating_ || row_.machine_id.empty()) return State::creating;
    if (!failure_.empty()) return State::failed;
    return machine_ && machine_->row().state == state::MachineState::running ? State::running : State::stopped;
}

std::string Workspace::execution_mode() const { return machine_ ? machine_->row().execution_mode : row_.execution_mode; }

void Workspace::check_open() const {
    if (closed_ || closing_.stop_requested()) throw Error(ErrorCode::not_found, "the workspace " + row_.id + " was deleted", "list yours: pyro workspace list");
    if (state() == State::creating)
        throw Error(ErrorCode::failed_precondition, "the workspace " + row_.id + " is still being made", "wait for its create to end").with_retryable(true);
    if (!failure_.empty())
        throw Error(ErrorCode::failed_precondition, "the workspace " + row_.id + " has failed: " + failure_, "pyro workspace delete " + row_.id);
}

template <class T>
io::Task<T> Workspace::unless_deleted(io::Task<T> change, std::stop_token stop) {
    const auto self = shared_from_this();
    try {
        co_return co_await std::move(change);
    } catch (const Cancelled&) {
        if (stop.stop_requested() || !closing_.stop_requested()) throw;
    }
    throw Error(ErrorCode::not_found, "the workspace " + row_.id + " was deleted meanwhile", "list yours: pyro workspace list");
}
template io::Task<std::vector<env::DiskFile>> Workspace::unless_deleted(io::Task<std::vector<env::DiskFile>>, std::stop_token);
template io::Task<void> Workspace::unless_deleted(io::Task<void>, std::stop_token);
template io::Task<std::shared_ptr<vm::Machine>> Workspace::unless_deleted(io::Task<std::shared_ptr<vm::Machine>>, std::stop_token);

vm::MachineRequest Workspace::machine_request() const {
    vm::MachineRequest request;
    request.owner_uid = row_.owner_uid;
    request.kind = state::MachineKind::workspace;
    request.environment = row_.environment;
    request.environment_digest = row_.environment_digest;
    request.spec.vcpu_count = row_.vcpu_count;
    request.spec.mem_mib = row_.mem_mib;
    request.spec.disk_gib = row_.disk_gib;
    return request;
}

vm::StartRequest Workspace::start_request(vm::StartKind at_best) const {
    vm::StartRequest start;
    start.root = root_image_of(environment_);
    start.at_best = at_best;
    agent::Workspace mounted;
    mounted.seeded = seed_ != nullptr;
    mounted.user = environment_->manifest().user;
    start.workspace = std::move(mounted);
    if (seed_) start.seed = seed_->path;
    return start;
}

// On a disk of its own that nobody used yet.
io::Task<std::shared_ptr<vm::Machine>> Workspace::new_machine(vm::StartKind at_best, std::stop_token stop) {
    std::shared_ptr<vm::Machine> machine = co_await services_.machines.create(machine_request(), root_image_of(environment_), at_best, stop);
    std::exception_ptr failure;
    try {
        vm::StartRequest start = start_request(at_best);
        co_await machine->start(std::move(start), stop);
    } catch (...) {
        failure = std::current_exception();
    }
    if (!failure) {
        services_.machines.replenish(*machine);
        co_return machine;
    }
    co_await services_.machines.remove(machine);
    services_.machines.remove_disk(machine->id());
    std::rethrow_exception(failure);
}

io::Task<void> Workspace::make(std::shared_ptr<const env::Lease> environment, std::shared_ptr<const Seed> seed, vm::StartKind at_best, std::stop_token stop) {
    const auto self = shared_from_this();
    const io::EitherStop either(stop, closing_.get_token());
    const auto turn = co_await gate_.acquire(either.token());
    creating_ = true;
    environment_ = std::move(environment);
    seed_ = std::move(seed);
    if (seed_) row_.seed_digest = seed_->digest;
    std::exception_ptr failure;
    try {
        machine_ = co_await new_machine(at_best, either.token());
        crash_point("workspace_machine");
        started_as_ = machine_->started_as();
        row_.machine_id = machine_->id();
        row_.execution_mode = machine_->row().execution_mode;
        make_directory(services_.directory + "/" + row_.id);
        make_directory(exec_directory());
        co_await services_.store.put_workspace(row_);
        crash_point("workspace_recorded");
    } catch (...) {
        failure = std::current_exception();
    }
    creating_ = false;
    if (!failure) made_.set();
    if (!failure) co_return;
    if (machine_) {
        co_await end_machine("its workspace could not be created");
        services_.machines.remove_disk(row_.machine_id);
    }
    env::remove_tree(services_.directory + "/" + row_.id);
    std::rethrow_exception(failure);
}

agent::Resumption Workspace::read_execs() {
    agent::Resumption known;
    make_directory(services_.directory + "/" + row_.id);
    make_directory(exec_directory());
    std::vector<std::shared_ptr<Exec>> found;
    for (const std::string& name : env::names_in(exec_directory())) {
        try {
            found.push_back(Exec::open(services_.executor, exec_directory() + "/" + name));
        } catch (const Error& e) {
            log::say(log::Level::warning, "a command's record is left out: " + e.message());
            env::remove_tree(exec_directory() + "/" + name);
        }
    }
    std::ranges::stable_sort(found, {}, [](const auto& exec) { return std::pair(exec->record().info.started_at, exec->record().number); });
    for (const auto& exec : found) {
        execs_[exec->id()] = exec;
        order_.push_back(exec->id());
        if (!exec->ended()) known.execs.push_back({exec->record().number, exec->out().total(), exec->err().total()});
    }
    return known;
}

io::Task<void> Workspace::take_up(std::shared_ptr<const Seed> seed) {
    const auto self = shared_from_this();
    seed_ = std::move(seed);
    if (!row_.seed_digest.empty() && !seed_) failure_ = "the files it was created with are gone";
    try {
        env::Lease lease = co_await services_.environments.hold(row_.environment_digest, std::stop_token());
        environment_ = std::make_shared<const env::Lease>(std::move(lease));
    } catch (const Error& e) {
        failure_ = e.message();
    }
    machine_ = services_.machines.find(state::Viewer{0, true}, row_.machine_id);
    const bool runs = machine_ && machine_->row().state == state::MachineState::running;
    for (const std::string& name : order_) {
        const auto exec = execs_[name];
        if (exec->ended()) continue;
        std::shared_ptr<agent::ExecSession> session = runs ? machine_->adopt_exec(exec->record().number) : nullptr;
        if (session) exec->run(std::move(session), [this] { on_exec_end(); });
        else exec->lose("its machine ended while no daemon was looking");
    }
}

io::Task<std::shared_ptr<vm::Machine>> Workspace::wake(std::stop_token stop) {
    const auto self = shared_from_this();
    check_open();
    if (state() == State::running) co_return machine_;
    const io::EitherStop either(stop, closing_.get_token());
    const auto turn = co_await gate_.acquire(either.token());
    check_open();
    if (state() == State::running) co_return machine_;
    if (machine_) co_await end_machine("its machine has ended");
    vm::MachineRequest request = machine_request();
    request.disk = row_.machine_id;
    std::shared_ptr<vm::Machine> machine = co_await services_.machines.create(std::move(request), either.token());
    std::exception_ptr failure;
    try {
        vm::StartRequest start = start_request(vm::StartKind::spare);
        co_await machine->start(std::move(start), either.token());
    } catch (...) {
        failure = std::current_exception();
    }
    if (failure) {
        co_await services_.machines.remove(machine);
        std::rethrow_exception(failure);
    }
    machine_ = machine;
    started_as_ = machine->started_as();
    if (services_.on_change) services_.on_change();
    co_return machine;
}

// The disk stays.
io::Task<void> Workspace::end_machine(const std::string& why) {
    const std::shared_ptr<vm::Machine> machine = std::exchange(machine_, nullptr);
    if (!machine) co_return;
    row_.execution_mode = machine->row().execution_mode;
    for (const auto& [id, exec] : execs_)
        if (!exec->ended()) exec->lose(why);
    co_await services_.machines.remove(machine);
}

io::Task<void> Workspace::put_to_sleep(std::stop_token stop) {
    const auto self = shared_from_this();
    check_open();
    const io::EitherStop either(stop, closing_.get_token());
    const auto turn = co_await gate_.acquire(either.token());
    if (!machine_) co_return;
    const std::shared_ptr<vm::Machine> machine = machine_;
    co_await machine->stop(stop_grace, either.token());
    co_await end_machine("the workspace was stopped");
}

io::Task<void> Workspace::start_anew(std::stop_token stop) {
    const auto self = shared_from_this();
    check_open();
    const io::EitherStop either(stop, closing_.get_token());
    const auto turn = co_await gate_.acquire(either.token());
    co_await end_machine("the workspace was reset");
    std::shared_ptr<vm::Machine> machine = co_await new_machine(vm::StartKind::spare, either.token());
    crash_point("workspace_reset_machine");
    state::WorkspaceRow row = row_;
    row.machine_id = machine->id();
    row.reset_at = row.last_activity_at = std::time(nullptr);
    row.exports = 0;
    std::exception_ptr failure;
    try {
        co_await services_.store.put_workspace(row);  // from here on the new disk is the workspace's
    } catch (...) {
        failure = std::current_exception();
    }
    if (failure) {
        co_await services_.machines.remove(machine);
        services_.machines.remove_disk(machine->id());
        std::rethrow_exception(failure);
    }
    crash_point("workspace_reset");
    const std::string old_disk = std::exchange(row_, std::move(row)).machine_id;
    machine_ = std::move(machine);
    started_as_ = machine_->started_as();
    diff_seen = {};
    services_.machines.remove_disk(old_disk);
    co_await drop_execs(true);
}

io::Task<std::vector<env::DiskFile>> Workspace::copy_layers(std::string directory, std::stop_token stop) {
    const auto self = shared_from_this();
    check_open();
    const io::EitherStop either(stop, closing_.get_token());
    const auto turn = co_await gate_.acquire(either.token());
    check_open();
    if (!environment_) throw Error(ErrorCode::failed_precondition, "the workspace " + row_.id + " has no environment", "pyro workspace delete " + row_.id);
    const std::vector<std::string> files = services_.machines.disk_files(row_.machine_id);
    if (files.empty()) throw Error(ErrorCode::failed_precondition, "the disk of the workspace " + row_.id + " is gone", "pyro workspace delete " + row_.id);
    const std::shared_ptr<vm::Machine> machine = state() == State::running ? machine_ : nullptr;
    // One that sleeps may wake up while it is read: its disk is copied too.
    const std::string copied = directory + "/disk.qcow2";
    std::exception_ptr failure;
    {
        io::Deadline deadline(services_.executor, freeze_most, either.token());
        const std::stop_token until = machine ? deadline.token() : either.token();
        try {
            if (machine) co_await machine->freeze(freeze_most, until);
            crash_point("workspace_frozen");
            const auto copy = [from = files.front(), copied, until] { env::copy_sparse(from, copied, until); };
            co_await io::offload(services_.files, copy);
        } catch (...) {
            failure = std::current_exception();
        }
        if (machine) machine->thaw();
        if (failure && machine && deadline.expired())
            failure = std::make_exception_ptr(Error(ErrorCode::timeout, "the workspace's disk could not be copied within " + std::to_string(freeze_most.count()) + " s",
                                                    "stop it first: pyro workspace stop " + row_.id));
    }
    if (failure) std::rethrow_exception(failure);
    std::vector<env::DiskFile> out;
    out.push_back({open_file(copied, O_RDONLY | O_NOFOLLOW), true});
    for (std::size_t i = 1; i < files.size(); ++i) out.push_back({open_file(files[i], O_RDONLY | O_NOFOLLOW), true});
    out.push_back({open_file(environment_->root_image(), O_RDONLY | O_NOFOLLOW), false});
    co_return out;
}

io::Task<void> Workspace::close() {
    const auto self = shared_from_this();
    closing_.request_stop();
    const auto turn = co_await gate_.acquire(std::stop_token());
    if (closed_) co_return;
    co_await end_machine("the workspace was deleted");
    co_await drop_execs(false);
    tasks_.stop();
    co_await tasks_.join();
    if (!row_.machine_id.empty()) services_.machines.remove_disk(row_.machine_id);
    crash_point("workspace_disk_removed");
    const auto remove_files = [directory = services_.directory + "/" + row_.id] { env::remove_tree(directory); };
    co_await io::offload(services_.files, remove_files);
    closed_ = true;
    co_await services_.store.remove_workspace(row_.id);
}

io::Task<void> Workspace::leave() {
    const auto self = shared_from_this();
    closing_.request_stop();
    const auto turn = co_await gate_.acquire(std::stop_token());
    for (const auto& [id, exec] : execs_) co_await exec->leave();
    tasks_.stop();
    co_await tasks_.join();
}

io::Task<void> Workspace::drop(std::shared_ptr<Exec> exec) { co_await exec->leave(); }

io::Task<void> Workspace::drop_execs(bool from_disk) {
    const auto execs = std::exchange(execs_, {});
    order_.clear();
    for (const auto& [id, exec] : execs) co_await exec->leave();
    if (!from_disk) co_return;
    const auto remove_files = [directory = exec_directory()] {
        for (const std::string& name : env::names_in(directory)) env::remove_tree(directory + "/" + name);
    };
    co_await io::offload(services_.files, remove_files);
}

io::Task<std::shared_ptr<Exec>> Workspace::exec(std::string exec_id, agent::ExecSpec spec, std::chrono::seconds timeout, std::stop_token stop) {
    const auto self = shared_from_this();
    if (running_execs() >= services_.execs_running)
        throw Error(ErrorCode::quota_exceeded, std::to_string(running_execs()) + " commands run in the workspace " + row_.id,
                    "wait for one, or end one: pyro workspace ps " + row_.id);
    const std::shared_ptr<vm::Machine> machine = co_await running(stop);
    std::shared_ptr<agent::ExecSession> session = machine->exec(spec);
    ExecRecord record;
    record.info.exec_id = std::move(exec_id);
    record.info.workspace_id = row_.id;
    record.info.argv = spec.argv;
    record.info.cwd = spec.cwd;
    if (!spec.user.empty()) record.info.user = spec.user;
    record.info.tty = spec.tty;
    record.info.started_at = std::time(nullptr);
    record.number = session->id();
    record.timeout_seconds = timeout.count();
    record.has_stdin = spec.has_stdin;
    const std::string directory = exec_directory() + "/" + record.info.exec_id;
    std::shared_ptr<Exec> exec = Exec::create(services_.executor, directory, std::move(record), services_.journal_bytes);
    execs_[exec->id()] = exec;
    order_.push_back(exec->id());
    exec->run(std::move(session), [this] { on_exec_end(); });
    touch();
    co_return exec;
}

// The oldest of too many go.
void Workspace::on_exec_end() {
    touch();
    if (services_.on_change) services_.on_change();
    std::size_t ended = order_.size() - running_execs();
    for (auto at = order_.begin(); at != order_.end() && ended > services_.execs_kept;) {
        const auto exec = execs_.at(*at);
        if (!exec->ended()) {
            ++at;
            continue;
        }
        execs_.erase(*at);
        env::remove_tree(exec_directory() + "/" + *at);
        at = order_.erase(at);
        --ended;
        tasks_.spawn(drop(exec));
    }
}

std::shared_ptr<Exec> Workspace::find_exec(const std::string& id) const {
    std::shared_ptr<Exec> found;
    for (auto at = execs_.lower_bound(id); at != execs_.end() && at->first.starts_with(id); ++at) {
        if (found)
            throw Error(ErrorCode::invalid_argument, "'" + id + "' is the beginning of more than one command's id", "pyro workspace ps " + row_.id + " --all");
        found = at->second;
    }
    if (found && !id.empty()) return found;
    throw Error(ErrorCode::not_found, "the workspace " + row_.id + " has no command " + id, "pyro workspace ps " + row_.id + " --all").with_detail("exec_id", id);
}

std::shared_ptr<Exec> Workspace::last_exec() const {
    if (!order_.empty()) return execs_.at(order_.back());
    throw Error(ErrorCode::not_found, "no command was run in the workspace " + row_.id + " since its last reset", "pyro workspace exec " + row_.id + " -- CMD");
}

std::vector<std::shared_ptr<Exec>> Workspace::execs() const {
    std::vector<std::shared_ptr<Exec>> out;
    for (auto at = order_.rbegin(); at != order_.rend(); ++at) out.push_back(execs_.at(*at));
    return out;
}

std::size_t Workspace::running_execs() const {
    return static_cast<std::size_t>(std::ranges::count_if(execs_, [](const auto& entry) { return !entry.second->ended(); }));
}

io::Task<std::int64_t> Workspace::left_processes(std::stop_token stop) {
    const auto self = shared_from_this();
    const std::shared_ptr<vm::Machine> machine = machine_;
    if (state() != State::running) co_return 0;
    io::Deadline soon(services_.executor, answer_patience, stop);
    try {
        co_return co_await machine->count_left(soon.token());
    } catch (const Cancelled&) {
        if (stop.stop_requested()) throw;
    } catch (const Error&) {
        // It ends just now.
    }
    co_return 0;
}

Workspace::Use::Use(std::shared_ptr<Workspace> workspace) : workspace_(std::move(workspace)) {
    ++workspace_->uses_;
    workspace_->touch();
}

Workspace::Use::~Use() {
    --workspace_->uses_;
    workspace_->touch();
    if (workspace_->services_.on_change) workspace_->services_.on_change();
}

void Workspace::touch() {
    row_.last_activity_at = std::time(nullptr);
    if (creating_ || closing_.stop_requested() || row_.last_activity_at - saved_activity_ < activity_interval) return;
    saved_activity_ = row_.last_activity_at;
    tasks_.spawn(save_quietly());
}

io::Task<void> Workspace::save_quietly() {
    try {
        co_await services_.store.put_workspace(row_);
    } catch (const Error&) {
        // The store tells doctor; when it was last used is no great loss.
    }
}

io::Task<void> Workspace::update(state::WorkspaceRow row) {
    const auto self = shared_from_this();
    check_open();
    // In turn with reset, which changes the row too; what is nobody's to set is what it is by then.
    const auto turn = co_await gate_.acquire(closing_.get_token());
    state::WorkspaceRow next = row_;
    next.name = row.name;
    next.labels = row.labels;
    next.expires_at = row.expires_at;
    next.idle_seconds = row.idle_seconds;
    co_await services_.store.put_workspace(next);
    row_ = std::move(next);
    touch();
    if (services_.on_change) services_.on_change();
}

void Workspace::count_export() {
    ++row_.exports;
    saved_activity_ = 0;
    touch();
}

}  // namespace pyro::workspace
