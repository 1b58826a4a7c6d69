#include "proto/jsonrpc.hpp"

#include "proto/errors.hpp"

#include <set>
#include <vector>

namespace pyro::proto {

using nlohmann::json;

namespace {

Error bad_message(std::string message, std::string hint = {}) {
    return Error(ErrorCode::invalid_argument, std::move(message), std::move(hint));
}

// A peer's word in a message for people: not all of a megabyte.
std::string shown(const std::string& word) { return word.size() <= 64 ? word : word.substr(0, 64) + "..."; }

std::optional<RequestId> id_from(const json& value) {
    if (value.is_string()) return RequestId(value.get<std::string>());
    if (value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX)) return std::nullopt;
    if (value.is_number_integer()) return RequestId(value.get<std::int64_t>());
    return std::nullopt;
}

std::string string_or(const json& object, const char* key, std::string otherwise = {}) {
    const auto found = object.find(key);
    return found != object.end() && found->is_string() ? found->get<std::string>() : otherwise;
}

}  // namespace

json to_json(const RequestId& id) {
    if (const auto* number = std::get_if<std::int64_t>(&id)) return *number;
    return std::get<std::string>(id);
}

json parse_json(std::string_view text) {
    std::vector<std::set<std::string>> keys;  // of the objects that are open
    const auto check = [&](int depth, json::parse_event_t event, json& value) {
        switch (event) {
            case json::parse_event_t::object_start:
                keys.emplace_back();
                [[fallthrough]];
            case json::parse_event_t::array_start:
                if (static_cast<std::size_t>(depth) >= max_json_depth)
                    throw MessageError(parse_error, bad_message("the message is nested deeper than " + std::to_string(max_json_depth)));
                break;
            case json::parse_event_t::object_end:
                keys.pop_back();
                break;
            case json::parse_event_t::key:
                if (!keys.back().insert(value.get_ref<const std::string&>()).second)
                    throw MessageError(parse_error, bad_message("the message has the key \"" + shown(value.get<std::string>()) + "\" twice in one object"));
                break;
            default:
                break;
        }
        return true;
    };
    try {
        return json::parse(text.begin(), text.end(), check);
    } catch (const json::parse_error& e) {
        throw MessageError(parse_error, bad_message("the message is not JSON: wrong at byte " + std::to_string(e.byte),
                                                    "one JSON-RPC 2.0 object per line, in UTF-8"));
    } catch (const json::exception&) {
        throw MessageError(parse_error, bad_message("the message has a number that is out of range"));
    }
}

Request request_from(json message) {
    if (message.is_array())
        throw MessageError(invalid_request, bad_message("batches are not supported", "send one request per line"));
    if (!message.is_object()) throw MessageError(invalid_request, bad_message("a message is a JSON object"));
    Request request;
    if (const auto id = message.find("id"); id != message.end()) {
        request.id = id_from(*id);
        if (!request.id) throw MessageError(invalid_request, bad_message("id: expected a string or an integer"));
    }
    const auto refuse = [&](std::string why) { throw MessageError(invalid_request, bad_message(std::move(why)), request.id); };
    if (string_or(message, "jsonrpc") != "2.0") refuse("jsonrpc: expected \"2.0\"");
    const auto method = message.find("method");
    if (method == message.end() || !method->is_string()) refuse("method: expected a string");
    request.method = method->get<std::string>();
    if (const auto params = message.find("params"); params != message.end()) {
        if (!params->is_object()) refuse("params: expected an object; parameters go by name");
        request.params = std::move(*params);
    }
    for (const auto& [key, value] : message.items())
        if (key != "jsonrpc" && key != "id" && key != "method" && key != "params") refuse(shown(key) + ": is not a member of a request");
    return request;
}

Request parse_request(std::string_view line) { return request_from(parse_json(line)); }

std::variant<Response, Notification> parse_reply(std::string_view line) {
    const auto garbled = [] {
        return Error(ErrorCode::unavailable, "the daemon sent something that is no JSON-RPC message", "is that socket pyrod's?");
    };
    json message;
    try {
        message = parse_json(line);
    } catch (const MessageError&) {
        throw garbled();
    }
    if (!message.is_object()) throw garbled();
    if (const auto method = message.find("method"); method != message.end()) {
        const auto params = message.find("params");
        if (!method->is_string() || params == message.end() || !params->is_object()) throw garbled();
        return Notification{method->get<std::string>(), *params};
    }
    const auto id = message.find("id");
    if (id == message.end()) throw garbled();
    Response response{id_from(*id), json()};
    if (const auto result = message.find("result"); result != message.end()) {
        response.outcome = *result;
        return response;
    }
    const auto error = message.find("error");
    if (error == message.end() || !error->is_object()) throw garbled();
    const auto data = error->find("data");
    if (data != error->end() && data->is_object()) response.outcome = error_from_json(*data);
    else response.outcome = Error(ErrorCode::internal, string_or(*error, "message", "the daemon failed without saying why"));
    return response;
}

std::string dump_line(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

std::string encode_request(const Request& request) {
    json message{{"jsonrpc", "2.0"}, {"method", request.method}, {"params", request.params}};
    if (request.id) message["id"] = to_json(*request.id);
    return dump_line(message);
}

std::string encode_notification(std::string_view method, const json& params) {
    return dump_line(json{{"jsonrpc", "2.0"}, {"method", method}, {"params", params}});
}

std::string encode_result(const RequestId& id, const json& result) {
    return dump_line(json{{"jsonrpc", "2.0"}, {"id", to_json(id)}, {"result", result}});
}

std::string encode_error(const std::optional<RequestId>& id, const Error& error) {
    return encode_error(id, error, numbers_of(error.code()).json_rpc);
}

std::string encode_error(const std::optional<RequestId>& id, const Error& error, int number) {
    return dump_line(json{{"jsonrpc", "2.0"},
                          {"id", id ? to_json(*id) : json()},
                          {"error", {{"code", number}, {"message", error.message()}, {"data", error_to_json(error)}}}});
}

json error_to_json(const Error& error) {
    return json{{"code", to_string(error.code())},
                {"message", error.message()},
                {"hint", error.hint()},
                {"retryable", error.retryable()},
                {"details", error.details()}};
}

Error error_from_json(const json& shape) {
    Error error(error_code_from(string_or(shape, "code")), string_or(shape, "message", "failed without saying why"), string_or(shape, "hint"));
    const auto retryable = shape.find("retryable");
    error.with_retryable(retryable != shape.end() && retryable->is_boolean() && retryable->get<bool>());
    if (const auto details = shape.find("details"); details != shape.end() && details->is_object())
        for (const auto& [key, value] : details->items())
            error.with_detail(key, value.is_string() ? value.get<std::string>() : dump_line(value));
    return error;
}

}  // namespace pyro::proto
