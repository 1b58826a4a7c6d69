#include "daemon/workspace/seeds.hpp"

#include "common/digest.hpp"
#include "common/error.hpp"
#include "daemon/env/files.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace pyro::workspace {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::string_view ingest = "ingest";
constexpr std::uint64_t worker_memory = 2ull << 30;
constexpr int stream_fd = env::worker_first_extra_fd;

// Synced before it has its name: a workspace's record may come to lead to it.
void install(const std::string& made, const std::string& to) {
    const UniqueFd file = open_file(made, O_RDONLY);
    if (::fchmod(file.get(), 0400) != 0) throw Error::from_errno("protect " + made);
    if (::fsync(file.get()) != 0) throw Error::from_errno("sync " + made);
    const std::string directory = to.substr(0, to.rfind('/'));
    if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) throw Error::from_errno("make " + directory);
    if (::rename(made.c_str(), to.c_str()) != 0) throw Error::from_errno("keep a seed");
    env::sync_directory(directory);
}

}  // namespace

SeedStore::SeedStore(io::Executor executor, supervise::Supervisor& supervisor, io::WorkerPool& pool, SeedOptions options)
    : executor_(std::move(executor)), supervisor_(supervisor), pool_(pool), options_(std::move(options)) {}

void SeedStore::start() {
    const std::string directory = options_.directory + "/" + std::string(ingest);
    env::remove_tree(directory);
    if (::mkdir(directory.c_str(), 0700) != 0) throw Error::from_errno("make " + directory);
}

std::shared_ptr<const Seed> SeedStore::hold(const std::string& digest, const std::string& path) {
    std::weak_ptr<const Seed>& known = held_[path];
    if (auto seed = known.lock()) return seed;
    const auto seed = std::make_shared<const Seed>(Seed{digest, path});
    known = seed;
    return seed;
}

std::shared_ptr<const Seed> SeedStore::find(uid_t owner, const std::string& digest) {
    const std::string path = options_.directory + "/" + std::to_string(owner) + "/" + Digest::parse(digest).hex() + ".ext4";
    if (::utimensat(AT_FDCWD, path.c_str(), nullptr, AT_SYMLINK_NOFOLLOW) != 0) return nullptr;  // used just now
    return hold(digest, path);
}

io::Task<std::shared_ptr<const Seed>> SeedStore::receive(uid_t owner, UploadSource next, std::stop_token stop) {
    const std::string job = "seed-" + std::to_string(++jobs_);
    const std::string made = options_.directory + "/" + std::string(ingest) + "/" + job;
    const env::CacheOptions::ClaimedUid uid = options_.claim_uid(job);
    env::WorkerJob worker;
    worker.program = options_.image_worker;
    worker.subcommand = "seed";
    worker.scope = job;
    supervise::Credentials credentials;
    credentials.uid = credentials.gid = uid.uid;
    worker.as = std::move(credentials);
    worker.memory_max = worker_memory;
    worker.fds.push_back(supervise::PassedFd{open_file(made, O_RDWR | O_CREAT | O_EXCL), env::worker_directory_fd});
    json request{{"stream_fd", stream_fd}, {"image_fd", env::worker_directory_fd}, {"limits", {{"total_bytes", options_.max_bytes}}}};

    std::exception_ptr failure;
    json result;
    try {
        env::ProgressSink silent = [](const env::Progress&) {};
        result = co_await env::run_fed_worker(supervisor_, std::move(worker), std::move(request), stream_fd, std::move(next), std::move(silent), stop);
    } catch (...) {
        failure = std::current_exception();
    }
    std::shared_ptr<const Seed> seed;
    if (!failure) {
        try {
            const Digest digest = Digest::parse(result.at("digest").get<std::string>());
            const std::string path = options_.directory + "/" + std::to_string(owner) + "/" + digest.hex() + ".ext4";
            const auto keep = [made, path] { install(made, path); };
            co_await io::offload(pool_, keep);
            auto received = std::make_shared<Seed>(*hold(digest.str(), path));
            received->files = result.at("files").get<std::int64_t>();
            received->bytes = result.at("bytes").get<std::int64_t>();
            held_[path] = seed = std::move(received);
        } catch (const json::exception&) {
            failure = std::make_exception_ptr(env::unfitting_answer());
        } catch (...) {
            failure = std::current_exception();
        }
    }
    if (!seed) ::unlink(made.c_str());
    if (failure) std::rethrow_exception(failure);
    co_return seed;
}

void SeedStore::trim() {
    std::erase_if(held_, [](const auto& entry) { return entry.second.expired(); });
    struct Unused {
        std::string path;
        fs::file_time_type used;
        std::uint64_t bytes;
    };
    std::vector<Unused> unused;
    std::uint64_t sum = 0;
    for (const auto& user : fs::directory_iterator(options_.directory)) {
        if (user.path().filename() == ingest) continue;
        for (const auto& file : fs::directory_iterator(user.path())) {
            if (held_.contains(file.path().string())) continue;
            struct stat info {};
            if (::stat(file.path().c_str(), &info) != 0) continue;
            const auto bytes = static_cast<std::uint64_t>(info.st_blocks) * 512;
            unused.push_back({file.path().string(), file.last_write_time(), bytes});
            sum += bytes;
        }
    }
    std::ranges::sort(unused, [](const Unused& a, const Unused& b) { return a.used < b.used; });
    for (const Unused& oldest : unused) {
        if (sum <= options_.unused_bytes) break;
        ::unlink(oldest.path.c_str());
        sum -= oldest.bytes;
    }
}

}  // namespace pyro::workspace
