#include "client/cli/args.hpp"

#include "client/lib/capture.hpp"
#include "proto/codec.hpp"

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>

#include <algorithm>
#include <charconv>
#include <list>

namespace pyro::client {

using nlohmann::json;
using proto::Cli;
using proto::FieldInfo;
using proto::Kind;

namespace {

// What CLI11 collects for one verb.
struct Collected {
    const Verb* verb;
    CLI::App* app;
    std::list<std::pair<const FieldInfo*, std::vector<std::string>>> values;
    std::list<std::pair<const FieldInfo*, bool>> flags;
};

constexpr std::string_view help_names = "-h,--help";

void add_globals(CLI::App& app, Globals& globals, bool& help) {
    app.set_help_flag();
    app.add_flag(std::string(help_names), help);
    app.add_flag("--json", globals.json);
    app.add_option("--socket", globals.socket)->type_size(1);
}

void add_fields(Collected& to) {
    for (const FieldInfo* each : to.verb->fields()) {
        const FieldInfo& field = *each;
        const bool by_place = field.options.cli == Cli::positional || field.options.cli == Cli::rest;
        if (field.options.cli == Cli::none || &field == command_of(to.verb->params())) continue;
        const std::string name = by_place ? std::string(field.name)
                                 : (field.options.short_flag ? std::string{'-', field.options.short_flag, ','} : std::string()) + flag_of(field);
        if (!takes_value(field)) {
            to.app->add_flag(name, to.flags.emplace_back(&field, false).second);
            continue;
        }
        const Kind kind = field.type().kind;
        const bool many = kind == Kind::list || kind == Kind::map;
        CLI::Option* option = to.app->add_option(name, to.values.emplace_back(&field, std::vector<std::string>()).second);
        option->type_size(1)->expected(1)->allow_extra_args(false)->type_name(placeholder_of(field));
        if (field.options.cli == Cli::rest) option->expected(-1)->allow_extra_args();
        // Of an option given twice the last one counts, as everywhere; the decoder says what is missing.
        if (many) option->take_all();
        else if (field.options.cli == Cli::option) option->take_last();
    }
}

// The subcommand that `words` name; the groups it is in are there already.
CLI::App* add_below(CLI::App& app, std::string_view words) {
    CLI::App* parent = &app;
    for (std::size_t space; (space = words.find(' ')) != std::string_view::npos; words.remove_prefix(space + 1))
        parent = parent->get_subcommand(std::string(words.substr(0, space)));
    return parent->add_subcommand(std::string(words));
}

// Where in `args` (which begin after the verb) the words begin that are taken as they are: at `--`, and if they are a command, at the
// first word behind the positionals that is no option.
std::size_t rest_start(const proto::TypeInfo& params, const std::vector<std::string>& args) {
    const bool is_command = command_of(params) != nullptr;
    std::size_t positionals = 0;
    for (const FieldInfo& field : params.fields) positionals += field.options.cli == Cli::positional;
    const auto by_flag = [&](const std::string& flag) -> const FieldInfo* {
        for (const FieldInfo& field : params.fields)
            if (field.options.cli == Cli::option && flag_of(field) == flag) return &field;
        return nullptr;
    };
    const auto by_letter = [&](char letter) -> const FieldInfo* {
        for (const FieldInfo& field : params.fields)
            if (field.options.cli == Cli::option && field.options.short_flag == letter) return &field;
        return nullptr;
    };
    for (std::size_t i = 0; i < args.size(); ++i) {
        const std::string& arg = args[i];
        if (arg == "--") return i;
        if (arg.size() < 2 || arg[0] != '-') {
            if (is_command && positionals == 0) return i;
            if (positionals > 0) --positionals;
        } else if (arg[1] == '-') {
            if (arg.find('=') != std::string::npos) continue;
            const FieldInfo* field = by_flag(arg);
            if (arg == "--socket" || (field && takes_value(*field))) ++i;
        } else {
            for (std::size_t at = 1; at < arg.size(); ++at) {
                const FieldInfo* field = by_letter(arg[at]);
                if (!field || !takes_value(*field)) continue;
                if (at + 1 == arg.size()) ++i;  // its value is the next word; else the rest of this one
                break;
            }
        }
    }
    return args.size();
}

std::string called(const FieldInfo& field) { return field.options.cli == Cli::option ? flag_of(field) : placeholder_of(field); }

// `sent`: to the daemon, whose messages hold UTF-8 only. A path of this host may be anything.
json parse_value(const FieldInfo& field, const std::string& text, bool sent = true) {
    if (sent && !is_valid_utf8(text)) throw Error(ErrorCode::invalid_argument, called(field) + ": is not valid UTF-8");
    if (field.type().kind != Kind::integer) return text;
    std::int64_t number = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (field.options.value == "DURATION" && error == std::errc() && end + 1 == text.data() + text.size()) {
        static constexpr std::pair<char, std::int64_t> units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}, {'w', 604800}};
        for (const auto& [letter, seconds] : units) {
            if (*end != letter) continue;
            ++end;
            if (__builtin_mul_overflow(number, seconds, &number)) error = std::errc::result_out_of_range;
            break;
        }
    }
    if (error == std::errc::result_out_of_range) throw Error(ErrorCode::invalid_argument, called(field) + ": is out of range: " + text);
    if (error != std::errc() || end != text.data() + text.size() || text.empty())
        throw Error(ErrorCode::invalid_argument, called(field) + ": expected " + (field.options.value == "DURATION" ? "a time such as 12h or 7d" : "an integer") + ", got \"" + text + "\"");
    return number;
}

