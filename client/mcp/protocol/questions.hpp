// What handlers ask the client, in both eras: by requests of our own that it answers, or by a result that asks and a call that is repeated.
#pragma once
#include "client/mcp/protocol/active_request.hpp"
#include "client/mcp/protocol/jsonrpc.hpp"
#include "client/mcp/protocol/request_state.hpp"

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>

namespace pyro::mcp {

// Goes through the handler to where the round ends. Not an Error, so that nothing which handles errors swallows it.
struct InputRequired {
    std::string key;
    std::string method;
    ordered_json params;
};

// Any thread's. Nothing is sent with the mutex held.
class Questions {
public:
    explicit Questions(std::function<void(const ordered_json&)> send) : send_(std::move(send)) {}

    // See Call. With 2026-07-28 it throws InputRequired until the answer is among those that the request brought.
    bool can_ask(const ActiveRequest& request, std::string_view method) const;
    json ask(ActiveRequest& request, const std::string& key, std::string_view method, ordered_json params);

    void on_response(Message message);
    // Before a handler runs: the answers to what it asked in earlier rounds. Throws ProtocolError.
    void take_up(ActiveRequest& request);
    // The result that ends a round.
    ordered_json input_required(const ActiveRequest& request, InputRequired needed);

private:
    struct Asked { std::optional<json> outcome; };

    const std::function<void(const ordered_json&)> send_;
    StateSeal seal_;
    std::mutex mutex_;
    std::map<std::string, Asked> asked_;  // by the id of our request
    std::uint64_t next_ask_ = 1;
    std::condition_variable_any answered_;
};

}  // namespace pyro::mcp
