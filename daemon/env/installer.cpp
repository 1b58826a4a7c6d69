#include "daemon/env/installer.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "common/crash_point.hpp"
#include "common/error.hpp"
#include "common/unique_fd.hpp"
#include "daemon/env/files.hpp"
#include "daemon/env/registry_fetch.hpp"

namespace pyro::env {
namespace {

using nlohmann::json;

constexpr std::uint64_t worker_memory = 4ull << 30;

bool is_unreachable(const Error& error) {
    const auto cause = error.details().find("cause");
    return cause != error.details().end() && cause->second == "unreachable";
}

supervise::PassedFd passed(UniqueFd fd, int number) { return supervise::PassedFd{std::move(fd), number}; }

std::optional<supervise::Credentials> credentials_of(const std::optional<CacheOptions::ClaimedUid>& owner) {
    if (!owner)
        return std::nullopt;
    supervise::Credentials out;
    out.uid = out.gid = owner->uid;
    return out;
}

// Opens the layers for the worker, from worker_first_extra_fd on; what its request says of them.
json pass_layers(WorkerJob& worker, const std::vector<std::string>& paths, const std::vector<std::string>& diff_ids, const EnvironmentManifest& manifest) {
    json layers = json::array();
    for (std::size_t i = 0; i < paths.size(); ++i) {
        UniqueFd file = open_file(paths[i], O_RDONLY | O_NOFOLLOW);
        struct stat info {};
        if (::fstat(file.get(), &info) != 0)
            throw Error::from_errno("look at a layer");
        const int number = worker_first_extra_fd + static_cast<int>(i);
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

json settings_words(const ImageSettings& settings) {
    return {{"user", settings.user}, {"working_dir", settings.working_dir}, {"env", settings.env}, {"cmd", settings.cmd}, {"entrypoint", settings.entrypoint}};
}

// All its blobs came with it.
FetchedImage made_image(const json& answer, Source source, const std::string& name) {
    ResolvedName resolved;
    resolved.name = name;
    FetchedImage image = fetched_image(answer, resolved, {});
    image.manifest.source = source;
    image.manifest.reference.clear();
    return image;
}

}  // namespace

Installer::Installer(supervise::Supervisor& supervisor, io::WorkerPool& bulk, const CacheOptions& options)
    : supervisor_(supervisor), bulk_(bulk), options_(options) {}

std::optional<CacheOptions::ClaimedUid> Installer::worker_uid(const std::string& job_id) const {
    if (::geteuid() != 0)
        return std::nullopt;
    PYRO_CHECK(options_.claim_uid);
    return options_.claim_uid("image-" + job_id);
}

io::Task<Installation> Installer::install(std::string job_id, PullRequest request, ProgressSink progress, std::stop_token stop) {
    struct Count {
        explicit Count(std::size_t& counter) : counter_(counter) { ++counter_; }
        ~Count() { --counter_; }
        std::size_t& counter_;
    };
    const Count count(running_);
    Installation out = co_await install_from_any(std::move(job_id), std::move(request), std::move(progress), std::move(stop));
    co_return out;
}

io::Task<Installation> Installer::install_from_any(std::string job_id, PullRequest request, ProgressSink progress, std::stop_token stop) {
    const ResolvedName resolved = request.resolved;
    std::optional<Error> unreachable;
    for (const Source source : options_.sources) {
        if (source == Source::debian_archive && (!resolved.entry || request.options.credentials || request.installed))
            continue;
        std::optional<Error> failed;
        try {
            if (source == Source::registry) {
                Installation done = co_await install_from_registry(job_id, request, progress, stop);
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

io::Task<Installation> Installer::install_from_registry(std::string job_id, PullRequest request, ProgressSink progress, std::stop_token stop) {
    const ResolvedName resolved = request.resolved;
    FetchRequest fetch = fetch_request(options_, request);
    const std::string downloads = options_.path("downloads", Digest::of(request.key()).hex().substr(0, 32));
    const std::string blobs = options_.path("blobs/sha256");
    const std::optional<CacheOptions::ClaimedUid> owner = worker_uid(job_id);
    using Blobs = std::vector<std::string>;
    auto prepare = [downloads, blobs, uid = owner ? owner->uid : ::geteuid(), environments = options_.path("environments"), known = request.known,
                    vouched = request.vouched] {
        own_directory(downloads, uid);
        const Blobs there = names_in(blobs);
        const auto present = [&](Blobs wanted) {
            std::erase_if(wanted, [&](const std::string& hex) { return !std::binary_search(there.begin(), there.end(), hex); });
            return wanted;
        };
        std::map<std::string, Blobs> with;  // by manifest
        for (const Digest& digest : vouched)
            with[digest.str()] = present(blobs_of(environments, {digest}));
        return std::pair(present(blobs_of(environments, known)), with);
    };
    auto prepared = io::offload(bulk_, std::move(prepare));
    auto [have, have_with] = co_await std::move(prepared);
    fetch.words["have"] = have;
    fetch.words["have_with"] = have_with;

    json answer;
    std::exception_ptr failure;
    bool no_space = false;
    try {
        WorkerJob worker = image_job("fetch", job_id, downloads, owner);
        worker.network = true;
        for (const auto& [file, number] : fetch.ca_files)
            worker.fds.push_back(passed(open_file(file, O_RDONLY), number));
        answer = co_await run_worker(supervisor_, std::move(worker), std::move(fetch.words), progress, stop);
    } catch (const Error& error) {
        failure = std::current_exception();
        no_space = error.code() == ErrorCode::quota_exceeded;
    } catch (...) {
        failure = std::current_exception();
    }
    // Nothing stays a worker's: what is kept to go on with later is the daemon's until then.
    auto settle = [downloads, no_space, all = options_.path("downloads"), limit = options_.max_image_bytes,
                   alone = failure && running_ == 1, now = unix_now()] {
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

    if (const auto shown = have_with.find(answer.value("manifest_digest", "")); shown != have_with.end())
        have.insert(have.end(), shown->second.begin(), shown->second.end());
    FetchedImage image = fetched_image(answer, resolved, have);
    Installation out = co_await finish(job_id, std::move(image), downloads, request.options.force, progress, stop);
    co_return out;
}

io::Task<Installation> Installer::finish(std::string job_id, FetchedImage image, std::string from, bool force, ProgressSink progress, std::stop_token stop) {
    const std::string blobs = options_.path("blobs/sha256");
    Installation out;
    out.authenticated = image.authenticated;
    co_await take_blobs(image.blobs, from, progress, stop);
    crash_point("environment_fetched");
    std::vector<Digest> fresh;
    for (const FetchedImage::Blob& blob : image.blobs)
        if (blob.fresh) {
            fresh.push_back(blob.digest);
            out.downloaded_bytes += blob.size;
        }
    // They stay where they came until the environment is made of them: a daemon that dies meanwhile finds them there.
    std::function<void()> keep = [from, blobs, fresh] {
        for (const Digest& digest : fresh)
            keep_blob(from, blobs, digest);
        sync_directory(blobs);
        crash_point("environment_blobs_kept");
    };
    auto compare = [directory = options_.path("environments", image.manifest.digest.hex()), digest = image.manifest.digest, stop] {
        return examine(directory, digest, true, stop);
    };
    auto compared = io::offload(bulk_, std::move(compare));
    std::optional<Installed> there = co_await std::move(compared);
    if (there && there->problem.empty() && !force) {
        out.manifest = std::move(there->manifest);
        auto keeping = io::offload(bulk_, std::move(keep));
        co_await std::move(keeping);
    } else {
        std::vector<std::string> layer_paths;
        for (const LayerInfo& layer : image.manifest.layers) {
            const bool came = std::find(fresh.begin(), fresh.end(), layer.digest) != fresh.end();
            layer_paths.push_back((came ? from : blobs) + "/" + layer.digest.hex());
        }
        out.manifest = co_await build(job_id, std::move(layer_paths), std::move(image.diff_ids), std::move(image.manifest), std::move(keep), progress, stop);
        out.changed = true;
    }
    auto tidy = [from] { remove_tree(from); };
    auto tidied = io::offload(bulk_, std::move(tidy));
    co_await std::move(tidied);
    co_return out;
}

io::Task<void> Installer::take_blobs(const std::vector<FetchedImage::Blob>& wanted, const std::string& from, const ProgressSink& progress, std::stop_token stop) {
    const std::string blobs = options_.path("blobs/sha256");
    std::uint64_t total = 0, verified = 0;
    for (const FetchedImage::Blob& blob : wanted)
        total += blob.size;
    for (const FetchedImage::Blob& blob : wanted) {
        Progress verifying;
        verifying.phase = "verify";
        verifying.digest = blob.digest.str();
        verifying.done = verified;
        verifying.total = total;
        progress(verifying);
        // A blob of an earlier pull is compared too: a disk may have changed it. Then it goes, and the next pull loads it.
        auto take = [from, blobs, digest = blob.digest, size = blob.size, fresh = blob.fresh, stop] {
            try {
                take_blob(fresh ? from : blobs, digest, size, stop);
            } catch (const Error& error) {
                if (!fresh && error.code() == ErrorCode::environment_invalid)
                    remove_tree(blobs + "/" + digest.hex());
                if (!fresh && error.code() == ErrorCode::not_found)
                    throw Error(ErrorCode::environment_invalid, "blob " + digest.str() + " is missing", "pull it again; what was made here: import or commit it again");
                throw;
            }
        };
        auto taken = io::offload(bulk_, std::move(take));
        co_await std::move(taken);
        verified += blob.size;
    }
}

io::Task<Installation> Installer::in_ingest(std::string job_id, std::function<io::Task<Installation>(std::string directory)> work) {
    const std::string directory = options_.path("ingest", "taken-" + job_id);
    std::exception_ptr failure;
    Installation out;
    try {
        auto make = [directory] { own_directory(directory, ::geteuid()); };
        auto made = io::offload(bulk_, std::move(make));
        co_await std::move(made);
        out = co_await work(directory);
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

io::Task<Installation> Installer::import(std::string job_id, ImportRequest request, ProgressSink progress, std::stop_token stop) {
    const std::function<io::Task<Installation>(std::string)> work = [&](std::string directory) { return receive(job_id, request, directory, progress, stop); };
    Installation out = co_await in_ingest(job_id, work);
    co_return out;
}

io::Task<Installation> Installer::receive(std::string job_id, ImportRequest& request, std::string directory, ProgressSink progress, std::stop_token stop) {
    const std::string taken = directory + "/image";
    const std::optional<CacheOptions::ClaimedUid> owner = worker_uid(job_id);
    auto make = [taken, uid = owner ? owner->uid : ::geteuid()] { own_directory(taken, uid); };
    auto made = io::offload(bulk_, std::move(make));
    co_await std::move(made);
    json words = {{"stream_fd", worker_first_extra_fd}, {"directory_fd", worker_directory_fd}, {"max_bytes", options_.max_image_bytes},
                  {"format", request.format}, {"tag", request.tag}};
    if (request.settings)
        words["config"] = settings_words(*request.settings);
    WorkerJob worker = image_job("import", job_id, taken, owner);
    const json answer = co_await run_fed_worker(supervisor_, std::move(worker), std::move(words), worker_first_extra_fd, std::move(request.source), progress, stop);
    FetchedImage image = made_image(answer, Source::imported, request.name);
    Installation out = co_await finish(job_id, std::move(image), taken, false, progress, stop);
    co_return out;
}

io::Task<Installation> Installer::commit(std::string job_id, CommitRequest request, ProgressSink progress, std::stop_token stop) {
    const std::function<io::Task<Installation>(std::string)> work = [&](std::string directory) { return flatten(job_id, request, directory, progress, stop); };
    Installation out = co_await in_ingest(job_id, work);
    co_return out;
}

io::Task<Installation> Installer::flatten(std::string job_id, CommitRequest& request, std::string directory, ProgressSink progress, std::stop_token stop) {
    const std::string taken = directory + "/image";
    const std::optional<CacheOptions::ClaimedUid> owner = worker_uid(job_id);
    auto make = [taken, uid = owner ? owner->uid : ::geteuid()] { own_directory(taken, uid); };
    auto made = io::offload(bulk_, std::move(make));
    co_await std::move(made);
    Progress copying;
    copying.phase = "copy";
    progress(copying);
    std::vector<DiskFile> disk = co_await request.disk(directory, stop);
    crash_point("environment_disk_copied");
    WorkerJob worker = image_job("commit", job_id, taken, owner);
    json layers = json::array();
    int number = worker_first_extra_fd;
    for (DiskFile& layer : disk) {
        layers.push_back({{"fd", number}, {"format", layer.qcow2 ? "qcow2" : "raw"}});
        worker.fds.push_back(passed(std::move(layer.file), number++));
    }
    json words = {{"disk", layers}, {"directory_fd", worker_directory_fd}, {"config", settings_words(request.settings)},
                  {"limits", {{"total_bytes", options_.max_image_bytes * 4}}}};
    const json answer = co_await run_worker(supervisor_, std::move(worker), std::move(words), progress, stop);
    FetchedImage image = made_image(answer, Source::committed, request.name);
    Installation out = co_await finish(job_id, std::move(image), taken, false, progress, stop);
    co_return out;
}

io::Task<Installation> Installer::rebuild(std::string job_id, EnvironmentManifest manifest, ProgressSink progress, std::stop_token stop) {
    FetchedImage image;
    for (const LayerInfo& layer : manifest.layers)
        image.blobs.push_back(FetchedImage::Blob{layer.digest, layer.size, false});
    image.manifest = std::move(manifest);
    Installation out = co_await finish(job_id, std::move(image), options_.path("ingest", "taken-" + job_id), true, progress, stop);
    co_return out;
}

WorkerJob Installer::image_job(const char* subcommand, const std::string& job_id, const std::string& directory, const std::optional<CacheOptions::ClaimedUid>& owner) const {
    WorkerJob worker;
    worker.program = options_.image_worker;
    worker.subcommand = subcommand;
    worker.scope = "image-" + job_id;
    worker.as = credentials_of(owner);
    worker.memory_max = worker_memory;
    worker.fds.push_back(passed(open_file(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW), worker_directory_fd));
    return worker;
}

io::Task<Installation> Installer::install_from_archive(std::string job_id, ResolvedName resolved, ProgressSink progress, std::stop_token stop) {
    if (::geteuid() != 0)
        throw Error(ErrorCode::failed_precondition, "building from the Debian archive needs a daemon that runs as root", "make a registry or a mirror reachable");
    const std::optional<CacheOptions::ClaimedUid> owner = worker_uid(job_id);
    const std::string directory = options_.path("ingest", "archive-" + job_id), temporary = directory + "/tmp", tar = directory + "/root.tar";
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
        worker.fds.push_back(passed(open_file(tar, O_RDWR | O_CREAT | O_EXCL, 0600), worker_directory_fd));
        json request = {{"program", options_.mmdebstrap}, {"suite", resolved.entry->suite}, {"packages", resolved.entry->packages},
                        {"uid", owner->uid}, {"gid", owner->uid}, {"sub_first", options_.sub_first}, {"sub_count", 65535},
                        {"temp", temporary}, {"tar_fd", worker_directory_fd}};
        json result = co_await run_worker(supervisor_, std::move(worker), std::move(request), progress, stop);
        EnvironmentManifest manifest;
        manifest.source = Source::debian_archive;
        manifest.name = resolved.name;
        manifest.env = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"};
        manifest.cmd = {"bash"};
        std::vector<std::string> layers{tar}, diff_ids{std::string()};
        std::function<void()> nothing_to_keep;
        out.manifest = co_await build(job_id, std::move(layers), std::move(diff_ids), std::move(manifest), std::move(nothing_to_keep), progress, stop);
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

io::Task<EnvironmentManifest> Installer::build(std::string job_id, std::vector<std::string> layer_paths, std::vector<std::string> diff_ids,
                                                      EnvironmentManifest manifest, std::function<void()> keep_blobs, ProgressSink progress,
                                                      std::stop_token stop) {
    const std::optional<CacheOptions::ClaimedUid> owner = worker_uid(job_id + "-build");
    const std::string directory = options_.path("ingest", "build-" + job_id);
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
        worker.fds.push_back(passed(open_file(directory + "/" + root_file, O_RDWR | O_CREAT | O_EXCL, 0600), worker_directory_fd));
        const json layers = pass_layers(worker, layer_paths, diff_ids, manifest);
        json request = {{"layers", layers}, {"image_fd", worker_directory_fd}, {"disk_bytes", options_.disk_bytes},
                        {"working_dir", manifest.working_dir}, {"limits", {{"total_bytes", options_.max_image_bytes * 4}}}};
        json result = co_await run_worker(supervisor_, std::move(worker), std::move(request), progress, stop);
        try {
            manifest.root_size = result.at("size").get<std::uint64_t>();
            manifest.root_allocated = result.at("allocated").get<std::uint64_t>();
            manifest.root_digest = Digest::parse(result.at("digest").get<std::string>());
            if (manifest.digest.empty()) {  // an identity of its own, told apart from any registry's manifest
                const Digest tar = Digest::parse(result.at("layers").at(0).at("diff_id").get<std::string>());
                manifest.digest = Digest::of("pyro environment\n" + std::string(to_string(manifest.source)) + "\n" + manifest.name + "\n" + tar.str() + "\n");
                manifest.layers.push_back(LayerInfo{tar, result.at("layers").at(0).at("unpacked").get<std::uint64_t>()});
            }
        } catch (const json::exception&) {
            throw unfitting_answer();
        }
        if (manifest.source == Source::debian_archive) {  // its one layer is kept as a registry's would be: to unpack, to build again
            auto keep = [tar = layer_paths.at(0), blobs = options_.path("blobs/sha256"), layer = manifest.layers.at(0), stop] {
                const std::string folder = tar.substr(0, tar.rfind('/'));
                if (::rename(tar.c_str(), (folder + "/" + layer.digest.hex()).c_str()) != 0)
                    throw Error::from_errno("name the archive's layer");
                adopt_blob(folder, blobs, layer.digest, layer.size, stop);
            };
            auto keeping = io::offload(bulk_, std::move(keep));
            co_await std::move(keeping);
        }
        co_await list_packages(job_id, directory, stop);
        crash_point("environment_built");
        manifest.installed_at = unix_now();
        auto install_it = [directory, keep_blobs, text = manifest.to_json(), size = manifest.root_size, to = options_.path("environments", manifest.digest.hex())] {
            const std::string root = directory + "/" + root_file;
            struct stat info {};
            if (::stat(root.c_str(), &info) != 0 || static_cast<std::uint64_t>(info.st_size) != size)
                throw Error(ErrorCode::environment_invalid, "the image worker's root image is not what it says", "pull again; see the daemon's log");
            if (::chmod(root.c_str(), 0400) != 0)
                throw Error::from_errno("protect the root image");
            stamp_verified(directory);
            replace_file(directory + "/" + manifest_file, text, 0600);
            if (keep_blobs)
                keep_blobs();
            install_directory(directory, to);
            crash_point("environment_installed");
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

io::Task<void> Installer::list_packages(std::string job_id, std::string directory, std::stop_token stop) {
    const std::optional<CacheOptions::ClaimedUid> owner = worker_uid(job_id + "-packages");
    WorkerJob worker;
    worker.program = options_.image_worker;
    worker.subcommand = "packages";
    worker.scope = "packages-" + job_id;
    worker.as = credentials_of(owner);
    worker.memory_max = worker_memory;
    worker.fds.push_back(passed(open_file(directory + "/" + root_file, O_RDONLY | O_NOFOLLOW), worker_directory_fd));
    json request = {{"image_fd", worker_directory_fd}};
    try {
        ProgressSink silent = [](const Progress&) {};
        const json result = co_await run_worker(supervisor_, std::move(worker), std::move(request), std::move(silent), stop);
        auto write = [path = directory + "/" + packages_file, text = result.at("packages").dump(-1, ' ', false, json::error_handler_t::replace)] {
            replace_file(path, text, 0600);
        };
        auto written = io::offload(bulk_, std::move(write));
        co_await std::move(written);
    } catch (const Error& error) {
        if (error.code() == ErrorCode::quota_exceeded)
            throw;  // no space
        // An image whose database of packages is a trap is as good as one without: inspect then knows of none.
    } catch (const json::exception&) {
        throw unfitting_answer();
    }
}

io::Task<void> Installer::unpack(EnvironmentManifest manifest, std::string job_id, std::string directory, supervise::Credentials owner,
                                        ProgressSink progress, std::stop_token stop) {
    std::vector<std::string> paths;
    for (const LayerInfo& layer : manifest.layers)
        paths.push_back(options_.path("blobs/sha256", layer.digest.hex()));
    WorkerJob worker;
    worker.program = options_.image_worker;
    worker.subcommand = "unpack";
    worker.scope = "unpack-" + job_id;
    worker.as = std::move(owner);
    worker.memory_max = worker_memory;
    worker.fds.push_back(passed(open_file(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW), worker_directory_fd));
    const std::vector<std::string> unchecked;  // the digests were, when the blobs came
    const json layers = pass_layers(worker, paths, unchecked, manifest);
    json request = {{"layers", layers}, {"directory_fd", worker_directory_fd}, {"working_dir", manifest.working_dir},
                    {"limits", {{"total_bytes", options_.max_image_bytes * 4}}}};
    co_await run_worker(supervisor_, std::move(worker), std::move(request), progress, stop);
}

}  // namespace pyro::env
