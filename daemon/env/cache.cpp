#include "daemon/env/cache.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <nlohmann/json.hpp>
#include <set>

#include "common/error.hpp"
#include "common/unique_fd.hpp"
#include "daemon/env/files.hpp"

namespace pyro::env {
namespace {

using nlohmann::json;

constexpr std::int64_t half_download_age = 7 * 24 * 3600;
constexpr std::uint64_t worker_memory = 4ull << 30;
constexpr int directory_fd = 4, first_extra_fd = 10;

std::int64_t unix_now() { return static_cast<std::int64_t>(std::time(nullptr)); }

bool is_unreachable(const Error& error) {
    const auto cause = error.details().find("cause");
    return cause != error.details().end() && cause->second == "unreachable";
}

std::string text_of(const json& object, const char* name) { return object.at(name).get<std::string>(); }

// A host with what may follow it in the configuration: "host[:port]" or "http[s]://host[:port]".
struct Endpoint {
    std::string url, host;
    bool plain = false;
};

Endpoint endpoint_of(const std::string& text) {
    Endpoint out;
    std::string_view rest = text;
    if (rest.starts_with("http://"))
        out.plain = true, rest.remove_prefix(7);
    else if (rest.starts_with("https://"))
        rest.remove_prefix(8);
    while (rest.ends_with("/"))
        rest.remove_suffix(1);
    if (rest.empty() || rest.find('/') != std::string_view::npos)
        throw Error(ErrorCode::invalid_argument, "the mirror \"" + text + "\" is not a host", "write [mirror] entries as \"docker.io\" = \"host:port\" or \"http://host:port\"");
    out.host = rest;
    return out;
}

supervise::PassedFd passed(UniqueFd fd, int number) { return supervise::PassedFd{std::move(fd), number}; }

std::optional<Digest> as_digest(const std::string& name) {
    if (!name.starts_with("sha256:"))
        return std::nullopt;
    try {
        return Digest::parse(name);
    } catch (const Error&) {
        return std::nullopt;
    }
}

std::optional<supervise::Credentials> credentials_of(const std::optional<CacheOptions::ClaimedUid>& owner) {
    if (!owner)
        return std::nullopt;
    supervise::Credentials out;
    out.uid = out.gid = owner->uid;
    return out;
}

bool hex_prefix(const std::string& name) {
    return name.size() >= 6 && name.size() <= 64 && name.find_first_not_of("0123456789abcdef") == std::string::npos;
}

Error broken_error(const std::string& name, const std::string& problem) {
    Error error(ErrorCode::environment_invalid, "environment " + name + " is broken: " + problem, "repair it with: pyro env pull " + name);
    return std::move(error).with_detail("environment", name);
}

// Waiters of one pull get an error of their own each: they add to it while it unwinds.
[[noreturn]] void rethrow_own(const std::exception_ptr& failure) {
    try {
        std::rethrow_exception(failure);
    } catch (const Error& error) {
        throw Error(error);
    }
}

}  // namespace

struct Lease::State {
    EnvironmentManifest manifest;
    std::string root_image, name;
};

const EnvironmentManifest& Lease::manifest() const { return state_->manifest; }
const std::string& Lease::root_image() const { return state_->root_image; }
const std::string& Lease::name() const { return state_->name; }

struct EnvironmentCache::Installation {
    EnvironmentManifest manifest;
    bool changed = false;
    std::uint64_t downloaded_bytes = 0;
};

struct EnvironmentCache::Job {
    explicit Job(io::Executor executor) : done(executor), may_start(executor) {}
    std::string id;
    bool force = false;
    io::Event done;
    std::stop_source stop;
    bool abandoned = false;
    std::set<uid_t> queued_by;
    std::stop_source queueing;
    io::FairSemaphore::Permit place;
    io::Event may_start;
    std::uint64_t next_listener = 0;
    std::map<std::uint64_t, ProgressSink> listeners;
    std::optional<Progress> last;
    std::shared_ptr<Installation> result;
    std::exception_ptr failure;

