// The environment cache: what is installed, under which names, who holds it, and what may go.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <stop_token>
#include <string>
#include <vector>

#include "daemon/env/catalog.hpp"
#include "daemon/env/installer.hpp"
#include "daemon/env/manifest.hpp"
#include "daemon/env/options.hpp"
#include "daemon/env/pulls.hpp"
#include "daemon/env/worker.hpp"
#include "daemon/io/event.hpp"
#include "daemon/io/offload.hpp"
#include "daemon/state/store.hpp"
#include "daemon/supervise/supervisor.hpp"

namespace pyro::env {

// Protects an environment from prune and replacement of what it holds while somebody uses it.
class Lease {
public:
    Lease() = default;
    Lease(Lease&&) noexcept = default;
    Lease& operator=(Lease&&) noexcept = default;
    explicit operator bool() const noexcept { return state_ != nullptr; }

    const EnvironmentManifest& manifest() const;  // of a lease that is held
    const Digest& digest() const { return manifest().digest; }
    const std::string& root_image() const;        // the raw ext4, never written to
    const std::string& name() const;              // as resolved: catalog name or canonical reference

private:
    friend class EnvironmentCache;
    struct State;
    explicit Lease(std::shared_ptr<State> state) : state_(std::move(state)) {}
    std::shared_ptr<State> state_;
};

enum class Presence { available, installed, broken };

struct EnvironmentSummary {
    std::string name, reference, description;
    Presence presence = Presence::available;
    std::string problem;                          // of a broken one
    std::optional<EnvironmentManifest> manifest;  // of an installed one, and of a broken one whose manifest can be read
    std::uint64_t bytes = 0;
    // Whose it is, whether all see it, and where it came from for him: the manifest tells of whoever was first. Nothing where it is
    // in the catalog alone.
    std::optional<state::EnvironmentRow> row;
};

struct Package {
    std::string name, version, manager;
};

struct PullOutcome {
    EnvironmentSummary environment;
    bool changed = false;
    std::uint64_t downloaded_bytes = 0;
    std::string previous_digest;  // what the name led to before, where that was another
    std::string unresolved;       // why the registry could not be asked whether the name still means that; empty: it was
};

struct PruneOptions {
    bool all = false, dry_run = false;
    std::int64_t older_than_seconds = 0;  // only what was not used for so long
};

struct UserUsage {
    uid_t uid = 0;
    std::size_t environments = 0;
    std::uint64_t bytes = 0;  // of root images; what users share counts for each
};
struct DiskUsage {
    std::uint64_t used_bytes = 0, budget_bytes = 0;  // of all users; 0: no budget
    std::vector<UserUsage> users;                    // the viewer, or (administrators) all who have some
};

struct PruneOutcome {
    std::vector<std::string> removed;  // names, else digests
    std::uint64_t freed_bytes = 0;
};

// Called on the domain thread. Everything that is visible in environments/ came there by one rename of a whole directory;
// a reference leads to it only after that. Owns the pulls; close() ends them.
class EnvironmentCache {
public:
    EnvironmentCache(io::Executor executor, supervise::Supervisor& supervisor, state::Store& store, io::WorkerPool& pool, CacheOptions options);
    ~EnvironmentCache();

    // Before anything else: leftovers of an earlier daemon go.
    io::Task<void> start();
    // Ends all pulls and waits for them.
    io::Task<void> close();

    // The environment, pulled if it is not there. One that is broken is environment_invalid: only a pull repairs it.
    // Everybody who waits for the same pull hears its progress; when the last one stops waiting, the work stops.
    io::Task<Lease> ensure(std::string name, state::Viewer viewer, PullOptions options, ProgressSink progress, std::stop_token stop);
    // Asks the registry what the name means now, and installs that; what is there is compared in full, and replaced if it is not whole or
    // `force` asks for it. Where no registry can be reached, what is there whole stays, and the outcome says so.
    io::Task<PullOutcome> pull(std::string name, state::Viewer viewer, PullOptions options, ProgressSink progress, std::stop_token stop);

    // A given name for what a client streams, or for a copy of a machine's disk. Error(failed_precondition) where he has that name and
    // does not want to `replace` what it leads to. What is streamed is not asked for where `digest` is of one that he sees already.
    io::Task<PullOutcome> import(ImportRequest request, std::optional<Digest> digest, bool replace, state::Viewer viewer, ProgressSink progress,
                                 std::stop_token stop);
    io::Task<PullOutcome> commit(CommitRequest request, bool replace, state::Viewer viewer, ProgressSink progress, std::stop_token stop);
    // Error where that name is not free: before anything is done for it.
    void check_free(const std::string& name, bool replace, state::Viewer viewer);
    // Takes names from what they lead to; with its last name an environment goes. By name, digest or a prefix of it. Error(failed_precondition)
    // for one that is in use, and for a digest with several names unless by `force`.
    io::Task<PruneOutcome> remove(std::string name, bool force, state::Viewer viewer, std::stop_token stop);

