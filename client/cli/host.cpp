// pyro host: chat hosts' configurations, which the client writes by itself. Only `doctor` comes near a daemon.
#include "client/cli/commands.hpp"
#include "client/cli/host_options.hpp"
#include "client/cli/server_probe.hpp"
#include "client/cli/terminal.hpp"
#include "proto/codec.hpp"

#include <cstdlib>
#include <filesystem>
#include <pwd.h>
#include <unistd.h>

namespace pyro::client {

namespace fs = std::filesystem;
using host::HostKind;
using host::Place;
using host::Scope;
using proto::Check;
using proto::CheckStatus;

namespace {

std::string variable(const char* name) {
    const char* value = std::getenv(name);
    return value ? value : "";
}

std::string absolute_path(const std::string& path) {
    std::string out = fs::absolute(path).lexically_normal().string();
    if (out.size() > 1 && out.ends_with('/')) out.pop_back();
    return out;
}

host::Surroundings surroundings() {
    host::Surroundings here{variable("HOME"), fs::current_path().string(), variable("CLAUDE_CONFIG_DIR"), variable("CODEX_HOME"), variable("XDG_CONFIG_HOME")};
    if (here.home.empty()) {
        const passwd* me = ::getpwuid(::geteuid());
        if (!me || !*me->pw_dir) throw Error(ErrorCode::failed_precondition, "there is no home directory", "set HOME");
        here.home = me->pw_dir;
    }
    for (std::string* path : {&here.home, &here.claude_config_dir, &here.codex_home, &here.xdg_config_home})
        if (!path->empty()) *path = absolute_path(*path);
    return here;
}

void check(const OneHost& one) {
    if (one.scope == Scope::local && one.host != HostKind::claude_code) throw UsageError("--scope: local is Claude Code's alone", "host", false);
    const std::string& name = one.name;
    if (name.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") != std::string::npos)
        throw UsageError("--name: only letters, digits, - and _ are names in all hosts, got \"" + printable(name) + "\"", "host", false);
}

// What this client was told of the socket; hosts pass PYRO_SOCKET on to no server, or not for sure.
std::string told_socket(const Invocation& call) {
    const std::string told = call.globals.socket.empty() ? variable("PYRO_SOCKET") : call.globals.socket;
    return told.empty() ? told : absolute_path(told);
}

bool any_choice(const ServerChoice& choice) {
    return choice.profile || choice.mode || choice.environment || choice.project_path || choice.repo_url || choice.repo_ref || choice.no_project_source ||
           !choice.allow_path.empty() || choice.allow_host_compat;
}

std::vector<std::string> words_of(const ServerChoice& choice) {
    std::vector<std::string> words;
    const auto add = [&](const char* flag, const std::string& value) { words.insert(words.end(), {flag, value}); };
    if (choice.profile) add("--profile", std::string(name_of(*choice.profile)));
    if (choice.mode) add("--mode", std::string(name_of(*choice.mode)));
    if (choice.environment) add("--environment", *choice.environment);
    if (choice.project_path) add("--project-path", absolute_path(*choice.project_path));
    if (choice.repo_url) add("--repo-url", *choice.repo_url);
    if (choice.repo_ref) add("--repo-ref", *choice.repo_ref);
    if (choice.no_project_source) words.emplace_back("--no-project-source");
    for (const std::string& path : choice.allow_path) add("--allow-path", absolute_path(path));
    if (choice.allow_host_compat) words.emplace_back("--allow-host-compat");
    return words;
}

// Where "--socket" is among a server's words, and what it says.
struct SocketWords {
    std::size_t at = std::string::npos, count = 0;
    std::string path;
};
SocketWords socket_in(const std::vector<std::string>& words) {
    constexpr std::string_view flag = "--socket";
    for (std::size_t i = 0; i < words.size(); ++i) {
        if (words[i] == flag && i + 1 < words.size()) return {i, 2, words[i + 1]};
        if (words[i].starts_with(std::string(flag) + "=")) return {i, 1, words[i].substr(flag.size() + 1)};
    }
    return {};
}

std::string socket_of(const host::Server& server) {
    const SocketWords words = socket_in(server.command);
    if (!words.path.empty()) return words.path;
    for (const auto& [name, value] : server.env)
        if (name == "PYRO_SOCKET") return value;
    if (std::find(server.passed.begin(), server.passed.end(), "PYRO_SOCKET") != server.passed.end()) return variable("PYRO_SOCKET");
    return {};
}

// What the entry should say: the options that were asked for, else those that it has.
std::vector<std::string> wanted_command(const Invocation& call, const ServerChoice& choice, const host::Entry* found, Scope scope) {
    const std::string self = own_path(), socket = told_socket(call);
    std::vector<std::string> words{self, "mcp", "serve"};
    if (!found || any_choice(choice)) {
        const auto chosen = words_of(choice);
        words.insert(words.end(), chosen.begin(), chosen.end());
        if (!socket.empty()) words.insert(words.end(), {"--socket", socket});
        return words;
    }
    const std::vector<std::string>& has = found->server->command;
    const auto options = std::find(has.begin(), has.end(), "serve") + 1;
    // Another name of this program is as good; and in a file for others too, one that each finds in a place of their own.
    std::error_code ignored;
    const bool same = has.front().starts_with('/') ? fs::equivalent(has.front(), self, ignored) : scope == Scope::project && has.front() == "pyro" && is_on_path("pyro");
    if (same) words = {has.begin(), options};
    words.insert(words.end(), options, has.end());
    if (!socket.empty() && socket_of(*found->server) != socket) {
        if (const SocketWords old = socket_in(words); old.count > 0) {
            const auto begin = words.begin() + static_cast<std::ptrdiff_t>(old.at);
            words.erase(begin, begin + static_cast<std::ptrdiff_t>(old.count));
        }
        words.insert(words.end(), {"--socket", socket});
    }
    return words;
}

// Whatever is wrong with the options is the server's to say: it is started with them, without a daemon.
void try_command(const std::vector<std::string>& command, const std::string& topic, bool as_json) {
    Signals signals(call_signals);
    try {
        ask_server({command, std::nullopt, {}}, false, signals);
    } catch (Error& e) {
        if (e.code() == ErrorCode::invalid_argument) throw UsageError(e.message(), topic, as_json);
        throw e.add_context("a server started as " + command_line(command));
    }
}

// Every place that has the entry, the one that counts most last.
struct FoundEntry {
    Place place;
    host::Entry entry;
};
std::vector<FoundEntry> found_entries(const OneHost& one) {
    const host::Surroundings here = surroundings();
    std::vector<FoundEntry> found;
    for (const Scope scope : {Scope::user, Scope::project, Scope::local}) {
        if ((one.scope && *one.scope != scope) || (!one.scope && scope == Scope::local && one.host != HostKind::claude_code)) continue;
        for (const Place& place : host::places(one.host, scope, one.name, here))
            if (auto entry = host::entry_at(place)) found.push_back({place, std::move(*entry)});
    }
    return found;
}

std::string host_line(const char* what, const OneHost& one) {
    return "pyro host " + std::string(what) + " " + std::string(name_of(one.host)) + (one.name == "pyro" ? "" : " --name " + one.name);
}
std::string connect_line(const OneHost& one) { return host_line("connect", one); }
std::string check_line(const OneHost& one) { return host_line("doctor", one); }
std::string repair_line(const OneHost& one) { return host_line("repair", one); }

Error not_connected(const OneHost& one) {
    return Error(ErrorCode::not_found, "no configuration of " + std::string(host::info_of(one.host).title) + " has a server called \"" + one.name + "\"", connect_line(one));
}

// What was done to one file, for people and programs.
class ChangeReport {
public:
    ChangeReport(const Invocation& call, const OneHost& one, bool dry_run) : json_(call.globals.json), dry_run_(dry_run) {
        document_ = {{"host", name_of(one.host)}, {"name", one.name}, {"dry_run", dry_run}, {"changes", nlohmann::ordered_json::array()}};
    }
    void add(const Place& place, const host::Rewritten& done, std::string_view verb, const std::vector<std::string>& command) {
        const bool changed = done.changed();
        nlohmann::ordered_json& change = document_["changes"].emplace_back();
        change = {{"scope", name_of(place.scope)}, {"file", place.file.path}, {"change", changed ? verb : "unchanged"}, {"diff", changed ? done.lines() : ""}};
        if (!command.empty()) change["command"] = command;
        const std::string& name = place.path.back();
        if (!changed) {
            text_ += "unchanged: " + name + " in " + printable(place.file.path) + " (" + std::string(name_of(place.scope)) + ")\n";
            return;
        }
        for (const std::string_view line : lines_of(done)) text_ += printable(line) + "\n";
        text_ += (dry_run_ ? "would be " : "") + std::string(verb) + ": " + name + " in " + printable(place.file.path) + " (" + std::string(name_of(place.scope)) + ")\n";
        changed_ = true;
    }
    bool changed() const { return changed_; }
    void print() const { write_stdout(json_ ? document(document_) : text_); }

private:
    static std::vector<std::string> lines_of(const host::Rewritten& done) {
        std::vector<std::string> out;
        const std::string text = done.lines();
        for (std::size_t at = 0, end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) out.push_back(text.substr(at, end - at));
        return out;
    }

    bool json_, dry_run_, changed_ = false;
    nlohmann::ordered_json document_;
    std::string text_;
};

// What a host gives a server of its own environment.
std::vector<std::string> server_environment(HostKind kind, const host::Server& server) {
    std::vector<std::string> out;
    const auto is_set = [&](std::string_view name) { return std::any_of(server.env.begin(), server.env.end(), [&](const auto& each) { return each.first == name; }); };
    constexpr std::string_view passed[] = {"HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER"};
    for (char** each = environ; *each; ++each) {
        const std::string_view whole(*each);
        const std::string_view name = whole.substr(0, whole.find('='));
        const bool passes = !host::info_of(kind).scrubs_environment || std::find(std::begin(passed), std::end(passed), name) != std::end(passed) ||
                            std::find(server.passed.begin(), server.passed.end(), name) != server.passed.end();
        if (passes && !is_set(name)) out.emplace_back(whole);
    }
    for (const auto& [name, value] : server.env) out.push_back(name + "=" + value);
    return out;
}

Check config_check(const Invocation& call, const OneHost& one, const FoundEntry& found) {
    const std::string where = one.name + " in " + found.place.file.path + " (" + std::string(name_of(found.place.scope)) + ")";
    if (!found.entry.ours) return {"config", CheckStatus::fail, where + " is not pyro's", "give pyro another name with --name, or take that server out by hand"};
    const auto wanted = wanted_command(call, {}, &found.entry, found.place.scope);
    if (!host::write_entry(found.place, wanted, true).changed()) return {"config", CheckStatus::pass, where + ": " + command_line(found.entry.server->command), std::nullopt};
    std::string detail = where;
    if (found.entry.server->command != wanted) detail += " is " + command_line(found.entry.server->command) + ", should be " + command_line(wanted);
    else detail += found.entry.server->enabled ? " is not written as it should be" : " is switched off";
    return {"config", CheckStatus::fail, detail, repair_line(one)};
}

Check program_check(HostKind kind, Signals& signals) {
    const host::HostInfo& info = host::info_of(kind);
    const std::string program(info.program);
    if (!is_on_path(program)) return {"host", CheckStatus::warn, program + " is not on PATH", "install " + std::string(info.title) + ", or look from where it is"};
    const Finished asked = run_program({program, "--version"}, &signals);
    if (asked.status != 0) return {"host", CheckStatus::warn, "`" + program + " --version` ended with status " + std::to_string(asked.status) + ": " + last_line(asked.err), std::nullopt};
    const std::string version = last_line(asked.out);
    return {"host", CheckStatus::pass, version.find(program) == std::string::npos ? program + " " + version : version, std::nullopt};
}

Check daemon_check(const ServerAnswers& answers, const host::Server& server, HostKind kind) {
    std::string socket = socket_of(server);
    if (socket.empty()) socket = host::info_of(kind).scrubs_environment ? std::string(default_socket) : socket_path();
    if (answers.daemon_answered && *answers.daemon_answered) return {"daemon", CheckStatus::pass, "the server reaches pyrod at " + socket, std::nullopt};
    try {
        Connection daemon({socket});
        if (!answers.daemon_answered) return {"daemon", CheckStatus::pass, "pyrod " + daemon.daemon_version() + " answers at " + socket, std::nullopt};
        return {"daemon", CheckStatus::fail, "the server does not reach pyrod at " + socket + ": " + answers.daemon_error, "pyro doctor"};
    } catch (const Error& e) {
        return {"daemon", CheckStatus::fail, "the server does not reach pyrod: " + e.message(), e.hint().empty() ? "pyro doctor" : e.hint()};
    }
}

}  // namespace

int host_connect_command(const Invocation& call) {
    const auto params = proto::from_wire<HostConnectParams>(call.params);
    check(params);
    const auto command = wanted_command(call, params, nullptr, Scope::user);
    const Place place = host::place_of(params.host, params.scope.value_or(Scope::user), params.name, surroundings());
    const bool there = host::entry_at(place).has_value();
    try_command(command, "host connect", call.globals.json);
    ChangeReport report(call, params, params.dry_run);
    report.add(place, host::write_entry(place, command, params.dry_run), there ? "changed" : "added", command);
    report.print();
    if (!call.globals.json && report.changed() && !params.dry_run) {
        write_stderr("pyro: " + std::string(host::info_of(params.host).title) + " reads it when it starts; `" + check_line(params) + "` checks it\n");
        if (params.scope == Scope::project && params.host == HostKind::claude_code) write_stderr("pyro: it asks each user once whether this project's servers may be used\n");
        if (params.scope == Scope::project && params.host == HostKind::codex) write_stderr("pyro: it reads this file in projects that its user trusts\n");
    }
    return status::ok;
}

int host_disconnect_command(const Invocation& call) {
    const auto params = proto::from_wire<HostDisconnectParams>(call.params);
    check(params);
    const auto found = found_entries(params);
    ChangeReport report(call, params, params.dry_run);
    for (const FoundEntry& each : found) report.add(each.place, host::remove_entry(each.place, params.dry_run), "removed", {});
    report.print();
    if (found.empty() && !call.globals.json) write_stderr("pyro: " + not_connected(params).message() + ": nothing to do\n");
    return status::ok;
}

int host_print_config_command(const Invocation& call) {
    const auto params = proto::from_wire<HostPrintParams>(call.params);
    check(params);
    const auto command = wanted_command(call, params, nullptr, Scope::user);
    const Place place = host::place_of(params.host, params.scope.value_or(Scope::user), params.name, surroundings());
    try_command(command, "host print-config", call.globals.json);
    const std::string text = host::snippet(place, command);
    if (call.globals.json) {
        write_stdout(document({{"host", name_of(params.host)}, {"name", params.name}, {"file", place.file.path}, {"text", text}, {"command", command}}));
        return status::ok;
    }
    write_stderr("pyro: for " + printable(place.file.path) + "\n");
    write_stdout(text);
    return status::ok;
}

int host_repair_command(const Invocation& call) {
    const auto params = proto::from_wire<HostRepairParams>(call.params);
    check(params);
    const auto found = found_entries(params);
    if (found.empty()) throw not_connected(params);
    ChangeReport report(call, params, params.dry_run);
    for (const FoundEntry& each : found) {
        const auto command = each.entry.ours ? wanted_command(call, params, &each.entry, each.place.scope) : std::vector<std::string>{own_path()};
        if (each.entry.ours) try_command(command, "host repair", call.globals.json);
        report.add(each.place, host::write_entry(each.place, command, params.dry_run), "changed", command);
    }
    report.print();
    return status::ok;
}

int host_doctor_command(const Invocation& call) {
    const auto params = proto::from_wire<HostDoctorParams>(call.params);
    check(params);
    Signals signals(call_signals);
    std::vector<Check> checks;
    std::vector<FoundEntry> found;
    try {
        found = found_entries(params);
        if (found.empty()) checks.push_back({"config", CheckStatus::fail, not_connected(params).message(), connect_line(params)});
        for (const FoundEntry& each : found) checks.push_back(config_check(call, params, each));
    } catch (const Error& e) {
        checks.push_back({"config", CheckStatus::fail, e.message(), e.hint().empty() ? std::nullopt : std::optional(e.hint())});
    }
    checks.push_back(program_check(params.host, signals));
    // Of several entries a host takes the last one.
    if (!found.empty() && found.back().entry.ours && found.back().entry.server->enabled) {
        const host::Server& server = *found.back().entry.server;
        try {
            const ServerAnswers answers = ask_server({server.command, server_environment(params.host, server), server.cwd}, true, signals);
            checks.push_back({"server", CheckStatus::pass, answers.name + " " + answers.version + " answers initialize and tools/list: " + std::to_string(answers.tools) + " tools", std::nullopt});
            checks.push_back(daemon_check(answers, server, params.host));
        } catch (const Error& e) {
            const std::string which = e.code() == ErrorCode::invalid_argument ? ", with the options it should have" : "";
            checks.push_back({"server", CheckStatus::fail, command_line(server.command) + ": " + e.message(), repair_line(params) + which});
        }
    }
    const bool ok = std::none_of(checks.begin(), checks.end(), [](const Check& check) { return check.status == CheckStatus::fail; });
    if (call.globals.json) {
        nlohmann::ordered_json list = nlohmann::ordered_json::array();
        for (const Check& check : checks) list.push_back(in_table_order(proto::type_of<Check>(), proto::to_wire(check)));
        write_stdout(document({{"ok", ok}, {"host", name_of(params.host)}, {"name", params.name}, {"checks", std::move(list)}}));
    } else {
        write_stdout(render_checks(checks, style_for(STDOUT_FILENO)));
    }
    return ok ? status::ok : status::doctor_failed;
}

}  // namespace pyro::client
