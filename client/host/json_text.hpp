// Configurations in JSON, with comments where a host allows them, as text: one value is changed, every other byte stays.
#pragma once
#include <nlohmann/json.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace pyro::host {

using Json = nlohmann::ordered_json;
using KeyPath = std::vector<std::string>;

enum class Dialect { strict, with_comments };  // with_comments: trailing commas too

// The whole document, an object; of a text that is empty or blank an empty one. Throws invalid_argument, "line 3, column 9: ...".
Json parse_json(std::string_view text, Dialect dialect);
// `text` with `value` at `path`; objects on the way are made. What `path` leads through must be objects.
std::string with_json(const std::string& text, Dialect dialect, const KeyPath& path, const Json& value);
// `text` without the member at `path`.
std::string without_json(const std::string& text, Dialect dialect, const KeyPath& path);

// What is at `path`; null: nothing.
const Json* value_at(const Json& document, const KeyPath& path);

// Equal but for the order of names.
bool same_content(const Json& a, const Json& b);

}  // namespace pyro::host
