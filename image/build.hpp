// The subcommands that turn layers into a root image or a directory.
#pragma once
#include <nlohmann/json_fwd.hpp>

#include "image/protocol.hpp"

namespace pyro::image {

// {"layers":[{"fd":5,"digest":"sha256:…","diff_id":"sha256:…"|absent,"size":n}], "image_fd":6, "disk_bytes":n,
//  "working_dir":"/made/if/missing", "limits":{"entries":n,"total_bytes":n,"ratio":n}}
// -> {"size":bytes,"digest":"sha256:…" (sparse_digest),"allocated":bytes,"entries":n,"layers":[{"digest","diff_id","unpacked"}]}
nlohmann::json build_image(const nlohmann::json& request, Events& events);

// {"layers":[…], "directory_fd":6, "working_dir":…, "limits":{…}} -> {"entries":n}
nlohmann::json unpack_image(const nlohmann::json& request, Events& events);

}  // namespace pyro::image
