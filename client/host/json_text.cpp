#include "client/host/json_text.hpp"

#include "client/host/text_place.hpp"

#include <algorithm>
#include <memory>

namespace pyro::host {

namespace {

constexpr std::size_t max_depth = 64;
constexpr std::string_view blanks = " \t\r\n";

struct JsonNode;
struct JsonMember {
    std::string key;
    std::size_t begin = 0;               // of its key
    std::size_t comma = std::string::npos;  // behind it, if there is one
    std::unique_ptr<JsonNode> value;
};
struct JsonNode {
    std::size_t begin = 0, end = 0;
    Json value;
    std::vector<JsonMember> members;  // objects
};

class JsonReader {
public:
    JsonReader(std::string_view text, Dialect dialect) : text_(text), dialect_(dialect) {
        if (text_.starts_with("\xef\xbb\xbf")) at_ = 3;
    }

    JsonNode document() {
        skip();
        JsonNode root = value(0);
        if (!root.value.is_object()) fail(root.begin, "the document is not an object");
        skip();
        if (at_ < text_.size()) fail(at_, "there is something behind the end of the document");
        return root;
    }

private:
    [[noreturn]] void fail(std::size_t where, const std::string& what) const { throw_at(text_, where, what); }

    void skip() {
        for (;;) {
            while (at_ < text_.size() && blanks.find(text_[at_]) != std::string_view::npos) ++at_;
            const std::string_view rest = text_.substr(at_);
            if (!rest.starts_with("//") && !rest.starts_with("/*")) return;
            if (dialect_ == Dialect::strict) fail(at_, "a comment, which this file may not have");
            const std::size_t end = rest[1] == '/' ? rest.find('\n') : rest.find("*/", 2);
            if (end == std::string_view::npos && rest[1] == '*') fail(at_, "this comment does not end");
            at_ = end == std::string_view::npos ? text_.size() : at_ + end + (rest[1] == '*' ? 2 : 1);
        }
    }

    char peek(const char* wanted) {
        skip();
        if (at_ == text_.size()) fail(at_, std::string("the file ends where ") + wanted + " should be");
        return text_[at_];
    }

    // A string, a number or a word; its spelling is checked by the library.
    Json scalar() {
        const std::size_t begin = at_;
        if (text_[at_] == '"') {
            for (++at_; at_ < text_.size() && text_[at_] != '"' && text_[at_] != '\n'; ++at_)
                if (text_[at_] == '\\') ++at_;
            if (at_ >= text_.size() || text_[at_] == '\n') fail(begin, "this string does not end");
            ++at_;
        } else {
            const std::size_t end = text_.find_first_of(" \t\r\n,:]}/", at_);
            at_ = std::min(end, text_.size());
        }
        Json parsed = Json::parse(text_.substr(begin, at_ - begin), nullptr, false);
        if (parsed.is_discarded()) fail(begin, "this is no JSON value");
        return parsed;
    }

    JsonNode value(std::size_t depth) {
        if (depth > max_depth) fail(at_, "more than " + std::to_string(max_depth) + " levels");
        JsonNode node;
        const char first = peek("a value");
        node.begin = at_;
        if (first != '{' && first != '[') {
            node.value = scalar();
            node.end = at_;
            return node;
        }
        const bool object = first == '{';
        const char close = object ? '}' : ']';
        node.value = object ? Json::object() : Json::array();
        ++at_;
        for (bool comma = true; peek("a bracket") != close; ) {
            if (!comma) fail(at_, "a comma is missing before this");
            JsonMember member;
            member.begin = at_;
            if (object) {
                if (text_[at_] != '"') fail(at_, "a name in quotes should be here");
                member.key = scalar().get<std::string>();
                if (peek("a colon") != ':') fail(at_, "a colon should be here");
                ++at_;
            }
            member.value = std::make_unique<JsonNode>(value(depth + 1));
            if (object) node.value[member.key] = member.value->value;
            else node.value.push_back(member.value->value);
            comma = peek("a bracket") == ',';
            if (comma) {
                member.comma = at_++;
                if (dialect_ == Dialect::strict && peek("a value") == close) fail(member.comma, "a comma before the end, which this file may not have");
            }
            if (object) node.members.push_back(std::move(member));
        }
        node.end = ++at_;
        return node;
    }

