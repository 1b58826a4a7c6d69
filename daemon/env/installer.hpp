// Makes one environment: fetched from a registry or built from the Debian archive, verified, written as a root image, and
// made visible in environments/ by one rename of a whole directory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "daemon/env/catalog.hpp"
#include "daemon/env/manifest.hpp"
#include "daemon/env/options.hpp"
#include "daemon/env/registry_fetch.hpp"
#include "daemon/env/worker.hpp"
#include "daemon/io/offload.hpp"
#include "daemon/supervise/supervisor.hpp"

namespace pyro::env {

struct Installation {
    EnvironmentManifest manifest;
    bool changed = false;  // false: what was there was whole, and was what the registry has
    std::uint64_t downloaded_bytes = 0;
    bool authenticated = false;  // the registry gave it for the caller's credentials: it is his alone
};

// Called on the domain thread; any number of installations at once, of different names. When one is over, however it ended,
// none of its processes is left, and of its files what is installed and half downloads to go on with. Who may use what it
// made is not its business.
class Installer {
public:
    // `bulk` is for what takes long.
    Installer(supervise::Supervisor& supervisor, io::WorkerPool& bulk, const CacheOptions& options);

    // From the first source that can be reached. `job_id` is unique among what runs. Of an environment that is there already,
    // whole, nothing is built, unless by `force`. With credentials it comes from the registry or not at all.
    io::Task<Installation> install(std::string job_id, PullRequest request, ProgressSink progress, std::stop_token stop);
    // The layers of an installed environment as a tree in `directory`, which is empty and belongs to `owner`: without devices,
    // setuid or other owners.
    io::Task<void> unpack(EnvironmentManifest manifest, std::string job_id, std::string directory, supervise::Credentials owner,
                          ProgressSink progress, std::stop_token stop);

private:
    io::Task<Installation> install_from_any(std::string job_id, PullRequest request, ProgressSink progress, std::stop_token stop);
    io::Task<Installation> install_from_registry(std::string job_id, PullRequest request, ProgressSink progress, std::stop_token stop);
    // Takes what was fetched into the blob store, and compares what was there. Returns the bytes of what came new.
    io::Task<std::uint64_t> adopt_blobs(std::vector<FetchedImage::Blob> wanted, std::string downloads, ProgressSink progress, std::stop_token stop);
    io::Task<Installation> install_from_archive(std::string job_id, ResolvedName resolved, ProgressSink progress, std::stop_token stop);
    io::Task<EnvironmentManifest> build(std::string job_id, std::vector<std::string> layer_paths, std::vector<std::string> diff_ids,
                                        EnvironmentManifest manifest, ProgressSink progress, std::stop_token stop);

    // Who the workers of a job run as; nothing in a daemon without privileges.
    std::optional<CacheOptions::ClaimedUid> worker_uid(const std::string& job_id) const;

    supervise::Supervisor& supervisor_;
    io::WorkerPool& bulk_;
    const CacheOptions& options_;
    std::size_t running_ = 0;
};

}  // namespace pyro::env
