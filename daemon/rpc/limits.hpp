// What one client may cost the daemon.
#pragma once
#include "proto/jsonrpc.hpp"

#include <chrono>
#include <cstddef>

namespace pyro::rpc {

struct Limits {
    std::size_t line_bytes = proto::max_line_bytes;
    std::size_t in_flight = 64;                 // calls of one session; more are refused
    std::size_t in_flight_bytes_per_uid = 32 << 20;  // of the requests being served, over all sessions of a user
    std::size_t sessions = 1024;                // connections, attaching ones included
    std::size_t sessions_per_uid = 64;          // as many connections again may be attaching, or have said nothing yet
    std::size_t queue_bytes = 1 << 20;          // sent to a session and not yet taken; one message may go over it
    std::chrono::milliseconds first_line{30'000};  // from connect
    std::chrono::milliseconds write{30'000};    // how long an answer waits for a client that does not read
    std::chrono::milliseconds farewell{1'000};  // how long a daemon that stops waits for its last answers to be read
    std::chrono::milliseconds ticket{30'000};
};

// What one user's connections hold at the moment.
struct UserShare {
    std::size_t connections = 0;
    std::size_t sessions = 0;
    std::size_t request_bytes = 0;
};

}  // namespace pyro::rpc
