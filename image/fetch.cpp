#include "image/fetch.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>
#include <thread>

#include "common/unique_fd.hpp"
#include "image/manifest.hpp"
#include "image/registry.hpp"
#include "image/tree.hpp"

namespace pyro::image {
namespace {

using nlohmann::json;

constexpr std::uint64_t max_document = 4u << 20;
constexpr std::size_t layers_at_once = 4;

HttpOptions http_options(const json& request) {
    HttpOptions options;
    options.http_proxy = request.value("http_proxy", "");
    options.https_proxy = request.value("https_proxy", "");
    options.no_proxy = request.value("no_proxy", "");
    options.connect_seconds = request.value("connect_seconds", options.connect_seconds);
    options.low_speed_bytes = request.value("low_speed_bytes", options.low_speed_bytes);
    options.low_speed_seconds = request.value("low_speed_seconds", options.low_speed_seconds);
    options.document_seconds = request.value("document_seconds", options.document_seconds);
    const json hosts = request.value("hosts", json::object());
    for (const auto& [host, given] : hosts.items()) {
        HostPolicy policy;
        policy.plain_http = given.value("plain_http", false);
        policy.allow_private = given.value("allow_private", false);
        if (given.contains("ca_fd")) {
            const UniqueFd file(given["ca_fd"].get<int>());  // closed: the worker may not have many open
            policy.ca_pem = read_up_to(file.get(), 1u << 20);
        }
        options.hosts.emplace(host, std::move(policy));
    }
    return options;
}

RegistrySettings registry_settings(const json& request) {
    RegistrySettings out;
    out.endpoint = Url::parse(request.at("endpoint").get<std::string>());
    out.repository = request.at("repository").get<std::string>();
    out.reference = request.value("reference", out.repository + ":" + request.at("selector").get<std::string>());
    out.attempts = std::clamp(request.value("attempts", out.attempts), 1, 20);
    out.unreachable_attempts = std::clamp(request.value("unreachable_attempts", out.unreachable_attempts), 1, 20);
    out.retry_base_ms = std::clamp(request.value("retry_base_ms", out.retry_base_ms), 1, 60'000);
    const json login = request.value("credentials", json::object());
    out.login.username = login.value("username", "");
    out.login.password = login.value("password", "");
    out.login.identity_token = login.value("identity_token", "");
    out.http = http_options(request);
    return out;
}

void verify(std::string_view body, const Digest& expected, const std::string& what) {
    if (const Digest actual = Digest::of(body); actual != expected)
        throw Error(ErrorCode::environment_invalid, what + " has the digest " + actual.str() + ", not " + expected.str(),
                    "the registry is broken, or something between changed the data: try another network or mirror");
}

// What an earlier attempt left, hashed; the file position is behind it.
std::uint64_t rehash(int file, std::uint64_t limit, Sha256& hash) {
    struct stat info {};
    if (::fstat(file, &info) != 0)
        throw Error::from_errno("look at a half layer");
    if (static_cast<std::uint64_t>(info.st_size) > limit && ::ftruncate(file, 0) != 0)
        throw Error::from_errno("start a layer again");
    std::uint64_t have = 0;
    while (true) {
        const std::string piece = read_up_to(file, 1u << 20);
        if (piece.empty())
            return have;
        hash.update(piece);
        have += piece.size();
    }
}

}  // namespace

class FetchJob::Impl {
public:
    explicit Impl(const json& request)
        : selector_(request.at("selector").get<std::string>()),
          directory_(request.at("directory_fd").get<int>()),
          max_bytes_(request.value("max_bytes", std::uint64_t{64} << 30)),
          registry_(registry_settings(request), stopping_),
          http_(registry_.connection()) {
        for (const json& hex : request.value("have", json::array()))
            have_.insert(hex.get<std::string>());
        have_with_ = request.value("have_with", have_with_);
        room_bytes_ = request.value("room_bytes", room_bytes_);
    }

