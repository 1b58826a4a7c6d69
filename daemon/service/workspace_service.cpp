#include "daemon/service/workspace_service.hpp"

#include "daemon/service/env_service.hpp"
#include "daemon/service/transfer.hpp"
#include "daemon/service/viewer.hpp"
#include "daemon/service/workspace_files.hpp"
#include "proto/codec.hpp"

#include <nlohmann/json.hpp>

#include <ctime>

namespace pyro::service {
namespace {

using nlohmann::json;

constexpr std::size_t summary_execs = 50, summary_changes = 200;

static_assert(static_cast<int>(proto::WorkspaceState::creating) == static_cast<int>(workspace::State::creating) &&
              static_cast<int>(proto::WorkspaceState::failed) == static_cast<int>(workspace::State::failed));

std::map<std::string, std::string> labels_of(const state::WorkspaceRow& row) {
    return row.labels.empty() ? std::map<std::string, std::string>() : json::parse(row.labels).get<std::map<std::string, std::string>>();
}

std::string text_of(const std::map<std::string, std::string>& labels) {
    constexpr std::size_t most = 64, longest_key = 128, longest_value = 1024;
    if (labels.size() > most) throw Error(ErrorCode::invalid_argument, "a workspace has at most " + std::to_string(most) + " labels", "clear one: --clear-label");
    for (const auto& [key, value] : labels)
        if (key.empty() || key.size() > longest_key || value.size() > longest_value)
            throw Error(ErrorCode::invalid_argument, "a label's name has 1 to 128 bytes, its value at most 1024", "shorten it");
    return json(labels).dump(-1, ' ', false, json::error_handler_t::replace);
}

void refuse_network(proto::NetworkPolicy policy) {
    if (policy != proto::NetworkPolicy::off)
        throw Error(ErrorCode::network_denied, "VMs of this host have no network", "leave --network-policy out");
}

}  // namespace

proto::WorkspaceInfo info_of(const workspace::Workspace& workspace) {
    const state::WorkspaceRow& row = workspace.row();
    proto::WorkspaceInfo info;
    info.workspace_id = row.id;
    if (!row.name.empty()) info.name = row.name;
    info.state = static_cast<proto::WorkspaceState>(workspace.state());
    info.environment = row.environment;
    info.environment_digest = row.environment_digest;
    const std::string mode = workspace.execution_mode();
    if (mode == "guest_kvm") info.execution_mode = proto::ExecutionMode::guest_kvm;
    if (mode == "guest_tcg") info.execution_mode = proto::ExecutionMode::guest_tcg;
    if (workspace.started_as()) info.start = static_cast<proto::StartKind>(*workspace.started_as());
    info.vcpu_count = row.vcpu_count;
    info.mem_mib = row.mem_mib;
    info.disk_gib = row.disk_gib;
    info.labels = labels_of(row);
    info.created_at = row.created_at;
    info.last_activity_at = row.last_activity_at;
    if (row.expires_at > 0) info.expires_at = row.expires_at;
    if (row.idle_seconds > 0) info.idle_seconds = row.idle_seconds;
    info.running_execs = static_cast<std::int64_t>(workspace.running_execs());
    if (!row.seed_digest.empty()) info.seed_digest = row.seed_digest;
    if (!row.seed.empty()) info.seed = proto::from_wire<proto::SeedInfo>(json::parse(row.seed), proto::Unknown::ignore);
    if (!workspace.failure().empty()) info.failure = workspace.failure();
    return info;
}

// What the client streams, or what is there already.
io::Task<std::shared_ptr<const workspace::Seed>> WorkspaceService::seed_for(const proto::WorkspaceCreateParams& params, rpc::Call& call) {
    if (!params.seed) co_return nullptr;
    if (params.seed_digest) {
        auto known = seeds_.find(call.peer().uid, *params.seed_digest);
        if (known) co_return known;
    }
    std::unique_ptr<Transfer> upload = co_await Transfer::open(call, rpc::Direction::both);
    proto::Progress progress;
    progress.phase = "seed";
    call.progress(progress);
    std::shared_ptr<const workspace::Seed> seed = co_await seeds_.receive(call.peer().uid, upload->source(), call.stop());
    co_return seed;
}

io::Task<proto::WorkspaceInfo> WorkspaceService::serve(proto::WorkspaceCreate, proto::WorkspaceCreateParams params, rpc::Call& call) {
    refuse_network(params.network_policy);
    workspace::WorkspaceRequest request;
    request.labels = text_of(params.labels);
    request.name = params.name.value_or("");
    request.owner_uid = call.peer().uid;
    workspaces_.check_name(request.owner_uid, request.name, nullptr);  // before anything is pulled for it
    env::PullOptions options;
    env::Lease lease = co_await environments_.ensure(params.environment, viewer_of(call.peer()), options, progress_of(call), call.stop());
    request.lease = std::make_shared<const env::Lease>(std::move(lease));
    request.environment = params.environment;
    request.spec.vcpu_count = params.vcpu_count;
    request.spec.mem_mib = params.mem_mib;
    request.spec.disk_gib = params.disk_gib;
    request.ttl_seconds = params.ttl_seconds.value_or(0);
    request.idle_seconds = params.idle_seconds.value_or(0);
    request.at_best = static_cast<vm::StartKind>(params.start);
    const std::shared_ptr<workspace::Workspace> reserved = workspaces_.reserve(request);
    std::exception_ptr failure;
    try {
        std::shared_ptr<const workspace::Seed> seed = co_await seed_for(params, call);
        // A client that streams what it reads knows how much it was when that is over; here it is known by now.
        if (seed && seed->files + seed->bytes > 0) {
            params.seed->files = seed->files;
            params.seed->bytes = seed->bytes;
        }
        if (params.seed) reserved->describe_seed(proto::to_wire(*params.seed).dump(-1, ' ', false, json::error_handler_t::replace));
        proto::Progress boot;
        boot.phase = "boot";
        call.progress(boot);
        co_await workspaces_.create(reserved, request, std::move(seed), call.stop());
    } catch (...) {
        failure = std::current_exception();
    }
    if (failure) {
        workspaces_.give_up(reserved);
        std::rethrow_exception(failure);
    }
    co_return info_of(*reserved);
}

io::Task<proto::WorkspaceListResult> WorkspaceService::serve(proto::WorkspaceList, proto::WorkspaceListParams params, rpc::Call& call) {
    proto::WorkspaceListResult result;
    for (const auto& workspace : workspaces_.list(viewer_of(call.peer()))) {
        if (!params.labels.empty()) {
            const auto labels = labels_of(workspace->row());
            const bool fits = std::ranges::all_of(params.labels, [&](const auto& wanted) {
                const auto found = labels.find(wanted.first);
                return found != labels.end() && found->second == wanted.second;
            });
            if (!fits) continue;
        }
        result.workspaces.push_back(info_of(*workspace));
    }
    co_return result;
}

io::Task<proto::WorkspaceInfo> WorkspaceService::serve(proto::WorkspaceStatus, proto::WorkspaceStatusParams params, rpc::Call& call) {
    auto workspace = workspaces_.get(viewer_of(call.peer()), params.workspace_id);
    if (params.wait_seconds > 0) {
        io::Deadline patience(call.executor(), std::chrono::seconds(params.wait_seconds), call.stop());
        try {
            co_await workspace->wait_made(patience.token());
        } catch (const Cancelled&) {
            if (!patience.expired()) throw;
        }
        workspace = workspaces_.get(viewer_of(call.peer()), workspace->id());  // it may have come to nothing
    }
    const std::int64_t left = co_await workspace->left_processes(call.stop());
    proto::WorkspaceInfo info = info_of(*workspace);
    info.background_processes = left;
    co_return info;
}

io::Task<proto::WorkspaceSummaryResult> WorkspaceService::serve(proto::WorkspaceSummary, proto::WorkspaceSummaryParams params, rpc::Call& call) {
    const auto workspace = workspaces_.get(viewer_of(call.peer()), params.workspace_id);
    proto::WorkspaceSummaryResult result;
    const bool runs = workspace->state() == workspace::State::running;
    if (!runs) result.changes_unknown = "the workspace is stopped; start it, or ask for its diff";
    if (runs) {
        try {
            WorkspaceChanges changes = co_await changes_of(pool_, workspace, call.stop());
            result.changes_total = static_cast<std::int64_t>(changes.total);
            if (changes.changes.size() > summary_changes) changes.changes.resize(summary_changes);
            result.changes = std::move(changes.changes);
        } catch (const Error& e) {
            result.changes_unknown = e.message();
        }
    }
    result.workspace = info_of(*workspace);
    result.since = workspace->row().reset_at;
    const auto execs = workspace->execs();
    result.execs_total = static_cast<std::int64_t>(execs.size());
    for (const auto& exec : execs) {
        if (result.execs.size() == summary_execs) break;
        result.execs.push_back(exec->info());
    }
    result.exports = workspace->row().exports;
    co_return result;
}

io::Task<proto::WorkspaceInfo> WorkspaceService::serve(proto::WorkspaceUpdate, proto::WorkspaceUpdateParams params, rpc::Call& call) {
    const auto workspace = workspaces_.get(viewer_of(call.peer()), params.workspace_id);
    state::WorkspaceRow row = workspace->row();
    if (params.name && params.clear_name) throw Error(ErrorCode::invalid_argument, "name and clear_name exclude each other", "give one of them");
    if (params.name) {
        workspaces_.check_name(row.owner_uid, *params.name, workspace.get());
        row.name = *params.name;
    }
    if (params.clear_name) row.name.clear();
    std::map<std::string, std::string> labels = labels_of(row);
    for (const std::string& key : params.clear_labels) labels.erase(key);
    for (const auto& [key, value] : params.labels) labels[key] = value;
    row.labels = text_of(labels);
    if (params.ttl_seconds) row.expires_at = *params.ttl_seconds > 0 ? std::time(nullptr) + *params.ttl_seconds : 0;
    if (params.idle_seconds) row.idle_seconds = *params.idle_seconds;
    co_await workspace->update(std::move(row));
    co_return info_of(*workspace);
}

io::Task<proto::WorkspaceInfo> WorkspaceService::serve(proto::WorkspaceStart, proto::WorkspaceStartParams params, rpc::Call& call) {
    const auto workspace = workspaces_.get(viewer_of(call.peer()), params.workspace_id);
    const workspace::Workspace::Use use(workspace);
    co_await workspace->running(call.stop());
    co_return info_of(*workspace);
}

io::Task<proto::WorkspaceInfo> WorkspaceService::serve(proto::WorkspaceStop, proto::WorkspaceStopParams params, rpc::Call& call) {
    const auto workspace = workspaces_.get(viewer_of(call.peer()), params.workspace_id);
    co_await workspace->stop(call.stop());
    co_return info_of(*workspace);
}

io::Task<proto::WorkspaceInfo> WorkspaceService::serve(proto::WorkspaceReset, proto::WorkspaceResetParams params, rpc::Call& call) {
    const auto workspace = workspaces_.get(viewer_of(call.peer()), params.workspace_id);
    const workspace::Workspace::Use use(workspace);
    co_await workspace->reset(call.stop());
    co_return info_of(*workspace);
}

io::Task<proto::WorkspaceDeleteResult> WorkspaceService::serve(proto::WorkspaceDelete, proto::WorkspaceDeleteParams params, rpc::Call& call) {
    const auto workspace = workspaces_.get(viewer_of(call.peer()), params.workspace_id);
    proto::WorkspaceDeleteResult result;
    result.workspace_id = workspace->id();
    co_await workspaces_.remove(workspace);
    co_return result;
}

io::Task<proto::WorkspaceReapExpiredResult> WorkspaceService::serve(proto::WorkspaceReapExpired, proto::WorkspaceReapExpiredParams, rpc::Call& call) {
    proto::WorkspaceReapExpiredResult result;
    result.reaped = co_await workspaces_.reap_expired(viewer_of(call.peer()));
    co_return result;
}

}  // namespace pyro::service
