// OCI and docker (schema 2) image documents. Everything here comes from a registry and is checked.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/digest.hpp"

namespace pyro::image {

struct Descriptor {
    std::string media_type;
    Digest digest;
    std::uint64_t size = 0;
};

struct Manifest {
    Descriptor config;
    std::vector<Descriptor> layers;  // bottom first
};

struct ImageConfig {
    std::string user, working_dir;
    std::vector<std::string> env, cmd, entrypoint;
    std::vector<Digest> diff_ids;
};

// What a manifest request accepts, for the Accept header.
inline constexpr std::string_view manifest_media_types =
    "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";

bool is_index(std::string_view media_type, std::string_view body);
// The entry for linux/amd64. Throws failed_precondition listing what there is instead.
Descriptor select_platform(std::string_view index);
Manifest parse_manifest(std::string_view body);
// Throws failed_precondition unless it is for linux/amd64; environment_invalid unless it fits the manifest.
ImageConfig parse_config(std::string_view body, std::size_t layer_count);

}  // namespace pyro::image
