// JSON-RPC 2.0, one message per line: text to values and back, for the daemon and for blocking clients. No I/O.
#pragma once
#include "common/error.hpp"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

namespace pyro::proto {

inline constexpr std::size_t max_line_bytes = 1 << 20;  // of a request
inline constexpr std::size_t max_json_depth = 64;

using RequestId = std::variant<std::int64_t, std::string>;  // answered as it came: 1 is not "1"
nlohmann::json to_json(const RequestId& id);

// A message that never reaches a method. Carries the number JSON-RPC has for it, and the id if one could be read.
class MessageError : public Error {
public:
    MessageError(int number, Error error, std::optional<RequestId> id = std::nullopt)
        : Error(std::move(error)), number_(number), id_(std::move(id)) {}
    int number() const noexcept { return number_; }
    const std::optional<RequestId>& id() const noexcept { return id_; }

private:
    int number_;
    std::optional<RequestId> id_;
};

// Strict JSON: one value, valid UTF-8, at most max_json_depth deep, no key twice in an object.
// Throws MessageError(parse_error).
nlohmann::json parse_json(std::string_view text);

// What clients send. Without an id it is a notification.
struct Request {
    std::optional<RequestId> id;
    std::string method;
    nlohmann::json params = nlohmann::json::object();  // always an object
};
// Throws MessageError. A batch, an id that is neither string nor integer, and unknown members are refused.
Request parse_request(std::string_view line);
Request request_from(nlohmann::json message);  // the same, of what parse_json made

// What the daemon sends.
struct Response {
    std::optional<RequestId> id;           // nothing: the daemon could not tell which request it was
    std::variant<nlohmann::json, Error> outcome;
};
struct Notification {
    std::string method;
    nlohmann::json params;                 // "id" in it is the id of the request it belongs to
};
// Throws Error(unavailable) on what is no such message. Unknown members are ignored.
std::variant<Response, Notification> parse_reply(std::string_view line);

// Lines without their newline. Invalid UTF-8 is replaced.
std::string encode_request(const Request& request);
std::string encode_notification(std::string_view method, const nlohmann::json& params);
std::string encode_result(const RequestId& id, const nlohmann::json& result);
std::string encode_error(const std::optional<RequestId>& id, const Error& error);
std::string encode_error(const std::optional<RequestId>& id, const Error& error, int number);

// The contract's error shape: exactly code, message, hint, retryable, details.
nlohmann::json error_to_json(const Error& error);
Error error_from_json(const nlohmann::json& shape);

std::string dump_line(const nlohmann::json& value);  // compact, invalid UTF-8 replaced

}  // namespace pyro::proto
