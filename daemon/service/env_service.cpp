#include "daemon/service/env_service.hpp"

#include "daemon/service/template_source.hpp"
#include "daemon/service/transfer.hpp"
#include "daemon/service/viewer.hpp"

#include <set>

namespace pyro::service {

namespace {

proto::EnvironmentInfo info_of(const env::EnvironmentSummary& summary) {
    proto::EnvironmentInfo info;
    info.name = summary.name;
    info.reference = summary.reference;
    info.description = summary.description;
    if (info.description.empty() && !summary.reference.empty() && summary.name == summary.reference)
        if (const env::CatalogEntry* other = env::look_alike(ImageRef::parse(summary.reference)))
            info.description = "The registry's own; the name " + std::string(other->name) + " is of the catalog and means " + std::string(other->reference);
    info.state = static_cast<proto::EnvironmentState>(summary.presence);
    if (!summary.problem.empty()) info.problem = summary.problem;
    if (summary.manifest) {
        const env::EnvironmentManifest& manifest = *summary.manifest;
        info.digest = manifest.digest.str();
        if (!manifest.manifest_digest.empty()) info.manifest_digest = manifest.manifest_digest.str();
        info.size_bytes = static_cast<std::int64_t>(summary.bytes);
    }
    if (summary.row) {
        const state::EnvironmentRow& row = *summary.row;
        if (const auto source = env::source_from(row.source)) info.source = static_cast<proto::EnvironmentSource>(*source);
        info.installed_at = row.created_at;
        info.last_used_at = row.last_used_at;
        info.owner_uid = row.owner_uid;
        info.shared = row.is_public;
    }
    return info;
}

proto::EnvPullResult result_of(const env::PullOutcome& outcome) {
    proto::EnvPullResult result;
    result.environment = info_of(outcome.environment);
    result.changed = outcome.changed;
    result.downloaded_bytes = static_cast<std::int64_t>(outcome.downloaded_bytes);
    if (!outcome.previous_digest.empty()) result.previous_digest = outcome.previous_digest;
    if (!outcome.unresolved.empty()) result.unresolved = outcome.unresolved;
    return result;
}

// Asks the client for the bytes when somebody wants the first of them.
struct AskedUpload {
    rpc::Call& call;
    std::unique_ptr<Transfer> transfer;
    env::UploadSource source;

