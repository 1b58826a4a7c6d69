#include "client/host/chat_host.hpp"

#include "client/host/toml_text.hpp"
#include "common/error.hpp"

#include <array>
#include <filesystem>

namespace pyro::host {

namespace fs = std::filesystem;

namespace {

constexpr std::array infos{
    HostInfo{"Claude Code", "claude", false},
    HostInfo{"Codex", "codex", true},
    HostInfo{"OpenCode", "opencode", false},
};

bool is_toml(HostKind kind) { return kind == HostKind::codex; }
Dialect dialect_of(HostKind kind) { return kind == HostKind::opencode ? Dialect::with_comments : Dialect::strict; }

// The checkout that a directory is in, else the directory.
std::string project_root(const std::string& directory) {
    std::error_code ignored;
    for (fs::path at = directory;; at = at.parent_path()) {
        if (fs::exists(at / ".git", ignored)) return at.string();
        if (at == at.parent_path()) return directory;
    }
}

Json parse(HostKind kind, const std::string& text) { return is_toml(kind) ? parse_toml(text) : parse_json(text, dialect_of(kind)); }

// What is wrong with a file is said with its name.
template <class Act>
auto in_file(const Place& place, const Act& act) {
    try {
        return act();
    } catch (Error& e) {
        if (e.code() != ErrorCode::invalid_argument && e.code() != ErrorCode::failed_precondition) throw;
        if (!e.message().starts_with(place.file.path)) e.add_context(place.file.path);
        if (e.hint().empty()) e.with_hint("nothing was changed; mend the file first");
        throw;
    }
}

Json entry_value(HostKind kind, const std::vector<std::string>& command) {
    const Json args(std::vector<std::string>(command.begin() + 1, command.end()));
    switch (kind) {
    case HostKind::claude_code: return {{"type", "stdio"}, {"command", command.front()}, {"args", args}};
    case HostKind::codex: return {{"command", command.front()}, {"args", args}};
    case HostKind::opencode: break;
    }
    return {{"type", "local"}, {"command", command}, {"enabled", true}};
}

std::vector<std::string> strings_of(const Json& value) {
    std::vector<std::string> out;
    if (value.is_array())
        for (const Json& item : value) out.push_back(item.is_string() ? item.get<std::string>() : item.dump());
    return out;
}

std::optional<Server> server_of(HostKind kind, const Json& value) {
    if (!value.is_object()) return std::nullopt;
    const auto text = [&](const char* key) { return value.contains(key) && value[key].is_string() ? value[key].get<std::string>() : std::string(); };
    Server server;
    if (kind == HostKind::opencode) {
        if (text("type") != "local") return std::nullopt;
        server.command = strings_of(value.value("command", Json::array()));
    } else {
        if (text("command").empty() || (!text("type").empty() && text("type") != "stdio")) return std::nullopt;
        server.command = strings_of(value.value("args", Json::array()));
        server.command.insert(server.command.begin(), text("command"));
    }
    if (server.command.empty()) return std::nullopt;
    const char* env = kind == HostKind::opencode ? "environment" : "env";
    if (value.contains(env) && value[env].is_object())
        for (const auto& [key, each] : value[env].items()) server.env.emplace_back(key, each.is_string() ? each.get<std::string>() : each.dump());
    if (kind == HostKind::codex && value.contains("env_vars")) server.passed = strings_of(value["env_vars"]);
    server.cwd = text("cwd");
    server.enabled = !(value.contains("enabled") && value["enabled"] == false);
    return server;
}

bool is_pyro(const Server& server) {
    const std::string program = fs::path(server.command.front()).filename().string();
    const std::size_t serve = program == "pyro" ? 2 : 1;
    if (program != "pyro" && program != "pyro-mcp") return false;
    return server.command.size() > serve && server.command[serve] == "serve" && (serve == 1 || server.command[1] == "mcp");
}

Entry entry_of(HostKind kind, const Json& value) {
    Entry entry{server_of(kind, value), false};
    entry.ours = entry.server && is_pyro(*entry.server);
    return entry;
}

void refuse_foreign(const Place& place, const Json* value) {
    if (!value || entry_of(place.kind, *value).ours) return;
    throw Error(ErrorCode::failed_precondition, place.file.path + " has another server called \"" + place.path.back() + "\", which is not pyro's",
                "give this one another name with --name, or take that one out by hand");
}

std::string edited(const Place& place, const std::string& text, const std::vector<std::string>& command) {
    const Json document = parse(place.kind, text);
    const Json* found = value_at(document, place.path);
    refuse_foreign(place, found);
    Json wanted = entry_value(place.kind, command);
    if (found) {
        // An entry that says nothing of these means the same; one that is switched off is switched on.
        if (place.kind == HostKind::claude_code && !found->contains("type")) wanted.erase("type");
        if (place.kind == HostKind::opencode && !found->contains("enabled")) wanted.erase("enabled");
        if (place.kind == HostKind::codex && found->contains("enabled")) wanted["enabled"] = true;
        for (auto item = wanted.begin(); item != wanted.end();) {
            if (found->contains(item.key()) && same_content((*found)[item.key()], item.value())) item = wanted.erase(item);
            else ++item;
        }
        if (wanted.empty()) return text;
    }
    if (is_toml(place.kind)) return with_toml(text, place.path, wanted);
    if (!found) return with_json(text, dialect_of(place.kind), place.path, wanted);
    std::string out = text;
    for (const auto& [key, value] : wanted.items()) {
        KeyPath path = place.path;
        path.push_back(key);
        out = with_json(out, dialect_of(place.kind), path, value);
    }
    return out;
}

}  // namespace

const HostInfo& info_of(HostKind kind) { return infos[static_cast<std::size_t>(kind)]; }

std::vector<Place> places(HostKind kind, Scope scope, const std::string& name, const Surroundings& here) {
    const std::string root = project_root(here.directory);
    const auto all = [&](const std::string& folder, std::initializer_list<const char*> files, unsigned mode, KeyPath path) {
        std::vector<Place> out;
        for (const char* file : files) out.push_back({kind, scope, {folder + "/" + file, mode}, path});
        return out;
    };
    const unsigned mine = 0600, shared = 0644;
    if (scope == Scope::local && kind != HostKind::claude_code) throw Error(ErrorCode::invalid_argument, "the scope local is Claude Code's alone", "use --scope user or project");
    switch (kind) {
    case HostKind::claude_code: {
        if (scope == Scope::project) return all(root, {".mcp.json"}, shared, {"mcpServers", name});
        const KeyPath path = scope == Scope::user ? KeyPath{"mcpServers", name} : KeyPath{"projects", here.directory, "mcpServers", name};
        auto out = all(here.claude_config_dir.empty() ? here.home : here.claude_config_dir, {".claude.json"}, mine, path);
        out.front().file.lock_beside = true;
        return out;
    }
    case HostKind::codex:
        if (scope == Scope::project) return all(root, {".codex/config.toml"}, shared, {"mcp_servers", name});
        return all(here.codex_home.empty() ? here.home + "/.codex" : here.codex_home, {"config.toml"}, mine, {"mcp_servers", name});
    case HostKind::opencode: break;
    }
    if (scope == Scope::project) return all(root, {"opencode.json", "opencode.jsonc", ".opencode/opencode.json", ".opencode/opencode.jsonc"}, shared, {"mcp", name});
    return all((here.xdg_config_home.empty() ? here.home + "/.config" : here.xdg_config_home) + "/opencode", {"config.json", "opencode.json", "opencode.jsonc"}, mine, {"mcp", name});
}

Place place_of(HostKind kind, Scope scope, const std::string& name, const Surroundings& here) {
    const std::vector<Place> all = places(kind, scope, name, here);
    const Place* there = nullptr;
    std::error_code ignored;
    for (auto place = all.rbegin(); place != all.rend(); ++place) {
        if (!fs::exists(fs::symlink_status(place->file.path, ignored))) continue;
        if (!there) there = &*place;
        if (entry_at(*place)) return *place;
    }
    if (there) return *there;
    for (const Place& place : all)
        if (place.file.path.ends_with("/opencode.json")) return place;
    return all.front();
}

std::optional<Entry> entry_at(const Place& place) {
    return in_file(place, [&]() -> std::optional<Entry> {
        const Json document = parse(place.kind, read_config(place.file));
        const Json* value = value_at(document, place.path);
        if (!value) return std::nullopt;
        return entry_of(place.kind, *value);
    });
}

Rewritten write_entry(const Place& place, const std::vector<std::string>& command, bool dry_run) {
    return in_file(place, [&] { return rewrite_config(place.file, dry_run, [&](const std::string& text) { return edited(place, text, command); }); });
}

Rewritten remove_entry(const Place& place, bool dry_run) {
    return in_file(place, [&] {
        return rewrite_config(place.file, dry_run, [&](const std::string& text) {
            const Json document = parse(place.kind, text);
            const Json* found = value_at(document, place.path);
            refuse_foreign(place, found);
            if (!found) return text;
            return is_toml(place.kind) ? without_toml(text, place.path) : without_json(text, dialect_of(place.kind), place.path);
        });
    });
}

std::string snippet(const Place& place, const std::vector<std::string>& command) {
    return is_toml(place.kind) ? with_toml("", place.path, entry_value(place.kind, command)) : with_json("", dialect_of(place.kind), place.path, entry_value(place.kind, command));
}

}  // namespace pyro::host
