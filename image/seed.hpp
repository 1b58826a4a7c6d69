// The subcommand that turns a workspace's tar stream into the image of its baseline.
#pragma once
#include <nlohmann/json_fwd.hpp>

#include "image/protocol.hpp"

namespace pyro::image {

// {"stream_fd":5, "image_fd":6, "limits":{"entries":n,"total_bytes":n}}
// -> {"digest":"sha256:…" (of the stream),"stream_bytes":n,"files":n,"directories":n,"symlinks":n,"bytes":n (of files),
//     "size":n,"allocated":n}
//
// The stream is read once, as it comes; the image must be empty, and is as large as its content needs. Owners are 0; setuid, setgid and
// extended attributes are left out. Error(invalid_argument) naming the entry: absolute names, "..", devices and fifos, what
// lies below a symlink, hard links to what is not there, more than the limits. Where a symlink leads is up to who follows it.
nlohmann::json seed_image(const nlohmann::json& request, Events& events);

}  // namespace pyro::image