    io::Task<std::optional<std::string>> next(std::stop_token stop) {
        if (!transfer) {
            transfer = co_await Transfer::open(call, rpc::Direction::both);
            source = transfer->source();
        }
        std::optional<std::string> bytes = co_await source(stop);
        co_return bytes;
    }
};
static_assert(static_cast<int>(proto::EnvironmentState::broken) == static_cast<int>(env::Presence::broken) &&
              static_cast<int>(proto::EnvironmentState::installed) == static_cast<int>(env::Presence::installed));
static_assert(static_cast<int>(proto::EnvironmentSource::committed) == static_cast<int>(env::Source::committed) &&
              static_cast<int>(proto::EnvironmentSource::debian_archive) == static_cast<int>(env::Source::debian_archive));

}  // namespace

env::ProgressSink progress_of(rpc::Call& call) {
    return [&call](const env::Progress& progress) {
        proto::Progress event;
        event.phase = progress.phase;
        if (!progress.message.empty()) event.message = progress.message;
        else if (!progress.digest.empty()) event.message = progress.digest.substr(0, 19);
        if (progress.done > 0 || progress.total > 0) event.done = static_cast<std::int64_t>(progress.done);
        if (progress.total > 0) event.total = static_cast<std::int64_t>(progress.total);
        call.progress(event);
    };
}

io::Task<proto::EnvListResult> EnvService::serve(proto::EnvList, proto::EnvListParams, rpc::Call& call) {
    const std::vector<env::EnvironmentSummary> all = co_await environments_.list(viewer_of(call.peer()), call.stop());
    proto::EnvListResult result;
    for (const env::EnvironmentSummary& summary : all) result.environments.push_back(info_of(summary));
    const env::DiskUsage usage = co_await environments_.usage(viewer_of(call.peer()));
    if (viewer_of(call.peer()).admin) result.used_bytes = static_cast<std::int64_t>(usage.used_bytes);
    result.budget_bytes = static_cast<std::int64_t>(usage.budget_bytes);
    for (const env::UserUsage& user : usage.users)
        result.usage.push_back({user.uid, static_cast<std::int64_t>(user.environments), static_cast<std::int64_t>(user.bytes)});
    co_return result;
}

io::Task<proto::EnvPullResult> EnvService::serve(proto::EnvPull, proto::EnvPullParams params, rpc::Call& call) {
    env::PullOptions options;
    options.force = params.force;
    options.credentials = std::move(params.credentials);
    const env::PullOutcome outcome =
        co_await environments_.pull(std::move(params.environment), viewer_of(call.peer()), options, progress_of(call), call.stop());
    if (prepare_pulled_) co_await prepare(outcome.environment.manifest->digest.str(), call.stop());
    co_return result_of(outcome);
}

io::Task<void> EnvService::prepare(std::string digest, std::stop_token stop) {
    env::Lease lease = co_await environments_.hold(std::move(digest), stop);
    const vm::MachineSpec usual;
    vm::TemplateSource source = template_source_of(vm::TemplateTier::pristine, usual, std::make_shared<const env::Lease>(std::move(lease)));
    const vm::TemplateChoice choice = co_await machines_.templates().find(source, stop);
    if (!choice.key.empty()) machines_.templates().want(choice.key, std::move(source));
}

io::Task<proto::EnvInspectResult> EnvService::serve(proto::EnvInspect, proto::EnvInspectParams params, rpc::Call& call) {
    const env::EnvironmentSummary summary =
        co_await environments_.inspect(std::move(params.environment), viewer_of(call.peer()), call.stop());
    proto::EnvInspectResult result;
    result.environment = info_of(summary);
    if (summary.manifest) {
        result.user = summary.manifest->user;
        result.workdir = summary.manifest->working_dir;
        result.entrypoint = summary.manifest->entrypoint;
        result.command = summary.manifest->cmd;
        for (const std::string& variable : summary.manifest->env) {
            const std::size_t equals = variable.find('=');
            if (equals != std::string::npos) result.env[variable.substr(0, equals)] = variable.substr(equals + 1);
        }
        for (const env::LayerInfo& layer : summary.manifest->layers) {
            proto::EnvLayer item;
            item.digest = layer.digest.str();
            item.size_bytes = static_cast<std::int64_t>(layer.size);
            result.layers.push_back(std::move(item));
        }
        const std::vector<env::Package> packages = co_await environments_.packages(summary.manifest->digest);
        result.package_count = static_cast<std::int64_t>(packages.size());
        if (params.packages)
            for (const env::Package& package : packages) result.packages.push_back({package.name, package.version, package.manager});
    }
    co_return result;
}

io::Task<proto::EnvPruneResult> EnvService::serve(proto::EnvPrune, proto::EnvPruneParams params, rpc::Call& call) {
    co_await machines_.retired(call.stop());  // a run that has answered uses nothing any more
    env::PruneOptions options;
    options.all = params.all;
    options.dry_run = params.dry_run;
    options.older_than_seconds = params.older_than_seconds.value_or(0);
    env::PruneOutcome outcome = co_await environments_.prune(options, viewer_of(call.peer()), call.stop());
    proto::EnvPruneResult result = co_await removed(std::move(outcome), !params.dry_run, call);
    co_return result;
}

io::Task<proto::EnvPruneResult> EnvService::serve(proto::EnvRemove, proto::EnvRemoveParams params, rpc::Call& call) {
    co_await machines_.retired(call.stop());
    env::PruneOutcome outcome = co_await environments_.remove(std::move(params.environment), params.force, viewer_of(call.peer()), call.stop());
    proto::EnvPruneResult result = co_await removed(std::move(outcome), true, call);
    co_return result;
}

// What was made of an environment goes with it.
io::Task<proto::EnvPruneResult> EnvService::removed(env::PruneOutcome outcome, bool changed, rpc::Call& call) {
    if (changed) {
        const state::Viewer everybody{0, true};
        std::set<std::string> installed;
        for (const env::EnvironmentSummary& summary : co_await environments_.list(everybody, call.stop()))
            if (summary.manifest) installed.insert(summary.manifest->digest.str());
        machines_.forget_environments([&](const std::string& digest) { return installed.contains(digest); });
    }
    proto::EnvPruneResult result;
    result.removed = std::move(outcome.removed);
    result.freed_bytes = static_cast<std::int64_t>(outcome.freed_bytes);
    co_return result;
}

io::Task<proto::EnvPullResult> EnvService::serve(proto::EnvImport, proto::EnvImportParams params, rpc::Call& call) {
    env::ImportRequest request;
    request.name = params.name;
    if (params.format) request.format = proto::enum_names(*params.format)[static_cast<std::size_t>(*params.format)];
    request.tag = params.tag.value_or("");
    if (params.user || params.workdir || !params.env.empty() || !params.entrypoint.empty() || !params.command.empty()) {
        env::ImageSettings settings;
        settings.user = params.user.value_or("");
        settings.working_dir = params.workdir.value_or("");
        for (const auto& [name, value] : params.env) settings.env.push_back(name + "=" + value);
        settings.entrypoint = params.entrypoint;
        settings.cmd = params.command;
        request.settings = std::move(settings);
    }
    std::optional<Digest> digest;
    if (params.digest) digest = Digest::parse(*params.digest);
    AskedUpload upload{call, nullptr, {}};
    request.source = [&upload](std::stop_token stop) { return upload.next(std::move(stop)); };
    const env::PullOutcome outcome = co_await environments_.import(std::move(request), digest, params.force, viewer_of(call.peer()), progress_of(call), call.stop());
    co_return result_of(outcome);
}

io::Task<proto::EnvPullResult> EnvService::serve(proto::EnvCommit, proto::EnvCommitParams params, rpc::Call& call) {
    const std::shared_ptr<workspace::Workspace> workspace = workspaces_.get(viewer_of(call.peer()), params.workspace_id);
    const workspace::Workspace::Use use(workspace);
    bool unclean = false;
    try {
        const env::PullOutcome outcome = co_await commit(workspace, params, call);
        co_return result_of(outcome);
    } catch (const Error& error) {
        const auto cause = error.details().find("cause");
        unclean = cause != error.details().end() && cause->second == "not_clean" && workspace->state() == workspace::State::stopped;
        if (!unclean) throw;
    }
    // Its machine was killed. Its start puts the disk in order.
    co_await workspace->running(call.stop());
    const env::PullOutcome outcome = co_await commit(workspace, params, call);
    co_return result_of(outcome);
}

io::Task<env::PullOutcome> EnvService::commit(std::shared_ptr<workspace::Workspace> workspace, const proto::EnvCommitParams& params, rpc::Call& call) {
    workspace->check_open();
    env::CommitRequest request;
    request.name = params.name;
    const env::EnvironmentManifest& from = workspace->environment();
    request.settings.user = from.user;
    request.settings.working_dir = from.working_dir;
    request.settings.env = from.env;
    request.settings.cmd = from.cmd;
    request.settings.entrypoint = from.entrypoint;
    request.disk = [workspace](std::string directory, std::stop_token stop) { return workspace->copy_disk(std::move(directory), std::move(stop)); };
    env::PullOutcome outcome = co_await environments_.commit(std::move(request), params.force, viewer_of(call.peer()), progress_of(call), call.stop());
    co_return outcome;
}

}  // namespace pyro::service