    json run(Events& events) {
        events.progress("resolve", "", 0, 0);
        auto [digest, body, type] = manifest(selector_, nullptr);
        const Digest resolved = digest;
        if (is_index(type, body)) {
            const Descriptor chosen = select_platform(body);
            std::tie(digest, body, type) = manifest(chosen.digest.str(), &chosen);
            if (is_index(type, body))
                throw Error(ErrorCode::environment_invalid, "the image index leads to another index", "the registry is broken or hostile");
        }
        const Manifest manifest = parse_manifest(body);
        if (manifest.config.size > max_document)
            throw Error(ErrorCode::environment_invalid, "the image configuration is larger than " + std::to_string(max_document) + " bytes");
        if (const auto shown = have_with_.find(digest.str()); shown != have_with_.end())
            have_.insert(shown->second.begin(), shown->second.end());
        std::uint64_t total = 0;
        std::set<std::string> seen;
        std::vector<Descriptor> layers_once;
        for (const Descriptor& layer : manifest.layers) {
            if (!seen.insert(layer.digest.hex()).second)
                continue;
            total += layer.size;
            layers_once.push_back(layer);
        }
        if (total > max_bytes_)
            throw Error(ErrorCode::quota_exceeded, "the image has " + std::to_string(total) + " bytes of layers, the limit is " + std::to_string(max_bytes_),
                        "use a smaller image, or raise the limit in pyrod.toml");

        const std::string config_body = document("/blobs/" + manifest.config.digest.str(), manifest.config);
        const ImageConfig config = parse_config(config_body, manifest.layers.size());

        std::vector<Descriptor> wanted;
        for (const Descriptor& layer : layers_once)
            if (!have_.contains(layer.digest.hex()) && !complete(layer))
                wanted.push_back(layer);
        check_room(wanted);
        download_all(wanted, total, events);
        keep(digest, body);
        keep(manifest.config.digest, config_body);

        json layers = json::array();
        for (std::size_t i = 0; i < manifest.layers.size(); ++i)
            layers.push_back({{"digest", manifest.layers[i].digest.str()}, {"diff_id", config.diff_ids[i].str()}, {"size", manifest.layers[i].size}});
        return {{"manifest_digest", digest.str()}, {"resolved_digest", resolved.str()}, {"manifest_size", body.size()},
                {"authenticated", registry_.told_who_asks()},
                {"config_digest", manifest.config.digest.str()}, {"config_size", config_body.size()}, {"layers", std::move(layers)},
                {"config", {{"user", config.user}, {"working_dir", config.working_dir}, {"env", config.env}, {"cmd", config.cmd}, {"entrypoint", config.entrypoint}}}};
    }

private:
    // Packed, and again as the root image, which is hardly smaller.
    void check_room(const std::vector<Descriptor>& wanted) const {
        std::uint64_t needed = 0;
        for (const Descriptor& layer : wanted)
            needed += 2 * layer.size;
        if (needed > room_bytes_)
            throw Error(ErrorCode::quota_exceeded, "the image needs at least " + std::to_string(needed >> 20) + " MiB of disk, and there are " +
                                                       std::to_string(room_bytes_ >> 20) + " MiB for it; nothing was downloaded",
                        "make room: pyro env prune --all, pyro env remove NAME; the budget is environments.disk_mib in pyrod.toml");
    }

    std::string document(const std::string& path, const Descriptor& described) {
        std::string body = registry_.ask(http_, path, "").body;
        if (body.size() != described.size)
            throw Error(ErrorCode::environment_invalid, "a document of the image has " + std::to_string(body.size()) + " bytes, not " + std::to_string(described.size),
                        "the registry is broken");
        verify(body, described.digest, "a document of the image");
        return body;
    }

    // Digest, body and media type of a manifest or index.
    std::tuple<Digest, std::string, std::string> manifest(const std::string& selector, const Descriptor* described) {
        HttpResponse response = registry_.ask(http_, "/manifests/" + selector, manifest_media_types);
        if (described && response.body.size() != described->size)
            throw Error(ErrorCode::environment_invalid, "the manifest has " + std::to_string(response.body.size()) + " bytes, not " + std::to_string(described->size),
                        "the registry is broken");
        const Digest actual = Digest::of(response.body);
        if (selector.starts_with("sha256:"))
            verify(response.body, Digest::parse(selector), "the manifest");
        if (const std::string claimed = response.header("docker-content-digest"); claimed.starts_with("sha256:") && claimed != actual.str())
            throw Error(ErrorCode::environment_invalid, "the manifest has the digest " + actual.str() + " but the registry says " + printable(claimed),
                        "the registry is broken, or something between changed the data: try another network or mirror");
        std::string type = response.header("content-type");
        type = type.substr(0, type.find(';'));
        if (described && !described->media_type.empty())
            type = described->media_type;
        return {actual, std::move(response.body), std::move(type)};
    }

