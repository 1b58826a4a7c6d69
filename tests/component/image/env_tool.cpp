// The environment cache by itself, for tests: env-tool STATE_DIRECTORY OPTIONS COMMAND [NAME], answers as JSON lines.
#include <fcntl.h>
#include <sys/stat.h>

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "common/error.hpp"
#include "common/unique_fd.hpp"
#include "daemon/env/cache.hpp"
#include "daemon/io/loop.hpp"

namespace {

using namespace pyro;
using nlohmann::json;

void print(const json& line) {
    std::fputs((line.dump() + "\n").c_str(), stdout);
    std::fflush(stdout);
}

json shown(const Error& error) {
    return {{"error", {{"code", to_string(error.code())}, {"message", error.message()}, {"hint", error.hint()}, {"retryable", error.retryable()}}}};
}

json shown(const env::EnvironmentSummary& summary) {
    static constexpr const char* words[] = {"available", "installed", "broken"};
    json out = {{"name", summary.name}, {"reference", summary.reference}, {"state", words[static_cast<int>(summary.presence)]}, {"problem", summary.problem}, {"bytes", summary.bytes}};
    if (summary.manifest)
        out["manifest"] = json::parse(summary.manifest->to_json());
    if (summary.row)
        out["row"] = {{"owner", summary.row->owner_uid}, {"public", summary.row->is_public}, {"source", summary.row->source}, {"origin", summary.row->origin}};
    return out;
}

json shown(const env::PullOutcome& out) {
    return {{"changed", out.changed}, {"downloaded", out.downloaded_bytes}, {"previous", out.previous_digest}, {"unresolved", out.unresolved},
            {"environment", shown(out.environment)}};
}

struct Tool {
    env::CacheOptions options;
    std::string command, name;
    std::unique_ptr<supervise::Supervisor> supervisor;
    std::unique_ptr<state::Store> store;
    io::WorkerPool pool{2};
    state::Viewer viewer{1000, false};
    std::shared_ptr<env::EnvironmentCache> cache;
    bool dry_run = false, replace = false;
    std::int64_t older_than = 0;
    std::optional<Digest> digest;
    env::ImageSettings settings;
    std::optional<proto::RegistryCredentials> credentials;
    json given;

    env::ImportRequest import_request() {
        env::ImportRequest request;
        request.name = name;
        request.format = given.value("format", "");
        request.tag = given.value("tag", "");
        if (given.contains("settings"))
            request.settings = settings;
        auto file = std::make_shared<UniqueFd>(open_file(given.at("file").get<std::string>(), O_RDONLY));
        const std::uint64_t breaks_off = given.value("breaks_off", std::uint64_t{0});
        auto sent = std::make_shared<std::uint64_t>(0);
        request.source = [file, sent, breaks_off](std::stop_token) { return piece(file, sent, breaks_off); };
        return request;
    }
    static io::Task<std::optional<std::string>> piece(std::shared_ptr<UniqueFd> file, std::shared_ptr<std::uint64_t> sent, std::uint64_t breaks_off) {
        std::string bytes = read_up_to(file->get(), 64 << 10);
        *sent += bytes.size();
        if (breaks_off > 0 && *sent > breaks_off)
            throw Error(ErrorCode::unavailable, "the upload broke off before its end");
        if (bytes.empty())
            co_return std::nullopt;
        co_return bytes;
    }
    io::Task<std::vector<env::DiskFile>> disk(std::string) {
        std::vector<env::DiskFile> out;
        for (const json& layer : given.at("disk"))
            out.push_back({open_file(layer.get<std::string>(), O_RDONLY), layer.get<std::string>().ends_with(".qcow2")});
        co_return out;
    }

