#include "proto/codec.hpp"

#include "common/error.hpp"

#include <nlohmann/json.hpp>

namespace pyro::proto {

using nlohmann::json;
using nlohmann::ordered_json;
using StringMap = std::map<std::string, std::string>;

json encode(const TypeInfo& type, const void* value) {
    switch (type.kind) {
        case Kind::boolean: return *static_cast<const bool*>(value);
        case Kind::integer: return *static_cast<const std::int64_t*>(value);
        case Kind::string: return *static_cast<const std::string*>(value);
        case Kind::map: return *static_cast<const StringMap*>(value);
        case Kind::enumeration: return std::string(type.names[static_cast<std::size_t>(type.get_enum(value))]);
        case Kind::list: {
            json array = json::array();
            const TypeInfo& element = type.element();
            for (std::size_t i = 0, n = type.size(value); i < n; ++i) array.push_back(encode(element, type.at(value, i)));
            return array;
        }
        case Kind::record: {
            json object = json::object();
            for (const FieldInfo& field : type.fields) {
                const TypeInfo& field_type = field.type();
                if (const void* content = field_type.content(field.get(value)))
                    object[std::string(field.name)] = encode(field_type, content);
            }
            return object;
        }
    }
    return nullptr;
}

namespace {

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
    throw Error(ErrorCode::invalid_argument, (path.empty() ? "params" : path) + ": " + why);
}

std::string one_of(std::span<const std::string_view> names) {
    std::string text;
    for (const std::string_view name : names) text += (text.empty() ? "" : ", ") + std::string(name);
    return text;
}

const char* noun(Kind kind) {
    switch (kind) {
        case Kind::boolean: return "true or false";
        case Kind::integer: return "an integer";
        case Kind::string: case Kind::enumeration: return "a string";
        case Kind::list: return "a list";
        case Kind::map: case Kind::record: return "an object";
    }
    return "a value";
}

bool fits(Kind kind, const json& value) {
    switch (kind) {
        case Kind::boolean: return value.is_boolean();
        case Kind::integer: return value.is_number_integer();
        case Kind::string: case Kind::enumeration: return value.is_string();
        case Kind::list: return value.is_array();
        case Kind::map: case Kind::record: return value.is_object();
    }
    return false;
}

void check_bounds(const FieldInfo& field, const json& value, const std::string& path) {
    const auto& [min, max] = std::pair(field.options.min, field.options.max);
    if (value.is_string() || value.is_array() || (value.is_object() && field.type().kind == Kind::map)) {
        const auto size = static_cast<std::int64_t>(value.is_string() ? value.get_ref<const std::string&>().size() : value.size());
        const std::string unit = value.is_string() ? " bytes" : " entries";
        if (min && size < *min) refuse(path, *min == 1 ? "must not be empty" : "at least " + std::to_string(*min) + unit);
        if (max && size > *max) refuse(path, "at most " + std::to_string(*max) + unit);
    } else if (value.is_number_integer()) {
        const bool huge = value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX);
        if (huge || (min && value.get<std::int64_t>() < *min) || (max && value.get<std::int64_t>() > *max)) {
            std::string text = "must be";
            if (min) text += " at least " + std::to_string(*min);
            if (min && max) text += " and";
            if (max) text += " at most " + std::to_string(*max);
            refuse(path, min || max ? text : "is out of range");
        }
    }
}

}  // namespace