    bool complete(const Descriptor& layer) const {
        struct stat info {};
        return ::fstatat(directory_, layer.digest.hex().c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(info.st_mode) &&
               static_cast<std::uint64_t>(info.st_size) == layer.size;
    }

    // Some at once. The first that fails ends the others; what they have got by then is kept.
    void download_all(const std::vector<Descriptor>& wanted, std::uint64_t total, Events& events) {
        std::uint64_t done = total;
        for (const Descriptor& layer : wanted)
            done -= layer.size;
        std::mutex mutex;  // of what follows, and of `events`
        std::size_t next = 0;
        std::exception_ptr failure;
        const auto work = [&](Http& http) {
            try {
                while (true) {
                    const Descriptor* layer = nullptr;
                    {
                        const std::lock_guard lock(mutex);
                        if (next == wanted.size() || failure)
                            return;
                        layer = &wanted[next++];
                    }
                    download(http, *layer, [&](std::int64_t change) {
                        const std::lock_guard lock(mutex);
                        done += static_cast<std::uint64_t>(change);
                        events.progress("download", layer->digest.str(), done, total);
                    });
                }
            } catch (...) {
                const std::lock_guard lock(mutex);
                if (!failure)
                    failure = std::current_exception();
                stopping_.stop();
            }
        };
        std::vector<std::thread> helpers;
        for (std::size_t i = 1; i < std::min(wanted.size(), layers_at_once); ++i) {
            try {
                helpers.emplace_back([&] {
                    Http http = registry_.connection();
                    work(http);
                });
            } catch (const std::system_error&) {
                break;  // fewer will do
            }
        }
        work(http_);
        for (std::thread& helper : helpers)
            helper.join();
        if (failure)
            std::rethrow_exception(failure);
        events.progress("download", "", total, total);
    }

    // `progress` is told by how many bytes it has got nearer, or fallen back.
    void download(Http& http, const Descriptor& layer, const std::function<void(std::int64_t)>& progress) {
        const std::string name = layer.digest.hex(), part = name + ".part";
        const UniqueFd file(::openat(directory_, part.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
        if (!file)
            throw Error::from_errno("open a file for layer " + layer.digest.str());
        Sha256 hash;
        std::uint64_t have = rehash(file.get(), layer.size, hash);
        if (have > 0)
            progress(static_cast<std::int64_t>(have));
        bool built_upon = have > 0;  // what an earlier worker left, which a disk may have changed
        const auto restart = [&] {
            if (::ftruncate(file.get(), 0) != 0 || ::lseek(file.get(), 0, SEEK_SET) != 0)
                throw Error::from_errno("start a layer again");
            hash = Sha256();
            progress(-static_cast<std::int64_t>(have));
            have = 0;
            built_upon = false;
        };
        const auto attempt = [&](std::uint64_t& gained) -> std::optional<HttpResponse> {
            std::vector<std::string> headers;
            if (have > 0)
                headers.push_back("Range: bytes=" + std::to_string(have) + "-");
            bool first = true;
            const Http::Receiver receiver = [&](const HttpResponse& head, std::string_view bytes) {
                if (first && head.status == 200 && have > 0)
                    restart();  // the registry does not resume
                if (first && head.status == 206 && !head.header("content-range").starts_with("bytes " + std::to_string(have) + "-"))
                    throw TransferFailed{registry_.name() + " resumes a layer at the wrong place"};
                first = false;
                if (have + bytes.size() > layer.size)
                    throw Error(ErrorCode::environment_invalid, "layer " + layer.digest.str() + " is longer than the " + std::to_string(layer.size) + " bytes announced",
                                "the registry is broken, or something between changed the data");
                write_all(file.get(), bytes);
                hash.update(bytes);
                have += bytes.size();
                gained += bytes.size();
                progress(static_cast<std::int64_t>(bytes.size()));
            };
            const HttpResponse response = registry_.exchange(http, "/blobs/" + layer.digest.str(), headers, 0, receiver);
            if (response.status == 416) {  // what we have is not what it has
                restart();
                throw TransferFailed{registry_.name() + " refuses to resume a layer"};
            }
            if (response.status != 200 && response.status != 206)
                return response;
            if (have < layer.size)
                throw TransferFailed{registry_.name() + " ends layer " + layer.digest.short_form() + " at " + std::to_string(have) + " of " + std::to_string(layer.size) + " bytes"};
            return std::nullopt;
        };
        const auto forget = [&] { ::unlinkat(directory_, part.c_str(), 0); };
        while (true) {
            try {
                if (have < layer.size || layer.size == 0)
                    registry_.with_retries(attempt);
            } catch (const Error& error) {
                if (error.code() == ErrorCode::environment_invalid)
                    forget();
                throw;
            }
            const Digest actual = hash.finish();
            if (actual == layer.digest)
                break;
            if (!built_upon) {
                forget();
                throw Error(ErrorCode::environment_invalid, "layer " + layer.digest.str() + " arrived with the digest " + actual.str(),
                            "the registry is broken, or something between changed the data: try another network or mirror");
            }
            restart();
        }
        if (::renameat(directory_, part.c_str(), directory_, name.c_str()) != 0)
            throw Error::from_errno("put layer " + layer.digest.str());
    }

    void keep(const Digest& digest, std::string_view body) const {
        const std::string part = digest.hex() + ".part";
        {
            const UniqueFd file(::openat(directory_, part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
            if (!file)
                throw Error::from_errno("open a file for a document of the image");
            write_all(file.get(), body);
        }
        if (::renameat(directory_, part.c_str(), directory_, digest.hex().c_str()) != 0)
            throw Error::from_errno("put a document of the image");
    }

    std::string selector_;
    int directory_;
    std::uint64_t max_bytes_;
    std::set<std::string> have_;
    std::map<std::string, std::vector<std::string>> have_with_;
    std::uint64_t room_bytes_ = ~std::uint64_t{0};
    Stopping stopping_;
    Registry registry_;
    Http http_;
};

FetchJob::FetchJob(const json& request) : impl_(std::make_unique<Impl>(request)) {}
FetchJob::~FetchJob() = default;
json FetchJob::run(Events& events) { return impl_->run(events); }

}  // namespace pyro::image
