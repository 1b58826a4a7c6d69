// What a session knows of a request that is not answered yet.
#pragma once
#include "client/mcp/protocol/call.hpp"

#include <chrono>
#include <memory>
#include <set>
#include <stop_token>

namespace pyro::mcp {

// The requests that came as one array, and are answered as one.
struct Batch {
    std::size_t pending = 0;
    ordered_json answers = ordered_json::array();
};

// What a client wants to be told of, by a 2026-07-28 subscriptions/listen.
struct Subscription {
    bool list_changes = false;
    std::set<std::string> uris;
};

// A request that is not answered yet. What follows `stop` is guarded by the session's mutex, the rest does not change.
struct ActiveRequest {
    json id;
    std::string method;
    json params;
    Revision revision = newest_legacy;
    json capabilities = json::object();  // the client's
    std::string client_name = {};
    json progress_token = {};  // null: none
    std::optional<LogLevel> log_level = {};
    json answers = json::object();  // to what a handler asked in earlier rounds, by key
    std::stop_source stop = {};

    std::shared_ptr<Batch> batch = {};
    std::optional<Subscription> subscription = {};
    std::optional<double> last_progress = {};
    std::chrono::steady_clock::time_point last_progress_at = {};
};

}  // namespace pyro::mcp
