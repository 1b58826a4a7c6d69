#include "daemon/workspace/registry.hpp"

#include "common/error.hpp"
#include "common/log.hpp"
#include "daemon/env/files.hpp"

#include <algorithm>
#include <ctime>

namespace pyro::workspace {
namespace {

bool may_see(state::Viewer viewer, const Workspace& workspace) { return viewer.admin || workspace.row().owner_uid == viewer.uid; }

bool is_name(std::string_view name) {
    const auto is_plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); };
    if (name.empty() || name.size() > 64 || !is_plain(name.front())) return false;
    return std::ranges::all_of(name, [&](char c) { return is_plain(c) || c == '.' || c == '_' || c == '-'; });
}

}  // namespace

WorkspaceRegistry::WorkspaceRegistry(io::Executor executor, state::Store& store, vm::MachineRegistry& machines, env::EnvironmentCache& environments,
                                     SeedStore& seeds, io::WorkerPool& files, WorkspaceOptions options)
    : services_{executor, store, machines, environments, files, options.directory, options.journal_bytes, 256, 64, [this] { changed_.set(); }},
      seeds_(seeds), options_(std::move(options)), changed_(executor), tasks_(executor) {}

WorkspaceRegistry::~WorkspaceRegistry() = default;

std::map<std::string, agent::Resumption> WorkspaceRegistry::open() {
    std::map<std::string, agent::Resumption> known;
    for (state::WorkspaceRow& row : services_.store.all_workspaces()) {
        const std::string id = row.id, machine = row.machine_id;
        const auto workspace = std::make_shared<Workspace>(services_, std::move(row));
        known[machine] = workspace->read_execs();
        workspaces_[id] = workspace;
    }
    for (const std::string& name : env::names_in(services_.directory))
        if (!workspaces_.contains(name)) env::remove_tree(services_.directory + "/" + name);
    return known;
}

io::Task<void> WorkspaceRegistry::take_up() {
    seeds_.start();
    for (const auto& [id, workspace] : workspaces_) {
        const std::string& digest = workspace->row().seed_digest;
        std::shared_ptr<const Seed> seed;
        if (!digest.empty()) seed = seeds_.find(workspace->row().owner_uid, digest);
        co_await workspace->take_up(std::move(seed));
    }
    seeds_.trim();
    tasks_.spawn(tend());
}

io::Task<void> WorkspaceRegistry::leave() {
    tasks_.stop();
    co_await tasks_.join();
    for (const auto& [id, workspace] : workspaces_) co_await workspace->leave();
}

void WorkspaceRegistry::check_name(uid_t owner, const std::string& name, const Workspace* but) const {
    if (name.empty()) return;
    if (!is_name(name))
        throw Error(ErrorCode::invalid_argument, "'" + name + "' is no name for a workspace", "letters, digits, '.', '_' and '-', at most 64, a letter or a digit first");
    for (const auto& [id, workspace] : workspaces_) {
        if (workspace.get() == but || workspace->row().owner_uid != owner) continue;
        if (workspace->row().name == name)
            throw Error(ErrorCode::failed_precondition, "you have a workspace called " + name + " already: " + id, "choose another name, or delete that one: pyro workspace delete " + name)
                .with_detail("workspace_id", id);
        if (id == name) throw Error(ErrorCode::invalid_argument, "'" + name + "' is the id of a workspace", "choose another name");
    }
}

std::shared_ptr<Workspace> WorkspaceRegistry::reserve(const WorkspaceRequest& request) {
    check_name(request.owner_uid, request.name, nullptr);
    const auto mine = static_cast<std::size_t>(std::ranges::count_if(workspaces_, [&](const auto& entry) { return entry.second->row().owner_uid == request.owner_uid; }));
    if (mine >= options_.per_user)
        throw Error(ErrorCode::quota_exceeded, "you have " + std::to_string(mine) + " workspaces, the limit is " + std::to_string(options_.per_user),
                    "delete one: pyro workspace list, pyro workspace delete WORKSPACE");
    state::WorkspaceRow row;
    row.id = vm::new_guest_id();
    row.owner_uid = request.owner_uid;
    row.name = request.name;
    row.labels = request.labels;
    row.environment = request.environment;
    row.environment_digest = request.lease->digest().str();
    row.vcpu_count = request.spec.vcpu_count;
    row.mem_mib = request.spec.mem_mib;
    row.disk_gib = request.spec.disk_gib;
    row.created_at = row.last_activity_at = row.reset_at = std::time(nullptr);
    row.expires_at = request.ttl_seconds > 0 ? row.created_at + request.ttl_seconds : 0;
    row.idle_seconds = request.idle_seconds;
    const std::string id = row.id;
    const auto workspace = std::make_shared<Workspace>(services_, std::move(row));
    workspaces_[id] = workspace;
    return workspace;
}

io::Task<void> WorkspaceRegistry::create(std::shared_ptr<Workspace> reserved, const WorkspaceRequest& request, std::shared_ptr<const Seed> seed, std::stop_token stop) {
    std::shared_ptr<const env::Lease> lease = request.lease;
    co_await reserved->create(std::move(lease), std::move(seed), request.at_best, stop);
    changed_.set();
}

