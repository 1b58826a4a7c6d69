#include "image/fetch.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <nlohmann/json.hpp>
#include <set>

#include "common/unique_fd.hpp"
#include "image/http.hpp"
#include "image/manifest.hpp"
#include "image/tree.hpp"

namespace pyro::image {
namespace {

using nlohmann::json;

constexpr std::size_t max_document = 4u << 20;
constexpr int max_redirects = 5, max_rounds = 64;
constexpr std::uint64_t enough_progress = 1u << 20;  // an attempt that gained this much was no failure
constexpr std::chrono::milliseconds max_wait{60'000}, max_backoff{8'000};

std::string base64(std::string_view bytes) {
    static constexpr char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string out;
    for (std::size_t i = 0; i < bytes.size(); i += 3) {
        std::uint32_t group = 0;
        const std::size_t have = std::min<std::size_t>(3, bytes.size() - i);
        for (std::size_t j = 0; j < 3; ++j)
            group = group << 8 | (j < have ? static_cast<unsigned char>(bytes[i + j]) : 0u);
        for (std::size_t j = 0; j < 4; ++j)
            out += j <= have ? digits[group >> (18 - 6 * j) & 63] : '=';
    }
    return out;
}

std::string percent_encoded(std::string_view text) {
    static constexpr char hex[] = "0123456789ABCDEF";
    std::string out;
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_' || c == '~')
            out += c;
        else
            out += {'%', hex[byte >> 4], hex[byte & 15]};
    }
    return out;
}

// Challenge parameters: name="value" pairs, as RFC 9110 has them.
std::map<std::string, std::string> challenge_parameters(std::string_view text) {
    std::map<std::string, std::string> out;
    for (std::size_t at = 0; at < text.size() && out.size() < 16;) {
        while (at < text.size() && (text[at] == ' ' || text[at] == ','))
            ++at;
        const std::size_t equals = text.find('=', at);
        if (equals == std::string_view::npos)
            break;
        const std::string name(text.substr(at, equals - at));
        std::string value;
        at = equals + 1;
        if (at < text.size() && text[at] == '"') {
            for (++at; at < text.size() && text[at] != '"'; ++at) {
                if (text[at] == '\\' && at + 1 < text.size())
                    ++at;
                value += text[at];
            }
            ++at;
        } else {
            while (at < text.size() && text[at] != ',')
                value += text[at++];
        }
        out.emplace(name, std::move(value));
    }
    return out;
}

std::optional<std::chrono::milliseconds> retry_after(const HttpResponse& response) {
    const std::string text = response.header("retry-after");
    long seconds = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
    if (text.empty() || error != std::errc() || end != text.data() + text.size() || seconds < 0)
        return std::nullopt;  // a date, or nothing: the usual backoff
    return std::min<std::chrono::milliseconds>(std::chrono::seconds(std::min(seconds, 3600L)), max_wait);
}

bool passing_status(long status) { return status == 429 || status == 500 || status == 502 || status == 503 || status == 504 || status == 408; }

}  // namespace

