#include "client/host/toml_text.hpp"

#include "client/host/text_place.hpp"

#include <sstream>

#include <toml++/toml.h>

namespace pyro::host {

namespace {

Json json_of(const toml::node& node) {
    if (const auto* table = node.as_table()) {
        Json out = Json::object();
        for (const auto& [key, value] : *table) out[std::string(key.str())] = json_of(value);
        return out;
    }
    if (const auto* array = node.as_array()) {
        Json out = Json::array();
        for (const auto& value : *array) out.push_back(json_of(value));
        return out;
    }
    if (const auto* text = node.as_string()) return text->get();
    if (const auto* number = node.as_integer()) return number->get();
    if (const auto* number = node.as_floating_point()) return number->get();
    if (const auto* flag = node.as_boolean()) return flag->get();
    std::ostringstream date;
    if (const auto* day = node.as_date()) date << day->get();
    else if (const auto* time = node.as_time()) date << time->get();
    else if (const auto* both = node.as_date_time()) date << both->get();
    return date.str();
}

// A heading, or a key with its value. Its place in the whole document is `path`.
struct TomlStatement {
    KeyPath path;
    bool heading = false;
    std::size_t begin = 0, end = 0;  // whole lines
    std::size_t value_begin = 0, value_end = 0;
};

// Splits a document that is known to be valid.
class TomlScanner {
public:
    explicit TomlScanner(std::string_view text) : text_(text) {
        if (text_.starts_with("\xef\xbb\xbf")) at_ = 3;
    }

    std::vector<TomlStatement> statements() {
        std::vector<TomlStatement> all;
        KeyPath table;
        for (; at_ < text_.size(); at_ = line_end()) {
            const std::size_t begin = at_;
            blanks();
            if (at_ == text_.size() || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '#') continue;
            TomlStatement statement;
            statement.begin = begin;
            if (text_[at_] == '[') {
                while (text_[at_] == '[') ++at_;
                table = statement.path = keys();
                statement.heading = true;
            } else {
                statement.path = table;
                for (std::string& key : keys()) statement.path.push_back(std::move(key));
                ++at_;  // =
                blanks();
                statement.value_begin = at_;
                statement.value_end = value();
            }
            statement.end = line_end();
            all.push_back(std::move(statement));
        }
        return all;
    }

private:
    void blanks() { at_ = std::min(text_.find_first_not_of(" \t", at_), text_.size()); }
    std::size_t line_end() const {
        const std::size_t newline = text_.find('\n', at_);
        return newline == std::string_view::npos ? text_.size() : newline + 1;
    }

    // Behind a string that begins here.
    void string() {
        const std::string_view rest = text_.substr(at_);
        const char quote = rest[0];
        const std::string three(3, quote);
        const bool lines = rest.starts_with(three);
        at_ += lines ? 3 : 1;
        while (at_ < text_.size()) {
            if (quote == '"' && text_[at_] == '\\') {
                at_ += 2;
            } else if (lines ? text_.substr(at_).starts_with(three) : text_[at_] == quote) {
                at_ += lines ? 3 : 1;
                while (lines && at_ < text_.size() && text_[at_] == quote) ++at_;  // up to two of its own before its end
                return;
            } else {
                ++at_;
            }
        }
    }

    KeyPath keys() {
        KeyPath all;
        for (;;) {
            blanks();
            const std::size_t begin = at_;
            if (text_[at_] == '"' || text_[at_] == '\'') {
                string();
                const std::string_view spelled = text_.substr(begin, at_ - begin);
                const toml::table read = toml::parse("k = " + std::string(spelled));
                all.push_back(read["k"].value<std::string>().value());
            } else {
                at_ = std::min(text_.find_first_of(" \t.=]", begin), text_.size());
                all.emplace_back(text_.substr(begin, at_ - begin));
            }
            blanks();
            if (at_ == text_.size() || text_[at_] != '.') return all;
            ++at_;
        }
    }

    // Behind the value's last character.
    std::size_t value() {
        std::size_t depth = 0, end = at_;
        while (at_ < text_.size()) {
            const char c = text_[at_];
            if (depth == 0 && (c == '\n' || c == '#')) break;
            if (c == '"' || c == '\'') {
                string();
                end = at_;
                continue;
            }
            if (c == '#') {
                at_ = line_end();
                continue;
            }
            if (c == '[' || c == '{') ++depth;
            if ((c == ']' || c == '}') && depth > 0) --depth;
            ++at_;
            if (c != ' ' && c != '\t' && c != '\r') end = at_;
        }
        return end;
    }

