// The subcommands that read disks: a machine's made an image of, and what is installed in one.
#pragma once
#include <nlohmann/json_fwd.hpp>

#include "image/protocol.hpp"

namespace pyro::image {

// {"disk":[{"fd":10,"format":"qcow2"|"raw"}, …] (topmost first), "directory_fd":4, "config":{as import's},
//  "limits":{"entries":n,"total_bytes":n}} -> what import answers
//
// One layer, packed with zstd, of all files but those that are one machine's own: what lies in /run, /tmp, /dev, /proc, /sys,
// /lost+found and /.pyro; machine id, random seed, the SSH host's keys. Equal files are one digest. Freed blocks are not read:
// what was deleted is not in it.
nlohmann::json commit_image(const nlohmann::json& request, Events& events);

// {"image_fd":4} -> {"packages":[{"name","version","manager":"dpkg"|"apk"}]}, sorted. None where the image has no such database,
// or one that cannot be read.
nlohmann::json list_packages(const nlohmann::json& request);

}  // namespace pyro::image
