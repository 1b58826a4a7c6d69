#include "daemon/vm/registry.hpp"

#include "common/crash_point.hpp"

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <filesystem>
#include <thread>

#include <sys/stat.h>
#include <unistd.h>

namespace pyro::vm {
namespace {

namespace fs = std::filesystem;
using state::MachineKind;
using state::MachineState;

constexpr const char* time_is_up = "its time to live was over";

std::size_t at_once(const RegistryConfig& config) {
    return config.boots_at_once > 0 ? config.boots_at_once : std::max(1u, std::thread::hardware_concurrency());
}

bool may_see(state::Viewer viewer, const Machine& machine) { return viewer.admin || machine.row().owner_uid == viewer.uid; }

io::Task<void> close_quietly(std::shared_ptr<Machine> machine, std::string reason) {
    try {
        co_await machine->close(std::move(reason));
    } catch (const Error&) {
        // Only the record could not be removed; the store says so, and the next start removes it.
    }
}

}  // namespace

MachineRegistry::MachineRegistry(io::Executor executor, state::Store& store, Hypervisor& hypervisor, VmUids& uids, RegistryConfig config)
    : executor_(executor), store_(store), quota_(config.limits),
      boots_(executor, at_once(config), at_once(config)),
      guests_{executor, hypervisor, uids, config.run_directory + "/vm", config.overlay_directory, config.boot_patience},
      templates_(guests_, std::move(config.templates)), spares_(guests_, store, boots_, config.spares),
      services_{guests_, store, boots_, templates_, spares_, {}}, one_gone_(executor), changed_(executor), tasks_(executor) {
    if (::mkdir(guests_.run_directory.c_str(), 0700) != 0 && errno != EEXIST) throw Error::from_errno("make " + guests_.run_directory);
}

MachineRegistry::~MachineRegistry() = default;

void MachineRegistry::add(std::shared_ptr<Machine> machine) {
    machines_[machine->id()] = std::move(machine);
    changed_.set();
}

io::Task<Quota::Reservation> MachineRegistry::reserve(uid_t owner, std::int64_t mem_mib, std::stop_token stop) {
    for (;;) {
        one_gone_.reset();
        try {
            co_return quota_.reserve(owner, mem_mib);
        } catch (const Error&) {
            // What is about to be gone is no reason to refuse anybody.
            if (gone_ == retired_) throw;
        }
        co_await one_gone_.wait(stop);
    }
}

io::Task<std::shared_ptr<Machine>> MachineRegistry::create(MachineRequest request, std::stop_token stop) {
    std::shared_ptr<const Template> no_spare;
    auto machine = co_await record(std::move(request), std::move(no_spare), stop);
    co_return machine;
}

io::Task<std::shared_ptr<Machine>> MachineRegistry::create(MachineRequest request, RootImage root, StartKind at_best, std::stop_token stop) {
    std::shared_ptr<const Template> spare_of;
    if (at_best == StartKind::spare && request.disk.empty()) {
        TemplateSource source;
        source.spec = request.spec;
        source.disk_bytes = disk_bytes(request.spec, check_root_image(root.path));
        source.root = std::move(root);
        const TemplateChoice choice = co_await templates_.find(std::move(source), stop);
        spare_of = choice.ready;
    }
    auto machine = co_await record(std::move(request), std::move(spare_of), stop);
    co_return machine;
}

io::Task<std::shared_ptr<Machine>> MachineRegistry::record(MachineRequest request, std::shared_ptr<const Template> spare_of, std::stop_token stop) {
    auto reservation = co_await reserve(request.owner_uid, request.spec.mem_mib, stop);
    std::unique_ptr<Guest> spare;
    const bool outlives_daemon = request.kind != MachineKind::run;
    if (spare_of) spare = spares_.take(spare_of, outlives_daemon);
    state::MachineRow row;
    row.id = spare ? spare->id() : request.disk.empty() ? new_guest_id() : request.disk;
    PYRO_CHECK(!machines_.contains(row.id));
    if (spare) {
        row.vm_uid = spare->uid();
        row.process = record_of(spare->instance()->record().process);
    }
    row.owner_uid = request.owner_uid;
    row.kind = request.kind;
    // Nothing has to be done for a VM that is only to be started later; one of a call goes when its daemon does.
    row.state = request.kind == MachineKind::vm ? MachineState::stopped : MachineState::creating;
    row.environment = request.environment;
    row.environment_digest = request.environment_digest;
    row.vcpu_count = request.spec.vcpu_count;
    row.mem_mib = request.spec.mem_mib;
    row.disk_gib = request.spec.disk_gib;
    row.network = request.network;
    row.allow_host_compat = request.allow_host_compat;
    row.created_at = std::time(nullptr);
    row.expires_at = request.ttl_seconds > 0 ? row.created_at + request.ttl_seconds : 0;
    std::exception_ptr failure;
    try {
        if (spare && outlives_daemon) store_.take_spare(row);
        else store_.insert_machine(row);
    } catch (const Error&) {
        failure = std::current_exception();
    }
    if (failure && spare) co_await spare->remove(true);
    if (failure) std::rethrow_exception(failure);
    crash_point("machine_recorded");
    auto machine = std::make_shared<Machine>(services_, std::move(row), std::move(reservation), std::move(spare));
    add(machine);
    co_return machine;
}

std::shared_ptr<Machine> MachineRegistry::find(state::Viewer viewer, const std::string& id) const {
    const auto it = machines_.find(id);
    return it != machines_.end() && may_see(viewer, *it->second) ? it->second : nullptr;
}

std::shared_ptr<Machine> MachineRegistry::get(state::Viewer viewer, const std::string& id) const {
    if (auto machine = find(viewer, id); machine && machine->row().kind != MachineKind::workspace) return machine;
    throw Error(ErrorCode::not_found, "there is no VM " + id, "list yours: pyro vm list").with_detail("vm_id", id);
}

std::vector<std::shared_ptr<Machine>> MachineRegistry::list(state::Viewer viewer) const {
    std::vector<std::shared_ptr<Machine>> out;
    for (const auto& [id, machine] : machines_)
        if (may_see(viewer, *machine)) out.push_back(machine);
    std::ranges::stable_sort(out, [](const auto& a, const auto& b) { return a->row().created_at > b->row().created_at; });
    return out;
}

io::Task<void> MachineRegistry::remove(std::shared_ptr<Machine> machine) {
    std::exception_ptr failure;
    try {
        co_await machine->close();
    } catch (const Error&) {
        failure = std::current_exception();
    }
    machines_.erase(machine->id());
    if (failure) std::rethrow_exception(failure);
}

void MachineRegistry::retire(std::shared_ptr<Machine> machine) {
    machines_.erase(machine->id());
    ++retired_;
    tasks_.spawn(finish(std::move(machine)));
}

io::Task<void> MachineRegistry::finish(std::shared_ptr<Machine> machine) {
    co_await close_quietly(machine, "it has done its work");
    replenish(*machine);
    ++gone_;
    one_gone_.set();
}

void MachineRegistry::replenish(const Machine& machine) {
    const auto recipe = machine.spare_recipe();
    if (recipe && templates_.is_current(recipe->from)) spares_.replenish(*recipe);
}

std::vector<std::string> MachineRegistry::disk_files(const std::string& id) const { return Guest(guests_, id).disk_files(); }

void MachineRegistry::remove_disk(const std::string& id) {
    PYRO_CHECK(!machines_.contains(id));
    Guest(guests_, id).remove_disk();
}

io::Task<void> MachineRegistry::retired(std::stop_token stop) {
    for (const std::uint64_t wanted = retired_; gone_ < wanted;) {
        one_gone_.reset();
        co_await one_gone_.wait(stop);
    }
}

void MachineRegistry::forget_environments(const std::function<bool(const std::string&)>& keep) {
    templates_.remove_others(keep);
    spares_.remove_unless([this](const auto& from) { return templates_.is_current(from); });
}

io::Task<std::vector<std::string>> MachineRegistry::reap_expired(state::Viewer viewer) {
    std::vector<std::string> out;
    const std::int64_t now = std::time(nullptr);
    for (const auto& machine : list(viewer)) {
        if (machine->row().expires_at == 0 || machine->row().expires_at > now) continue;
        out.push_back(machine->id());
        co_await close_quietly(machine, time_is_up);
        machines_.erase(machine->id());
    }
    co_return out;
}

io::Task<void> MachineRegistry::reap() {
    const std::stop_token stop = tasks_.token();
    for (;;) {
        const std::int64_t now = std::time(nullptr);
        std::int64_t next = 0;
        for (auto it = machines_.begin(); it != machines_.end();) {
            const std::int64_t due = it->second->row().expires_at;
            if (due > 0 && due <= now) {
                tasks_.spawn(close_quietly(it->second, time_is_up));
                it = machines_.erase(it);
                continue;
            }
            if (due > 0 && (next == 0 || due < next)) next = due;
            ++it;
        }
        changed_.reset();
        if (next == 0) {
            co_await changed_.wait(stop);
            continue;
        }
        // The wall clock may be set meanwhile: look again at least every hour.
        io::Deadline due(executor_, std::chrono::seconds(std::min<std::int64_t>(next - now, 3600)), stop);
        try {
            co_await changed_.wait(due.token());
        } catch (const Cancelled&) {
            if (!due.expired()) throw;
        }
    }
}

io::Task<void> MachineRegistry::reconcile(Workspaces workspaces) {
    io::TaskGroup group(executor_);
    for (state::MachineRow& row : store_.all_machines()) group.spawn(take_up(std::move(row), workspaces));
    co_await group.join();
    co_await remove_strays(workspaces);
    templates_.start();
    tasks_.spawn(reap());
    tasks_.spawn(probe());
}

// Ahead of the first machine, which would otherwise wait for the trial boot.
io::Task<void> MachineRegistry::probe() {
    try {
        co_await guests_.hypervisor.probe(tasks_.token());
    } catch (const Error&) {
        // Whoever wants a machine, or asks doctor, gets it told.
    }
}

io::Task<void> MachineRegistry::take_up(state::MachineRow row, const Workspaces& workspaces) {
    const auto workspace = workspaces.find(row.id);
    const bool somebodys = row.kind == MachineKind::vm || (row.kind == MachineKind::workspace && workspace != workspaces.end());
    const bool runs = row.state == MachineState::running && somebodys;
    if (!runs) {
        InstanceRecord record;
        record.id = row.id;
        record.process = supervise::ProcessIdentity{row.process.pid, row.process.start_time, row.process.boot_id};
        co_await guests_.hypervisor.clear(std::move(record), std::stop_token());
        if (row.vm_uid != 0) store_.release_uid(row.vm_uid);
        row.vm_uid = 0;
        row.process = {};
    }
    // A workspace that sleeps has a disk and no machine.
    if (!somebodys || row.state == MachineState::creating || (row.kind == MachineKind::workspace && !runs)) {
        store_.remove_machine(row.id);  // its files go with remove_strays()
        co_return;
    }
    if (row.state == MachineState::booting) {
        row.state = MachineState::failed;
        row.failure = "the daemon ended while it booted";
    }
    if (row.state == MachineState::stopping) row.state = MachineState::stopped;
    store_.update_machine(row);
    auto reservation = quota_.count(row.owner_uid, row.mem_mib);
    auto machine = std::make_shared<Machine>(services_, std::move(row), std::move(reservation));
    machine->end_reason_ = machine->row().failure;
    if (!runs) machine->ended_.set();
    add(machine);
    agent::Resumption known;
    if (workspace != workspaces.end()) known = workspace->second;
    if (runs) co_await machine->adopt(std::move(known));
}

io::Task<void> MachineRegistry::remove_strays(const Workspaces& workspaces) {
    for (const std::string& id : guests_.hypervisor.leftovers()) {
        InstanceRecord record;
        record.id = id;
        if (!machines_.contains(id)) co_await guests_.hypervisor.clear(std::move(record), std::stop_token());
    }
    for (const auto& entry : fs::directory_iterator(guests_.run_directory)) {
        const auto known = machines_.find(entry.path().filename().string());
        if (known == machines_.end() || known->second->row().state != MachineState::running) fs::remove_all(entry.path());
    }
    for (const auto& entry : fs::directory_iterator(guests_.overlay_directory)) {
        const std::string name = entry.path().filename().string();  // ID.qcow2, ID.base.qcow2
        const std::string id = name.substr(0, name.find('.'));
        if (name.ends_with(".qcow2") && !machines_.contains(id) && !workspaces.contains(id)) fs::remove(entry.path());
    }
    store_.release_stray_uids();
}

io::Task<void> MachineRegistry::shut_down() {
    tasks_.stop();
    io::TaskGroup group(executor_);
    for (const auto& [id, machine] : machines_)
        group.spawn(machine->row().kind == MachineKind::run ? close_quietly(machine, "the daemon ended") : machine->let_go());
    co_await group.join();
    co_await tasks_.join();
    co_await spares_.close();
    co_await templates_.close();
    machines_.clear();
}

}  // namespace pyro::vm
