#include "client/cli/help.hpp"

#include "client/cli/verbs.hpp"
#include "client/lib/connection.hpp"
#include "proto/codec.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>

namespace pyro::client {

using proto::Cli;
using proto::FieldInfo;
using proto::Kind;

namespace {

constexpr std::size_t help_width = 110;

// "  left   right", the right part wrapped under itself.
std::string row(const std::string& left, const std::string& right, std::size_t column) {
    std::string out = "  " + left;
    if (left.size() + 2 >= column) out += "\n" + std::string(column, ' ');
    else out.append(column - out.size(), ' ');
    std::size_t at = column;
    std::string_view rest = right;
    while (!rest.empty()) {
        const std::size_t space = rest.find(' ');
        const std::string_view word = rest.substr(0, space);
        if (at > column && at + 1 + word.size() > help_width) {
            out += "\n" + std::string(column, ' ');
            at = column;
        }
        if (at > column) { out += ' '; ++at; }
        out += word;
        at += word.size();
        rest.remove_prefix(space == std::string_view::npos ? rest.size() : space + 1);
    }
    return out + "\n";
}

std::string bounds_and_default(const FieldInfo& field, const void* defaults) {
    std::string text;
    const auto add = [&](const std::string& part) { text += (text.empty() ? "" : "; ") + part; };
    const proto::TypeInfo& type = field.type();
    if (type.kind == Kind::enumeration) {
        std::string names;
        for (const std::string_view name : type.names) names += (names.empty() ? "" : ", ") + std::string(name);
        add(names);
    }
    if (type.kind == Kind::integer && field.options.min && field.options.max) add(std::to_string(*field.options.min) + " to " + std::to_string(*field.options.max));
    if (field.options.defaulted && (type.kind == Kind::integer || type.kind == Kind::string || type.kind == Kind::enumeration)) {
        const nlohmann::json value = proto::encode(type, field.get(defaults));
        add("default " + (value.is_string() ? value.get<std::string>() : value.dump()));
    }
    return text.empty() ? text : " (" + text + ")";
}

struct Rows { std::vector<std::pair<std::string, std::string>> arguments, options; };

Rows rows_of(const Verb& verb) {
    struct Walk { const proto::TypeInfo* record; Rows rows; } walk{&verb.params(), {}};
    const auto add_fields = [](const void* defaults, void* context) {
        auto& w = *static_cast<Walk*>(context);
        for (const FieldInfo& field : w.record->fields) {
            const std::string doc = std::string(field.doc) + bounds_and_default(field, defaults);
            if (field.options.cli == Cli::positional || field.options.cli == Cli::rest) w.rows.arguments.emplace_back(placeholder_of(field), doc);
            if (field.options.cli != Cli::option) continue;
            const std::string letter = field.options.short_flag ? std::string{'-', field.options.short_flag, ',', ' '} : "    ";
            const Kind kind = field.type().kind;
            const std::string again = kind == Kind::map || kind == Kind::list ? "; may be given again" : "";
            w.rows.options.emplace_back(letter + flag_of(field) + (takes_value(field) ? " " + placeholder_of(field) : ""), doc + again);
        }
    };
    walk.record->construct_default(add_fields, &walk);
    if (verb.own) {
        walk.record = &verb.own();
        walk.record->construct_default(add_fields, &walk);
    }
    return walk.rows;
}

std::string usage_of(const Verb& verb) {
    std::string out = "pyro " + std::string(verb.words) + " [options]";
    for (const FieldInfo* field : verb.fields())
        if (field->options.cli == Cli::positional) out += field->required() ? " " + placeholder_of(*field) : " [" + placeholder_of(*field) + "]";
    for (const FieldInfo* field : verb.fields())
        if (field->options.cli == Cli::option && field->required()) out += " " + flag_of(*field) + " " + placeholder_of(*field);
    if (const FieldInfo* rest = rest_of(verb.params())) out += (rest == command_of(verb.params()) ? " [--] [" : " [") + placeholder_of(*rest) + "...]";
    return out;
}

const std::vector<std::pair<std::string, std::string>>& global_options() {
    static const std::vector<std::pair<std::string, std::string>> options{
        {"    --json", "Print one JSON document on standard output, also for errors"},
        {"    --socket PATH", "Socket of the daemon (default: $PYRO_SOCKET, else " + std::string(default_socket) + ")"},
        {"-h, --help", "Show this"}};
    return options;
}

std::string section(const std::string& title, const std::vector<std::pair<std::string, std::string>>& rows) {
    if (rows.empty()) return {};
    std::size_t column = 0;
    for (const auto& [left, right] : rows) column = std::max(column, std::min<std::size_t>(left.size() + 4, 30));
    std::string out = "\n" + title + ":\n";
    for (const auto& [left, right] : rows) out += row(left, right, column);
    return out;
}

constexpr std::string_view general_path = R"(
  pyro doctor
  pyro env list
  pyro env pull debian:12
  pyro run debian:12 -- git --version
  pyro mcp serve
)";

constexpr std::string_view about_commands = R"(
Everything from the first word after the arguments belongs to the command; put -- before it if it could be taken for an option.
The command's standard output and error are passed through. Exit status: the command's own; 124 time-out, 125 pyro failed,
126 not executable, 127 not found, 128+N ended by signal N, 130 interrupted, 2 wrong usage.
)";

std::string from_zero(std::string_view words) {
    std::string_view path = general_path;
    for (const Group& group : groups())
        if (!group.path.empty() && (words == group.name || words.starts_with(std::string(group.name) + " "))) path = group.path;
    return "\nFrom zero:" + std::string(path);
}

}  // namespace

std::string help_text(std::string_view words) {
    if (const Verb* verb = find_verb(words)) {
        Rows rows = rows_of(*verb);
        if (has_id_only(*verb)) rows.options.emplace_back("    --id-only", "Print just the id");
        rows.options.insert(rows.options.end(), global_options().begin(), global_options().end());
        return "usage: " + usage_of(*verb) + "\n\n" + std::string(verb->doc) + "\n" + section("arguments", rows.arguments) + section("options", rows.options) +
               (command_of(verb->params()) ? std::string(about_commands) : std::string()) + from_zero(words);
    }
    std::vector<std::pair<std::string, std::string>> commands;
    std::string doc = "Run commands in disposable microVMs: real isolation, ready in a moment, gone afterwards.";
    for (const Group& group : groups())
        if (group.name == words) doc = group.doc;
    for (const Verb& verb : verbs()) {
        const bool inside = words.empty() || verb.words.starts_with(std::string(words) + " ");
        if (inside) commands.emplace_back(std::string(verb.words), std::string(verb.doc));
    }
    auto options = global_options();
    if (words.empty()) options.emplace_back("-V, --version", "Show the version");
    return "usage: pyro " + (words.empty() ? "" : std::string(words) + " ") + "COMMAND [options]\n\n" + doc + "\n" + section("commands", commands) +
           section("options", options) + "\n`pyro COMMAND --help` says more of a command.\n" + from_zero(words);
}

}  // namespace pyro::client
