#include "daemon/rpc/peer.hpp"

#include "common/error.hpp"

#include <cerrno>

#include <sys/socket.h>
#include <unistd.h>

namespace pyro::rpc {

Peer identify(const io::Stream& connection) {
    const io::PeerCredentials credentials = connection.peer();
    Peer peer;
    peer.uid = credentials.uid;
    peer.gid = credentials.gid;
    peer.pid = credentials.pid;
    socklen_t size = 0;
    if (::getsockopt(connection.native_handle(), SOL_SOCKET, SO_PEERGROUPS, nullptr, &size) != 0 && errno != ERANGE)
        throw Error::from_errno("read the peer's groups");
    peer.groups.resize(size / sizeof(gid_t));
    if (size > 0 && ::getsockopt(connection.native_handle(), SOL_SOCKET, SO_PEERGROUPS, peer.groups.data(), &size) != 0)
        throw Error::from_errno("read the peer's groups");
    if (peer.uid == 0 || peer.uid == ::geteuid()) peer.trust = proto::Trust::admin;
    return peer;
}

}  // namespace pyro::rpc