    std::string_view text_;
    Dialect dialect_;
    std::size_t at_ = 0;
};

bool is_blank(std::string_view text) { return text.find_first_not_of(blanks) == std::string_view::npos; }

JsonNode read(std::string_view text, Dialect dialect) { return JsonReader(text, dialect).document(); }

// Where a name is given twice the last one counts, as everywhere.
const JsonMember* find(const JsonNode& node, const std::string& key) {
    const auto found = std::find_if(node.members.rbegin(), node.members.rend(), [&](const JsonMember& m) { return m.key == key; });
    return found == node.members.rend() ? nullptr : &*found;
}

std::string indent_at(std::string_view text, std::size_t at) {
    const std::size_t newline = text.rfind('\n', at ? at - 1 : 0);
    const std::size_t begin = newline == std::string_view::npos ? 0 : newline + 1;
    const std::size_t end = std::min(text.find_first_not_of(" \t", begin), at);
    return std::string(text.substr(begin, end - begin));
}

// What one level is indented by: what the first member of the document is, else two blanks.
std::string unit_of(std::string_view text, const JsonNode& root) {
    const std::string first = root.members.empty() ? std::string() : indent_at(text, root.members.front().begin);
    return first.empty() ? "  " : first;
}

std::string spelled(const Json& value, const std::string& indent, const std::string& unit, bool one_line, std::string_view newline) {
    if (one_line) return value.dump();
    const std::string plain = value.dump(static_cast<int>(unit.size()), unit[0]);
    std::string out;
    for (const char c : plain) {
        if (c == '\n') out += std::string(newline) + indent;
        else out += c;
    }
    return out;
}

std::string inserted(const std::string& text, const JsonNode& root, const JsonNode& object, const std::string& key, const Json& value) {
    const std::string_view newline = text.find("\r\n") == std::string::npos ? "\n" : "\r\n";
    const std::string_view whole = text;
    const bool one_line = object.begin != root.begin && !object.members.empty() && whole.substr(object.begin, object.end - object.begin).find('\n') == std::string_view::npos;
    const std::string unit = unit_of(text, root), outer = indent_at(text, object.begin);
    std::string inner = outer + unit;
    if (!object.members.empty() && whole.substr(object.begin, object.members.front().begin - object.begin).find('\n') != std::string_view::npos)
        inner = indent_at(text, object.members.front().begin);
    const std::string member = Json(key).dump() + ": " + spelled(value, inner, unit, one_line, newline);
    const std::size_t last = object.members.empty() ? object.begin + 1 : object.members.back().value->end;
    const bool comma = !object.members.empty() && object.members.back().comma != std::string::npos;
    if (one_line) return text.substr(0, last) + ", " + member + text.substr(last);
    // Behind all comments: one on the last member's line stays with it.
    const std::size_t tail = whole.find_last_not_of(blanks, object.end - 2) + 1;
    return text.substr(0, last) + (object.members.empty() || comma ? "" : ",") + text.substr(last, tail - last) + std::string(newline) + inner + member + (comma ? "," : "") +
           std::string(newline) + outer + text.substr(object.end - 1);
}

std::string set_in(const std::string& text, Dialect dialect, const KeyPath& path, const Json& value) {
    const JsonNode root = read(text, dialect);
    const JsonNode* node = &root;
    for (std::size_t i = 0; i < path.size(); ++i) {
        if (!node->value.is_object()) throw_at(text, node->begin, "\"" + path[i - 1] + "\" is not an object");
        const JsonMember* member = find(*node, path[i]);
        if (!member) {
            Json made = value;
            for (std::size_t below = path.size(); below-- > i + 1; ) made = Json{{path[below], made}};
            return inserted(text, root, *node, path[i], made);
        }
        node = member->value.get();
    }
    if (same_content(node->value, value)) return text;
    const bool one_line = std::string_view(text).substr(node->begin, node->end - node->begin).find('\n') == std::string_view::npos && node->value.is_structured() && !node->value.empty();
    const std::string_view newline = text.find("\r\n") == std::string::npos ? "\n" : "\r\n";
    return text.substr(0, node->begin) + spelled(value, indent_at(text, node->begin), unit_of(text, root), one_line, newline) + text.substr(node->end);
}

std::string removed(const std::string& text, const JsonNode& object, const JsonMember& member) {
    const std::size_t open = object.begin + 1, close = object.end - 1;
    std::size_t begin = member.begin, end = member.comma == std::string::npos ? member.value->end : member.comma + 1;
    if (is_blank(std::string_view(text).substr(open, begin - open)) && is_blank(std::string_view(text).substr(end, close - end)))
        return text.substr(0, open) + text.substr(close);
    // The whole of its lines, if nothing else is on them.
    const std::size_t line = text.find_last_not_of(" \t", begin - 1);
    const std::size_t rest = text.find_first_not_of(" \t\r", end);
    if (text[line] == '\n' && (rest == std::string::npos || text[rest] == '\n')) {
        begin = line > 0 && text[line - 1] == '\r' ? line - 1 : line;
        end = rest == std::string::npos ? text.size() : (text[rest - 1] == '\r' ? rest - 1 : rest);
    } else if (rest != std::string::npos && member.comma != std::string::npos) {
        end = rest;
    } else {
        begin = line + 1;
    }
    std::string out = text.substr(0, begin) + text.substr(end);
    // Without a comma behind it, it was the last one: then the one before it has one too many.
    const auto place = static_cast<std::size_t>(&member - object.members.data());
    if (member.comma == std::string::npos && place > 0) out.erase(object.members[place - 1].comma, 1);
    return out;
}

}  // namespace

Json parse_json(std::string_view text, Dialect dialect) { return is_blank(text) ? Json::object() : read(text, dialect).value; }

const Json* value_at(const Json& document, const KeyPath& path) {
    const Json* value = &document;
    for (const std::string& key : path) {
        if (!value->is_object()) return nullptr;
        const auto found = value->find(key);
        if (found == value->end()) return nullptr;
        value = &*found;
    }
    return value;
}

bool same_content(const Json& a, const Json& b) { return nlohmann::json(a) == nlohmann::json(b); }

std::string with_json(const std::string& text, Dialect dialect, const KeyPath& path, const Json& value) {
    return set_in(is_blank(text) ? "{}\n" : text, dialect, path, value);
}

std::string without_json(const std::string& text, Dialect dialect, const KeyPath& path) {
    std::string out = text;
    for (;;) {  // a name that is given twice goes twice
        const JsonNode root = read(out, dialect);
        const JsonNode* node = &root;
        const JsonMember* member = nullptr;
        const JsonNode* object = nullptr;
        for (const std::string& key : path) {
            object = node;
            member = find(*node, key);
            if (!member) return out;
            node = member->value.get();
        }
        out = removed(out, *object, *member);
    }
}

}  // namespace pyro::host
