#include "client/cli/render.hpp"

#include "client/lib/capture.hpp"
#include "proto/jsonrpc.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <unistd.h>

namespace pyro::client {

using nlohmann::json;
using nlohmann::ordered_json;
using proto::FieldInfo;
using proto::Kind;
using proto::TypeInfo;

Style style_for(int fd) {
    const char* term = std::getenv("TERM");
    const char* no_color = std::getenv("NO_COLOR");
    return {::isatty(fd) && !(no_color && *no_color) && term && std::string_view(term) != "dumb"};
}

std::string printable(std::string_view text) {
    std::string out;
    const std::string valid = valid_utf8(text);
    for (std::size_t i = 0; i < valid.size(); ++i) {
        const auto c = static_cast<unsigned char>(valid[i]);
        const bool c1 = c == 0xC2 && i + 1 < valid.size() && static_cast<unsigned char>(valid[i + 1]) < 0xA0;
        if ((c >= 0x20 && c != 0x7F && !c1) || c == '\t') {
            out += valid[i];
            continue;
        }
        char escaped[8];
        std::snprintf(escaped, sizeof escaped, "\\x%02x", c1 ? static_cast<unsigned char>(valid[++i]) : c);
        out += escaped;
    }
    return out;
}

std::string byte_size(std::int64_t bytes) {
    if (bytes < 1024) return std::to_string(bytes) + " B";
    double value = static_cast<double>(bytes);
    const char* unit = "B";
    for (const char* next : {"KiB", "MiB", "GiB", "TiB"}) {
        if (value < 1024) break;
        value /= 1024;
        unit = next;
    }
    char text[32];
    std::snprintf(text, sizeof text, "%.1f %s", value, unit);
    return text;
}

std::string local_time(std::int64_t seconds) {
    const std::time_t when = static_cast<std::time_t>(seconds);
    std::tm parts{};
    char text[32];
    if (!::localtime_r(&when, &parts) || std::strftime(text, sizeof text, "%F %T", &parts) == 0) return std::to_string(seconds);
    return text;
}

std::string age(std::int64_t seconds) {
    if (seconds < 2) return "just now";
    static constexpr std::pair<std::int64_t, const char*> units[] = {{86400, "day"}, {3600, "hour"}, {60, "minute"}, {1, "second"}};
    for (const auto& [size, name] : units)
        if (const std::int64_t count = seconds / size; count > 0) return std::to_string(count) + " " + name + (count == 1 ? " ago" : "s ago");
    return {};
}

namespace {

// Quoted where a shell would need it, so that borders show.
std::string shell_word(const std::string& word) {
    constexpr std::string_view plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:=,@%+";
    if (!word.empty() && word.find_first_not_of(plain) == std::string::npos) return word;
    std::string out = "'";
    for (const char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
    return out + "'";
}

}  // namespace

std::string command_line(const std::vector<std::string>& words) {
    std::string text;
    for (const std::string& word : words) text += (text.empty() ? "" : " ") + printable(shell_word(word));
    return text;
}

namespace {

// One value on one line. `field` gives a number its unit.
std::string scalar(const FieldInfo* field, const json& value, bool brief) {
    const std::string_view name = field ? field->name : std::string_view();
    if (value.is_null()) return {};
    if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
    if (value.is_number_integer() && name.ends_with("_bytes")) return byte_size(value.get<std::int64_t>());
    if (value.is_number_integer() && name.ends_with("_at")) return local_time(value.get<std::int64_t>());
    if (value.is_string()) {
        std::string text = printable(value.get_ref<const std::string&>());
        if (brief && text.starts_with("sha256:") && text.size() > 19) text.resize(19);
        return text;
    }
    if (value.is_array()) {
        std::string text;
        for (const json& item : value) text += (text.empty() ? "" : " ") + printable(item.is_string() ? shell_word(item.get<std::string>()) : item.dump());
        return text;
    }
    return printable(value.dump(-1, ' ', false, json::error_handler_t::replace));
}

bool is_state(const FieldInfo& field) { return field.type().kind == Kind::enumeration && (field.name == "state" || field.name == "status"); }

std::string coloured_state(const std::string& text, Style style) {
    if (!style.colour) return text;
    const auto is_one = [&](std::initializer_list<std::string_view> words) { return std::find(words.begin(), words.end(), text) != words.end(); };
    const char* code = is_one({"running", "installed", "pass"}) ? "32" : is_one({"failed", "broken", "fail"}) ? "31"
                       : is_one({"creating", "booting", "stopping", "warn"}) ? "33" : nullptr;
    return code ? std::string("\x1b[") + code + "m" + text + "\x1b[0m" : text;
}

std::size_t display_width(std::string_view text) {
    return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u; }));
}

std::string heading(std::string_view name) {
    for (const std::string_view unit : {"_bytes", "_at"})
        if (name.ends_with(unit)) name.remove_suffix(unit.size());
    std::string out;
    for (const char c : name) out += c == '_' ? ' ' : static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
    return out;
}

const json* member_of(const json& object, std::string_view name) {
    const auto found = object.is_object() ? object.find(std::string(name)) : object.end();
    return found == object.end() || found->is_null() ? nullptr : &*found;
}

