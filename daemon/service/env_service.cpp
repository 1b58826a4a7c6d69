#include "daemon/service/env_service.hpp"

#include "daemon/service/template_source.hpp"
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
        info.source = manifest.source == env::Source::registry ? proto::EnvironmentSource::registry : proto::EnvironmentSource::debian_archive;
        if (!manifest.manifest_digest.empty()) info.manifest_digest = manifest.manifest_digest.str();
        info.size_bytes = static_cast<std::int64_t>(summary.bytes);
        info.installed_at = manifest.installed_at;
    }
    return info;
}
static_assert(static_cast<int>(proto::EnvironmentState::broken) == static_cast<int>(env::Presence::broken) &&
              static_cast<int>(proto::EnvironmentState::installed) == static_cast<int>(env::Presence::installed));

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
    co_return result;
}

io::Task<proto::EnvPullResult> EnvService::serve(proto::EnvPull, proto::EnvPullParams params, rpc::Call& call) {
    env::PullOptions options;
    options.force = params.force;
    options.credentials = std::move(params.credentials);
    const env::PullOutcome outcome =
        co_await environments_.pull(std::move(params.environment), viewer_of(call.peer()), options, progress_of(call), call.stop());
    proto::EnvPullResult result;
    result.environment = info_of(outcome.environment);
    result.changed = outcome.changed;
    result.downloaded_bytes = static_cast<std::int64_t>(outcome.downloaded_bytes);
    if (prepare_pulled_) co_await prepare(outcome.environment.manifest->digest.str(), call.stop());
    co_return result;
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
    }
    co_return result;
}

io::Task<proto::EnvPruneResult> EnvService::serve(proto::EnvPrune, proto::EnvPruneParams params, rpc::Call& call) {
    co_await machines_.retired(call.stop());  // a run that has answered uses nothing any more
    env::PruneOutcome outcome = co_await environments_.prune(params.all, viewer_of(call.peer()), call.stop());
    // What was made of an environment goes with it.
    const state::Viewer everybody{0, true};
    std::set<std::string> installed;
    for (const env::EnvironmentSummary& summary : co_await environments_.list(everybody, call.stop()))
        if (summary.manifest) installed.insert(summary.manifest->digest.str());
    machines_.forget_environments([&](const std::string& digest) { return installed.contains(digest); });
    proto::EnvPruneResult result;
    result.removed = std::move(outcome.removed);
    result.freed_bytes = static_cast<std::int64_t>(outcome.freed_bytes);
    co_return result;
}

}  // namespace pyro::service
