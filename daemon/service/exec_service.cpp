#include "daemon/service/exec_service.hpp"

#include "daemon/service/exec_follow.hpp"
#include "daemon/service/exec_spec.hpp"
#include "daemon/service/viewer.hpp"

#include <csignal>

namespace pyro::service {
namespace {

constexpr std::string_view root = "/workspace";
constexpr std::chrono::seconds exec_kill_patience{5};

agent::ExecSpec spec_of(const proto::ExecStartParams& params, const workspace::Workspace& workspace) {
    proto::VmCommand command = params;
    // A workspace's user asks for a command; the image's own is for `run`.
    if (params.argv.empty() && !params.command && !params.tty)
        throw Error(ErrorCode::invalid_argument, "there is no command to run", "say what to run: pyro workspace exec WORKSPACE -- CMD");
    if (params.argv.empty() && !params.command) command.argv = {"/bin/sh"};
    const std::string cwd = params.cwd.value_or(std::string(root));
    command.workdir = cwd.starts_with('/') ? cwd : std::string(root) + "/" + cwd;
    return exec_spec(command, workspace.environment());
}

std::shared_ptr<rpc::Attachment> offer(rpc::Call& call, const workspace::Workspace& workspace, const std::string& exec_id, proto::ExecStarted& event) {
    std::shared_ptr<rpc::Attachment> attachment = call.attach();
    event.ticket = attachment->ticket();
    event.workspace_id = workspace.id();
    event.exec_id = exec_id;
    return attachment;
}

proto::ExecOutcome outcome_of(const workspace::Exec& exec, const Followed& followed) {
    proto::ExecOutcome outcome;
    static_cast<proto::ExecInfo&>(outcome) = exec.info();
    outcome.stdout_bytes = static_cast<std::int64_t>(followed.stdout_bytes);
    outcome.stderr_bytes = static_cast<std::int64_t>(followed.stderr_bytes);
    return outcome;
}

// From the offsets that attach and logs have.
template <class Params>
FollowRequest follow_from(const Params& params) {
    FollowRequest request;
    request.out = static_cast<std::uint64_t>(params.stdout_offset);
    request.err = static_cast<std::uint64_t>(params.stderr_offset);
    return request;
}

// Of a command that is there: offers its streams and follows it.
io::Task<proto::ExecOutcome> take_up(rpc::Call& call, std::shared_ptr<workspace::Workspace> workspace, std::shared_ptr<workspace::Exec> exec, FollowRequest request) {
    proto::ExecStarted event;
    std::shared_ptr<rpc::Attachment> attachment = offer(call, *workspace, exec->id(), event);
    co_await call.notify(event);
    const Followed followed = co_await follow_exec(call, std::move(attachment), exec, std::move(request));
    co_return outcome_of(*exec, followed);
}

constexpr std::array signal_numbers{SIGTERM, SIGKILL, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGSTOP, SIGCONT};
static_assert(signal_numbers.size() == enum_names(proto::ExecSignal{}).size());

}  // namespace

io::Task<proto::ExecOutcome> ExecService::serve(proto::ExecStart, proto::ExecStartParams params, rpc::Call& call) {
    check_command(params);
    const auto workspace = workspaces_.get(viewer_of(call.peer()), params.workspace_id);
    workspace->check_open();
    const workspace::Workspace::Use use(workspace);
    agent::ExecSpec spec = spec_of(params, *workspace);
    const std::string exec_id = vm::new_guest_id();
    const std::chrono::seconds timeout(params.timeout_seconds);
    if (params.detach) {
        const std::shared_ptr<workspace::Exec> exec = co_await workspace->exec(exec_id, std::move(spec), timeout, call.stop());
        co_await exec->started(call.stop());
        co_return outcome_of(*exec, Followed());
    }
    // The client attaches while a workspace that sleeps is woken.
    proto::ExecStarted event;
    std::shared_ptr<rpc::Attachment> attachment = offer(call, *workspace, exec_id, event);
    co_await call.notify(event);
    const std::shared_ptr<workspace::Exec> exec = co_await workspace->exec(exec_id, std::move(spec), timeout, call.stop());
    FollowRequest request;
    request.input = params.interactive || params.tty;
    request.pace = exec->keep_pace();
    Followed followed;
    std::exception_ptr failure;
    try {
        followed = co_await follow_exec(call, std::move(attachment), exec, std::move(request));
    } catch (...) {
        failure = std::current_exception();
    }
    if (!failure) co_return outcome_of(*exec, followed);
    // Whoever takes the call back wants the command ended; whoever only leaves does not.
    if (call.cancelled() && !exec->ended()) {
        exec->cancel();
        io::Deadline patience(call.executor(), exec_kill_patience, std::stop_token());
        try {
            co_await exec->wait_end(patience.token());
        } catch (const Cancelled&) {
            // The guest is slow; the command's record will say.
        }
    }
    std::rethrow_exception(failure);
}

io::Task<proto::ExecListResult> ExecService::serve(proto::ExecList, proto::ExecListParams params, rpc::Call& call) {
    proto::ExecListResult result;
    for (const auto& exec : workspaces_.get(viewer_of(call.peer()), params.workspace_id)->execs())
        if (params.all || !exec->ended()) result.execs.push_back(exec->info());
    co_return result;
}

io::Task<proto::ExecOutcome> ExecService::serve(proto::ExecAttach, proto::ExecAttachParams params, rpc::Call& call) {
    const auto workspace = workspaces_.get(viewer_of(call.peer()), params.workspace_id);
    const auto exec = workspace->find_exec(params.exec_id);
    FollowRequest request = follow_from(params);
    request.input = exec->record().has_stdin && !params.no_stdin;
    proto::ExecOutcome outcome = co_await take_up(call, workspace, exec, std::move(request));
    co_return outcome;
}

io::Task<proto::ExecOutcome> ExecService::serve(proto::ExecLogs, proto::ExecLogsParams params, rpc::Call& call) {
    const auto workspace = workspaces_.get(viewer_of(call.peer()), params.workspace_id);
    const auto exec = params.exec_id ? workspace->find_exec(*params.exec_id) : workspace->last_exec();
    FollowRequest request = follow_from(params);
    request.to_end = params.follow;
    request.wait = std::chrono::seconds(params.wait_seconds);
    proto::ExecOutcome outcome = co_await take_up(call, workspace, exec, std::move(request));
    co_return outcome;
}

io::Task<proto::ExecInfo> ExecService::serve(proto::ExecKill, proto::ExecKillParams params, rpc::Call& call) {
    const auto workspace = workspaces_.get(viewer_of(call.peer()), params.workspace_id);
    const auto exec = workspace->find_exec(params.exec_id);
    const int number = signal_numbers[static_cast<std::size_t>(params.signal)];
    exec->signal(number);
    if (number == SIGKILL) {
        io::Deadline patience(call.executor(), exec_kill_patience, call.stop());
        try {
            co_await exec->wait_end(patience.token());
        } catch (const Cancelled&) {
            if (!patience.expired()) throw;
        }
    }
    co_return exec->info();
}

}  // namespace pyro::service
