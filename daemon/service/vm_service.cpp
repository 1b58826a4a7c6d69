#include "daemon/service/vm_service.hpp"

#include "common/log.hpp"
#include "daemon/env/files.hpp"
#include "daemon/service/env_service.hpp"
#include "daemon/service/template_source.hpp"
#include "daemon/service/viewer.hpp"
#include "daemon/vm/process_memory.hpp"

#include <functional>

#include <sys/stat.h>
#include <unistd.h>

namespace pyro::service {

namespace {

constexpr std::chrono::seconds stop_grace{10};
constexpr std::chrono::seconds removal_patience{30};  // with a tree whose user makes it grow from outside

proto::VmInfo info_of(const vm::Machine& machine) {
    const state::MachineRow& row = machine.row();
    proto::VmInfo info;
    info.vm_id = row.id;
    info.state = static_cast<proto::VmState>(row.state);
    info.environment = row.environment;
    info.environment_digest = row.environment_digest;
    if (row.execution_mode == "guest_kvm") info.execution_mode = proto::ExecutionMode::guest_kvm;
    if (row.execution_mode == "guest_tcg") info.execution_mode = proto::ExecutionMode::guest_tcg;
    info.vcpu_count = row.vcpu_count;
    info.mem_mib = row.mem_mib;
    info.disk_gib = row.disk_gib;
    info.network = row.network;
    info.created_at = row.created_at;
    info.expires_at = row.expires_at;
    if (!row.failure.empty()) info.failure = row.failure;
    return info;
}
static_assert(static_cast<int>(proto::StartKind::cold) == static_cast<int>(vm::StartKind::cold) &&
              static_cast<int>(proto::StartKind::spare) == static_cast<int>(vm::StartKind::spare));
static_assert(static_cast<int>(proto::VmState::creating) == static_cast<int>(state::MachineState::creating) &&
              static_cast<int>(proto::VmState::failed) == static_cast<int>(state::MachineState::failed));

template <class Params>
vm::MachineRequest machine_request(const Params& params, const rpc::Peer& peer, const env::Lease& environment, state::MachineKind kind) {
    vm::MachineRequest request;
    request.owner_uid = peer.uid;
    request.kind = kind;
    request.environment = params.environment;
    request.environment_digest = environment.digest().str();
    request.spec.vcpu_count = params.vcpu_count;
    request.spec.mem_mib = params.mem_mib;
    request.spec.disk_gib = params.disk_gib;
    request.network = params.network;
    request.allow_host_compat = params.allow_host_compat;
    request.ttl_seconds = params.ttl_seconds;
    return request;
}

void refuse_network(bool asked) {
    if (asked)
        throw Error(ErrorCode::network_denied, "VMs of this host have no network", "leave --network out");
}

proto::ExecResult result_of(const vm::Machine& machine, const StreamOutcome& outcome) {
    using Kind = agent::ExitStatus::Kind;
    const agent::ExitStatus& status = outcome.status;
    proto::ExecResult result;
    result.vm_id = machine.id();
    result.timed_out = outcome.timed_out;
    result.oom = status.oom;
    if (!outcome.timed_out && status.kind == Kind::signalled) result.signal = status.signal;
    if (!outcome.timed_out && status.kind != Kind::signalled) result.exit_code = status.exit_code;
    if (status.kind == Kind::not_started) result.exec_error = status.error;
    result.duration_ms = static_cast<std::int64_t>(status.duration_ns / 1'000'000);
    result.environment = machine.row().environment;
    result.environment_digest = machine.row().environment_digest;
    result.stdout_bytes = static_cast<std::int64_t>(outcome.stdout_bytes);
    result.stderr_bytes = static_cast<std::int64_t>(outcome.stderr_bytes);
    return result;
}

}  // namespace

io::Task<proto::ExecResult> VmService::serve(proto::VmRun, proto::VmRunParams params, rpc::Call& call) {
    proto::VmCommand request = std::move(params);  // what else is in params stays
    check_command(request);
    refuse_network(params.network);
    env::PullOptions options;
    env::Lease lease = co_await environments_.ensure(params.environment, viewer_of(call.peer()), options, progress_of(call), call.stop());
    const auto environment = std::make_shared<const env::Lease>(std::move(lease));
    exec_spec(request, environment->manifest());  // what cannot run is refused before a machine is made for it
    const vm::StartKind at_best = static_cast<vm::StartKind>(params.start);
    vm::MachineRequest wanted = machine_request(params, call.peer(), *environment, state::MachineKind::run);
    std::shared_ptr<vm::Machine> machine = co_await machines_.create(std::move(wanted), root_image_of(environment), at_best, call.stop());
    proto::ExecResult result = co_await run_and_remove(call, std::move(machine), environment, std::move(request),
                                                       std::chrono::seconds(params.timeout_seconds), at_best);
    co_return result;
}

io::Task<proto::ExecResult> VmService::serve(proto::VmExec, proto::VmExecParams params, rpc::Call& call) {
    proto::VmCommand request = std::move(params);  // what else is in params stays
    check_command(request);
    const state::Viewer viewer = viewer_of(call.peer());
    env::Lease lease = co_await environments_.hold(machines_.get(viewer, params.vm_id)->row().environment_digest, call.stop());
    const auto environment = std::make_shared<const env::Lease>(std::move(lease));
    exec_spec(request, environment->manifest());
    std::shared_ptr<vm::Machine> machine = machines_.get(viewer, params.vm_id);
    machine->bind_to_call();
    proto::ExecResult result = co_await run_and_remove(call, std::move(machine), environment, std::move(request),
                                                       std::chrono::seconds(params.timeout_seconds), vm::StartKind::spare);
    co_return result;
}

io::Task<proto::ExecResult> VmService::run_and_remove(rpc::Call& call, std::shared_ptr<vm::Machine> machine,
                                                      std::shared_ptr<const env::Lease> environment, proto::VmCommand request,
                                                      std::chrono::seconds timeout, vm::StartKind at_best) {
    std::shared_ptr<rpc::Attachment> attachment = call.attach();
    proto::ExecStarted started_event;
    started_event.ticket = attachment->ticket();
    started_event.vm_id = machine->id();
    StreamOutcome outcome;
    proto::ExecutionMode mode = proto::ExecutionMode::guest_tcg;
    std::optional<Error> error;
    std::exception_ptr other;
    bool started = false;
    try {
        co_await call.notify(started_event);
        outcome = co_await run_in_guest(call, machine, environment, request, timeout, attachment, at_best, started);
        if (machine->row().execution_mode == "guest_kvm") mode = proto::ExecutionMode::guest_kvm;
    } catch (const Error& e) {
        error = e;
    } catch (...) {
        other = std::current_exception();
    }
    // What a start throws is the cause; what a channel says later is often only the consequence of one.
    if (error && started) error = co_await machine->explain(std::move(*error));
    const bool may_compat = error && !started && !machine->guest_spoke() && machine->row().allow_host_compat && !call.stop().stop_requested();
    if (may_compat) {
        // Only where the guest could not be started at all: a command that ran, or may have run, is never run again.
        const Error guest_error = *error;
        error.reset();
        try {
            outcome = co_await run_on_host(call, machine, *environment, request, timeout, attachment);
            mode = proto::ExecutionMode::host_compat;
        } catch (const Error& e) {
            error = e;
            error->add_context("no guest could be started (" + guest_error.message() + ")");
        } catch (...) {
            other = std::current_exception();
        }
    }
    proto::ExecResult result = result_of(*machine, outcome);
    result.execution_mode = mode;
    if (mode != proto::ExecutionMode::host_compat) result.start = static_cast<proto::StartKind>(machine->started_as());
    machines_.retire(std::move(machine));
    if (other) std::rethrow_exception(other);
    if (error) throw *error;
    co_return result;
}

io::Task<StreamOutcome> VmService::run_in_guest(rpc::Call& call, std::shared_ptr<vm::Machine> machine, std::shared_ptr<const env::Lease> environment,
                                                const proto::VmCommand& request, std::chrono::seconds timeout,
                                                std::shared_ptr<rpc::Attachment> attachment, vm::StartKind at_best, bool& started) {
    agent::ExecSpec spec = exec_spec(request, environment->manifest());
    std::shared_ptr<agent::ExecSession> session;
    if (machine->row().state == state::MachineState::running) {
        session = machine->exec(spec);
    } else {
        proto::Progress boot;
        boot.phase = "boot";
        call.progress(boot);
        vm::StartRequest start;
        start.root = root_image_of(environment);
        start.at_best = at_best;
        start.first_command = std::move(spec);
        session = co_await machine->start(std::move(start), call.stop());
    }
    started = true;
    StreamOutcome outcome = co_await stream_command(call, std::move(attachment), std::move(session), request.interactive || request.tty, timeout);
    co_return outcome;
}

io::Task<StreamOutcome> VmService::run_on_host(rpc::Call& call, std::shared_ptr<vm::Machine> machine, const env::Lease& environment, const proto::VmCommand& request,
                                               std::chrono::seconds timeout, std::shared_ptr<rpc::Attachment> attachment) {
    if (!host_compat_.allow)
        throw Error(ErrorCode::failed_precondition, "this host's configuration forbids the sandbox on the host", "pyro doctor says why no guest boots");
    if (call.peer().uid == 0)
        throw Error(ErrorCode::failed_precondition, "the sandbox on the host is refused for root", "run pyro as an ordinary user of group pyro");
    const std::string id = machine->id();
    // The peer's alone: what is in it takes the modes that the image gives it, its top too.
    const std::string directory = host_compat_.directory + "/" + id, root = directory + "/root";
    const uid_t uid = call.peer().uid;
    const gid_t gid = call.peer().gid;
    if (::mkdir(directory.c_str(), 0700) != 0) throw Error::from_errno("make " + directory);

    // The sandbox stands for the machine: it ends when that is deleted or its time is over.
    std::stop_source ended;
    const std::function<void()> end = [&ended] { ended.request_stop(); };
    const std::stop_callback<std::function<void()>> on_call_stop(call.stop(), end);
    const std::stop_callback<std::function<void()>> on_closing(machine->closing(), end);
    std::shared_ptr<compat::HostSandbox> sandbox;
    StreamOutcome outcome;
    std::exception_ptr failure;
    try {
        if (::mkdir(root.c_str(), 0700) != 0) throw Error::from_errno("make " + root);
        if (::chown(root.c_str(), uid, gid) != 0 || ::chown(directory.c_str(), uid, gid) != 0) throw Error::from_errno("give away " + directory);
        supervise::Credentials peer;
        peer.uid = uid;
        peer.gid = gid;
        peer.groups = call.peer().groups;
        co_await environments_.unpack(environment, id, root, peer, progress_of(call), ended.get_token());
        compat::SandboxPlan plan;
        plan.id = id;
        plan.bubblewrap = host_compat_.bubblewrap;
        plan.root = root;
        plan.peer = std::move(peer);
        plan.command = exec_spec(request, environment.manifest());
        plan.memory_max = static_cast<std::uint64_t>(machine->row().mem_mib) << 20;
        plan.file_max = static_cast<std::uint64_t>(machine->row().disk_gib) << 30;
        sandbox = co_await compat::HostSandbox::start(supervisor_, call.executor(), std::move(plan));
        const std::function<void()> kill = [sandbox] { sandbox->kill(); };
        const std::stop_callback<std::function<void()>> on_end(ended.get_token(), kill);
        outcome = co_await stream_command(call, std::move(attachment), sandbox, request.interactive || request.tty, timeout);
    } catch (...) {
        failure = std::current_exception();
    }
    if (sandbox) co_await sandbox->close();
    // Nobody of the sandbox runs any more, but the tree is its user's: what he hinders, the next start removes.
    const auto remove_tree = [directory] {
        try {
            env::remove_tree(directory, std::chrono::steady_clock::now() + removal_patience);
        } catch (const Error& e) {
            log::say(log::Level::warning, "a sandbox's tree stays: " + e.message());
        }
    };
    co_await io::offload(removals_, remove_tree);
    if (machine->closing().stop_requested() && !call.stop().stop_requested())
        throw Error(ErrorCode::guest_failed, "the sandbox on the host was ended: its time to live is over, or it was deleted",
                    "give it longer with --ttl-seconds");
    if (failure) std::rethrow_exception(failure);
    co_return outcome;
}

io::Task<proto::VmInfo> VmService::serve(proto::VmCreate, proto::VmCreateParams params, rpc::Call& call) {
    refuse_network(params.network);
    env::PullOptions options;
    const env::Lease environment =
        co_await environments_.ensure(params.environment, viewer_of(call.peer()), options, progress_of(call), call.stop());
    // From here on the machine's record keeps the environment.
    vm::MachineRequest wanted = machine_request(params, call.peer(), environment, state::MachineKind::vm);
    const std::shared_ptr<vm::Machine> machine = co_await machines_.create(std::move(wanted), call.stop());
    co_return info_of(*machine);
}

io::Task<proto::VmInfo> VmService::serve(proto::VmStart, proto::VmStartParams params, rpc::Call& call) {
    const state::Viewer viewer = viewer_of(call.peer());
    std::shared_ptr<vm::Machine> machine = machines_.get(viewer, params.vm_id);
    if (machine->row().state == state::MachineState::running) co_return info_of(*machine);
    env::Lease environment = co_await environments_.hold(machine->row().environment_digest, call.stop());
    machine = machines_.get(viewer, params.vm_id);
    vm::StartRequest start;
    start.root = root_image_of(std::make_shared<const env::Lease>(std::move(environment)));
    co_await machine->start(std::move(start), call.stop());
    co_return info_of(*machine);
}

io::Task<proto::VmInfo> VmService::serve(proto::VmStop, proto::VmStopParams params, rpc::Call& call) {
    std::shared_ptr<vm::Machine> machine = machines_.get(viewer_of(call.peer()), params.vm_id);
    co_await machine->stop(stop_grace, call.stop());
    co_return info_of(*machine);
}

io::Task<proto::VmDeleteResult> VmService::serve(proto::VmDelete, proto::VmDeleteParams params, rpc::Call& call) {
    proto::VmDeleteResult result;
    result.vm_id = params.vm_id;
    co_await machines_.remove(machines_.get(viewer_of(call.peer()), params.vm_id));
    co_return result;
}

io::Task<proto::VmInfo> VmService::serve(proto::VmStatus, proto::VmStatusParams params, rpc::Call& call) {
    const std::shared_ptr<vm::Machine> machine = machines_.get(viewer_of(call.peer()), params.vm_id);
    proto::VmInfo info = info_of(*machine);
    const state::ProcessRecord& recorded = machine->row().process;
    if (recorded.pid == 0) co_return info;
    const supervise::ProcessIdentity process{recorded.pid, recorded.start_time, recorded.boot_id};
    const auto look = [process] { return vm::process_memory(process); };
    const std::optional<vm::ProcessMemory> memory = co_await io::offload(files_, look);
    if (memory) {
        info.memory_private_bytes = memory->private_bytes;
        info.memory_code_bytes = memory->code_bytes;
    }
    co_return info;
}

io::Task<proto::VmNetworkInfoResult> VmService::serve(proto::VmNetworkInfo, proto::VmNetworkInfoParams params, rpc::Call& call) {
    const std::shared_ptr<vm::Machine> machine = machines_.get(viewer_of(call.peer()), params.vm_id);
    proto::VmNetworkInfoResult result;
    result.vm_id = machine->id();
    result.network = machine->row().network;
    co_return result;
}

io::Task<proto::VmListResult> VmService::serve(proto::VmList, proto::VmListParams, rpc::Call& call) {
    proto::VmListResult result;
    for (const std::shared_ptr<vm::Machine>& machine : machines_.list(viewer_of(call.peer())))
        if (machine->row().kind != state::MachineKind::workspace) result.vms.push_back(info_of(*machine));
    co_return result;
}

io::Task<proto::VmReapExpiredResult> VmService::serve(proto::VmReapExpired, proto::VmReapExpiredParams, rpc::Call& call) {
    proto::VmReapExpiredResult result;
    result.reaped = co_await machines_.reap_expired(viewer_of(call.peer()));
    co_return result;
}

}  // namespace pyro::service
