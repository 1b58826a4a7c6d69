// Records to and from JSON, by their field tables.
#pragma once
#include "proto/field.hpp"

#include <nlohmann/json_fwd.hpp>

namespace pyro::proto {

// Absent optionals are left out; every other field is written.
nlohmann::json encode(const TypeInfo& type, const void* value);

enum class Unknown {
    refuse,  // requests: a typo must not pass in silence
    ignore,  // responses: a newer daemon may say more
};
// Fills `value`, which holds its defaults. Throws Error(invalid_argument) that says where and what: "argv[0]: expected a string".
void decode(const TypeInfo& type, const nlohmann::json& json, void* value, Unknown unknown, const std::string& path = {});

template <class T>
nlohmann::json to_wire(const T& value);
template <class T>
T from_wire(const nlohmann::json& json, Unknown unknown = Unknown::refuse) {
    T value{};
    decode(type_of<T>(), json, &value, unknown);
    return value;
}

// JSON Schema 2020-12 of a type, self-contained: no $ref.
nlohmann::ordered_json schema(const TypeInfo& type);
// The schema of one field, with its doc, bounds and default.
nlohmann::ordered_json field_schema(const FieldInfo& field, const void* default_record);

}  // namespace pyro::proto

#include "proto/codec_impl.hpp"
