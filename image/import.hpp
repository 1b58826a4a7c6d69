// The subcommand that takes an image from a stream instead of a registry.
#pragma once
#include <nlohmann/json_fwd.hpp>

#include "image/protocol.hpp"

namespace pyro::image {

// {"stream_fd":10, "directory_fd":4, "max_bytes":n, "format":""|"rootfs"|"oci-archive"|"docker-archive", "tag":"",
//  "config":{"user","working_dir","env":[],"cmd":[],"entrypoint":[]}|absent}
// -> what FetchJob answers, and "format"; layers, configuration and manifest lie in the directory, by digest.
//
// A tar of a root file system (plain, gzip, zstd), of an OCI layout, or what `docker save` writes; told apart by their content
// where the format is not given. A root file system gets a configuration and a manifest made of "config", which nothing else may
// have: equal files and settings are one digest. The stream is read to its end before anything is made of it.
nlohmann::json import_image(const nlohmann::json& request, Events& events);

// For who has layers and settings, and no manifest: writes both documents into the directory, and answers as above. Each layer is
// {"digest","diff_id","size","media_type"}.
nlohmann::json describe_image(int directory, const nlohmann::json& config, const nlohmann::json& layers);

}  // namespace pyro::image
