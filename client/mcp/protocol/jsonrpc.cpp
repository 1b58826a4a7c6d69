#include "client/mcp/protocol/jsonrpc.hpp"

namespace pyro::mcp {

json parse_message(std::string_view line) {
    const auto bounded = [](int depth, json::parse_event_t event, const json&) {
        const bool opens = event == json::parse_event_t::object_start || event == json::parse_event_t::array_start;
        if (opens && static_cast<std::size_t>(depth) >= max_json_depth)
            throw ProtocolError(rpc_code::parse_error, "Parse error: nested deeper than " + std::to_string(max_json_depth));
        return true;
    };
    try {
        return json::parse(line.begin(), line.end(), bounded);
    } catch (const json::parse_error& e) {
        throw ProtocolError(rpc_code::parse_error, "Parse error: not JSON at byte " + std::to_string(e.byte));
    } catch (const json::exception&) {
        throw ProtocolError(rpc_code::parse_error, "Parse error: a number is out of range");
    }
}

Message message_from(json value) {
    json id;
    const auto refuse = [&id](int code, std::string why) { throw BadMessage{id, ProtocolError(code, std::move(why))}; };
    if (!value.is_object()) refuse(rpc_code::invalid_request, "Invalid request: a message is an object");
    const auto id_member = value.find("id");
    const bool has_id = id_member != value.end();
    if (has_id) {
        if (!id_member->is_string() && !id_member->is_number_integer())
            refuse(rpc_code::invalid_request, "Invalid request: id must be a string or an integer");
        id = *id_member;
    }
    if (const auto version = value.find("jsonrpc"); version == value.end() || *version != "2.0")
        refuse(rpc_code::invalid_request, "Invalid request: jsonrpc must be \"2.0\"");
    const auto method = value.find("method");
    if (method == value.end()) {
        if (has_id && value.contains("result") != value.contains("error")) {
            return {Message::Kind::response, std::move(id), {}, {}, std::move(value)};
        }
        refuse(rpc_code::invalid_request, "Invalid request: no method");
    }
    if (!method->is_string()) refuse(rpc_code::invalid_request, "Invalid request: method must be a string");
    Message message{has_id ? Message::Kind::request : Message::Kind::notification, id, method->get<std::string>(), json::object(), {}};
    if (const auto params = value.find("params"); params != value.end()) {
        if (!params->is_object()) refuse(params->is_array() ? rpc_code::invalid_params : rpc_code::invalid_request, "Invalid request: params must be an object");
        message.params = std::move(*params);
    }
    return message;
}

ordered_json result_message(const json& id, ordered_json result) {
    return {{"jsonrpc", "2.0"}, {"id", id}, {"result", std::move(result)}};
}

ordered_json error_message(const json& id, const ProtocolError& error, bool null_id) {
    ordered_json message{{"jsonrpc", "2.0"}};
    if (!id.is_null() || null_id) message["id"] = id;
    message["error"] = {{"code", error.code()}, {"message", error.message()}};
    if (!error.data().is_null()) message["error"]["data"] = error.data();
    return message;
}

ordered_json notification_message(std::string_view method, ordered_json params) {
    return {{"jsonrpc", "2.0"}, {"method", method}, {"params", std::move(params)}};
}

ordered_json request_message(const json& id, std::string_view method, ordered_json params) {
    return {{"jsonrpc", "2.0"}, {"id", id}, {"method", method}, {"params", std::move(params)}};
}

}  // namespace pyro::mcp
