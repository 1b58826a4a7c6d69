// JSON-RPC 2.0 as the protocol uses it: what came in, checked and bounded, and the lines that answer it.
#pragma once
#include "client/mcp/protocol/content.hpp"

#include <exception>
#include <string>
#include <string_view>
#include <vector>

namespace pyro::mcp {

namespace rpc_code {
inline constexpr int parse_error = -32700;
inline constexpr int invalid_request = -32600;
inline constexpr int method_not_found = -32601;
inline constexpr int invalid_params = -32602;
inline constexpr int internal_error = -32603;
inline constexpr int resource_not_found = -32002;             // legacy revisions only
inline constexpr int missing_client_capability = -32021;      // 2026-07-28
inline constexpr int unsupported_protocol_version = -32022;   // 2026-07-28
}  // namespace rpc_code

// An answer that is a JSON-RPC error. Handlers throw pyro::Error; this is for what the protocol itself refuses.
class ProtocolError : public std::exception {
public:
    ProtocolError(int code, std::string message, ordered_json data = {}) : code_(code), message_(std::move(message)), data_(std::move(data)) {}
    int code() const noexcept { return code_; }
    const std::string& message() const noexcept { return message_; }
    const ordered_json& data() const noexcept { return data_; }  // null: none
    const char* what() const noexcept override { return message_.c_str(); }

private:
    int code_;
    std::string message_;
    ordered_json data_;
};

inline constexpr std::size_t max_json_depth = 64;

// Throws ProtocolError(parse_error) for what is no JSON or is nested too deep.
json parse_message(std::string_view line);

// One message that came in. Invariant: `id` is a string or an integer in requests and responses, null in notifications.
struct Message {
    enum class Kind { request, notification, response };
    Kind kind;
    json id;
    std::string method;  // empty in a response
    json params;         // an object
    json outcome;        // of a response: the whole of it, with `result` or `error`
};

// A message that is none: `id` is what can be said of it (null: nothing).
struct BadMessage {
    json id;
    ProtocolError error;
};

// Throws BadMessage.
Message message_from(json value);

ordered_json result_message(const json& id, ordered_json result);
// With a null id the member is left out, or null where `null_id` says so.
ordered_json error_message(const json& id, const ProtocolError& error, bool null_id = false);
ordered_json notification_message(std::string_view method, ordered_json params);
ordered_json request_message(const json& id, std::string_view method, ordered_json params);

}  // namespace pyro::mcp
