// A peer as the store knows it.
#pragma once
#include "daemon/rpc/peer.hpp"
#include "daemon/state/rows.hpp"

namespace pyro::service {

inline state::Viewer viewer_of(const rpc::Peer& peer) { return state::Viewer{peer.uid, peer.trust == proto::Trust::admin}; }

}  // namespace pyro::service