    // One of several that want the same environment at once; asks to be let go when `leave` is set and work has begun.
    io::Task<void> one(int number, bool leave) {
        std::stop_source stop;
        int heard = 0;
        env::ProgressSink sink = [&](const env::Progress& progress) {
            ++heard;
            if (leave && progress.phase == "download" && progress.done > 0)
                stop.request_stop();
        };
        json line = {{"waiter", number}};
        try {
            env::PullOptions plain;
            env::Lease lease = co_await cache->ensure(name, viewer, plain, std::move(sink), stop.get_token());
            line["digest"] = lease.digest().str();
        } catch (const Error& error) {
            line.update(shown(error));
        } catch (const Cancelled&) {
            line["cancelled"] = true;
        }
        line["heard"] = heard > 0;
        print(line);
    }

    io::Task<void> run() {
        io::Executor executor = co_await io::this_executor();
        cache = std::make_shared<env::EnvironmentCache>(executor, *supervisor, *store, pool, options);
        std::exception_ptr failure;
        try {
            co_await cache->start();
            co_await act(executor);
        } catch (...) {
            failure = std::current_exception();
        }
        co_await cache->close();
        cache.reset();
        if (failure)
            std::rethrow_exception(failure);
    }

    io::Task<void> act(io::Executor executor) {
        std::stop_token never;
        env::PullOptions plain;
        plain.credentials = credentials;
        env::ProgressSink progress = [](const env::Progress& p) {
            print({{"phase", p.phase}, {"digest", p.digest}, {"done", p.done}, {"total", p.total}, {"message", p.message}});
        };
        if (command == "pull" || command == "force") {
            plain.force = command == "force";
            env::PullOutcome out = co_await cache->pull(name, viewer, plain, std::move(progress), never);
            print(shown(out));
        } else if (command == "import") {
            env::ImportRequest request = import_request();
            env::PullOutcome out = co_await cache->import(std::move(request), digest, replace, viewer, std::move(progress), never);
            print(shown(out));
        } else if (command == "commit") {
            env::CommitRequest request;
            request.name = name;
            request.settings = settings;
            request.disk = [this](std::string directory, std::stop_token) { return disk(std::move(directory)); };
            env::PullOutcome out = co_await cache->commit(std::move(request), replace, viewer, std::move(progress), never);
            print(shown(out));
        } else if (command == "remove") {
            env::PruneOutcome out = co_await cache->remove(name, replace, viewer, never);
            print({{"removed", out.removed}, {"freed", out.freed_bytes}});
        } else if (command == "packages") {
            std::vector<env::Package> all = co_await cache->packages(Digest::parse(name));
            for (const env::Package& one_ : all)
                print({{"name", one_.name}, {"version", one_.version}, {"manager", one_.manager}});
        } else if (command == "usage") {
            env::DiskUsage usage = co_await cache->usage(viewer);
            json users = json::object();
            for (const env::UserUsage& user : usage.users)
                users[std::to_string(user.uid)] = {{"environments", user.environments}, {"bytes", user.bytes}};
            print({{"used", usage.used_bytes}, {"budget", usage.budget_bytes}, {"users", users}});
        } else if (command == "ensure") {
            env::Lease lease = co_await cache->ensure(name, viewer, plain, std::move(progress), never);
            print({{"digest", lease.digest().str()}, {"root", lease.root_image()}, {"size", lease.manifest().root_size}});
        } else if (command == "list") {
            std::vector<env::EnvironmentSummary> all = co_await cache->list(viewer, never);
            for (const env::EnvironmentSummary& one_ : all)
                print(shown(one_));
        } else if (command == "inspect") {
            env::EnvironmentSummary out = co_await cache->inspect(name, viewer, never);
            print(shown(out));
        } else if (command == "prune" || command == "prune-all" || command == "prune-leased") {
            env::Lease lease;
            if (command == "prune-leased")
                lease = co_await cache->ensure(name, viewer, plain, std::move(progress), never);
            env::PruneOptions options_;
            options_.all = command != "prune";
            options_.dry_run = dry_run;
            options_.older_than_seconds = older_than;
            env::PruneOutcome out = co_await cache->prune(options_, viewer, never);
            print({{"removed", out.removed}, {"freed", out.freed_bytes}});
        } else if (command == "pull-while-pruned") {
            io::TaskGroup group(executor);
            env::PruneOptions everything;
            everything.all = true;
            std::function<io::Task<void>()> prune = [this, never, everything]() -> io::Task<void> { co_await cache->prune(everything, viewer, never); };
            group.spawn(prune);
            while (!std::filesystem::is_empty(options.path("environments")))  // until prune removes what nobody uses
                co_await io::sleep_for(std::chrono::milliseconds(1), never);
            group.spawn(one(0, false));
            co_await group.join();
        } else if (command == "together" || command == "one-leaves" || command == "all-leave") {
            io::TaskGroup group(executor);
            for (int i = 0; i < 4; ++i)
                group.spawn(one(i, command == "all-leave" || (command == "one-leaves" && i == 0)));
            co_await group.join();
            print({{"jobs", cache->running_jobs()}});
        } else {
            throw Error(ErrorCode::invalid_argument, "no such command: " + command);
        }
    }
};

}  // namespace

