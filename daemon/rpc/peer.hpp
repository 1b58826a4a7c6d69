// Who is on the other end of a connection, by the kernel's word.
#pragma once
#include "daemon/io/stream.hpp"
#include "proto/method.hpp"

#include <vector>

namespace pyro::rpc {

struct Peer {
    uid_t uid = 0;
    gid_t gid = 0;
    pid_t pid = 0;                                  // as of connect; for messages only, it may be another's by now
    std::vector<gid_t> groups;                      // supplementary, as of connect
    proto::Trust trust = proto::Trust::user;        // root and the daemon's own user are administrators
};

Peer identify(const io::Stream& connection);

}  // namespace pyro::rpc
