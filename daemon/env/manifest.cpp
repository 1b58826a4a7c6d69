#include "daemon/env/manifest.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "common/error.hpp"
#include "common/sparse_digest.hpp"
#include "common/unique_fd.hpp"

namespace pyro::env {
namespace {

using nlohmann::json;

constexpr const char* verified_file = "verified.json";
constexpr std::size_t max_manifest_file = 8u << 20;

json stamp_of(const struct stat& info) {
    return {{"inode", info.st_ino}, {"size", info.st_size}, {"mtime", info.st_mtim.tv_sec}, {"mtime_nsec", info.st_mtim.tv_nsec}};
}

Digest optional_digest(const json& object, const char* name) {
    const std::string text = object.at(name).get<std::string>();
    return text.empty() ? Digest() : Digest::parse(text);
}

std::string digest_text(const Digest& digest) { return digest.empty() ? std::string() : digest.str(); }

}  // namespace

namespace {
constexpr std::string_view source_names[] = {"registry", "debian-archive", "import", "commit"};
}

std::string_view to_string(Source source) { return source_names[static_cast<std::size_t>(source)]; }

std::optional<Source> source_from(std::string_view word) {
    for (std::size_t i = 0; i < std::size(source_names); ++i)
        if (source_names[i] == word)
            return static_cast<Source>(i);
    return std::nullopt;
}

std::string EnvironmentManifest::to_json() const {
    json layer_list = json::array();
    for (const LayerInfo& layer : layers)
        layer_list.push_back({{"digest", layer.digest.str()}, {"size", layer.size}});
    const json document = {
        {"format", 1}, {"digest", digest.str()}, {"installed_at", installed_at},
        {"source", {{"kind", to_string(source)}, {"name", name}, {"reference", reference}, {"manifest_digest", digest_text(manifest_digest)}, {"config_digest", digest_text(config_digest)}}},
        {"config", {{"user", user}, {"working_dir", working_dir}, {"env", env}, {"cmd", cmd}, {"entrypoint", entrypoint}}},
        {"layers", layer_list},
        {"root", {{"file", root_file}, {"size", root_size}, {"allocated", root_allocated}, {"digest", root_digest.str()}}}};
    return document.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
}

EnvironmentManifest EnvironmentManifest::parse(std::string_view text) {
    try {
        const json document = json::parse(text);
        if (document.at("format").get<int>() != 1)
            throw Error(ErrorCode::environment_invalid, "the environment's manifest has an unknown format", "it was made by another version of pyro: pull it again");
        EnvironmentManifest out;
        out.digest = Digest::parse(document.at("digest").get<std::string>());
        out.installed_at = document.at("installed_at").get<std::int64_t>();
        const json& source = document.at("source");
        const std::string kind = source.at("kind").get<std::string>();
        const std::optional<Source> known = source_from(kind);
        if (!known)
            throw Error(ErrorCode::environment_invalid, "the environment's manifest has an unknown source");
        out.source = *known;
        out.name = source.at("name").get<std::string>();
        out.reference = source.at("reference").get<std::string>();
        out.manifest_digest = optional_digest(source, "manifest_digest");
        out.config_digest = optional_digest(source, "config_digest");
        const json& config = document.at("config");
        out.user = config.at("user").get<std::string>();
        out.working_dir = config.at("working_dir").get<std::string>();
        out.env = config.at("env").get<std::vector<std::string>>();
        out.cmd = config.at("cmd").get<std::vector<std::string>>();
        out.entrypoint = config.at("entrypoint").get<std::vector<std::string>>();
        for (const json& layer : document.at("layers")) {
            LayerInfo info;
            info.digest = Digest::parse(layer.at("digest").get<std::string>());
            info.size = layer.at("size").get<std::uint64_t>();
            out.layers.push_back(std::move(info));
        }
        const json& root = document.at("root");
        if (root.at("file").get<std::string>() != root_file)
            throw Error(ErrorCode::environment_invalid, "the environment's manifest names another root image");
        out.root_size = root.at("size").get<std::uint64_t>();
        out.root_allocated = root.at("allocated").get<std::uint64_t>();
        out.root_digest = Digest::parse(root.at("digest").get<std::string>());
        return out;
    } catch (const json::exception&) {
        throw Error(ErrorCode::environment_invalid, "the environment's manifest is damaged");
    } catch (const Error& error) {
        if (error.code() == ErrorCode::environment_invalid)
            throw;
        throw Error(ErrorCode::environment_invalid, "the environment's manifest is damaged: " + error.message());
    }
}

void stamp_verified(const std::string& directory) {
    struct stat info {};
    const std::string root = directory + "/" + root_file;
    if (::stat(root.c_str(), &info) != 0)
        throw Error::from_errno("look at " + root);
    replace_file(directory + "/" + verified_file, stamp_of(info).dump(), 0600);
}

std::optional<Installed> examine(const std::string& directory, const Digest& digest, bool full, std::stop_token stop) {
    struct stat info {};
    if (::lstat(directory.c_str(), &info) != 0) {
        if (errno == ENOENT)
            return std::nullopt;
        throw Error::from_errno("look at " + directory);
    }
    Installed out;
    try {
        out.manifest = EnvironmentManifest::parse(read_file(directory + "/" + manifest_file, max_manifest_file));
    } catch (const Error& error) {
        out.problem = error.code() == ErrorCode::not_found ? "its manifest is missing" : error.message();
        return out;
    }
    if (out.manifest.digest != digest) {
        out.problem = "its manifest belongs to another environment";
        return out;
    }
    const std::string root = directory + "/" + root_file;
    const UniqueFd file(::open(root.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!file || ::fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode)) {
        out.problem = "its root image is missing";
        return out;
    }
    out.bytes = static_cast<std::uint64_t>(info.st_blocks) * 512;
    if (static_cast<std::uint64_t>(info.st_size) != out.manifest.root_size) {
        out.problem = "its root image has " + std::to_string(info.st_size) + " bytes, not " + std::to_string(out.manifest.root_size);
        return out;
    }
    bool known = false;
    try {
        known = json::parse(read_file(directory + "/" + verified_file, 4096), nullptr, false) == stamp_of(info);
    } catch (const Error& error) {
        if (error.code() != ErrorCode::not_found)
            throw;
    }
    if (known && !full)
        return out;
    if (sparse_digest(file.get(), stop) != out.manifest.root_digest) {
        out.problem = "its root image is damaged";
        return out;
    }
    try {
        if (!known)
            stamp_verified(directory);
    } catch (const Error&) {
        // Others may have looked at the same time and noted the same; else the next look costs what this one did.
    }
    return out;
}

}  // namespace pyro::env
