// What one client may cost the daemon.
#pragma once
#include "proto/jsonrpc.hpp"

#include <chrono>
#include <cstddef>

namespace pyro::rpc {

struct Limits {
    std::size_t line_bytes = proto::max_line_bytes;
    std::size_t in_flight = 64;                 // calls of one session; more are refused
    std::size_t sessions = 1024;
    std::size_t sessions_per_uid = 64;
    std::size_t queue_bytes = 1 << 20;          // sent to a session and not yet taken; one message may go over it
    std::chrono::milliseconds first_line{30'000};  // from connect
    std::chrono::milliseconds write{30'000};    // how long an answer waits for a client that does not read
    std::chrono::milliseconds farewell{1'000};  // how long a daemon that stops waits for its last answers to be read
    std::chrono::milliseconds ticket{30'000};
};

}  // namespace pyro::rpc