    std::string_view text_;
    std::size_t at_ = 0;
};

bool begins_with(const KeyPath& path, const KeyPath& with) {
    return path.size() >= with.size() && std::equal(with.begin(), with.end(), path.begin());
}

std::string toml_string(const std::string& text) {
    std::string out;
    for (const char c : Json(text).dump()) {
        if (c == '\x7f') out += "\\u007f";
        else out += c;
    }
    return out;
}

std::string toml_value(const Json& value) {
    if (value.is_string()) return toml_string(value.get<std::string>());
    if (!value.is_array()) return value.dump();
    std::string out;
    for (const Json& item : value) out += (out.empty() ? "" : ", ") + toml_string(item.get<std::string>());
    return "[" + out + "]";
}

std::string toml_key(const std::string& key) {
    const bool bare = !key.empty() && key.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") == std::string::npos;
    return bare ? key : toml_string(key);
}

std::string joined(const KeyPath& path) {
    std::string out;
    for (const std::string& key : path) out += (out.empty() ? "" : ".") + toml_key(key);
    return out;
}

// A table that only had the one that went need not be left, but may be.
Json without_empty(Json document, const KeyPath& path) {
    if (path.size() > 1 && document.contains(path.front()) && document[path.front()].empty()) document.erase(path.front());
    return document;
}

Json set_at(Json document, const KeyPath& path, const Json& values) {
    Json* at = &document;
    for (const std::string& key : path) {
        if (!at->is_object() && !at->is_null()) throw Error(ErrorCode::invalid_argument, "what leads to " + joined(path) + " is not a table");
        at = &(*at)[key];
    }
    if (!at->is_object() && !at->is_null()) throw Error(ErrorCode::invalid_argument, joined(path) + " is not a table");
    for (const auto& [key, value] : values.items()) (*at)[key] = value;
    return document;
}

}  // namespace

Json parse_toml(const std::string& text) {
    try {
        return json_of(toml::parse(text));
    } catch (const toml::parse_error& e) {
        const auto where = e.source().begin;
        throw Error(ErrorCode::invalid_argument, "line " + std::to_string(where.line) + ", column " + std::to_string(where.column) + ": " + std::string(e.description()));
    }
}

std::string with_toml(const std::string& text, const KeyPath& path, const Json& values) {
    const std::string newline = text.find("\r\n") == std::string::npos ? "\n" : "\r\n";
    const Json wanted = set_at(parse_toml(text), path, values);
    std::string out = text;
    const auto refuse = [&]() -> Error {
        return Error(ErrorCode::failed_precondition, joined(path) + " is not written as a table of its own, and that is all that is changed here",
                     "write it as [" + joined(path) + "], with its keys on lines of their own");
    };
    for (const auto& [key, value] : values.items()) {
        const std::vector<TomlStatement> all = TomlScanner(out).statements();
        KeyPath full = path;
        full.push_back(key);
        const TomlStatement *same = nullptr, *last = nullptr;
        bool inside = false, anything = false;
        for (const TomlStatement& statement : all) {
            anything = anything || begins_with(statement.path, path);
            if (statement.heading) inside = statement.path == path;
            if (inside) last = &statement;
            if (!statement.heading && statement.path == full) same = &statement;
        }
        const std::string line = toml_key(key) + " = " + toml_value(value) + newline;
        if (same) {
            out.replace(same->value_begin, same->value_end - same->value_begin, toml_value(value));
        } else if (last) {
            const std::size_t at = last->end;
            out.insert(at, (out[at - 1] == '\n' ? "" : newline) + line);
        } else if (anything) {
            throw refuse();
        } else {
            if (!out.empty() && out.back() != '\n') out += newline;
            out += (out.empty() ? "" : newline) + "[" + joined(path) + "]" + newline + line;
        }
    }
    try {
        if (same_content(parse_toml(out), wanted)) return out;
    } catch (const Error&) {  // the text cannot hold such a table as it is written
    }
    throw refuse();
}

std::string without_toml(const std::string& text, const KeyPath& path) {
    Json wanted = parse_toml(text);
    Json* parent = &wanted;
    for (std::size_t i = 0; i + 1 < path.size(); ++i) {
        if (!parent->contains(path[i])) return text;  // also where it is no table
        parent = &(*parent)[path[i]];
    }
    if (!parent->contains(path.back())) return text;
    parent->erase(path.back());
    std::string out;
    std::size_t from = 0;  // of what has not been kept or dropped yet
    bool dropping = false;
    for (const TomlStatement& statement : TomlScanner(text).statements()) {
        const bool drop = begins_with(statement.path, path);
        // Comments and blank lines belong to what comes behind them, but those between lines that go, go too.
        if (!drop || !dropping) out += text.substr(from, statement.begin - from);
        if (!drop) out += text.substr(statement.begin, statement.end - statement.begin);
        from = statement.end;
        dropping = drop;
    }
    out += text.substr(from);
    // The blank line that set the table apart.
    if (out.ends_with("\n\n") && !text.ends_with("\n\n")) out.pop_back();
    try {
        if (same_content(without_empty(parse_toml(out), path), without_empty(std::move(wanted), path))) return out;
    } catch (const Error&) {
    }
    throw Error(ErrorCode::failed_precondition, joined(path) + " is not written as a table of its own, and that is all that is taken out here", "take it out by hand");
}

}  // namespace pyro::host