    // The installed environment of that digest, for who has a record that names it. Throws environment_invalid when it is not whole.
    io::Task<Lease> hold(std::string digest, std::stop_token stop);
    // The tree of an environment, unpacked from its layers into `directory`, which is empty and belongs to `owner`: without
    // devices, setuid or other owners.
    io::Task<void> unpack(const Lease& environment, std::string job_id, std::string directory, supervise::Credentials owner, ProgressSink progress,
                          std::stop_token stop);

    // The catalog first, then what else is in the cache for this user.
    io::Task<std::vector<EnvironmentSummary>> list(state::Viewer viewer, std::stop_token stop);
    // By catalog name, reference, digest or a prefix of it of at least 6 digits. Throws not_found.
    io::Task<EnvironmentSummary> inspect(std::string name, state::Viewer viewer, std::stop_token stop);
    // What is installed in it, as far as that is known.
    io::Task<std::vector<Package>> packages(Digest digest);
    // What nobody uses and no name leads to; with `all`, also what has names that can be pulled again; always what of that is broken.
    io::Task<PruneOutcome> prune(PruneOptions options, state::Viewer viewer, std::stop_token stop);
    io::Task<DiskUsage> usage(state::Viewer viewer);

    // For pulls that start from now on.
    void set_registries(std::map<std::string, std::string> mirrors, std::map<std::string, RegistrySettings> registries) {
        options_.mirrors = std::move(mirrors);
        options_.registries = std::move(registries);
    }
    std::size_t running_jobs() const noexcept { return pulls_.running(); }

private:
    io::Task<std::optional<Installed>> look(Digest digest, bool full, std::stop_token stop);
    io::Task<EnvironmentSummary> summarize(std::string name, std::string reference, std::string description,
                                           std::optional<state::EnvironmentRow> row, std::stop_token stop);
    Lease lease(const EnvironmentManifest& manifest, std::string name);
    bool in_use(const std::string& digest) const;
    // Digests that stay whatever happens: somebody uses them, or a given name leads to them.
    std::set<std::string> pinned();
    std::optional<state::EnvironmentRow> find_row(const std::string& name, state::Viewer viewer, std::string& shown, std::string& reference, std::string& description);
    // Removes what no row leads to and nobody holds; with `pretend`, says what that would give back if there were rows for these alone.
    // Nothing where a pull runs.
    io::Task<std::optional<std::uint64_t>> sweep(const std::set<std::string>* pretend = nullptr);
    std::set<std::string> all_digests();
    io::Task<std::uint64_t> used_bytes();
    io::Task<std::optional<std::uint64_t>> room();
    // Within the budget again, those not used for longest first. Error(quota_exceeded) where that takes `added`, which then goes.
    io::Task<void> keep_budget(std::string added, state::Viewer viewer);
    using Work = std::function<io::Task<Installation>(std::string job_id)>;
    io::Task<PullOutcome> make_given(std::string name, Source source, bool replace, state::Viewer viewer, Work work, ProgressSink progress, std::stop_token stop);
    io::Task<PullOutcome> repair_given(ResolvedName resolved, state::Viewer viewer, bool force, ProgressSink progress, std::stop_token stop);

    // `installed`: what it leads to is there, whole.
    io::Task<std::shared_ptr<const Installation>> install(ResolvedName resolved, state::Viewer viewer, PullOptions options, bool installed,
                                                          ProgressSink progress, std::stop_token stop);
    io::Task<void> remember(EnvironmentManifest manifest, ResolvedName resolved, Source source, bool is_public, state::Viewer viewer);

    state::Store& store_;
    io::WorkerPool& pool_;
    CacheOptions options_;
    io::WorkerPool bulk_{2};        // what takes long: hashing, removing; the shared pool stays free for looks
    Installer installer_;
    Pulls pulls_;
    io::Semaphore verifying_;   // by uid: comparisons of whole images
    std::map<std::string, std::weak_ptr<Lease::State>> leases_;     // by digest
    std::set<std::pair<uid_t, std::string>> being_made_;            // given names
    std::uint64_t removals_ = 0, jobs_ = 0;
};

}  // namespace pyro::env
