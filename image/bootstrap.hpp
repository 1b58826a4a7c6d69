// The subcommand that builds a root from the Debian archive.
#pragma once
#include <nlohmann/json_fwd.hpp>

#include "image/protocol.hpp"

namespace pyro::image {

// {"program":"/usr/bin/mmdebstrap","suite":"bookworm","packages":["git",…],"uid":n,"gid":n,"sub_first":n,"sub_count":n,
//  "temp":"/directory/owned/by/uid","tar_fd":5} -> {}
//
// The one subcommand that starts with privileges, and only to give a user namespace its range of ids, as newuidmap would:
// it makes the namespace, maps 0 to `uid` and 1.. to the range, and becomes `uid` before anything is executed or read from
// the network. mmdebstrap runs as the namespace's root, in mount, pid, ipc and uts namespaces of its own, with `temp` as
// its /tmp, and with no_new_privs. It ends with this process, and all it started with it.
nlohmann::json bootstrap(const nlohmann::json& request, Events& events);

}  // namespace pyro::image