// Columns: what fits a line of a table and some row has. Digests are for inspect, except where they are all there is.
std::string table(const TypeInfo& element, const json& rows, Style style, const std::string& indent) {
    std::vector<const FieldInfo*> columns;
    for (const FieldInfo& field : element.fields) {
        const Kind kind = field.type().kind;
        if (kind == Kind::record || kind == Kind::list || kind == Kind::map || field.name.ends_with("_digest")) continue;
        if (field.type().optional && std::none_of(rows.begin(), rows.end(), [&](const json& row) { return member_of(row, field.name); })) continue;
        columns.push_back(&field);
    }
    Cells cells(1);
    std::optional<std::size_t> state;
    for (const FieldInfo* field : columns) {
        if (is_state(*field)) state = cells[0].size();
        cells[0].push_back(heading(field->name));
    }
    for (const json& row : rows) {
        auto& line = cells.emplace_back();
        for (const FieldInfo* field : columns) {
            const json* value = member_of(row, field->name);
            line.push_back(value ? scalar(field, *value, true) : "-");
        }
    }
    const std::string lines = aligned(cells, style, state);
    if (indent.empty()) return lines;
    std::string out;
    for (std::size_t at = 0; at < lines.size();) {
        const std::size_t end = lines.find('\n', at) + 1;
        out += indent + lines.substr(at, end - at);
        at = end;
    }
    return out;
}

bool is_table(const TypeInfo& type) { return type.kind == Kind::list && type.element().kind == Kind::record; }

std::string record(const TypeInfo& type, const json& value, Style style, const std::string& indent) {
    std::size_t width = 0;
    for (const FieldInfo& field : type.fields) width = std::max(width, field.name.size());
    std::string out;
    for (const FieldInfo& field : type.fields) {
        const json* item = member_of(value, field.name);
        if (!item) continue;
        const TypeInfo& field_type = field.type();
        out += indent + std::string(field.name) + ":";
        if (field_type.kind == Kind::record) {
            out += "\n" + record(field_type, *item, style, indent + "  ");
        } else if (is_table(field_type)) {
            out += "\n" + (item->empty() ? std::string() : table(field_type.element(), *item, style, indent + "  "));
        } else if (field_type.kind == Kind::map && item->is_object()) {
            out += "\n";
            for (const auto& [key, entry] : item->items()) out += indent + "  " + printable(key) + "=" + scalar(nullptr, entry, false) + "\n";
        } else {
            const std::string text = scalar(&field, *item, false);
            if (!text.empty()) out += std::string(width - field.name.size() + 1, ' ') + (is_state(field) ? coloured_state(text, style) : text);
            out += "\n";
        }
    }
    return out;
}

}  // namespace

std::string aligned(const Cells& rows, Style style, std::optional<std::size_t> state_column) {
    std::vector<std::size_t> widths;
    for (const auto& line : rows) {
        widths.resize(std::max(widths.size(), line.size()));
        for (std::size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], display_width(line[i]));
    }
    std::string out;
    for (std::size_t l = 0; l < rows.size(); ++l) {
        for (std::size_t i = 0; i < rows[l].size(); ++i) {
            out += l > 0 && state_column == i ? coloured_state(rows[l][i], style) : rows[l][i];
            if (i + 1 < rows[l].size()) out.append(widths[i] - display_width(rows[l][i]) + 2, ' ');
        }
        out += "\n";
    }
    return out;
}

std::string render(const TypeInfo& type, const json& value, Style style) {
    if (type.fields.size() == 1 && is_table(type.fields[0].type())) {
        const json* rows = member_of(value, type.fields[0].name);
        return table(type.fields[0].type().element(), rows && rows->is_array() ? *rows : json::array(), style, "");
    }
    return record(type, value, style, "");
}

ordered_json in_table_order(const TypeInfo& type, const json& value) {
    if (type.kind == Kind::list && value.is_array()) {
        ordered_json out = ordered_json::array();
        for (const json& item : value) out.push_back(in_table_order(type.element(), item));
        return out;
    }
    if (type.kind != Kind::record || !value.is_object()) return ordered_json(value);
    ordered_json out = ordered_json::object();
    for (const FieldInfo& field : type.fields)
        if (const auto found = value.find(std::string(field.name)); found != value.end()) out[std::string(field.name)] = in_table_order(field.type(), *found);
    for (const auto& [key, item] : value.items())
        if (!out.contains(key)) out[key] = item;
    return out;
}

std::string document(const ordered_json& value) { return value.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n"; }

std::string render(const Error& error) {
    std::string out = "pyro: " + printable(error.message()) + "\n";
    if (!error.hint().empty()) out += "pyro: " + printable(error.hint()) + "\n";
    return out;
}

std::string error_document(const Error& error) {
    static constexpr std::string_view order[] = {"code", "message", "hint", "retryable", "details"};
    const json shape = proto::error_to_json(error);
    ordered_json ordered = ordered_json::object();
    for (const std::string_view key : order) ordered[std::string(key)] = shape.at(std::string(key));
    return document({{"error", std::move(ordered)}});
}

}  // namespace pyro::client