void decode(const TypeInfo& type, const json& value, void* into, Unknown unknown, const std::string& path) {
    if (!fits(type.kind, value)) refuse(path, std::string("expected ") + noun(type.kind) + ", got " + (value.is_null() ? "null" : value.type_name()));
    void* target = type.optional ? type.emplace(into) : into;
    switch (type.kind) {
        case Kind::boolean: *static_cast<bool*>(target) = value.get<bool>(); break;
        case Kind::integer:
            if (value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX)) refuse(path, "is out of range");
            *static_cast<std::int64_t*>(target) = value.get<std::int64_t>();
            break;
        case Kind::string:
            if (value.get_ref<const std::string&>().find('\0') != std::string::npos) refuse(path, "must not contain a NUL byte");
            *static_cast<std::string*>(target) = value.get<std::string>();
            break;
        case Kind::enumeration: {
            const auto& word = value.get_ref<const std::string&>();
            for (std::size_t i = 0; i < type.names.size(); ++i)
                if (type.names[i] == word) return type.set_enum(target, static_cast<std::int64_t>(i));
            refuse(path, "not one of " + one_of(type.names));
        }
        case Kind::map: {
            auto& map = *static_cast<StringMap*>(target);
            map.clear();
            for (const auto& [key, item] : value.items()) {
                const std::string item_path = path + "." + key;
                if (!item.is_string()) refuse(item_path, "expected a string");
                if ((key + item.get<std::string>()).find('\0') != std::string::npos) refuse(item_path, "must not contain a NUL byte");
                map[key] = item.get<std::string>();
            }
            break;
        }
        case Kind::list: {
            const TypeInfo& element = type.element();
            for (std::size_t i = 0; i < value.size(); ++i)
                decode(element, value[i], type.emplace(target), unknown, path + "[" + std::to_string(i) + "]");
            break;
        }
        case Kind::record: {
            const auto field_path = [&](std::string_view name) { return path.empty() ? std::string(name) : path + "." + std::string(name); };
            for (const FieldInfo& field : type.fields) {
                const auto found = value.find(std::string(field.name));
                if (found == value.end()) {
                    if (field.required()) refuse(field_path(field.name), "is missing");
                    continue;
                }
                decode(field.type(), *found, field.ref(target), unknown, field_path(field.name));
                check_bounds(field, *found, field_path(field.name));
            }
            if (unknown == Unknown::ignore) break;
            for (const auto& [key, item] : value.items()) {
                bool known = false;
                for (const FieldInfo& field : type.fields) known = known || field.name == key;
                if (!known)
                    throw Error(ErrorCode::invalid_argument, field_path(key) + ": is not a field of this request")
                        .with_detail("unknown_field", field_path(key));
            }
            break;
        }
    }
}

ordered_json schema(const TypeInfo& type) {
    switch (type.kind) {
        case Kind::boolean: return {{"type", "boolean"}};
        case Kind::integer: return {{"type", "integer"}};
        case Kind::string: return {{"type", "string"}};
        case Kind::map: return {{"type", "object"}, {"additionalProperties", {{"type", "string"}}}};
        case Kind::list: return {{"type", "array"}, {"items", schema(type.element())}};
        case Kind::enumeration: {
            ordered_json names = ordered_json::array();
            for (const std::string_view name : type.names) names.push_back(std::string(name));
            return {{"type", "string"}, {"enum", names}};
        }
        case Kind::record: break;
    }
    struct Walk { const TypeInfo& type; ordered_json properties = ordered_json::object(); ordered_json required = ordered_json::array(); } walk{type};
    type.construct_default([](const void* defaults, void* context) {
        auto& w = *static_cast<Walk*>(context);
        for (const FieldInfo& field : w.type.fields) {
            w.properties[std::string(field.name)] = field_schema(field, defaults);
            if (field.required()) w.required.push_back(std::string(field.name));
        }
    }, &walk);
    ordered_json object{{"type", "object"}, {"description", std::string(type.doc)}, {"properties", std::move(walk.properties)}};
    if (!walk.required.empty()) object["required"] = std::move(walk.required);
    object["additionalProperties"] = false;
    return object;
}

ordered_json field_schema(const FieldInfo& field, const void* default_record) {
    const TypeInfo& type = field.type();
    ordered_json out = schema(type);
    out["description"] = std::string(field.doc);
    const char* low = type.kind == Kind::integer ? "minimum" : type.kind == Kind::string ? "minLength" : type.kind == Kind::list ? "minItems" : "minProperties";
    const char* high = type.kind == Kind::integer ? "maximum" : type.kind == Kind::string ? "maxLength" : type.kind == Kind::list ? "maxItems" : "maxProperties";
    if (field.options.min) out[low] = *field.options.min;
    if (field.options.max) out[high] = *field.options.max;
    if (field.options.defaulted) out["default"] = ordered_json(encode(type, field.get(default_record)));
    return out;
}

}  // namespace pyro::proto
