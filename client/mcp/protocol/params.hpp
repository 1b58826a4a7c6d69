// Parameters of requests as clients may send them: what is wrong is an error with the place.
#pragma once
#include "client/mcp/protocol/jsonrpc.hpp"

#include <map>
#include <string>

namespace pyro::mcp {

[[noreturn]] inline void invalid_params(std::string why) { throw ProtocolError(rpc_code::invalid_params, "Invalid params: " + std::move(why)); }

inline std::string shown(const std::string& word) { return word.size() <= 200 ? word : word.substr(0, 200) + "..."; }

inline const json& object_or_empty(const json& object, const char* key) {
    static const json empty = json::object();
    const auto found = object.find(key);
    return found != object.end() && found->is_object() ? *found : empty;
}

inline std::string string_or_empty(const json& object, const char* key) {
    const auto found = object.find(key);
    return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

inline std::string required_string(const json& params, const char* key) {
    const auto found = params.find(key);
    if (found == params.end() || !found->is_string()) invalid_params(std::string(key) + " must be a string");
    return found->get<std::string>();
}

inline std::map<std::string, std::string> strings(const json& params, const char* key) {
    const auto found = params.find(key);
    std::map<std::string, std::string> values;
    if (found == params.end()) return values;
    if (!found->is_object()) invalid_params(std::string(key) + " must be an object");
    for (const auto& [name, value] : found->items()) {
        if (!value.is_string()) invalid_params(std::string(key) + "." + shown(name) + " must be a string");
        values[name] = value.get<std::string>();
    }
    return values;
}

inline bool is_id(const json& value) { return value.is_string() || value.is_number_integer(); }

}  // namespace pyro::mcp
