#include "daemon/env/registry_fetch.hpp"

#include <algorithm>
#include <cctype>
#include <set>

#include "common/error.hpp"
#include "daemon/env/worker.hpp"

namespace pyro::env {
namespace {

using nlohmann::json;

constexpr std::size_t max_layers = 127;

std::string text_of(const json& object, const char* name) { return object.at(name).get<std::string>(); }

std::string lower(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return text;
}

// A host with what may follow it in the configuration: "host[:port]" or "http[s]://host[:port]".
struct Endpoint {
    std::string url, host;
    bool plain = false;
};

Endpoint endpoint_of(const std::string& text) {
    Endpoint out;
    std::string_view rest = text;
    if (rest.starts_with("http://"))
        out.plain = true, rest.remove_prefix(7);
    else if (rest.starts_with("https://"))
        rest.remove_prefix(8);
    while (rest.ends_with("/"))
        rest.remove_suffix(1);
    if (rest.empty() || rest.find('/') != std::string_view::npos)
        throw Error(ErrorCode::invalid_argument, "the mirror \"" + text + "\" is not a host", "write [mirror] entries as \"docker.io\" = \"host:port\" or \"http://host:port\"");
    out.host = lower(std::string(rest));
    return out;
}

bool plain_text(const std::optional<std::string>& text) {
    return !text || std::none_of(text->begin(), text->end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

json credential_words(const proto::RegistryCredentials& given, const std::string& registry) {
    const auto refuse = [](const std::string& why) { return Error(ErrorCode::invalid_argument, why, "log in to the registry again"); };
    if (given.registry != registry)
        throw refuse("the credentials are for " + given.registry + ", and the environment comes from " + registry);
    if (given.identity_token.has_value() == given.password.has_value() || given.password.has_value() != given.username.has_value())
        throw refuse("credentials are a user name and a password, or an identity token");
    if (!plain_text(given.username) || !plain_text(given.password) || !plain_text(given.identity_token) ||
        (given.username && given.username->find(':') != std::string::npos))
        throw refuse("the credentials for " + registry + " have a control character, or a colon in the user name");
    if (given.identity_token)
        return json::object({{"identity_token", *given.identity_token}});
    return json::object({{"username", *given.username}, {"password", *given.password}});
}

}  // namespace

Proxies Proxies::of_environment(const std::function<const char*(const char*)>& environment) {
    const auto value = [&](std::string name) -> std::string {
        const char* small = environment(name.c_str());
        if (small && *small)
            return small;
        std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
        const char* capital = environment(name.c_str());
        return capital ? capital : "";
    };
    Proxies out;
    const std::string all = value("all_proxy");
    out.http = value("http_proxy");
    out.https = value("https_proxy");
    if (out.http.empty())
        out.http = all;
    if (out.https.empty())
        out.https = all;
    out.none_for = value("no_proxy");
    return out;
}

FetchRequest fetch_request(const CacheOptions& options, const PullRequest& request) {
    const ImageRef& reference = request.resolved.reference;
    const std::optional<proto::RegistryCredentials>& credentials = request.options.credentials;
    FetchRequest out;
    json hosts = json::object();
    for (const auto& [host, settings] : options.registries) {
        json policy = {{"plain_http", settings.plain_http}, {"allow_private", settings.allow_private}};
        if (!settings.ca_file.empty()) {
            const int number = worker_first_extra_fd + static_cast<int>(out.ca_files.size());
            policy["ca_fd"] = number;
            out.ca_files.emplace_back(settings.ca_file, number);
        }
        hosts[lower(host)] = std::move(policy);
    }
    Endpoint endpoint;
    if (const auto mirror = options.mirrors.find(reference.registry); mirror != options.mirrors.end() && !credentials) {
        endpoint = endpoint_of(mirror->second);
        // Whoever configured a mirror means it, wherever it is.
        json policy = hosts.value(endpoint.host, json::object());
        policy["allow_private"] = true;
        if (endpoint.plain)
            policy["plain_http"] = true;
        hosts[endpoint.host] = std::move(policy);
    } else {
        endpoint = endpoint_of(reference.registry == "docker.io" ? "registry-1.docker.io" : reference.registry);
    }
    if (hosts.contains(endpoint.host) && hosts[endpoint.host].value("plain_http", false))
        endpoint.plain = true;
    endpoint.url = (endpoint.plain ? "http://" : "https://") + endpoint.host;

    out.words = {{"reference", request.resolved.name}, {"endpoint", endpoint.url}, {"repository", reference.repository}, {"selector", reference.selector()},
                 {"directory_fd", worker_directory_fd}, {"max_bytes", options.max_image_bytes}, {"hosts", hosts},
                 {"connect_seconds", options.connect_seconds}, {"low_speed_seconds", options.low_speed_seconds},
                 {"http_proxy", options.proxies.http}, {"https_proxy", options.proxies.https}, {"no_proxy", options.proxies.none_for},
                 {"attempts", options.attempts}, {"retry_base_ms", options.retry_base_ms}};
    if (request.room)
        out.words["room_bytes"] = *request.room;
    if (credentials)
        out.words["credentials"] = credential_words(*credentials, reference.registry);
    return out;
}

FetchedImage fetched_image(const json& answer, const ResolvedName& resolved, const std::vector<std::string>& had) {
    FetchedImage out;
    out.authenticated = answer.value("authenticated", false);
    std::set<std::string> seen;
    const std::set<std::string> before(had.begin(), had.end());
    const auto want = [&](const Digest& digest, std::uint64_t size) {
        if (seen.insert(digest.hex()).second)
            out.blobs.push_back(FetchedImage::Blob{digest, size, !before.contains(digest.hex())});
    };
    try {
        EnvironmentManifest& manifest = out.manifest;
        manifest.source = Source::registry;
        manifest.name = resolved.name;
        manifest.reference = resolved.reference.str();
        manifest.manifest_digest = manifest.digest = Digest::parse(text_of(answer, "manifest_digest"));
        manifest.config_digest = Digest::parse(text_of(answer, "config_digest"));
        const json& config = answer.at("config");
        manifest.user = text_of(config, "user");
        manifest.working_dir = text_of(config, "working_dir");
        manifest.env = config.at("env").get<std::vector<std::string>>();
        manifest.cmd = config.at("cmd").get<std::vector<std::string>>();
        manifest.entrypoint = config.at("entrypoint").get<std::vector<std::string>>();
        if (answer.at("layers").size() > max_layers)
            throw Error(ErrorCode::environment_invalid, "the image has too many layers");
        for (const json& layer : answer.at("layers")) {
            LayerInfo info;
            info.digest = Digest::parse(text_of(layer, "digest"));
            info.size = layer.at("size").get<std::uint64_t>();
            out.diff_ids.push_back(Digest::parse(text_of(layer, "diff_id")).str());
            want(info.digest, info.size);
            manifest.layers.push_back(std::move(info));
        }
        want(manifest.manifest_digest, answer.at("manifest_size").get<std::uint64_t>());
        want(manifest.config_digest, answer.at("config_size").get<std::uint64_t>());
    } catch (const json::exception&) {
        throw unfitting_answer();
    }
    return out;
}

}  // namespace pyro::env
