// The words of `pyro-image fetch`: what it is asked for, and what its answer says.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "daemon/env/catalog.hpp"
#include "daemon/env/manifest.hpp"
#include "daemon/env/options.hpp"

namespace pyro::env {

struct FetchRequest {
    nlohmann::json words;
    std::vector<std::pair<std::string, int>> ca_files;  // each is passed open, as that descriptor
};
// Where the image comes from, by mirrors and settings of registries. With credentials it is the registry itself: a mirror is not
// whom they are for. Throws invalid_argument for a mirror that is no host, and for credentials that do not fit.
FetchRequest fetch_request(const CacheOptions& options, const PullRequest& request);

struct FetchedImage {
    struct Blob {
        Digest digest;
        std::uint64_t size = 0;
        bool fresh = false;  // was not there before
    };
    bool authenticated = false;         // the registry was told who asks
    EnvironmentManifest manifest;       // all but its root image
    std::vector<std::string> diff_ids;  // of its layers
    std::vector<Blob> blobs;            // layers, manifest and configuration, each once
};
// `had` are the blobs that were there before, as hex digests. Throws environment_invalid for an answer that does not fit.
FetchedImage fetched_image(const nlohmann::json& answer, const ResolvedName& resolved, const std::vector<std::string>& had);

}  // namespace pyro::env
