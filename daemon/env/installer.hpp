// Makes one environment: fetched from a registry or built from the Debian archive, verified, written as a root image, and
// made visible in environments/ by one rename of a whole directory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
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
    // From a client's stream, and from a machine's disk: the same, of nothing that anybody could pull.
    io::Task<Installation> import(std::string job_id, ImportRequest request, ProgressSink progress, std::stop_token stop);
    io::Task<Installation> commit(std::string job_id, CommitRequest request, ProgressSink progress, std::stop_token stop);
    // An environment whose files are damaged, once more from its blobs. Throws environment_invalid when these are damaged too.
    io::Task<Installation> rebuild(std::string job_id, EnvironmentManifest manifest, ProgressSink progress, std::stop_token stop);
    // The layers of an installed environment as a tree in `directory`, which is empty and belongs to `owner`: without devices,
    // setuid or other owners.
    io::Task<void> unpack(EnvironmentManifest manifest, std::string job_id, std::string directory, supervise::Credentials owner,
                          ProgressSink progress, std::stop_token stop);

private:
    io::Task<Installation> install_from_any(std::string job_id, PullRequest request, ProgressSink progress, std::stop_token stop);
    io::Task<Installation> install_from_registry(std::string job_id, PullRequest request, ProgressSink progress, std::stop_token stop);
    // What a worker has put into `from` made an environment, unless it is there whole; `from` goes.
    io::Task<Installation> finish(std::string job_id, FetchedImage image, std::string from, bool force, ProgressSink progress, std::stop_token stop);
    // Hashes the blobs again, those that came new in `from`, the others in the store.
    io::Task<void> take_blobs(const std::vector<FetchedImage::Blob>& wanted, const std::string& from, const ProgressSink& progress, std::stop_token stop);
    // A directory of ingest/ for what `work` makes in it; it goes when that is over.
    io::Task<Installation> in_ingest(std::string job_id, std::function<io::Task<Installation>(std::string directory)> work);
    io::Task<Installation> receive(std::string job_id, ImportRequest& request, std::string directory, ProgressSink progress, std::stop_token stop);
    io::Task<Installation> flatten(std::string job_id, CommitRequest& request, std::string directory, ProgressSink progress, std::stop_token stop);
    WorkerJob image_job(const char* subcommand, const std::string& job_id, const std::string& directory, const std::optional<CacheOptions::ClaimedUid>& owner) const;
    // Beside the root image of `directory`, where what it has can be read.
    io::Task<void> list_packages(std::string job_id, std::string directory, std::stop_token stop);
    io::Task<Installation> install_from_archive(std::string job_id, ResolvedName resolved, ProgressSink progress, std::stop_token stop);
    io::Task<EnvironmentManifest> build(std::string job_id, std::vector<std::string> layer_paths, std::vector<std::string> diff_ids,
                                        EnvironmentManifest manifest, std::function<void()> keep_blobs, ProgressSink progress, std::stop_token stop);

    // Who the workers of a job run as; nothing in a daemon without privileges.
    std::optional<CacheOptions::ClaimedUid> worker_uid(const std::string& job_id) const;

    supervise::Supervisor& supervisor_;
    io::WorkerPool& bulk_;
    const CacheOptions& options_;
    std::size_t running_ = 0;
};

}  // namespace pyro::env
