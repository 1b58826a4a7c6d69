#include "daemon/env/cache.hpp"

#include <unistd.h>

#include <algorithm>
#include <set>

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
    const std::vector<state::MachineRow> machines = store_.all_machines();
    return std::any_of(machines.begin(), machines.end(), [&](const state::MachineRow& row) { return row.environment_digest == digest; });
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
        std::shared_ptr<const Installation> installed = co_await install(resolved, viewer, options, progress, stop);
        Lease held = lease(installed->manifest, resolved.name);
        co_return held;
    }
}

io::Task<PullOutcome> EnvironmentCache::pull(std::string name, state::Viewer viewer, PullOptions options, ProgressSink progress, std::stop_token stop) {
    const ResolvedName resolved = resolve_name(name);
    const std::string description = resolved.entry ? std::string(resolved.entry->description) : std::string();
    PullOutcome outcome;
    std::optional<state::EnvironmentRow> row = store_.find_environment_by_reference(viewer, resolved.name);
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
    if (!found || !found->problem.empty()) {
        std::shared_ptr<const Installation> installed = co_await install(resolved, viewer, options, progress, stop);
        outcome.changed = installed->changed;
        outcome.downloaded_bytes = installed->downloaded_bytes;
        row = store_.find_environment_by_reference(viewer, resolved.name);
    }
    outcome.environment = co_await summarize(resolved.name, resolved.reference.str(), description, row, stop);
    co_return outcome;
}

io::Task<EnvironmentSummary> EnvironmentCache::summarize(std::string name, std::string reference, std::string description,
                                                         std::optional<state::EnvironmentRow> row, std::stop_token stop) {
    EnvironmentSummary out;
    out.name = std::move(name);
    out.reference = std::move(reference);
    out.description = std::move(description);
    if (!row)
        co_return out;
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
    const std::vector<state::ReferenceRow> references = store_.list_references(viewer);
    for (const state::ReferenceRow& reference : references) {
        if (find_in_catalog(reference.name))
            continue;
        named.insert(reference.digest);
        std::optional<state::EnvironmentRow> row = store_.find_environment(viewer, reference.digest);
        EnvironmentSummary one = co_await summarize(reference.name, reference.name, std::string(), row, stop);
        out.push_back(std::move(one));
    }
    const std::vector<state::EnvironmentRow> rows = store_.list_environments(viewer);
    for (const state::EnvironmentRow& row : rows) {
        if (!named.insert(row.digest).second)
            continue;
        std::optional<state::EnvironmentRow> same = row;
        EnvironmentSummary one = co_await summarize(row.digest, std::string(), std::string(), std::move(same), stop);
        if (one.manifest)
            one.reference = one.manifest->reference;
        out.push_back(std::move(one));
    }
    co_return out;
}

io::Task<EnvironmentSummary> EnvironmentCache::inspect(std::string name, state::Viewer viewer, std::stop_token stop) {
    std::optional<state::EnvironmentRow> row;
    std::string shown = name, reference, description;
    const std::optional<Digest> digest = as_digest(name);
    if (digest) {
        row = store_.find_environment(viewer, digest->str());
    } else {
        const ResolvedName resolved = resolve_name(name);
        row = store_.find_environment_by_reference(viewer, resolved.name);
        shown = resolved.name;
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
            }
        }
        if (!row && !resolved.entry)
            throw Error(ErrorCode::not_found, "environment " + resolved.name + " is not installed", "install it with: pyro env pull " + name);
    }
    if (digest && !row)
        throw Error(ErrorCode::not_found, "no environment has the digest " + name, "see: pyro env list");
    EnvironmentSummary out = co_await summarize(shown, reference, description, row, stop);
    if (out.manifest && (out.reference.empty() || row))
        out.reference = out.manifest->reference.empty() ? out.reference : out.manifest->reference;
    co_return out;
}

io::Task<void> EnvironmentCache::remember(EnvironmentManifest manifest, std::string reference, bool is_public, state::Viewer viewer) {
    state::EnvironmentRow row;
    row.digest = manifest.digest.str();
    row.owner_uid = viewer.uid;
    row.is_public = is_public;
    row.source = to_string(manifest.source);
    row.manifest_digest = manifest.manifest_digest.empty() ? std::string() : manifest.manifest_digest.str();
    row.size_bytes = static_cast<std::int64_t>(manifest.root_allocated);
    row.created_at = row.last_used_at = unix_now();
    state::ReferenceRow named;
    named.owner_uid = viewer.uid;
    named.name = std::move(reference);
    named.digest = row.digest;
    named.updated_at = row.created_at;
    co_await store_.upsert_environment(std::move(row), std::move(named));
}