int main(int argc, char** argv) {
    if (argc < 4)
        return 2;
    try {
        const std::string state = argv[1];
        const json given = json::parse(argv[2]);
        Tool tool;
        tool.command = argv[3];
        tool.name = argc > 4 ? argv[4] : "";
        env::CacheOptions& options = tool.options;
        options.state_directory = state;
        options.image_worker = given.at("worker").get<std::string>();
        options.mmdebstrap = given.value("mmdebstrap", "/usr/bin/mmdebstrap");
        options.mirrors = given.value("mirrors", std::map<std::string, std::string>());
        options.attempts = given.value("attempts", 3);
        options.retry_base_ms = 10;
        tool.given = given;
        tool.viewer = state::Viewer{given.value("uid", uid_t{1000}), given.value("admin", false)};
        tool.dry_run = given.value("dry_run", false);
        tool.replace = given.value("force", false);
        tool.older_than = given.value("older_than", std::int64_t{0});
        options.budget_bytes = given.value("budget", std::uint64_t{0});
        if (given.contains("digest"))
            tool.digest = Digest::parse(given["digest"].get<std::string>());
        if (given.contains("settings")) {
            const json& words = given["settings"];
            tool.settings = {words.value("user", ""), words.value("working_dir", ""), words.value("env", std::vector<std::string>()),
                             words.value("cmd", std::vector<std::string>()), words.value("entrypoint", std::vector<std::string>())};
        }
        if (given.contains("credentials")) {
            const json& words = given["credentials"];
            tool.credentials = proto::RegistryCredentials{words.at("registry").get<std::string>(), words.at("username").get<std::string>(),
                                                          words.at("password").get<std::string>(), std::nullopt};
        }
        if (given.contains("sources")) {
            options.sources.clear();
            for (const json& source : given["sources"])
                options.sources.push_back(source == "registry" ? env::Source::registry : env::Source::debian_archive);
        }
        const json registries = given.value("registries", json::object());
        for (const auto& [host, settings] : registries.items())
            options.registries[host] = env::RegistrySettings{settings.value("plain_http", false), settings.value("allow_private", false), settings.value("ca_file", "")};
        tool.supervisor = supervise::make_plain_supervisor("envtool");
        state::Store::Paths paths;
        paths.state_directory = state;
        paths.run_directory = given.value("run", state + "/run");
        ::mkdir(paths.run_directory.c_str(), 0700);
        tool.store = std::make_unique<state::Store>(paths);
        // As the daemon has them of vm::VmUids, without the locks against other daemons.
        tool.options.claim_uid = [store = tool.store.get()](const std::string& job) {
            env::CacheOptions::ClaimedUid out;
            out.uid = store->lease_uid(0, job, 2000000, 2065535);
            out.held = std::shared_ptr<void>(nullptr, [store, uid = out.uid](void*) { store->release_uid(uid); });
            return out;
        };
        io::Loop loop;
        loop.run([&tool] { return tool.run(); });
        return 0;
    } catch (const Error& error) {
        print(shown(error));
        return 1;
    }
}