    void tell(const Progress& progress) {
        last = progress;
        const std::map<std::uint64_t, ProgressSink> now = listeners;  // a listener may go while it is told
        for (const auto& [id_, sink] : now)
            if (sink)
                sink(progress);
    }
};

// One who waits for a job. When the last goes early, the job is stopped.
class EnvironmentCache::Waiter {
public:
    Waiter(std::shared_ptr<Job> job, ProgressSink sink) : job_(std::move(job)), id_(job_->next_listener++) {
        if (sink && job_->last)
            sink(*job_->last);
        job_->listeners.emplace(id_, std::move(sink));
    }
    ~Waiter() {
        job_->listeners.erase(id_);
        if (job_->listeners.empty() && !job_->done.is_set()) {
            job_->abandoned = true;
            job_->stop.request_stop();
        }
    }
    Waiter(const Waiter&) = delete;
    Waiter& operator=(const Waiter&) = delete;

private:
    std::shared_ptr<Job> job_;
    std::uint64_t id_;
};

std::optional<CacheOptions::ClaimedUid> EnvironmentCache::worker_uid(const std::string& job_id) const {
    if (::geteuid() != 0)
        return std::nullopt;
    PYRO_CHECK(options_.claim_uid);
    return options_.claim_uid("image-" + job_id);
}

EnvironmentCache::EnvironmentCache(io::Executor executor, supervise::Supervisor& supervisor, state::Store& store, io::WorkerPool& pool, CacheOptions options)
    : executor_(executor), supervisor_(supervisor), store_(store), pool_(pool), options_(std::move(options)), pulls_(executor, options_.concurrent_pulls, std::max<std::size_t>(1, options_.concurrent_pulls / 2)), verifying_(executor, 1, 1),
      group_(executor) {}

EnvironmentCache::~EnvironmentCache() = default;

std::string EnvironmentCache::path(std::string_view folder, std::string_view name) const {
    std::string out = options_.state_directory + "/" + std::string(folder);
    if (!name.empty())
        out += "/" + std::string(name);
    return out;
}

io::Task<void> EnvironmentCache::start() {
    std::vector<std::string> folders{path("blobs"), path("blobs/sha256"), path("environments"), path("ingest"), path("downloads")};
    auto work = [folders, ingest = path("ingest"), downloads = path("downloads"), now = unix_now(), limit = options_.max_image_bytes] {
        for (const std::string& folder : folders)
            own_directory(folder, ::geteuid());
        for (const std::string& name : names_in(ingest))
            remove_tree(ingest + "/" + name);
        trim_downloads(downloads, now, half_download_age, limit);
    };
    auto task = io::offload(bulk_, std::move(work));
    co_await std::move(task);
}

io::Task<void> EnvironmentCache::close() {
    for (const auto& [name, job] : jobs_)
        job->stop.request_stop();
    group_.stop();
    co_await group_.join();
}

io::Task<std::optional<Installed>> EnvironmentCache::look(Digest digest, bool full, std::stop_token stop) {
    auto work = [directory = path("environments", digest.hex()), digest, full, stop] { return examine(directory, digest, full, stop); };
    auto task = io::offload(full ? bulk_ : pool_, std::move(work));
    std::optional<Installed> out = co_await std::move(task);
    co_return out;
}

Lease EnvironmentCache::lease(const EnvironmentManifest& manifest, std::string name) {
    auto state = std::make_shared<Lease::State>();
    state->manifest = manifest;
    state->root_image = path("environments", manifest.digest.hex()) + "/" + root_file;
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
        std::shared_ptr<Installation> installed = co_await install(resolved, viewer, options, progress, stop);
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
        const io::FairSemaphore::Permit turn = co_await verifying_.acquire(viewer.uid, stop);
        found = co_await look(digest, true, stop);
    }
    if (!found || !found->problem.empty()) {
        std::shared_ptr<Installation> installed = co_await install(resolved, viewer, options, progress, stop);
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

io::Task<void> EnvironmentCache::remember(EnvironmentManifest manifest, std::string reference, state::Viewer viewer) {
    state::EnvironmentRow row;
    row.digest = manifest.digest.str();
    row.owner_uid = viewer.uid;
    row.is_public = true;  // nothing is pulled with credentials yet
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

io::Task<std::shared_ptr<EnvironmentCache::Installation>> EnvironmentCache::install(ResolvedName resolved, state::Viewer viewer, PullOptions options,
                                                                                  ProgressSink progress, std::stop_token stop) {
    std::shared_ptr<Job> job;
    while (!job) {
        const auto running = jobs_.find(resolved.name);
        if (running == jobs_.end()) {
            job = std::make_shared<Job>(executor_);
            job->id = std::to_string(::getpid()) + "-" + std::to_string(++next_job_);
            job->force = options.force;
            jobs_.emplace(resolved.name, job);
            group_.spawn(run_job(job, resolved));
        } else if (running->second->abandoned) {
            const std::shared_ptr<Job> ending = running->second;
            co_await ending->done.wait(stop);
        } else {
            job = running->second;
        }
    }
    {
        const Waiter waiter(job, progress);
        if (job->queued_by.insert(viewer.uid).second)
            group_.spawn(queue_up(job, viewer.uid));
        co_await job->done.wait(stop);
    }
    if (job->failure)
        rethrow_own(job->failure);
    const std::shared_ptr<Installation> result = job->result;
    // The lease keeps prune away until there is a row.
    const Lease held = lease(result->manifest, resolved.name);
    EnvironmentManifest manifest = result->manifest;
    co_await remember(std::move(manifest), resolved.name, viewer);
    if (progress) {
        Progress ready;
        ready.phase = "ready";
        ready.digest = result->manifest.digest.str();
        progress(ready);
    }
    co_return result;
}

io::Task<void> EnvironmentCache::queue_up(std::shared_ptr<Job> job, uid_t uid) {
    io::FairSemaphore::Permit place = co_await pulls_.acquire(uid, job->queueing.get_token());
    if (job->may_start.is_set())
        co_return;
    job->place = std::move(place);
    job->may_start.set();
    job->queueing.request_stop();
}

io::Task<void> EnvironmentCache::run_job(std::shared_ptr<Job> job, ResolvedName resolved) {
    const std::string key = resolved.name;
    try {
        co_await job->may_start.wait(job->stop.get_token());
        const std::weak_ptr<Job> weak = job;
        ProgressSink tell = [weak](const Progress& progress) {
            if (const std::shared_ptr<Job> alive = weak.lock())
                alive->tell(progress);
        };
        Installation done = co_await install_from_any(job->id, std::move(resolved), job->force, std::move(tell), job->stop.get_token());
        job->result = std::make_shared<Installation>(std::move(done));
    } catch (...) {
        job->failure = std::current_exception();
    }
    job->may_start.set();  // nobody gives it a place any more
    job->queueing.request_stop();
    job->place.release();
    jobs_.erase(key);
    job->done.set();
}

io::Task<EnvironmentCache::Installation> EnvironmentCache::install_from_any(std::string job_id, ResolvedName resolved, bool force, ProgressSink progress, std::stop_token stop) {
    std::optional<Error> unreachable;
    for (const Source source : options_.sources) {
        if (source == Source::debian_archive && !resolved.entry)
            continue;
        std::optional<Error> failed;
        try {
            if (source == Source::registry) {
                Installation done = co_await install_from_registry(job_id, resolved, force, progress, stop);
                co_return done;
            }
            Installation done = co_await install_from_archive(job_id, resolved, progress, stop);
            co_return done;
        } catch (const Error& error) {
            failed = error;
        }
        if (unreachable)
            failed->add_context(unreachable->message() + "; then from the Debian archive");
        // Only silence sends to the next source: what a registry said is an answer.
        const bool silent = source == Source::registry ? is_unreachable(*failed) : failed->code() == ErrorCode::unavailable;
        if (!silent || source == options_.sources.back() || unreachable)
            throw *failed;
        unreachable = failed;
        Progress next;
        next.phase = "resolve";
        next.message = failed->message() + "; trying the next source";
        progress(next);
    }
    if (unreachable)
        throw *unreachable;
    throw Error(ErrorCode::failed_precondition, "the configuration names no source for " + resolved.name, "add \"registry\" to environments.sources in pyrod.toml");
}

io::Task<EnvironmentCache::Installation> EnvironmentCache::install_from_registry(std::string job_id, ResolvedName resolved, bool force, ProgressSink progress, std::stop_token stop) {
    const ImageRef& reference = resolved.reference;
    json hosts = json::object();
    std::vector<std::pair<std::string, int>> ca_files;
    for (const auto& [host, settings] : options_.registries) {
        json policy = {{"plain_http", settings.plain_http}, {"allow_private", settings.allow_private}};
        if (!settings.ca_file.empty()) {
            const int number = first_extra_fd + static_cast<int>(ca_files.size());
            policy["ca_fd"] = number;
            ca_files.emplace_back(settings.ca_file, number);
        }
        hosts[host] = std::move(policy);
    }
    Endpoint endpoint;
    if (const auto mirror = options_.mirrors.find(reference.registry); mirror != options_.mirrors.end()) {
        endpoint = endpoint_of(mirror->second);
        // Whoever configured a mirror means it, wherever it is.
        json policy = hosts.value(endpoint.host, json::object());
        policy["allow_private"] = true;
        if (endpoint.plain)
            policy["plain_http"] = true;
        hosts[endpoint.host] = std::move(policy);
    } else {
        endpoint = endpoint_of(reference.registry == "docker.io" ? "registry-1.docker.io" : reference.registry);
    }
    if (hosts.contains(endpoint.host) && hosts[endpoint.host].value("plain_http", false))
        endpoint.plain = true;
    endpoint.url = (endpoint.plain ? "http://" : "https://") + endpoint.host;

    const std::string downloads = path("downloads", Digest::of(reference.str()).hex().substr(0, 32));
    const std::string blobs = path("blobs/sha256");
    const std::optional<CacheOptions::ClaimedUid> owner = worker_uid(job_id);
    json request = {{"reference", resolved.name}, {"endpoint", endpoint.url}, {"repository", reference.repository}, {"selector", reference.selector()},
                    {"directory_fd", directory_fd}, {"max_bytes", options_.max_image_bytes}, {"hosts", hosts},
                    {"connect_seconds", options_.connect_seconds}, {"low_speed_seconds", options_.low_speed_seconds},
                    {"attempts", options_.attempts}, {"retry_base_ms", options_.retry_base_ms}};

    auto prepare = [downloads, blobs, uid = owner ? owner->uid : ::geteuid()] {
        own_directory(downloads, uid);
        return names_in(blobs);
    };
    auto prepared = io::offload(bulk_, std::move(prepare));
    std::vector<std::string> have = co_await std::move(prepared);
    request["have"] = have;

    json result;
    std::exception_ptr failure;
    bool no_space = false;
    try {
        WorkerJob worker;
        worker.program = options_.image_worker;
        worker.subcommand = "fetch";
        worker.scope = "image-" + job_id;
        worker.as = credentials_of(owner);
        worker.network = true;
        worker.memory_max = worker_memory;
        worker.fds.push_back(passed(open_file(downloads, O_RDONLY | O_DIRECTORY | O_NOFOLLOW), directory_fd));
        for (const auto& [file, number] : ca_files)
            worker.fds.push_back(passed(open_file(file, O_RDONLY), number));
        result = co_await run_worker(supervisor_, std::move(worker), std::move(request), progress, stop);
    } catch (const Error& error) {
        failure = std::current_exception();
        no_space = error.code() == ErrorCode::quota_exceeded;
    } catch (...) {
        failure = std::current_exception();
    }
    // Nothing stays a worker's: what is kept to go on with later is the daemon's until then.
    auto settle = [downloads, no_space, all = path("downloads"), limit = options_.max_image_bytes,
                   alone = failure && jobs_.size() == 1, now = unix_now()] {
        if (no_space)
            remove_tree(downloads);
        else
            own_directory(downloads, ::geteuid());
        if (alone)  // no other pull works there
            trim_downloads(all, now, half_download_age, limit);
    };
    auto settled = io::offload(bulk_, std::move(settle));
    co_await std::move(settled);
    if (failure)
        std::rethrow_exception(failure);

    Installation out;
    EnvironmentManifest manifest;
    std::vector<std::string> layer_paths, diff_ids;
    struct Wanted {
        Digest digest;
        std::uint64_t size;
        bool fresh;
    };
    std::vector<Wanted> wanted;
    try {
        manifest.source = Source::registry;
        manifest.name = resolved.name;
        manifest.reference = reference.str();
        manifest.manifest_digest = manifest.digest = Digest::parse(text_of(result, "manifest_digest"));
        manifest.config_digest = Digest::parse(text_of(result, "config_digest"));
        const json& config = result.at("config");
        manifest.user = text_of(config, "user");
        manifest.working_dir = text_of(config, "working_dir");
        manifest.env = config.at("env").get<std::vector<std::string>>();
        manifest.cmd = config.at("cmd").get<std::vector<std::string>>();
        manifest.entrypoint = config.at("entrypoint").get<std::vector<std::string>>();
        std::set<std::string> seen, before(have.begin(), have.end());
        const auto want = [&](const Digest& digest, std::uint64_t size) {
            if (seen.insert(digest.hex()).second)
                wanted.push_back(Wanted{digest, size, !before.contains(digest.hex())});
        };
        if (result.at("layers").size() > 127)
            throw Error(ErrorCode::environment_invalid, "the image has too many layers");
        for (const json& layer : result.at("layers")) {
            LayerInfo info;
            info.digest = Digest::parse(text_of(layer, "digest"));
            info.size = layer.at("size").get<std::uint64_t>();
            diff_ids.push_back(Digest::parse(text_of(layer, "diff_id")).str());
            layer_paths.push_back(blobs + "/" + info.digest.hex());
            want(info.digest, info.size);
            manifest.layers.push_back(std::move(info));
        }
        want(manifest.manifest_digest, result.at("manifest_size").get<std::uint64_t>());
        want(manifest.config_digest, result.at("config_size").get<std::uint64_t>());
    } catch (const json::exception&) {
        throw Error(ErrorCode::environment_invalid, "the image worker's answer does not fit", "pull again; see the daemon's log");
    }

    std::uint64_t total = 0, verified = 0;
    for (const Wanted& blob : wanted)
        total += blob.size;
    for (const Wanted& blob : wanted) {
        Progress verifying;
        verifying.phase = "verify";
        verifying.digest = blob.digest.str();
        verifying.done = verified;
        verifying.total = total;
        progress(verifying);
        // A blob of an earlier pull is compared too: a disk may have changed it. Then it goes, and the next pull loads it.
        auto adopt = [downloads, blobs, digest = blob.digest, size = blob.size, fresh = blob.fresh, stop] {
            try {
                adopt_blob(fresh ? downloads : blobs, blobs, digest, size, stop);
            } catch (const Error& error) {
                if (!fresh && error.code() == ErrorCode::environment_invalid)
                    remove_tree(blobs + "/" + digest.hex());
                throw;
            }
        };
        auto adopted = io::offload(bulk_, std::move(adopt));
        co_await std::move(adopted);
        verified += blob.size;
        if (blob.fresh)
            out.downloaded_bytes += blob.size;
    }
    auto tidy = [downloads] { remove_tree(downloads); };
    auto tidied = io::offload(bulk_, std::move(tidy));
    co_await std::move(tidied);

    std::optional<Installed> there = co_await look(manifest.digest, true, stop);
    if (there && there->problem.empty() && !force) {
        out.manifest = std::move(there->manifest);
        co_return out;
    }
    out.manifest = co_await build(job_id, std::move(layer_paths), std::move(diff_ids), std::move(manifest), progress, stop);
    out.changed = true;
    co_return out;
}

io::Task<EnvironmentCache::Installation> EnvironmentCache::install_from_archive(std::string job_id, ResolvedName resolved, ProgressSink progress, std::stop_token stop) {
    if (::geteuid() != 0)
        throw Error(ErrorCode::failed_precondition, "building from the Debian archive needs a daemon that runs as root", "make a registry or a mirror reachable");
    const std::optional<CacheOptions::ClaimedUid> owner = worker_uid(job_id);
    const std::string directory = path("ingest", "archive-" + job_id), temporary = directory + "/tmp", tar = directory + "/root.tar";
    auto prepare = [directory, temporary, uid = owner->uid] {
        own_directory(directory, 0);
        // The way there is open to the worker's uid for as long as the job lasts; the state directory above is not.
        own_directory(temporary, uid);
    };
    auto prepared = io::offload(bulk_, std::move(prepare));
    co_await std::move(prepared);

    Installation out;
    std::exception_ptr failure;
    try {
        WorkerJob worker;
        worker.program = options_.image_worker;
        worker.subcommand = "bootstrap";
        worker.scope = "archive-" + job_id;
        worker.network = true;
        worker.fds.push_back(passed(open_file(tar, O_RDWR | O_CREAT | O_EXCL, 0600), directory_fd));
        json request = {{"program", options_.mmdebstrap}, {"suite", resolved.entry->suite}, {"packages", resolved.entry->packages},
                        {"uid", owner->uid}, {"gid", owner->uid}, {"sub_first", options_.sub_first}, {"sub_count", 65535},
                        {"temp", temporary}, {"tar_fd", directory_fd}};
        json result = co_await run_worker(supervisor_, std::move(worker), std::move(request), progress, stop);
        EnvironmentManifest manifest;
        manifest.source = Source::debian_archive;
        manifest.name = resolved.name;
        manifest.env = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"};
        manifest.cmd = {"bash"};
        std::vector<std::string> layers{tar}, diff_ids{std::string()};
        out.manifest = co_await build(job_id, std::move(layers), std::move(diff_ids), std::move(manifest), progress, stop);
        out.changed = true;
    } catch (...) {
        failure = std::current_exception();
    }
    auto tidy = [directory] { remove_tree(directory); };
    auto tidied = io::offload(bulk_, std::move(tidy));
    co_await std::move(tidied);
    if (failure)
        std::rethrow_exception(failure);
    co_return out;
}

namespace {
// Opens the layers for the worker, from first_extra_fd on; what its request says of them.
json pass_layers(WorkerJob& worker, const std::vector<std::string>& paths, const std::vector<std::string>& diff_ids, const EnvironmentManifest& manifest) {
    json layers = json::array();
    for (std::size_t i = 0; i < paths.size(); ++i) {
        UniqueFd file = open_file(paths[i], O_RDONLY | O_NOFOLLOW);
        struct stat info {};
        if (::fstat(file.get(), &info) != 0)
            throw Error::from_errno("look at a layer");
        const int number = first_extra_fd + static_cast<int>(i);
        json layer = {{"fd", number}, {"size", info.st_size}};
        if (i < diff_ids.size())
            layer["diff_id"] = diff_ids[i];
        if (i < manifest.layers.size())
            layer["digest"] = manifest.layers[i].digest.str();
        layers.push_back(std::move(layer));
        worker.fds.push_back(passed(std::move(file), number));
    }
    return layers;
}

}  // namespace

io::Task<EnvironmentManifest> EnvironmentCache::build(std::string job_id, std::vector<std::string> layer_paths, std::vector<std::string> diff_ids,
                                                      EnvironmentManifest manifest, ProgressSink progress, std::stop_token stop) {
    const std::optional<CacheOptions::ClaimedUid> owner = worker_uid(job_id + "-build");
    const std::string directory = path("ingest", "build-" + job_id);
    std::exception_ptr failure;
    try {
        auto make = [directory] { own_directory(directory, ::geteuid()); };
        auto made = io::offload(bulk_, std::move(make));
        co_await std::move(made);

        WorkerJob worker;
        worker.program = options_.image_worker;
        worker.subcommand = "build";
        worker.scope = "build-" + job_id;
        worker.as = credentials_of(owner);
        worker.memory_max = worker_memory;
        worker.fds.push_back(passed(open_file(directory + "/" + root_file, O_RDWR | O_CREAT | O_EXCL, 0600), directory_fd));
        const json layers = pass_layers(worker, layer_paths, diff_ids, manifest);
        json request = {{"layers", layers}, {"image_fd", directory_fd}, {"disk_bytes", options_.disk_bytes},
                        {"limits", {{"total_bytes", options_.max_image_bytes * 4}}}};
        json result = co_await run_worker(supervisor_, std::move(worker), std::move(request), progress, stop);
        try {
            manifest.root_size = result.at("size").get<std::uint64_t>();
            manifest.root_allocated = result.at("allocated").get<std::uint64_t>();
            manifest.root_digest = Digest::parse(text_of(result, "digest"));
            if (manifest.digest.empty()) {  // an identity of its own, told apart from any registry's manifest
                const Digest tar = Digest::parse(text_of(result.at("layers").at(0), "diff_id"));
                manifest.digest = Digest::of("pyro environment\n" + std::string(to_string(manifest.source)) + "\n" + manifest.name + "\n" + tar.str() + "\n");
                manifest.layers.push_back(LayerInfo{tar, result.at("layers").at(0).at("unpacked").get<std::uint64_t>()});
            }
        } catch (const json::exception&) {
            throw Error(ErrorCode::environment_invalid, "the image worker's answer does not fit", "pull again; see the daemon's log");
        }
        if (manifest.source == Source::debian_archive) {  // its one layer is kept as a registry's would be: to unpack, to build again
            auto keep = [tar = layer_paths.at(0), blobs = path("blobs/sha256"), layer = manifest.layers.at(0), stop] {
                const std::string folder = tar.substr(0, tar.rfind('/'));
                if (::rename(tar.c_str(), (folder + "/" + layer.digest.hex()).c_str()) != 0)
                    throw Error::from_errno("name the archive's layer");
                adopt_blob(folder, blobs, layer.digest, layer.size, stop);
            };
            auto keeping = io::offload(bulk_, std::move(keep));
            co_await std::move(keeping);
        }
        manifest.installed_at = unix_now();
        auto install_it = [directory, text = manifest.to_json(), size = manifest.root_size, to = path("environments", manifest.digest.hex())] {
            const std::string root = directory + "/" + root_file;
            struct stat info {};
            if (::stat(root.c_str(), &info) != 0 || static_cast<std::uint64_t>(info.st_size) != size)
                throw Error(ErrorCode::environment_invalid, "the image worker's root image is not what it says", "pull again; see the daemon's log");
            if (::chmod(root.c_str(), 0400) != 0)
                throw Error::from_errno("protect the root image");
            stamp_verified(directory);
            replace_file(directory + "/" + manifest_file, text, 0600);
            install_directory(directory, to);
        };
        auto installing = io::offload(bulk_, std::move(install_it));
        co_await std::move(installing);
    } catch (...) {
        failure = std::current_exception();
    }
    if (failure) {
        auto tidy = [directory] { remove_tree(directory); };
        auto tidied = io::offload(bulk_, std::move(tidy));
        co_await std::move(tidied);
        std::rethrow_exception(failure);
    }
    co_return manifest;
}

io::Task<void> EnvironmentCache::unpack(const Lease& environment, std::string job_id, std::string directory, supervise::Credentials owner,
                                        ProgressSink progress, std::stop_token stop) {
    const EnvironmentManifest& manifest = environment.manifest();
    if (manifest.layers.empty())
        throw Error(ErrorCode::failed_precondition, environment.name() + " was built from the Debian archive and has no layers to unpack",
                    "make a registry reachable and pull it again: pyro env pull --force " + environment.name());
    std::vector<std::string> paths;
    for (const LayerInfo& layer : manifest.layers)
        paths.push_back(path("blobs/sha256", layer.digest.hex()));
    WorkerJob worker;
    worker.program = options_.image_worker;
    worker.subcommand = "unpack";
    worker.scope = "unpack-" + job_id;
    worker.as = std::move(owner);
    worker.memory_max = worker_memory;
    worker.fds.push_back(passed(open_file(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW), directory_fd));
    const std::vector<std::string> unchecked;  // the digests were, when the blobs came
    const json layers = pass_layers(worker, paths, unchecked, manifest);
    json request = {{"layers", layers}, {"directory_fd", directory_fd}, {"limits", {{"total_bytes", options_.max_image_bytes * 4}}}};
    co_await run_worker(supervisor_, std::move(worker), std::move(request), progress, stop);
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

    // What no row of any user leads to, and nobody holds. Renamed away at once, on this thread, so that it cannot be leased
    // between the look and the removal.
    std::set<std::string> keep;
    for (const state::EnvironmentRow& row : store_.all_environments())
        keep.insert(row.digest);
    std::vector<std::string> doomed;
    const std::vector<std::string> installed = names_in(path("environments"));
    for (const std::string& hex : installed) {
        const std::string digest = "sha256:" + hex;
        if (keep.contains(digest) || in_use(digest) || !jobs_.empty())
            continue;
        const std::string away = path("ingest", "prune-" + std::to_string(::getpid()) + "-" + std::to_string(++next_job_));
        if (::rename(path("environments", hex).c_str(), away.c_str()) != 0)
            throw Error::from_errno("remove environment " + hex);
        doomed.push_back(away);
    }
    const bool idle = jobs_.empty();  // a running pull may be about to use any blob or half download
    auto sweep = [doomed, idle, environments = path("environments"), blobs = path("blobs/sha256"), downloads = path("downloads")] {
        std::uint64_t freed = 0;
        for (const std::string& directory : doomed)
            freed += remove_tree(directory);
        if (!idle)
            return freed;
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