void WorkspaceRegistry::give_up(const std::shared_ptr<Workspace>& reserved) {
    workspaces_.erase(reserved->id());
    reserved->forgotten();
}

std::shared_ptr<Workspace> WorkspaceRegistry::get(state::Viewer viewer, const std::string& key) const {
    if (const auto exact = workspaces_.find(key); exact != workspaces_.end() && may_see(viewer, *exact->second)) return exact->second;
    // A name is its owner's: an administrator reaches another user's workspace by its id.
    for (const auto& [id, workspace] : workspaces_)
        if (workspace->row().owner_uid == viewer.uid && !key.empty() && workspace->row().name == key) return workspace;
    std::vector<std::string> matches;
    for (auto at = workspaces_.lower_bound(key); !key.empty() && at != workspaces_.end() && at->first.starts_with(key); ++at)
        if (may_see(viewer, *at->second)) matches.push_back(at->first);
    if (matches.size() == 1) return workspaces_.at(matches.front());
    if (matches.size() > 1)
        throw Error(ErrorCode::invalid_argument, "'" + key + "' is the beginning of " + std::to_string(matches.size()) + " workspaces' ids: " + matches[0] + ", " + matches[1] +
                        (matches.size() > 2 ? ", ..." : ""), "give more of it");
    throw Error(ErrorCode::not_found, "there is no workspace " + key, "list yours: pyro workspace list").with_detail("workspace_id", key);
}

std::vector<std::shared_ptr<Workspace>> WorkspaceRegistry::list(state::Viewer viewer) const {
    std::vector<std::shared_ptr<Workspace>> out;
    for (const auto& [id, workspace] : workspaces_)
        if (may_see(viewer, *workspace)) out.push_back(workspace);
    std::ranges::stable_sort(out, std::ranges::greater(), [](const auto& workspace) { return workspace->row().last_activity_at; });
    return out;
}

io::Task<void> WorkspaceRegistry::remove(std::shared_ptr<Workspace> workspace) {
    std::exception_ptr failure;
    try {
        co_await workspace->close();
    } catch (const Error&) {
        failure = std::current_exception();
    }
    workspaces_.erase(workspace->id());
    workspace->forgotten();
    changed_.set();
    if (failure) std::rethrow_exception(failure);
    seeds_.trim();
}

io::Task<void> WorkspaceRegistry::remove_quietly(std::shared_ptr<Workspace> workspace) {
    try {
        co_await remove(workspace);
    } catch (const Error& e) {
        log::say(log::Level::warning, "the record of workspace " + workspace->id() + " stays: " + e.message());
    }
    busy_.erase(workspace->id());
}

io::Task<void> WorkspaceRegistry::sleep(std::shared_ptr<Workspace> workspace) {
    try {
        co_await workspace->stop(tasks_.token());
    } catch (const Error&) {
        // It was deleted meanwhile, or has failed.
    }
    busy_.erase(workspace->id());
}

io::Task<std::vector<std::string>> WorkspaceRegistry::reap_expired(state::Viewer viewer) {
    std::vector<std::string> out;
    const std::int64_t now = std::time(nullptr);
    for (const auto& workspace : list(viewer)) {
        if (workspace->row().expires_at == 0 || workspace->row().expires_at > now || workspace->state() == State::creating) continue;
        out.push_back(workspace->id());
        co_await remove_quietly(workspace);
    }
    co_return out;
}

// Removes what is past its time, and stops what nobody used for as long as its owner said.
io::Task<void> WorkspaceRegistry::tend() {
    const std::stop_token stop = tasks_.token();
    for (;;) {
        const std::int64_t now = std::time(nullptr);
        std::int64_t next = 0;
        const auto later = [&](std::int64_t due) {
            if (next == 0 || due < next) next = due;
        };
        for (const auto& [id, workspace] : workspaces_) {
            const state::WorkspaceRow& row = workspace->row();
            if (workspace->state() == State::creating || busy_.contains(id)) continue;
            if (row.expires_at > 0 && row.expires_at <= now) {
                busy_.insert(id);
                tasks_.spawn(remove_quietly(workspace));
                continue;
            }
            if (row.expires_at > 0) later(row.expires_at);
            if (row.idle_seconds == 0 || workspace->state() != State::running || workspace->in_use()) continue;
            const std::int64_t due = row.last_activity_at + row.idle_seconds;
            if (due <= now) {
                busy_.insert(id);
                tasks_.spawn(sleep(workspace));
                continue;
            }
            later(due);
        }
        changed_.reset();
        if (next == 0) {
            co_await changed_.wait(stop);
            continue;
        }
        // The wall clock may be set meanwhile: look again at least every hour.
        io::Deadline due(services_.executor, std::chrono::seconds(std::clamp<std::int64_t>(next - now, 1, 3600)), stop);
        try {
            co_await changed_.wait(due.token());
        } catch (const Cancelled&) {
            if (!due.expired()) throw;
        }
    }
}

}  // namespace pyro::workspace
