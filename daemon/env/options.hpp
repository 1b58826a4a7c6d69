// What the configuration says of environments, and where their files lie.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include "daemon/env/catalog.hpp"
#include "common/unique_fd.hpp"
#include "daemon/env/manifest.hpp"
#include "daemon/env/worker.hpp"
#include "proto/env.hpp"

namespace pyro::env {

// What the configuration allows of one registry.
struct RegistrySettings {
    bool plain_http = false;
    bool allow_private = false;  // loopback, private, carrier and link-local addresses
    std::string ca_file;         // PEM; empty: the system's certificates alone
};

// Who is asked to ask registries, by the scheme of their address.
struct Proxies {
    std::string http, https;
    std::string none_for;  // as NO_PROXY lists hosts
    // As http_proxy, https_proxy, all_proxy and no_proxy say, in small letters or, where those are missing, capitals.
    static Proxies of_environment(const std::function<const char*(const char*)>& environment);
};

struct CacheOptions {
    std::string state_directory;  // blobs/, environments/, ingest/, downloads/ are made below
    std::string image_worker;     // pyro-image
    std::string mmdebstrap;
    std::vector<Source> sources = {Source::registry, Source::debian_archive};  // tried in this order while one cannot be reached
    std::map<std::string, std::string> mirrors;             // registry host -> "host:port" or "http://host:port" to ask instead
    std::map<std::string, RegistrySettings> registries;     // by "host" or "host:port"
    Proxies proxies;
    std::uint64_t max_image_bytes = 16ull << 30;            // of layers, packed; unpacked four times that
    std::uint64_t disk_bytes = 8ull << 30;                  // of a root image; larger where the content needs it
    std::uint64_t budget_bytes = 0;                         // of disk for all that is installed; 0: as much as there is
    std::size_t concurrent_pulls = 4;
    // A uid for one job's workers: nobody else's until `held` goes. A daemon that runs as root must have it; without
    // privileges the workers run as the daemon's own user.
    struct ClaimedUid {
        uid_t uid = 0;
        std::shared_ptr<void> held;
    };
    std::function<ClaimedUid(const std::string& job)> claim_uid;
    uid_t sub_first = 2065536;                              // 65535 ids for the namespace of the Debian archive's packages
    std::int64_t connect_seconds = 10, low_speed_seconds = 30;
    int attempts = 5, retry_base_ms = 500;                  // of one request; the wait doubles

    std::string path(std::string_view folder, std::string_view name = {}) const {
        std::string out = state_directory + "/" + std::string(folder);
        if (!name.empty())
            out += "/" + std::string(name);
        return out;
    }
};

// How an environment is to be got.
struct PullOptions {
    bool force = false;
    // The caller's own, for the registry of the reference; held for as long as the pull takes.
    std::optional<proto::RegistryCredentials> credentials;
};

// One pull: whose it is matters only where credentials are used.
struct PullRequest {
    ResolvedName resolved;
    uid_t user = 0;
    PullOptions options;
    // Environments whose blobs need not be fetched again: those that whoever joins this pull may see; and those of others that came from
    // this very repository, once the registry has shown the asker the same manifest. A manifest of another place vouches for nothing: it
    // could name layers of which its author knows no more than the digest.
    std::vector<Digest> known, vouched;
    bool installed = false;                  // something whole is there: only the registry is asked
    std::optional<std::uint64_t> room;       // bytes that may be used
    // Pulls of one key are one pull. What is asked for with credentials is its user's own: nobody else may wait for the answer.
    std::string key() const {
        return resolved.name + (options.credentials ? "\n" + std::to_string(user) : std::string()) + (installed ? "\ninstalled" : "");
    }
};

// What an image says of how its commands run, for one that is made here.
struct ImageSettings {
    std::string user, working_dir;
    std::vector<std::string> env, cmd, entrypoint;
};

// An image that a client streams.
struct ImportRequest {
    std::string name;                        // as given, for messages
    UploadSource source;
    std::string format, tag;                 // empty: told from its content; the only one
    std::optional<ImageSettings> settings;   // for a root file system alone
};

// One layer of a machine's disk, open to be read.
struct DiskFile {
    UniqueFd file;
    bool qcow2 = false;
};
// A machine's disk: the topmost layer first. The function is called once, and copies into the directory what would change else.
using DiskCopy = std::function<io::Task<std::vector<DiskFile>>(std::string directory, std::stop_token stop)>;
struct CommitRequest {
    std::string name;
    DiskCopy disk;
    ImageSettings settings;
};

}  // namespace pyro::env
