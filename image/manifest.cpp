#include "image/manifest.hpp"

#include <nlohmann/json.hpp>

#include "common/error.hpp"
#include "image/tree.hpp"

namespace pyro::image {
namespace {

using nlohmann::json;

constexpr std::size_t max_manifest_layers = 127, max_index_entries = 1024, max_strings = 4096, max_string = 128 << 10;
constexpr std::uint64_t max_blob = 1ull << 40;

[[noreturn]] void manifest_invalid(const std::string& why) {
    throw Error(ErrorCode::environment_invalid, why, "the registry sent something that is no image: check the reference, or tell its publisher");
}

json parse_object(std::string_view body, const char* what) {
    json document = json::parse(body, nullptr, false);
    if (!document.is_object())
        manifest_invalid(std::string("the ") + what + " is not a JSON object");
    return document;
}

std::string text_field(const json& object, const char* name) {
    const auto found = object.find(name);
    if (found == object.end() || found->is_null())
        return {};
    if (!found->is_string() || found->get_ref<const std::string&>().size() > max_string)
        manifest_invalid(std::string("the field ") + name + " is not a short string");
    return found->get<std::string>();
}

std::vector<std::string> text_list(const json& object, const char* name) {
    std::vector<std::string> out;
    const auto found = object.find(name);
    if (found == object.end() || found->is_null())
        return out;
    if (!found->is_array() || found->size() > max_strings)
        manifest_invalid(std::string("the field ") + name + " is not a list of strings");
    for (const json& one : *found) {
        if (!one.is_string() || one.get_ref<const std::string&>().size() > max_string)
            manifest_invalid(std::string("the field ") + name + " is not a list of short strings");
        out.push_back(one.get<std::string>());
        if (out.back().find('\0') != std::string::npos)
            manifest_invalid(std::string("the field ") + name + " has a zero byte");
    }
    return out;
}

Digest digest_field(const std::string& text, const char* what) {
    try {
        return Digest::parse(text);
    } catch (const Error&) {
        manifest_invalid(std::string("the ") + what + " has the digest " + printable(text) + ", which is not sha256");
    }
}

Descriptor parse_descriptor(const json& object, const char* what) {
    if (!object.is_object())
        manifest_invalid(std::string("the ") + what + " is not described");
    Descriptor out;
    out.media_type = text_field(object, "mediaType");
    out.digest = digest_field(text_field(object, "digest"), what);
    const auto size = object.find("size");
    if (size == object.end() || !size->is_number_unsigned() || size->get<std::uint64_t>() > max_blob)
        manifest_invalid(std::string("the ") + what + " has no believable size");
    out.size = size->get<std::uint64_t>();
    return out;
}

bool layer_type_known(std::string_view type) {
    return type == "application/vnd.oci.image.layer.v1.tar" || type == "application/vnd.oci.image.layer.v1.tar+gzip" ||
           type == "application/vnd.oci.image.layer.v1.tar+zstd" || type == "application/vnd.docker.image.rootfs.diff.tar" ||
           type == "application/vnd.docker.image.rootfs.diff.tar.gzip" || type == "application/vnd.docker.image.rootfs.diff.tar.zstd";
}

}  // namespace

bool is_index(std::string_view media_type, std::string_view body) {
    if (media_type == "application/vnd.oci.image.index.v1+json" || media_type == "application/vnd.docker.distribution.manifest.list.v2+json")
        return true;
    if (media_type == "application/vnd.oci.image.manifest.v1+json" || media_type == "application/vnd.docker.distribution.manifest.v2+json")
        return false;
    const json document = json::parse(body, nullptr, false);  // a registry that says only "application/json"
    return document.is_object() && document.contains("manifests");
}

Descriptor select_platform(std::string_view index) {
    const json document = parse_object(index, "image index");
    const auto manifests = document.find("manifests");
    if (manifests == document.end() || !manifests->is_array() || manifests->size() > max_index_entries)
        manifest_invalid("the image index lists no manifests");
    std::string offered;
    const json* best = nullptr;
    const json* unlabelled = nullptr;  // its configuration will tell
    std::string best_variant;
    std::size_t without_platform = 0;
    for (const json& entry : *manifests) {
        if (!entry.is_object())
            manifest_invalid("the image index lists something that is no manifest");
        const auto platform = entry.find("platform");
        if (platform == entry.end() || !platform->is_object()) {
            unlabelled = &entry;
            ++without_platform;
            continue;
        }
        const std::string os = text_field(*platform, "os"), architecture = text_field(*platform, "architecture");
        std::string variant = text_field(*platform, "variant");
        if (os == "linux" && architecture == "amd64") {
            // The plainest: what is made for newer processors need not run on this one. Of equal ones the first.
            if (variant == "v1")
                variant.clear();
            if (!best || variant < best_variant) {
                best = &entry;
                best_variant = variant;
            }
            continue;
        }
        if (offered.size() < 200 && os != "unknown")
            offered += (offered.empty() ? "" : ", ") + printable(os + "/" + architecture + (variant.empty() ? "" : "/" + variant));
    }
    if (best)
        return parse_descriptor(*best, "manifest for linux/amd64");
    if (without_platform == 1)
        return parse_descriptor(*unlabelled, "manifest of unknown platform");
    throw Error(ErrorCode::failed_precondition, "the image is not made for linux/amd64" + (offered.empty() ? "" : ", only for " + offered),
                "choose an image or tag that offers linux/amd64");
}

Manifest parse_manifest(std::string_view body) {
    const json document = parse_object(body, "manifest");
    if (document.value("schemaVersion", json(0)) == 1)
        throw Error(ErrorCode::failed_precondition, "the manifest has the obsolete docker schema 1", "push the image again with a current tool, or use a newer tag");
    Manifest manifest;
    manifest.config = parse_descriptor(document.contains("config") ? document["config"] : json(), "image configuration");
    if (const std::string& type = manifest.config.media_type; !type.empty() && type != "application/vnd.oci.image.config.v1+json" &&
                                                              type != "application/vnd.docker.container.image.v1+json")
        throw Error(ErrorCode::failed_precondition, "this is no image of a system, its configuration is of type " + printable(type), "choose another reference: charts, signatures and the like cannot boot");
    const auto layers = document.find("layers");
    if (layers == document.end() || !layers->is_array() || layers->empty() || layers->size() > max_manifest_layers)
        manifest_invalid("the manifest has no layers, or more than " + std::to_string(max_manifest_layers));
    for (const json& layer : *layers) {
        Descriptor descriptor = parse_descriptor(layer, "layer");
        if (!layer_type_known(descriptor.media_type))
            throw Error(ErrorCode::failed_precondition, "a layer has the media type " + printable(descriptor.media_type) + ", which cannot be unpacked",
                        "use an image whose layers are tar, tar+gzip or tar+zstd, not encrypted or foreign");
        manifest.layers.push_back(std::move(descriptor));
    }
    return manifest;
}

ImageConfig parse_config(std::string_view body, std::size_t layer_count) {
    const json document = parse_object(body, "image configuration");
    const std::string os = text_field(document, "os"), architecture = text_field(document, "architecture");
    if (os != "linux" || architecture != "amd64")
        throw Error(ErrorCode::failed_precondition, "the image is for " + printable(os + "/" + architecture) + ", not for linux/amd64",
                    "choose an image or tag that offers linux/amd64");
    ImageConfig config;
    const auto rootfs = document.find("rootfs");
    if (rootfs == document.end() || !rootfs->is_object())
        manifest_invalid("the image configuration has no rootfs");
    for (const std::string& id : text_list(*rootfs, "diff_ids"))
        config.diff_ids.push_back(digest_field(id, "unpacked layer"));
    if (config.diff_ids.size() != layer_count)
        manifest_invalid("the image configuration tells of " + std::to_string(config.diff_ids.size()) + " layers, the manifest of " + std::to_string(layer_count));
    const auto given = document.find("config");
    if (given != document.end() && given->is_object()) {
        config.user = text_field(*given, "User");
        config.working_dir = text_field(*given, "WorkingDir");
        config.env = text_list(*given, "Env");
        config.cmd = text_list(*given, "Cmd");
        config.entrypoint = text_list(*given, "Entrypoint");
    }
    return config;
}

}  // namespace pyro::image
