// The part of JSON Schema that arguments of tools are checked by before a handler sees them.
#pragma once
#include "client/mcp/protocol/content.hpp"

#include <optional>
#include <string>

namespace pyro::mcp {

// What is wrong with `value`, naming the member; none: nothing. Knows type, enum, const, required, properties,
// additionalProperties, items and the bounds of numbers, strings and arrays; ignores other keywords.
std::optional<std::string> schema_violation(const ordered_json& schema, const json& value, const std::string& path = {});

}  // namespace pyro::mcp