class FetchJob::Impl {
public:
    explicit Impl(const json& request)
        : reference_(request.value("reference", "")),
          endpoint_(Url::parse(request.at("endpoint").get<std::string>())),
          repository_(request.at("repository").get<std::string>()),
          selector_(request.at("selector").get<std::string>()),
          directory_(request.at("directory_fd").get<int>()),
          max_bytes_(request.value("max_bytes", std::uint64_t{64} << 30)),
          attempts_(std::clamp(request.value("attempts", 5), 1, 20)),
          unreachable_attempts_(std::clamp(request.value("unreachable_attempts", 3), 1, 20)),
          retry_base_(std::clamp(request.value("retry_base_ms", 500), 1, 60'000)),
          http_(options_of(request)) {
        if (request.contains("credentials")) {
            const json& given = request["credentials"];
            credentials_ = given.at("username").get<std::string>() + ":" + given.at("password").get<std::string>();
        }
        for (const json& hex : request.value("have", json::array()))
            have_.insert(hex.get<std::string>());
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
        std::uint64_t total = 0;
        std::set<std::string> seen;
        for (const Descriptor& layer : manifest.layers) {
            if (!seen.insert(layer.digest.hex()).second)
                continue;
            total += layer.size;
        }
        if (total > max_bytes_)
            throw Error(ErrorCode::quota_exceeded, "the image has " + std::to_string(total) + " bytes of layers, the limit is " + std::to_string(max_bytes_),
                        "use a smaller image, or raise the limit in pyrod.toml");

        const std::string config_body = document("/blobs/" + manifest.config.digest.str(), "", manifest.config);
        const ImageConfig config = parse_config(config_body, manifest.layers.size());

        std::uint64_t before = 0;
        seen.clear();
        for (const Descriptor& layer : manifest.layers) {
            if (!seen.insert(layer.digest.hex()).second)
                continue;
            if (!have_.contains(layer.digest.hex()) && !complete(layer))
                download(layer, [&](std::uint64_t done) { events.progress("download", layer.digest.str(), before + done, total); });
            before += layer.size;
            events.progress("download", layer.digest.str(), before, total);
        }
        keep(digest, body);
        keep(manifest.config.digest, config_body);

        json layers = json::array();
        for (std::size_t i = 0; i < manifest.layers.size(); ++i)
            layers.push_back({{"digest", manifest.layers[i].digest.str()}, {"diff_id", config.diff_ids[i].str()}, {"size", manifest.layers[i].size}});
        return {{"manifest_digest", digest.str()}, {"resolved_digest", resolved.str()}, {"manifest_size", body.size()}, {"authenticated", !credentials_.empty()},
                {"config_digest", manifest.config.digest.str()}, {"config_size", config_body.size()}, {"layers", std::move(layers)},
                {"config", {{"user", config.user}, {"working_dir", config.working_dir}, {"env", config.env}, {"cmd", config.cmd}, {"entrypoint", config.entrypoint}}}};
    }

private:
    static HttpOptions options_of(const json& request) {
        HttpOptions options;
        options.proxy = request.value("proxy", "");
        options.connect_seconds = request.value("connect_seconds", options.connect_seconds);
        options.low_speed_bytes = request.value("low_speed_bytes", options.low_speed_bytes);
        options.low_speed_seconds = request.value("low_speed_seconds", options.low_speed_seconds);
        options.document_seconds = request.value("document_seconds", options.document_seconds);
        const json hosts = request.value("hosts", json::object());
        for (const auto& [host, given] : hosts.items()) {
            HostPolicy policy;
            policy.plain_http = given.value("plain_http", false);
            policy.allow_private = given.value("allow_private", false);
            if (given.contains("ca_fd"))
                policy.ca_pem = read_up_to(given["ca_fd"].get<int>(), 1u << 20);
            options.hosts.emplace(host, std::move(policy));
        }
        // A registry's token service on the same host is as trusted as the registry.
        const Url endpoint = Url::parse(request.at("endpoint").get<std::string>());
        if (const auto own = options.hosts.find(endpoint.host + ":" + endpoint.port); own != options.hosts.end())
            options.hosts.emplace(endpoint.host, own->second);
        return options;
    }

    // A host's pause between attempts; the process has nothing else to do.
    static void wait(std::chrono::milliseconds time) { ::poll(nullptr, 0, static_cast<int>(time.count())); }

    [[noreturn]] void refused(const HttpResponse& response, const std::string& what) const {
        const std::string status = std::to_string(response.status);
        switch (response.status) {
            case 401:
            case 403:
                throw Error(ErrorCode::failed_precondition, endpoint_.host + " refuses access to " + what + " (HTTP " + status + ")",
                            "check the name; a private image needs credentials for its registry");
            case 404:
                throw Error(ErrorCode::not_found, endpoint_.host + " has no " + what, "check the spelling of the name and the tag");
            case 429:
                throw Error(ErrorCode::unavailable, endpoint_.host + " limits how often it may be asked (HTTP 429)",
                            "try again later, give credentials, or set a [mirror] in pyrod.toml");
            default:
                throw Error(ErrorCode::unavailable, endpoint_.host + " answers HTTP " + status + " to the request for " + what,
                            passing_status(response.status) ? "try again later" : "check the registry's address").with_retryable(passing_status(response.status));
        }
    }

    // Follows redirects and answers one round of challenges. Credentials and tokens go to the registry itself only.
    HttpResponse exchange(const std::string& path, const std::vector<std::string>& extra, std::size_t limit, const Http::Receiver& receiver) {
        Url url = Url::parse("/v2/" + repository_ + path, &endpoint_);
        bool challenged = false;
        for (int redirects = 0;;) {
            std::vector<std::string> headers = extra;
            const bool home = url.origin() == endpoint_.origin();
            if (home && !authorization_.empty())
                headers.push_back("Authorization: " + authorization_);
            HttpResponse response = http_.get(url, headers, limit, receiver);
            if (response.status == 401 && home && !challenged) {
                challenged = true;
                if (authorize(response))
                    continue;
            }
            const bool moved = response.status == 301 || response.status == 302 || response.status == 303 || response.status == 307 || response.status == 308;
            if (!moved)
                return response;
            if (++redirects > max_redirects)
                throw Error(ErrorCode::unavailable, endpoint_.host + " redirects in a loop, or more than " + std::to_string(max_redirects) + " times",
                            "the registry is broken: use another or a mirror").with_retryable(false);
            const Url next = Url::parse(response.header("location"), &url);
            if (url.scheme == "https" && next.scheme == "http")
                throw Error(ErrorCode::network_denied, url.host + " redirects from https to http at " + printable(next.host), "the registry is broken or hostile");
            url = next;
        }
    }

    // True if it is worth asking again with what was learned.
    bool authorize(const HttpResponse& response) {
        const auto [first, last] = response.headers.equal_range("www-authenticate");
        for (auto challenge = first; challenge != last; ++challenge) {
            std::string scheme = challenge->second.substr(0, challenge->second.find(' '));
            std::transform(scheme.begin(), scheme.end(), scheme.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
            const std::string_view rest = std::string_view(challenge->second).substr(std::min(scheme.size() + 1, challenge->second.size()));
            if (scheme == "bearer") {
                authorization_ = "Bearer " + token(challenge_parameters(rest));
                return true;
            }
            if (scheme == "basic" && !credentials_.empty()) {
                authorization_ = "Basic " + base64(credentials_);
                return true;
            }
        }
        return false;
    }

    std::string token(const std::map<std::string, std::string>& challenge) {
        const auto realm = challenge.find("realm");
        if (realm == challenge.end())
            throw Error(ErrorCode::unavailable, endpoint_.host + " asks for a token but does not say where to get it", "the registry is broken").with_retryable(false);
        Url url = Url::parse(realm->second);
        const auto service = challenge.find("service");
        std::string query = url.text.find('?') == std::string::npos ? "?" : "&";
        if (service != challenge.end())
            query += "service=" + percent_encoded(service->second) + "&";
        // Only what is needed, whatever the challenge says.
        query += "scope=" + percent_encoded("repository:" + repository_ + ":pull");
        url = Url::parse(url.text + query);
        if (endpoint_.scheme == "https" && url.scheme == "http")
            throw Error(ErrorCode::network_denied, endpoint_.host + " wants its token fetched without encryption", "the registry is broken or hostile");
        std::vector<std::string> headers;
        if (!credentials_.empty())
            headers.push_back("Authorization: Basic " + base64(credentials_));
        const HttpResponse response = http_.get(url, headers, 1u << 20);
        if (passing_status(response.status))
            throw TransferFailed{url.host + " answers HTTP " + std::to_string(response.status) + " to the request for a token"};
        if (response.status != 200)
            throw Error(ErrorCode::failed_precondition, url.host + " gives no token for " + repository_ + " (HTTP " + std::to_string(response.status) + ")",
                        credentials_.empty() ? "check the name; a private image needs credentials" : "check user name and password");
        const json document = json::parse(response.body, nullptr, false);
        for (const char* name : {"token", "access_token"})
            if (document.is_object() && document.contains(name) && document[name].is_string()) {
                const std::string value = document[name].get<std::string>();
                if (!value.empty() && std::all_of(value.begin(), value.end(), [](char c) { return c > ' ' && c < 0x7f; }))
                    return value;
            }
        throw Error(ErrorCode::unavailable, url.host + " answers a token request without a token", "the registry is broken").with_retryable(false);
    }

    // Runs `attempt` until it is done, with growing pauses after what may pass.
    template <class Attempt>
    void with_retries(Attempt attempt) {
        std::chrono::milliseconds pause(retry_base_);
        int left = attempts_;
        for (int round = 0;; ++round) {
            std::optional<std::chrono::milliseconds> asked;
            std::uint64_t gained = 0;
            std::optional<Error> error;
            try {
                const HttpResponse response = attempt(gained);
                if (response.status == 0)
                    return;
                asked = retry_after(response);
                try {
                    refused(response, reference_.empty() ? repository_ + ":" + selector_ : reference_);
                } catch (const Error& refusal) {
                    if (!passing_status(response.status))
                        throw;
                    error = refusal;
                }
            } catch (const TransferFailed& failed) {
                Error failure(ErrorCode::unavailable, failed.message, "check the network, or set a [mirror] in pyrod.toml");
                error = failed.unreachable ? std::move(failure).with_detail("cause", "unreachable") : std::move(failure);
            }
            if (gained >= enough_progress) {
                left = attempts_;
                pause = std::chrono::milliseconds(retry_base_);
            }
            if (error->details().contains("cause"))
                left = std::min(left, unreachable_attempts_);
            if (--left <= 0 || round >= max_rounds)
                throw *error;
            wait(asked.value_or(pause));
            pause = std::min(pause * 2, std::max(max_backoff, std::chrono::milliseconds(retry_base_)));
        }
    }

    // A small answer, kept in memory.
    HttpResponse ask(const std::string& path, std::string_view accept) {
        HttpResponse answer;
        with_retries([&](std::uint64_t&) {
            std::vector<std::string> headers;
            if (!accept.empty())
                headers.push_back("Accept: " + std::string(accept));
            HttpResponse response = exchange(path, headers, max_document, {});
            if (response.status != 200)
                return response;
            answer = std::move(response);
            return HttpResponse();
        });
        return answer;
    }

    static void verify(std::string_view body, const Digest& expected, const std::string& what) {
        if (const Digest actual = Digest::of(body); actual != expected)
            throw Error(ErrorCode::environment_invalid, what + " has the digest " + actual.str() + ", not " + expected.str(),
                        "the registry is broken, or something between changed the data: try another network or mirror");
    }

    std::string document(const std::string& path, std::string_view accept, const Descriptor& described) {
        std::string body = ask(path, accept).body;
        if (body.size() != described.size)
            throw Error(ErrorCode::environment_invalid, "a document of the image has " + std::to_string(body.size()) + " bytes, not " + std::to_string(described.size),
                        "the registry is broken");
        verify(body, described.digest, "a document of the image");
        return body;
    }

    // Digest, body and media type of a manifest or index.
    std::tuple<Digest, std::string, std::string> manifest(const std::string& selector, const Descriptor* described) {
        HttpResponse response = ask("/manifests/" + selector, manifest_media_types);
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

    void download(const Descriptor& layer, const std::function<void(std::uint64_t)>& progress) {
        const std::string name = layer.digest.hex(), part = name + ".part";
        const UniqueFd file(::openat(directory_, part.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
        if (!file)
            throw Error::from_errno("open a file for layer " + layer.digest.str());
        Sha256 hash;
        std::uint64_t have = rehash(file.get(), layer.size, hash);
        const auto restart = [&] {
            if (::ftruncate(file.get(), 0) != 0 || ::lseek(file.get(), 0, SEEK_SET) != 0)
                throw Error::from_errno("start a layer again");
            hash = Sha256();
            have = 0;
        };
        if (have < layer.size || layer.size == 0) {
            with_retries([&](std::uint64_t& gained) {
                const std::uint64_t from = have;
                std::vector<std::string> headers;
                if (from > 0)
                    headers.push_back("Range: bytes=" + std::to_string(from) + "-");
                bool first = true;
                const Http::Receiver receiver = [&](const HttpResponse& head, std::string_view bytes) {
                    if (first && head.status == 200 && have > 0)
                        restart();  // the registry does not resume
                    if (first && head.status == 206 && !head.header("content-range").starts_with("bytes " + std::to_string(have) + "-"))
                        throw TransferFailed{endpoint_.host + " resumes a layer at the wrong place"};
                    first = false;
                    if (have + bytes.size() > layer.size)
                        throw Error(ErrorCode::environment_invalid, "layer " + layer.digest.str() + " is longer than the " + std::to_string(layer.size) + " bytes announced",
                                    "the registry is broken, or something between changed the data");
                    write_all(file.get(), bytes);
                    hash.update(bytes);
                    have += bytes.size();
                    gained += bytes.size();
                    progress(have);
                    return true;
                };
                HttpResponse response;
                try {
                    response = exchange("/blobs/" + layer.digest.str(), headers, 0, receiver);
                } catch (const Error& error) {
                    if (error.code() == ErrorCode::environment_invalid)
                        ::unlinkat(directory_, part.c_str(), 0);
                    throw;
                }
                if (response.status == 416) {  // what we have is not what it has
                    restart();
                    throw TransferFailed{endpoint_.host + " refuses to resume a layer"};
                }
                if (response.status != 200 && response.status != 206)
                    return response;
                if (have < layer.size)
                    throw TransferFailed{endpoint_.host + " ends layer " + layer.digest.short_form() + " at " + std::to_string(have) + " of " + std::to_string(layer.size) + " bytes"};
                return HttpResponse();
            });
        }
        if (const Digest actual = hash.finish(); actual != layer.digest) {
            ::unlinkat(directory_, part.c_str(), 0);
            throw Error(ErrorCode::environment_invalid, "layer " + layer.digest.str() + " arrived with the digest " + actual.str(),
                        "the registry is broken, or something between changed the data: try another network or mirror");
        }
        if (::renameat(directory_, part.c_str(), directory_, name.c_str()) != 0)
            throw Error::from_errno("put layer " + layer.digest.str());
    }

    // What an earlier attempt left, hashed; the file position is behind it.
    static std::uint64_t rehash(int file, std::uint64_t limit, Sha256& hash) {
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

    std::string reference_;
    Url endpoint_;
    std::string repository_, selector_;
    int directory_;
    std::uint64_t max_bytes_;
    int attempts_, unreachable_attempts_;
    int retry_base_;
    std::string credentials_, authorization_;
    std::set<std::string> have_;
    Http http_;
};

FetchJob::FetchJob(const json& request) : impl_(std::make_unique<Impl>(request)) {}
FetchJob::~FetchJob() = default;
json FetchJob::run(Events& events) { return impl_->run(events); }

}  // namespace pyro::image