io::Task<std::shared_ptr<const Installation>> EnvironmentCache::install(ResolvedName resolved, state::Viewer viewer, PullOptions options,
                                                                       ProgressSink progress, std::stop_token stop) {
    PullRequest request;
    request.resolved = resolved;
    request.user = viewer.uid;
    request.options = std::move(options);
    std::shared_ptr<const Installation> result = co_await pulls_.install(std::move(request), progress, stop);
    // The lease keeps prune away until there is a row.
    const Lease held = lease(result->manifest, resolved.name);
    EnvironmentManifest manifest = result->manifest;
    co_await remember(std::move(manifest), resolved.name, !result->authenticated, viewer);
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

io::Task<PruneOutcome> EnvironmentCache::prune(bool all, state::Viewer viewer, std::stop_token stop) {
    PruneOutcome out;
    std::set<std::string> named;
    std::map<std::string, std::string> name_of;
    for (const state::ReferenceRow& reference : store_.list_references(viewer)) {
        named.insert(reference.digest);
        name_of.emplace(reference.digest, reference.name);
    }
    const std::vector<state::EnvironmentRow> rows = store_.list_environments(viewer);
    std::set<std::string> seen;
    for (const state::EnvironmentRow& row : rows) {
        if ((row.owner_uid != viewer.uid && !viewer.admin) || !seen.insert(row.digest).second || in_use(row.digest))
            continue;
        bool remove = all || !named.contains(row.digest);
        if (!remove) {
            const Digest digest = Digest::parse(row.digest);
            std::optional<Installed> found = co_await look(digest, false, stop);
            remove = !found || !found->problem.empty();
        }
        if (!remove || in_use(row.digest))
            continue;
        const bool gone = co_await store_.remove_environment(viewer, row.digest);
        if (gone)
            out.removed.push_back(name_of.contains(row.digest) ? name_of[row.digest] : row.digest);
    }

    const std::shared_ptr<void> alone = pulls_.pause_if_idle();
    if (!alone)
        co_return out;  // a pull may be about to use any environment, blob or half download
    // What no row of any user leads to, and nobody holds. Renamed away at once, on this thread, so that it cannot be leased
    // between the look and the removal.
    std::set<std::string> keep;
    for (const state::EnvironmentRow& row : store_.all_environments())
        keep.insert(row.digest);
    std::vector<std::string> doomed;
    const std::vector<std::string> installed = names_in(options_.path("environments"));
    for (const std::string& hex : installed) {
        const std::string digest = "sha256:" + hex;
        if (keep.contains(digest) || in_use(digest))
            continue;
        const std::string away = options_.path("ingest", "prune-" + std::to_string(::getpid()) + "-" + std::to_string(++removals_));
        if (::rename(options_.path("environments", hex).c_str(), away.c_str()) != 0)
            throw Error::from_errno("remove environment " + hex);
        doomed.push_back(away);
    }
    auto sweep = [doomed, environments = options_.path("environments"), blobs = options_.path("blobs/sha256"), downloads = options_.path("downloads")] {
        std::uint64_t freed = 0;
        for (const std::string& directory : doomed)
            freed += remove_tree(directory);
        std::set<std::string> used;
        for (const std::string& hex : names_in(environments)) {
            try {
                const EnvironmentManifest manifest = EnvironmentManifest::parse(read_file(environments + "/" + hex + "/" + manifest_file, 8u << 20));
                for (const LayerInfo& layer : manifest.layers)
                    used.insert(layer.digest.hex());
                used.insert(manifest.manifest_digest.hex());
                used.insert(manifest.config_digest.hex());
            } catch (const Error&) {
                continue;  // a broken one has no claim: the pull that repairs it loads what it needs
            }
        }
        for (const std::string& hex : names_in(blobs))
            if (!used.contains(hex))
                freed += remove_tree(blobs + "/" + hex);
        for (const std::string& half : names_in(downloads))
            freed += remove_tree(downloads + "/" + half);
        return freed;
    };
    auto sweeping = io::offload(bulk_, std::move(sweep));
    out.freed_bytes = co_await std::move(sweeping);
    co_return out;
}

}  // namespace pyro::env