json parse_map(const FieldInfo& field, const std::vector<std::string>& texts, const char* (*environment)(const char*)) {
    json map = json::object();
    for (const std::string& text : texts) {
        parse_value(field, text);
        const std::size_t equals = text.find('=');
        const std::string key = text.substr(0, equals);
        if (key.empty()) throw Error(ErrorCode::invalid_argument, called(field) + ": expected " + placeholder_of(field) + ", got \"" + text + "\"");
        if (equals != std::string::npos) map[key] = text.substr(equals + 1);
        else if (const char* value = environment(key.c_str())) map[key] = parse_value(field, value);  // as docker does: unset ones are left out
    }
    return map;
}

// "mem_mib: must be ..." of the decoder, in the words of the command line.
std::string in_flags(const proto::TypeInfo& params, const std::string& message) {
    const std::size_t end = message.find_first_of(":.[");
    for (const FieldInfo& field : params.fields)
        if (field.name == message.substr(0, end)) return called(field) + message.substr(end);
    return message;
}

std::string one_line(std::string text) {
    std::replace(text.begin(), text.end(), '\n', ' ');
    return text;
}

// `--json` before the command, for errors that are found before it is parsed.
bool wants_json(const std::vector<std::string>& args) {
    for (const std::string& arg : args) {
        if (arg == "--") return false;
        if (arg == "--json") return true;
    }
    return false;
}

// The longest verb or group at the start of the words that are no options, and where its last word stands.
struct Found {
    const Verb* verb = nullptr;
    std::string words;
    std::size_t end = 0;
};
Found find_command(const std::vector<std::string>& args) {
    Found found;
    for (std::size_t i = 0; i < args.size(); ++i) {
        if (args[i] == "--socket") { ++i; continue; }
        if (args[i].starts_with("-")) continue;
        const std::string words = found.words + (found.words.empty() ? "" : " ") + args[i];
        const auto is_group = [&](const Group& group) { return group.name == words; };
        found.verb = find_verb(words);
        if (!found.verb && std::none_of(groups().begin(), groups().end(), is_group)) return found;
        found.words = words;
        found.end = i + 1;
        if (found.verb) return found;
    }
    return found;
}

}  // namespace

