// Baselines of workspaces: file-system images made of the trees that users streamed, by owner and content.
#pragma once
#include "daemon/env/options.hpp"
#include "daemon/env/worker.hpp"
#include "daemon/io/offload.hpp"
#include "daemon/supervise/supervisor.hpp"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

namespace pyro::workspace {

// An image that stays while somebody holds it.
struct Seed {
    std::string digest;  // of the stream it was made of; "sha256:..."
    std::string path;    // raw ext4, only ever read
    std::int64_t files = 0, bytes = 0;  // of the tree, where it was received just now; else 0
};

struct SeedOptions {
    std::string directory;                 // exists, root only: SEEDS/UID/HEX.ext4
    std::string image_worker;              // pyro-image
    std::function<env::CacheOptions::ClaimedUid(const std::string& job)> claim_uid;
    std::uint64_t max_bytes = 16ull << 30; // of one tree
    std::uint64_t unused_bytes = 4ull << 30;  // of images that no workspace has, all users' together
};

using env::UploadSource;

// Called on the domain thread. What is below SEEDS/UID/ came there by one rename of a whole and synced file.
class SeedStore {
public:
    SeedStore(io::Executor executor, supervise::Supervisor& supervisor, io::WorkerPool& pool, SeedOptions options);

    void start();  // leftovers of an earlier daemon go
    // Another user's is not there, though it were the same.
    std::shared_ptr<const Seed> find(uid_t owner, const std::string& digest);
    // Makes an image of a stream by a worker without privileges; Error(invalid_argument) names what it refuses.
    io::Task<std::shared_ptr<const Seed>> receive(uid_t owner, UploadSource next, std::stop_token stop);
    // What nobody holds and is beyond the budget goes, longest unused first.
    void trim();

private:
    std::shared_ptr<const Seed> hold(const std::string& digest, const std::string& path);

    io::Executor executor_;
    supervise::Supervisor& supervisor_;
    io::WorkerPool& pool_;
    SeedOptions options_;
    std::map<std::string, std::weak_ptr<const Seed>> held_;  // by path
    std::uint64_t jobs_ = 0;
};

}  // namespace pyro::workspace
