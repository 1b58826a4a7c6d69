#include "daemon/env/cache.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "common/crash_point.hpp"
#include "common/error.hpp"
#include "daemon/env/files.hpp"

namespace pyro::env {
namespace {

std::optional<Digest> as_digest(const std::string& name) {
    if (!name.starts_with("sha256:"))
        return std::nullopt;
    try {
        return Digest::parse(name);
    } catch (const Error&) {
        return std::nullopt;
    }
}

bool hex_prefix(const std::string& name) {
    return name.size() >= 6 && name.size() <= 64 && name.find_first_not_of("0123456789abcdef") == std::string::npos;
}

bool is_given(const std::string& name) { return name.starts_with('@'); }

Error unknown_given(const std::string& name) {
    return Error(ErrorCode::not_found, "you have no environment " + name, "see: pyro env list; make one: pyro env import " + name.substr(1) + " FILE");
}

bool is_unreachable_error(const Error& error) {
    const auto cause = error.details().find("cause");
    return cause != error.details().end() && cause->second == "unreachable";
}

Error broken_error(const std::string& name, const std::string& problem) {
    Error error(ErrorCode::environment_invalid, "environment " + name + " is broken: " + problem, "repair it with: pyro env pull " + name);
    return std::move(error).with_detail("environment", name);
}

}  // namespace

struct Lease::State {
    EnvironmentManifest manifest;
    std::string root_image, name;
};

const EnvironmentManifest& Lease::manifest() const { return state_->manifest; }
const std::string& Lease::root_image() const { return state_->root_image; }
const std::string& Lease::name() const { return state_->name; }

EnvironmentCache::EnvironmentCache(io::Executor executor, supervise::Supervisor& supervisor, state::Store& store, io::WorkerPool& pool, CacheOptions options)
    : store_(store), pool_(pool), options_(std::move(options)), installer_(supervisor, bulk_, options_),
      pulls_(executor, installer_, options_.concurrent_pulls), verifying_(executor, 1, 1) {}

EnvironmentCache::~EnvironmentCache() = default;

io::Task<void> EnvironmentCache::start() {
    std::vector<std::string> folders{options_.path("blobs"), options_.path("blobs/sha256"), options_.path("environments"), options_.path("ingest"), options_.path("downloads")};
    auto work = [folders, ingest = options_.path("ingest"), downloads = options_.path("downloads"), now = unix_now(), limit = options_.max_image_bytes] {
        for (const std::string& folder : folders)
            own_directory(folder, ::geteuid());
        for (const std::string& name : names_in(ingest))
            remove_tree(ingest + "/" + name);
        trim_downloads(downloads, now, half_download_age, limit);
    };
    auto task = io::offload(bulk_, std::move(work));
    co_await std::move(task);
}

io::Task<void> EnvironmentCache::close() { return pulls_.close(); }

io::Task<std::optional<Installed>> EnvironmentCache::look(Digest digest, bool full, std::stop_token stop) {
    auto work = [directory = options_.path("environments", digest.hex()), digest, full, stop] { return examine(directory, digest, full, stop); };
    auto task = io::offload(full ? bulk_ : pool_, std::move(work));
    std::optional<Installed> out = co_await std::move(task);
    co_return out;
}

Lease EnvironmentCache::lease(const EnvironmentManifest& manifest, std::string name) {
    auto state = std::make_shared<Lease::State>();
    state->manifest = manifest;
    state->root_image = options_.path("environments", manifest.digest.hex()) + "/" + root_file;
    state->name = std::move(name);
    std::erase_if(leases_, [](const auto& entry) { return entry.second.expired(); });
    // All leases of one environment hang together, so that one entry tells whether there is any.
    const std::string key = manifest.digest.str();
    if (std::shared_ptr<Lease::State> first = leases_[key].lock()) {
        auto both = std::make_shared<std::pair<std::shared_ptr<Lease::State>, std::shared_ptr<Lease::State>>>(state, first);
        return Lease(std::shared_ptr<Lease::State>(both, state.get()));
    }
    leases_[key] = state;
    return Lease(state);
}

bool EnvironmentCache::in_use(const std::string& digest) const {
    const auto held = leases_.find(digest);
    if (held != leases_.end() && !held->second.expired())
        return true;
    const auto of = [&](const auto& row) { return row.environment_digest == digest; };
    const std::vector<state::MachineRow> machines = store_.all_machines();
    const std::vector<state::WorkspaceRow> workspaces = store_.all_workspaces();
    return std::any_of(machines.begin(), machines.end(), of) || std::any_of(workspaces.begin(), workspaces.end(), of);
}

std::set<std::string> EnvironmentCache::pinned() {
    std::set<std::string> out;
    for (const auto& [digest, held] : leases_)
        if (!held.expired())
            out.insert(digest);
    for (const state::MachineRow& row : store_.all_machines())
        out.insert(row.environment_digest);
    for (const state::WorkspaceRow& row : store_.all_workspaces())
        out.insert(row.environment_digest);
    for (const state::ReferenceRow& row : store_.all_references())
        if (is_given(row.name))
            out.insert(row.digest);
    return out;
}

std::set<std::string> EnvironmentCache::all_digests() {
    std::set<std::string> out;
    for (const state::EnvironmentRow& row : store_.all_environments())
        out.insert(row.digest);
    return out;
}

io::Task<Lease> EnvironmentCache::hold(std::string digest, std::stop_token stop) {
    const std::optional<Installed> found = co_await look(Digest::parse(digest), false, stop);
    if (!found || !found->problem.empty())
        throw Error(ErrorCode::environment_invalid, "environment " + digest.substr(0, 19) + (found ? " is broken: " + found->problem : " is not installed any more"),
                    "pull it again: pyro env pull");
    co_return lease(found->manifest, found->manifest.name);
}

io::Task<Lease> EnvironmentCache::ensure(std::string name, state::Viewer viewer, PullOptions options, ProgressSink progress, std::stop_token stop) {
    const ResolvedName resolved = resolve_name(name);
    while (true) {
        std::optional<state::EnvironmentRow> row = store_.find_environment_by_reference(viewer, resolved.name);
        if (row && !options.force) {
            const Digest digest = Digest::parse(row->digest);
            std::optional<Installed> found = co_await look(digest, false, stop);
            if (found && !found->problem.empty())
                throw broken_error(resolved.name, found->problem);
            if (found) {
                Lease held = lease(found->manifest, resolved.name);
                row = store_.find_environment_by_reference(viewer, resolved.name);
                if (!row || row->digest != digest.str())
                    continue;  // pruned or replaced while it was looked at
                co_await store_.touch_environment(row->owner_uid, row->digest, unix_now());
                co_return held;
            }
        }
        if (resolved.given)
            throw row ? broken_error(resolved.name, "its files are missing") : unknown_given(resolved.name);
        std::optional<Error> refused;
        try {
            std::shared_ptr<const Installation> installed = co_await install(resolved, viewer, options, false, progress, stop);
            Lease held = lease(installed->manifest, resolved.name);
            co_return held;
        } catch (const Error& error) {
            refused = error;
        }
        // Whoever imported "base" may well ask for "base", which is an image of docker.io.
        const std::string given = name.find('/') == std::string::npos ? "@" + name : std::string();
        if (!given.empty() && store_.find_environment_by_reference(viewer, given))
            refused->with_hint("your own environment of that name is " + given);
        throw *refused;
    }
}

io::Task<PullOutcome> EnvironmentCache::pull(std::string name, state::Viewer viewer, PullOptions options, ProgressSink progress, std::stop_token stop) {
    const ResolvedName resolved = resolve_name(name);
    if (resolved.given) {
        PullOutcome repaired = co_await repair_given(resolved, viewer, options.force, progress, stop);
        co_return repaired;
    }
    const std::string description = resolved.entry ? std::string(resolved.entry->description) : std::string();
    PullOutcome outcome;
    std::optional<state::EnvironmentRow> row = store_.find_environment_by_reference(viewer, resolved.name);
    const std::string before = row ? row->digest : std::string();
    std::optional<Installed> found;
    if (row && !options.force) {
        Progress verifying;
        verifying.phase = "verify";
        if (progress)
            progress(verifying);
        const Digest digest = Digest::parse(row->digest);
        const io::Semaphore::Permit turn = co_await verifying_.acquire(viewer.uid, stop);
        found = co_await look(digest, true, stop);
    }
    const bool whole = found && found->problem.empty();
    // What a digest names does not move; what was built from the archive has no registry where none is a source.
    const bool asks = std::find(options_.sources.begin(), options_.sources.end(), Source::registry) != options_.sources.end();
    if (!whole || (resolved.reference.digest.empty() && asks)) {
        std::optional<Error> silent;
        try {
            std::shared_ptr<const Installation> installed = co_await install(resolved, viewer, options, whole, progress, stop);
            outcome.changed = installed->changed;
            outcome.downloaded_bytes = installed->downloaded_bytes;
        } catch (const Error& error) {
            if (!whole || !is_unreachable_error(error))
                throw;
            silent = error;
        }
        if (silent)
            outcome.unresolved = silent->message();
        row = store_.find_environment_by_reference(viewer, resolved.name);
        if (row && !before.empty() && row->digest != before) {
            outcome.previous_digest = before;
            outcome.changed = true;
        }
    }
    outcome.environment = co_await summarize(resolved.name, resolved.reference.str(), description, row, stop);
    co_return outcome;
}

void EnvironmentCache::check_free(const std::string& name, bool replace, state::Viewer viewer) {
    const std::string given = given_name(name);
    if (!replace && store_.find_environment_by_reference(viewer, given))
        throw Error(ErrorCode::failed_precondition, "you have an environment " + given + " already",
                    "choose another name, replace it with --force, or remove it: pyro env remove " + given);
    if (being_made_.contains({viewer.uid, given}))
        throw Error(ErrorCode::failed_precondition, "the environment " + given + " is being made", "wait for that to end, or choose another name").with_retryable(true);
}

io::Task<PullOutcome> EnvironmentCache::import(ImportRequest request, std::optional<Digest> digest, bool replace, state::Viewer viewer, ProgressSink progress,
                                               std::stop_token stop) {
    const std::string name = request.name;
    const Work work = [&](std::string job_id) -> io::Task<Installation> {
        if (digest && store_.find_environment(state::Viewer{viewer.uid, false}, digest->str())) {
            std::optional<Installed> found = co_await look(*digest, false, stop);
            if (found && found->problem.empty()) {
                Installation known;
                known.manifest = std::move(found->manifest);
                co_return known;
            }
        }
        Installation made = co_await installer_.import(std::move(job_id), std::move(request), progress, stop);
        co_return made;
    };
    PullOutcome out = co_await make_given(name, Source::imported, replace, viewer, work, progress, stop);
    co_return out;
}

io::Task<PullOutcome> EnvironmentCache::commit(CommitRequest request, bool replace, state::Viewer viewer, ProgressSink progress, std::stop_token stop) {
    const std::string name = request.name;
    const Work work = [&](std::string job_id) { return installer_.commit(std::move(job_id), std::move(request), progress, stop); };
    PullOutcome out = co_await make_given(name, Source::committed, replace, viewer, work, progress, stop);
    co_return out;
}

io::Task<PullOutcome> EnvironmentCache::make_given(std::string name, Source source, bool replace, state::Viewer viewer, Work work, ProgressSink progress, std::stop_token stop) {
    check_free(name, replace, viewer);
    ResolvedName resolved = resolve_name(given_name(name));
    const std::pair<uid_t, std::string> key{viewer.uid, resolved.name};
    being_made_.insert(key);
    const std::shared_ptr<void> reserved(nullptr, [this, key](void*) { being_made_.erase(key); });
    PullOutcome out;
    std::optional<state::EnvironmentRow> row = store_.find_environment_by_reference(viewer, resolved.name);
    const std::string before = row ? row->digest : std::string();
    {
        const std::shared_ptr<void> working = co_await pulls_.work(viewer.uid, stop);
        const std::string job_id = "given-" + std::to_string(::getpid()) + "-" + std::to_string(++jobs_);
        const Installation made = co_await work(job_id);
        // Whether somebody else has the same is not said.
        out.changed = !store_.find_environment(state::Viewer{viewer.uid, false}, made.manifest.digest.str());
        out.downloaded_bytes = made.downloaded_bytes;
        const Lease held = lease(made.manifest, resolved.name);
        EnvironmentManifest manifest = made.manifest;
        co_await remember(std::move(manifest), resolved, source, false, viewer);
    }
    row = store_.find_environment_by_reference(viewer, resolved.name);
    if (row)
        co_await keep_budget(row->digest, viewer);
    if (row && !before.empty() && row->digest != before)
        out.previous_digest = before;
    if (progress) {
        Progress ready;
        ready.phase = "ready";
        progress(ready);
    }
    out.environment = co_await summarize(resolved.name, std::string(), std::string(), row, stop);
    co_return out;
}

io::Task<PullOutcome> EnvironmentCache::repair_given(ResolvedName resolved, state::Viewer viewer, bool force, ProgressSink progress, std::stop_token stop) {
    std::optional<state::EnvironmentRow> row = store_.find_environment_by_reference(viewer, resolved.name);
    if (!row)
        throw unknown_given(resolved.name);
    PullOutcome out;
    const Digest digest = Digest::parse(row->digest);
    std::optional<Installed> found;
    {
        const io::Semaphore::Permit turn = co_await verifying_.acquire(viewer.uid, stop);
        found = co_await look(digest, true, stop);
    }
    if (force || !found || !found->problem.empty()) {
        if (!found || found->manifest.digest != digest)
            throw Error(ErrorCode::environment_invalid, "environment " + resolved.name + " is broken: " + (found ? found->problem : "its files are missing"),
                        "it was made here, and cannot be pulled: import or commit it again");
        const std::shared_ptr<void> working = co_await pulls_.work(viewer.uid, stop);
        const std::string job_id = "given-" + std::to_string(::getpid()) + "-" + std::to_string(++jobs_);
        const Installation made = co_await installer_.rebuild(job_id, found->manifest, progress, stop);
        out.changed = made.changed;
    }
    out.environment = co_await summarize(resolved.name, std::string(), std::string(), row, stop);
    co_return out;
}

io::Task<EnvironmentSummary> EnvironmentCache::summarize(std::string name, std::string reference, std::string description,
                                                         std::optional<state::EnvironmentRow> row, std::stop_token stop) {
    EnvironmentSummary out;
    out.name = std::move(name);
    out.reference = std::move(reference);
    out.description = std::move(description);
    out.row = row;
    if (!row)
        co_return out;
    if (out.reference.empty())
        out.reference = row->origin;
    const Digest digest = Digest::parse(row->digest);
    std::optional<Installed> found = co_await look(digest, false, stop);
    if (!found) {
        out.presence = Presence::broken;
        out.problem = "its files are missing";
        co_return out;
    }
    out.bytes = found->bytes;
    out.problem = found->problem;
    out.presence = out.problem.empty() ? Presence::installed : Presence::broken;
    if (!found->manifest.digest.empty())
        out.manifest = std::move(found->manifest);
    co_return out;
}

io::Task<std::vector<EnvironmentSummary>> EnvironmentCache::list(state::Viewer viewer, std::stop_token stop) {
    std::vector<EnvironmentSummary> out;
    std::set<std::string> named;
    for (const CatalogEntry& entry : catalog()) {
        std::optional<state::EnvironmentRow> row = store_.find_environment_by_reference(viewer, std::string(entry.name));
        if (row)
            named.insert(row->digest);
        EnvironmentSummary one = co_await summarize(std::string(entry.name), std::string(entry.reference), std::string(entry.description), row, stop);
        out.push_back(std::move(one));
    }
    // A name that several users have is listed once, as this one's run would understand it; names that others gave are the
    // administrator's to see.
    std::set<std::string> listed;
    for (const state::ReferenceRow& reference : store_.list_references(viewer)) {
        if (find_in_catalog(reference.name) || (!is_given(reference.name) && !listed.insert(reference.name).second))
            continue;
        std::optional<state::EnvironmentRow> row;
        if (!is_given(reference.name))
            row = store_.find_environment_by_reference(viewer, reference.name);
        if (!row)
            row = store_.find_environment(state::Viewer{reference.owner_uid, false}, reference.digest);
        if (row)
            named.insert(row->digest);
        const std::string shown = is_given(reference.name) ? std::string() : reference.name;
        EnvironmentSummary one = co_await summarize(reference.name, shown, std::string(), row, stop);
        out.push_back(std::move(one));
    }
    const std::vector<state::EnvironmentRow> rows = store_.list_environments(viewer);
    for (const state::EnvironmentRow& row : rows) {
        if (!named.insert(row.digest).second)
            continue;
        std::optional<state::EnvironmentRow> same = row;
        EnvironmentSummary one = co_await summarize(row.digest, std::string(), std::string(), std::move(same), stop);
        out.push_back(std::move(one));
    }
    co_return out;
}

std::optional<state::EnvironmentRow> EnvironmentCache::find_row(const std::string& name, state::Viewer viewer, std::string& shown, std::string& reference,
                                                                std::string& description) {
    shown = name;
    if (const std::optional<Digest> digest = as_digest(name)) {
        std::optional<state::EnvironmentRow> row = store_.find_environment(viewer, digest->str());
        if (!row)
            throw Error(ErrorCode::not_found, "no environment has the digest " + name, "see: pyro env list");
        return row;
    }
    const ResolvedName resolved = resolve_name(name);
    std::optional<state::EnvironmentRow> row = store_.find_environment_by_reference(viewer, resolved.name);
    shown = resolved.name;
    if (resolved.given) {
        if (!row)
            throw unknown_given(resolved.name);
        return row;
    }
    reference = resolved.reference.str();
    if (resolved.entry)
        description = resolved.entry->description;
    if (!row && !resolved.entry && hex_prefix(name)) {
        std::set<std::string> matches;
        for (const state::EnvironmentRow& one : store_.list_environments(viewer))
            if (one.digest.compare(7, name.size(), name) == 0)
                matches.insert(one.digest);
        if (matches.size() > 1)
            throw Error(ErrorCode::invalid_argument, "several environments begin with " + name, "give more digits of the digest");
        if (matches.size() == 1) {
            row = store_.find_environment(viewer, *matches.begin());
            shown = *matches.begin();
            reference.clear();
        }
    }
    if (!row && !resolved.entry)
        throw Error(ErrorCode::not_found, "environment " + resolved.name + " is not installed", "install it with: pyro env pull " + name);
    return row;
}

io::Task<EnvironmentSummary> EnvironmentCache::inspect(std::string name, state::Viewer viewer, std::stop_token stop) {
    std::string shown, reference, description;
    std::optional<state::EnvironmentRow> row = find_row(name, viewer, shown, reference, description);
    EnvironmentSummary out = co_await summarize(shown, reference, description, std::move(row), stop);
    co_return out;
}

io::Task<std::vector<Package>> EnvironmentCache::packages(Digest digest) {
    auto read = [path = options_.path("environments", digest.hex()) + "/" + packages_file] {
        std::vector<Package> out;
        try {
            for (const nlohmann::json& one : nlohmann::json::parse(read_file(path, 8u << 20)))
                out.push_back({one.at("name").get<std::string>(), one.at("version").get<std::string>(), one.at("manager").get<std::string>()});
        } catch (const nlohmann::json::exception&) {
            out.clear();  // of no importance: it says what could be looked up in a machine
        } catch (const Error& error) {
            if (error.code() != ErrorCode::not_found)
                throw;
        }
        return out;
    };
    auto reading = io::offload(pool_, std::move(read));
    std::vector<Package> out = co_await std::move(reading);
    co_return out;
}

io::Task<void> EnvironmentCache::remember(EnvironmentManifest manifest, ResolvedName resolved, Source source, bool is_public, state::Viewer viewer) {
    state::EnvironmentRow row;
    row.digest = manifest.digest.str();
    row.owner_uid = viewer.uid;
    row.is_public = is_public;
    row.source = to_string(source);
    row.manifest_digest = manifest.manifest_digest.empty() ? std::string() : manifest.manifest_digest.str();
    row.size_bytes = static_cast<std::int64_t>(manifest.root_allocated);
    row.created_at = row.last_used_at = unix_now();
    row.origin = source == Source::registry ? resolved.origin() : std::string();
    state::ReferenceRow named;
    named.owner_uid = viewer.uid;
    named.name = std::move(resolved.name);
    named.digest = row.digest;
    named.updated_at = row.created_at;
    co_await store_.upsert_environment(std::move(row), std::move(named));
    crash_point("environment_recorded");
}

io::Task<std::shared_ptr<const Installation>> EnvironmentCache::install(ResolvedName resolved, state::Viewer viewer, PullOptions options, bool installed,
                                                                       ProgressSink progress, std::stop_token stop) {
    PullRequest request;
    request.resolved = resolved;
    request.user = viewer.uid;
    request.installed = installed;
    const std::string origin = resolved.origin();
    for (const state::EnvironmentRow& row : store_.all_environments()) {
        if (row.is_public || (options.credentials && row.owner_uid == viewer.uid))
            request.known.push_back(Digest::parse(row.digest));
        else if (row.origin == origin)
            request.vouched.push_back(Digest::parse(row.digest));
    }
    request.options = std::move(options);
    request.room = co_await room();
    std::shared_ptr<const Installation> result = co_await pulls_.install(std::move(request), progress, stop);
    {
        // The lease keeps prune away until there is a row.
        const Lease held = lease(result->manifest, resolved.name);
        EnvironmentManifest manifest = result->manifest;
        // Others may have the same from elsewhere; this is where it came from now.
        const Source source = manifest.source == Source::debian_archive ? Source::debian_archive : Source::registry;
        co_await remember(std::move(manifest), resolved, source, !result->authenticated, viewer);
    }
    co_await keep_budget(result->manifest.digest.str(), viewer);
    if (progress) {
        Progress ready;
        ready.phase = "ready";
        ready.digest = result->manifest.digest.str();
        progress(ready);
    }
    co_return result;
}

io::Task<void> EnvironmentCache::unpack(const Lease& environment, std::string job_id, std::string directory, supervise::Credentials owner,
                                        ProgressSink progress, std::stop_token stop) {
    return installer_.unpack(environment.manifest(), std::move(job_id), std::move(directory), std::move(owner), std::move(progress), std::move(stop));
}

io::Task<PruneOutcome> EnvironmentCache::prune(PruneOptions options, state::Viewer viewer, std::stop_token stop) {
    PruneOutcome out;
    using Owned = std::pair<uid_t, std::string>;
    std::map<Owned, std::string> name_of;
    std::set<Owned> given;
    for (const state::ReferenceRow& reference : store_.list_references(viewer)) {
        name_of.emplace(Owned(reference.owner_uid, reference.digest), reference.name);
        if (is_given(reference.name))
            given.insert({reference.owner_uid, reference.digest});
    }
    const std::int64_t newest = unix_now() - options.older_than_seconds;
    std::set<std::string> keep = all_digests();
    std::map<std::string, std::size_t> rows_of;
    for (const state::EnvironmentRow& row : store_.all_environments())
        ++rows_of[row.digest];
    const std::vector<state::EnvironmentRow> rows = store_.list_environments(viewer);
    for (const state::EnvironmentRow& row : rows) {
        const Owned owned(row.owner_uid, row.digest);
        if ((row.owner_uid != viewer.uid && !viewer.admin) || in_use(row.digest) || given.contains(owned))
            continue;
        if (options.older_than_seconds > 0 && row.last_used_at > newest)
            continue;
        bool remove = options.all || !name_of.contains(owned);
        if (!remove) {
            const Digest digest = Digest::parse(row.digest);
            std::optional<Installed> found = co_await look(digest, false, stop);
            remove = !found || !found->problem.empty();
        }
        if (!remove || in_use(row.digest))
            continue;
        const state::Viewer owner{row.owner_uid, false};
        bool gone = true;
        if (!options.dry_run)
            gone = co_await store_.remove_environment(owner, row.digest);
        if (!gone)
            continue;
        if (--rows_of[row.digest] == 0)
            keep.erase(row.digest);
        const std::string shown = name_of.contains(owned) ? name_of[owned] : row.digest;
        if (std::find(out.removed.begin(), out.removed.end(), shown) == out.removed.end())
            out.removed.push_back(shown);
    }
    const std::set<std::string>* const pretend = options.dry_run ? &keep : nullptr;
    const std::optional<std::uint64_t> freed = co_await sweep(pretend);
    out.freed_bytes = freed.value_or(0);
    co_return out;
}

io::Task<std::optional<std::uint64_t>> EnvironmentCache::sweep(const std::set<std::string>* pretend) {
    const bool dry = pretend != nullptr;
    const std::set<std::string> keep = dry ? *pretend : all_digests();
    // A pull may be about to use any environment, blob or half download.
    const std::shared_ptr<void> alone = pulls_.pause_if_idle();
    if (!alone && !dry)
        co_return std::nullopt;
    // What no row of any user leads to, and nobody holds. Renamed away at once, on this thread, so that it cannot be leased
    // between the look and the removal.
    std::vector<std::string> doomed;
    std::set<std::string> going;
    const std::vector<std::string> installed = names_in(options_.path("environments"));
    for (const std::string& hex : installed) {
        const std::string digest = "sha256:" + hex;
        if (keep.contains(digest) || in_use(digest))
            continue;
        going.insert(hex);
        if (dry) {
            doomed.push_back(options_.path("environments", hex));
            continue;
        }
        const std::string away = options_.path("ingest", "prune-" + std::to_string(::getpid()) + "-" + std::to_string(++removals_));
        if (::rename(options_.path("environments", hex).c_str(), away.c_str()) != 0)
            throw Error::from_errno("remove environment " + hex);
        doomed.push_back(away);
    }
    auto work = [doomed, going, dry, environments = options_.path("environments"), blobs = options_.path("blobs/sha256"), downloads = options_.path("downloads")] {
        const auto give_back = [dry](const std::string& path) {
            struct stat info {};
            if (!dry)
                return remove_tree(path);
            if (::lstat(path.c_str(), &info) != 0)
                return std::uint64_t{0};
            return S_ISDIR(info.st_mode) ? bytes_in(path) : static_cast<std::uint64_t>(info.st_blocks) * 512;
        };
        std::uint64_t freed = 0;
        for (const std::string& directory : doomed)
            freed += give_back(directory);
        crash_point("environment_swept");
        std::vector<Digest> left;
        for (const std::string& hex : names_in(environments))
            if (!going.contains(hex))
                left.push_back(Digest::parse("sha256:" + hex));
        const std::vector<std::string> listed = blobs_of(environments, left);
        const std::set<std::string> used(listed.begin(), listed.end());
        for (const std::string& hex : names_in(blobs))
            if (!used.contains(hex))
                freed += give_back(blobs + "/" + hex);
        for (const std::string& half : names_in(downloads))
            freed += give_back(downloads + "/" + half);
        return freed;
    };
    auto working = io::offload(bulk_, std::move(work));
    const std::uint64_t freed = co_await std::move(working);
    co_return freed;
}

io::Task<PruneOutcome> EnvironmentCache::remove(std::string name, bool force, state::Viewer viewer, std::stop_token) {
    std::string shown, reference, description;
    const std::optional<state::EnvironmentRow> row = find_row(name, viewer, shown, reference, description);
    if (!row)
        throw Error(ErrorCode::not_found, "environment " + shown + " is not installed", "see: pyro env list");
    const bool by_digest = shown == row->digest;
    if (row->owner_uid != viewer.uid && !(viewer.admin && by_digest))
        throw Error(ErrorCode::failed_precondition, "environment " + shown + " was pulled by another user, for all", "it costs you nothing; an administrator may remove it");
    const state::Viewer owner{row->owner_uid, false};
    std::vector<std::string> names;
    for (const state::ReferenceRow& one : store_.list_references(owner))
        if (one.owner_uid == owner.uid && one.digest == row->digest)
            names.push_back(one.name);
    if (by_digest && names.size() > 1 && !force)
        throw Error(ErrorCode::failed_precondition, "environment " + shown.substr(0, 19) + " has " + std::to_string(names.size()) + " names", "remove them by name, or all with --force");
    PruneOutcome out;
    if (!by_digest && names.size() > 1) {
        co_await store_.remove_reference(owner, shown);
        out.removed.push_back(shown);
        co_return out;  // the others still lead to it
    }
    // Where others use it, its files stay until they are done.
    const auto used = [&](const auto& one) { return one.environment_digest == row->digest && one.owner_uid == owner.uid; };
    const std::vector<state::MachineRow> machines = store_.all_machines();
    const std::vector<state::WorkspaceRow> workspaces = store_.all_workspaces();
    if (std::any_of(machines.begin(), machines.end(), used) || std::any_of(workspaces.begin(), workspaces.end(), used))
        throw Error(ErrorCode::failed_precondition, "environment " + shown + " is in use", "by a VM or a workspace: pyro vm list, pyro workspace list");
    const bool gone = co_await store_.remove_environment(owner, row->digest);
    if (gone)
        out.removed = names.empty() ? std::vector<std::string>{row->digest} : names;
    const std::optional<std::uint64_t> freed = co_await sweep();
    out.freed_bytes = freed.value_or(0);
    co_return out;
}

io::Task<std::uint64_t> EnvironmentCache::used_bytes() {
    auto work = [environments = options_.path("environments"), blobs = options_.path("blobs/sha256")] { return bytes_in(environments) + bytes_in(blobs); };
    auto working = io::offload(pool_, std::move(work));
    const std::uint64_t used = co_await std::move(working);
    co_return used;
}

io::Task<DiskUsage> EnvironmentCache::usage(state::Viewer viewer) {
    DiskUsage out;
    out.used_bytes = co_await used_bytes();
    out.budget_bytes = options_.budget_bytes;
    std::map<uid_t, UserUsage> users;
    if (!viewer.admin)
        users[viewer.uid].uid = viewer.uid;
    for (const state::EnvironmentRow& row : store_.all_environments()) {
        if (row.owner_uid != viewer.uid && !viewer.admin)
            continue;
        UserUsage& user = users[row.owner_uid];
        user.uid = row.owner_uid;
        ++user.environments;
        user.bytes += static_cast<std::uint64_t>(row.size_bytes);
    }
    for (const auto& [uid, user] : users)
        out.users.push_back(user);
    co_return out;
}

// What there is on the disk, and in the budget when all has gone that may go.
io::Task<std::optional<std::uint64_t>> EnvironmentCache::room() {
    std::vector<Digest> staying;
    for (const std::string& digest : pinned())
        staying.push_back(Digest::parse(digest));
    auto work = [staying, budget = options_.budget_bytes, state = options_.state_directory, environments = options_.path("environments"),
                 blobs = options_.path("blobs/sha256")] {
        std::uint64_t room = free_bytes(state);
        if (budget == 0)
            return room;
        std::uint64_t held = 0;
        struct stat info {};
        for (const Digest& digest : staying)
            held += bytes_in(environments + "/" + digest.hex());
        const std::vector<std::string> listed = blobs_of(environments, staying);
        for (const std::string& hex : std::set<std::string>(listed.begin(), listed.end()))
            if (::lstat((blobs + "/" + hex).c_str(), &info) == 0)
                held += static_cast<std::uint64_t>(info.st_blocks) * 512;
        return std::min(room, budget - std::min(held, budget));
    };
    auto working = io::offload(pool_, std::move(work));
    const std::uint64_t room = co_await std::move(working);
    co_return room;
}

io::Task<void> EnvironmentCache::keep_budget(std::string added, state::Viewer viewer) {
    if (options_.budget_bytes == 0)
        co_return;
    while (true) {
        const std::uint64_t used = co_await used_bytes();
        if (used <= options_.budget_bytes)
            co_return;
        std::map<std::string, std::int64_t> last_used;  // whoever used it
        for (const state::EnvironmentRow& row : store_.all_environments())
            last_used[row.digest] = std::max(last_used[row.digest], row.last_used_at);
        for (const std::string& digest : pinned())
            last_used.erase(digest);
        last_used.erase(added);
        const auto oldest = std::min_element(last_used.begin(), last_used.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
        const bool fits = oldest != last_used.end();
        const std::string victim = fits ? oldest->first : added;
        const state::Viewer who = fits ? state::Viewer{0, true} : state::Viewer{viewer.uid, false};
        co_await store_.remove_environment(who, victim);
        const std::optional<std::uint64_t> freed = co_await sweep();
        if (!fits)
            throw Error(ErrorCode::quota_exceeded, "environments may take " + std::to_string(options_.budget_bytes >> 20) + " MiB of disk, and with this one those in use take " +
                                                       std::to_string(used >> 20), "remove some: pyro env remove NAME; the budget is environments.disk_mib in pyrod.toml");
        if (!freed)
            co_return;  // another pull works, and looks at the budget when it is over
    }
}

}  // namespace pyro::env