Invocation parse_args(const std::vector<std::string>& args, const char* (*environment)(const char*)) {
    Invocation out;
    const Found found = find_command(args);
    // CLI11 sees the words before the command only: what comes after belongs to the guest.
    std::vector<std::string> ours = args;
    std::vector<std::string> command;
    const FieldInfo* rest = found.verb ? rest_of(found.verb->params()) : nullptr;
    if (rest) {
        const std::vector<std::string> after(args.begin() + static_cast<std::ptrdiff_t>(found.end), args.end());
        const std::size_t start = rest_start(found.verb->params(), after);
        ours.resize(found.end + start);
        command.assign(after.begin() + static_cast<std::ptrdiff_t>(start), after.end());
        if (!command.empty() && command.front() == "--") command.erase(command.begin());
    }

    bool help = false, version = false;
    CLI::App app;
    add_globals(app, out.globals, help);
    app.add_flag("-V,--version", version);
    std::list<Collected> collected;
    for (const Group& group : groups()) add_globals(*add_below(app, group.name), out.globals, help);
    for (const Verb& verb : verbs()) {
        CLI::App* sub = add_below(app, verb.words);
        if (&verb != found.verb) continue;  // only the one that is meant needs its fields
        add_globals(*sub, out.globals, help);
        if (has_id_only(verb)) sub->add_flag("--id-only", out.globals.id_only);
        add_fields(collected.emplace_back(Collected{&verb, sub, {}, {}}));
    }
    const auto usage = [&](std::string message) {
        return UsageError(one_line(std::move(message)), found.words, out.globals.json || wants_json(ours));
    };
    try {
        app.parse(std::vector<std::string>(ours.rbegin(), ours.rend()));
    } catch (const CLI::ExtrasError&) {
        if (!help) {
            const auto extra = app.remaining(true);
            const std::string word = extra.empty() ? std::string() : extra.front();
            throw usage(word.starts_with("-") ? "unknown option " + word
                        : found.verb          ? "unexpected argument \"" + word + "\""
                                              : "unknown command \"" + (found.words.empty() ? "" : found.words + " ") + word + "\"");
        }
    } catch (const CLI::ArgumentMismatch& e) {
        if (!help) throw usage(e.what());
    } catch (const CLI::ParseError& e) {
        if (!help) throw usage(e.what());
    }
    if (version) {
        out.what = Invocation::What::version;
        return out;
    }
    // Words that only begin commands, and nothing else, ask what there is.
    if (help || (!found.verb && found.end == ours.size())) {
        out.what = Invocation::What::help;
        out.topic = found.words;
        return out;
    }
    if (!found.verb) throw usage(found.words.empty() ? "which command?" : "pyro " + found.words + " needs a command");

    out.verb = found.verb;
    const proto::TypeInfo& params = found.verb->params();
    const auto is_own = [&](const FieldInfo* field) {
        return found.verb->own && std::any_of(found.verb->own().fields.begin(), found.verb->own().fields.end(), [&](const FieldInfo& own) { return &own == field; });
    };
    try {
        for (const auto& [field, given] : collected.front().flags) {
            if (!given) continue;
            (is_own(field) ? out.own : out.params)[std::string(field->name)] = true;
            out.given.emplace(field->name);
        }
        for (const auto& [field, texts] : collected.front().values) {
            if (texts.empty()) continue;
            const bool sent = !is_own(field);
            json& value = (sent ? out.params : out.own)[std::string(field->name)];
            const Kind kind = field->type().kind;
            if (kind == Kind::map) value = parse_map(*field, texts, environment);
            else if (kind == Kind::list) for (const std::string& text : texts) value.push_back(parse_value(*field, text));
            else value = parse_value(*field, texts.back(), sent);
            out.given.emplace(field->name);
        }
        if (rest && !command.empty()) {
            // `pyro run -- debian:12 ls`: after -- the positionals come first.
            for (const FieldInfo& field : params.fields) {
                if (field.options.cli != Cli::positional || out.given.contains(std::string(field.name)) || command.empty()) continue;
                out.params[std::string(field.name)] = parse_value(field, command.front());
                out.given.emplace(field.name);
                command.erase(command.begin());
            }
            json& value = out.params[std::string(rest->name)];
            if (value.is_null()) value = json::array();
            for (const std::string& word : command) value.push_back(parse_value(*rest, word));
            out.given.emplace(rest->name);
        }
    } catch (const Error& e) {
        throw usage(e.message());
    }
    const auto check = [&](const proto::TypeInfo& type, void (*decode)(const json&), const json& value) {
        try {
            decode(value);
        } catch (const Error& e) {
            throw usage(in_flags(type, e.message()));
        }
    };
    check(params, found.verb->check, out.params);
    if (found.verb->own) check(found.verb->own(), found.verb->check_own, out.own);
    return out;
}

}  // namespace pyro::client
