// Configurations in TOML as text: the keys of one table are changed, every other byte stays.
#pragma once
#include "client/host/json_text.hpp"

namespace pyro::host {

// The whole document, dates as strings. Throws invalid_argument, "line 3, column 9: ...".
Json parse_toml(const std::string& text);
// `text` with the strings, lists of strings and booleans of `values` in the table at `path`, which is made at the end if it is missing.
// Throws failed_precondition where that table is not written under a heading of its own.
std::string with_toml(const std::string& text, const KeyPath& path, const Json& values);
// `text` without the table at `path` and those below it.
std::string without_toml(const std::string& text, const KeyPath& path);

}  // namespace pyro::host
