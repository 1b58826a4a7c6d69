// Results for people and for programs, derived from the tables of their records.
#pragma once
#include "common/error.hpp"
#include "proto/field.hpp"

#include <nlohmann/json.hpp>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pyro::client {

struct Style {
    bool colour = false;
};
// Colour where `fd` is a terminal that has it and NO_COLOR is not set.
Style style_for(int fd);

// A result: a table where it is a list of records, else one "key: value" per line. Ends with a newline, or is empty.
std::string render(const proto::TypeInfo& type, const nlohmann::json& value, Style style);
// The same as one JSON document, keys in the order of the table, what the table does not know after them.
nlohmann::ordered_json in_table_order(const proto::TypeInfo& type, const nlohmann::json& value);
// Pretty, with a newline; never fails on invalid UTF-8.
std::string document(const nlohmann::ordered_json& value);

// Rows of cells, aligned; the first one is the heading. Cells are printable already; `state_column` is coloured.
using Cells = std::vector<std::vector<std::string>>;
std::string aligned(const Cells& rows, Style style, std::optional<std::size_t> state_column = {});
template <class E>
constexpr std::string_view name_of(E value) { return enum_names(value)[static_cast<std::size_t>(value)]; }
// Words as a shell would take them, on one line.
std::string command_line(const std::vector<std::string>& words);
std::string age(std::int64_t seconds);  // "3 minutes ago"
std::string local_time(std::int64_t unix_seconds);

// Control characters of others do not reach the terminal: shown as \x1b.
std::string printable(std::string_view text);
std::string byte_size(std::int64_t bytes);  // "12.3 MiB"

// "pyro: what happened" and what to do about it.
std::string render(const Error& error);
std::string error_document(const Error& error);

}  // namespace pyro::client
