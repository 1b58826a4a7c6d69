// The environment cache: what is installed, under which names, who holds it, and what may go.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
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
};

struct PullOutcome {
    EnvironmentSummary environment;
    bool changed = false;
    std::uint64_t downloaded_bytes = 0;
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
    // Installs it; one that is there is compared in full, and replaced if it is not whole or `force` asks for it.
    io::Task<PullOutcome> pull(std::string name, state::Viewer viewer, PullOptions options, ProgressSink progress, std::stop_token stop);

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
    // What nobody uses and no name leads to; with `all`, also what has names; always what is broken.
    io::Task<PruneOutcome> prune(bool all, state::Viewer viewer, std::stop_token stop);

    std::size_t running_jobs() const noexcept { return pulls_.running(); }

private:
    io::Task<std::optional<Installed>> look(Digest digest, bool full, std::stop_token stop);
    io::Task<EnvironmentSummary> summarize(std::string name, std::string reference, std::string description,
                                           std::optional<state::EnvironmentRow> row, std::stop_token stop);
    Lease lease(const EnvironmentManifest& manifest, std::string name);
    bool in_use(const std::string& digest) const;

    io::Task<std::shared_ptr<const Installation>> install(ResolvedName resolved, state::Viewer viewer, PullOptions options, ProgressSink progress,
                                                          std::stop_token stop);
    io::Task<void> remember(EnvironmentManifest manifest, std::string reference, bool is_public, state::Viewer viewer);

    state::Store& store_;
    io::WorkerPool& pool_;
    CacheOptions options_;
    io::WorkerPool bulk_{2};        // what takes long: hashing, removing; the shared pool stays free for looks
    Installer installer_;
    Pulls pulls_;
    io::Semaphore verifying_;   // by uid: comparisons of whole images
    std::map<std::string, std::weak_ptr<Lease::State>> leases_;     // by digest
    std::uint64_t removals_ = 0;
};

}  // namespace pyro::env
