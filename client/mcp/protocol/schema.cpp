#include "client/mcp/protocol/schema.hpp"

#include <algorithm>
#include <cmath>

namespace pyro::mcp {

namespace {

bool is_of_type(const json& value, const std::string& type) {
    if (type == "object") return value.is_object();
    if (type == "array") return value.is_array();
    if (type == "string") return value.is_string();
    if (type == "boolean") return value.is_boolean();
    if (type == "null") return value.is_null();
    if (type == "number") return value.is_number();
    if (type == "integer") return value.is_number_integer() || (value.is_number_float() && std::trunc(value.get<double>()) == value.get<double>());
    return true;  // no type of JSON Schema: nothing can be said
}

std::string named(const std::string& path, const std::string& what) { return (path.empty() ? "the arguments" : path) + ": " + what; }

std::size_t code_points(const std::string& text) {
    return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::optional<double> bound(const ordered_json& schema, const char* keyword) {
    const auto found = schema.find(keyword);
    if (found == schema.end() || !found->is_number()) return std::nullopt;
    return found->get<double>();
}

// `of` says what is counted: "" for the number itself.
std::optional<std::string> out_of_bounds(const ordered_json& schema, double size, const char* least, const char* most, const std::string& of) {
    if (const auto limit = bound(schema, least); limit && size < *limit) return "must be at least " + ordered_json(schema.at(least)).dump() + of;
    if (const auto limit = bound(schema, most); limit && size > *limit) return "must be at most " + ordered_json(schema.at(most)).dump() + of;
    return std::nullopt;
}

}  // namespace

std::optional<std::string> schema_violation(const ordered_json& schema, const json& value, const std::string& path) {
    if (!schema.is_object()) return std::nullopt;
    const auto keyword = [&schema](const char* name) -> const ordered_json* {
        const auto found = schema.find(name);
        return found == schema.end() ? nullptr : &*found;
    };
    if (const auto* type = keyword("type"); type && type->is_string() && !is_of_type(value, type->get<std::string>()))
        return named(path, "must be of type " + type->get<std::string>());
    if (const auto* values = keyword("enum"); values && std::find(values->begin(), values->end(), ordered_json(value)) == values->end())
        return named(path, "must be one of " + values->dump());
    if (const auto* constant = keyword("const"); constant && *constant != ordered_json(value)) return named(path, "must be " + constant->dump());

    std::optional<std::string> outside;
    if (value.is_number()) outside = out_of_bounds(schema, value.get<double>(), "minimum", "maximum", "");
    if (value.is_string()) outside = out_of_bounds(schema, static_cast<double>(code_points(value.get_ref<const std::string&>())), "minLength", "maxLength", " characters long");
    if (value.is_array()) outside = out_of_bounds(schema, static_cast<double>(value.size()), "minItems", "maxItems", " items long");
    if (outside) return named(path, *outside);

    if (const auto* items = keyword("items"); items && value.is_array())
        for (std::size_t i = 0; i < value.size(); ++i)
            if (auto wrong = schema_violation(*items, value[i], path + "[" + std::to_string(i) + "]")) return wrong;
    if (!value.is_object()) return std::nullopt;
    if (const auto* required = keyword("required"))
        for (const ordered_json& name : *required)
            if (!value.contains(name.get<std::string>())) return named(path, "\"" + name.get<std::string>() + "\" is missing");
    const auto* properties = keyword("properties");
    const auto* others = keyword("additionalProperties");
    for (const auto& [name, member] : value.items()) {
        const std::string at = path.empty() ? name : path + "." + name;
        if (properties && properties->contains(name)) {
            if (auto wrong = schema_violation((*properties)[name], member, at)) return wrong;
        } else if (others && *others == false) {
            return named(path, "there is no \"" + name.substr(0, 64) + "\"");
        } else if (others && others->is_object()) {
            if (auto wrong = schema_violation(*others, member, at)) return wrong;
        }
    }
    return std::nullopt;
}

}  // namespace pyro::mcp
