#include "daemon/service/prepare_service.hpp"

#include "daemon/service/env_service.hpp"
#include "daemon/service/template_source.hpp"
#include "daemon/service/viewer.hpp"

#include <chrono>

namespace pyro::service {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t run_ttl_seconds = 60;

proto::PrepareStep step(const char* name, bool changed, Clock::duration took) {
    proto::PrepareStep out;
    out.step = name;
    out.changed = changed;
    out.took_ms = std::chrono::duration_cast<std::chrono::milliseconds>(took).count();
    return out;
}

agent::ExecSpec nothing() {
    agent::ExecSpec command;
    command.argv = {"true"};
    command.env = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"};
    command.cwd = "/";
    command.has_stdin = false;
    return command;
}

void say(rpc::Call& call, const char* phase) {
    proto::Progress event;
    event.phase = phase;
    call.progress(event);
}

}  // namespace

io::Task<proto::EnvPrepareResult> PrepareService::serve(proto::EnvPrepare, proto::EnvPrepareParams params, rpc::Call& call) {
    proto::EnvPrepareResult result;
    result.environment = params.environment;
    auto began = Clock::now();
    const bool was_there = co_await installed(params.environment, call);
    env::PullOptions options;
    env::Lease lease = co_await environments_.ensure(params.environment, viewer_of(call.peer()), options, progress_of(call), call.stop());
    const auto environment = std::make_shared<const env::Lease>(std::move(lease));
    result.environment_digest = environment->digest().str();
    result.steps.push_back(step("environment", !was_there, Clock::now() - began));

    const vm::MachineSpec usual;
    for (const vm::TemplateTier tier : {vm::TemplateTier::pristine, vm::TemplateTier::bare}) {
        const char* name = tier == vm::TemplateTier::pristine ? "image" : "image-restart";
        say(call, name);
        vm::TemplateSource source = template_source_of(tier, usual, environment);
        const vm::PrepareOutcome outcome = co_await machines_.templates().prepare(std::move(source), params.force, call.stop());
        result.steps.push_back(step(name, outcome.built, outcome.took));
    }

    say(call, "run");
    began = Clock::now();
    co_await run_once(call, params.environment, environment);
    result.steps.push_back(step("run", true, Clock::now() - began));
    co_await try_workspace(call, environment, result);
    co_return result;
}

// The daily loop once, and what the next workspace is made after.
io::Task<void> PrepareService::try_workspace(rpc::Call& call, std::shared_ptr<const env::Lease> environment, proto::EnvPrepareResult& result) {
    workspace::WorkspaceRequest request;
    request.owner_uid = call.peer().uid;
    request.environment = result.environment;
    request.lease = std::move(environment);
    request.ttl_seconds = run_ttl_seconds;
    std::shared_ptr<workspace::Workspace> workspace = workspaces_.reserve(request);
    std::exception_ptr failure;
    auto began = Clock::now();
    const auto done = [&](const char* name) {
        result.steps.push_back(step(name, true, Clock::now() - began));
        began = Clock::now();
    };
    try {
        say(call, "workspace");
        std::shared_ptr<const workspace::Seed> none;
        co_await workspaces_.create(workspace, request, std::move(none), call.stop());
        done("workspace-create");
        agent::ExecSpec command = nothing();
        const std::shared_ptr<workspace::Exec> exec = co_await workspace->exec(vm::new_guest_id(), std::move(command), std::chrono::seconds(run_ttl_seconds), call.stop());
        co_await exec->wait_end(call.stop());
        done("workspace-exec");
        co_await workspace->reset(call.stop());
        done("workspace-reset");
    } catch (...) {
        failure = std::current_exception();
    }
    began = Clock::now();
    co_await workspaces_.remove(workspace);
    if (failure) std::rethrow_exception(failure);
    done("workspace-delete");
}

io::Task<bool> PrepareService::installed(const std::string& name, rpc::Call& call) {
    try {
        const env::EnvironmentSummary found = co_await environments_.inspect(name, viewer_of(call.peer()), call.stop());
        co_return found.presence == env::Presence::installed;
    } catch (const Error&) {
        // Not known yet, or no name at all: whoever installs it says so.
    }
    co_return false;
}

// From the image, and what a spare is made after.
io::Task<void> PrepareService::run_once(rpc::Call& call, const std::string& name, std::shared_ptr<const env::Lease> environment) {
    vm::MachineRequest request;
    request.owner_uid = call.peer().uid;
    request.environment = name;
    request.environment_digest = environment->digest().str();
    request.ttl_seconds = run_ttl_seconds;
    std::shared_ptr<vm::Machine> machine = co_await machines_.create(std::move(request), call.stop());
    vm::StartRequest start;
    start.root = root_image_of(std::move(environment));
    start.at_best = vm::StartKind::restored;
    start.first_command = nothing();
    std::exception_ptr failure;
    try {
        const std::shared_ptr<agent::ExecSession> session = co_await machine->start(std::move(start), call.stop());
        co_await session->exited(call.stop());
    } catch (...) {
        failure = std::current_exception();
    }
    machines_.retire(std::move(machine));
    if (failure) std::rethrow_exception(failure);
}

}  // namespace pyro::service
