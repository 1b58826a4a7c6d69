// The chat hosts: which files hold their MCP servers, and how an entry is written there.
#pragma once
#include "client/host/config_file.hpp"
#include "client/host/json_text.hpp"

#include <array>
#include <optional>
#include <string>
#include <vector>

namespace pyro::host {

enum class HostKind { claude_code, codex, opencode };
constexpr auto enum_names(HostKind) { return std::array<std::string_view, 3>{"claude-code", "codex", "opencode"}; }
enum class Scope { user, project, local };
constexpr auto enum_names(Scope) { return std::array<std::string_view, 3>{"user", "project", "local"}; }

// Where this user is, as hosts see it.
struct Surroundings {
    std::string home, directory;       // absolute
    std::string claude_config_dir, codex_home, xdg_config_home;  // empty: not set
};

struct HostInfo {
    std::string_view title, program;   // "Claude Code", "claude"
    bool scrubs_environment;           // servers get little of its own
};
const HostInfo& info_of(HostKind kind);

// How a server is started. Only this much of an entry is ours to change.
struct Server {
    std::vector<std::string> command;  // program and arguments
    bool enabled = true;
    std::vector<std::pair<std::string, std::string>> env;  // set by the entry
    std::vector<std::string> passed;                       // names of what the entry has passed on of the host's own
    std::string cwd;                                       // set by the entry
};

// One place where an entry of this name is, or would be.
struct Place {
    HostKind kind;
    Scope scope;
    ConfigFile file;
    KeyPath path;
};

// Where hosts look, the place that counts most last. Never empty for user and project; local is Claude Code's alone.
std::vector<Place> places(HostKind kind, Scope scope, const std::string& name, const Surroundings& here);
// Of these: the last one that has the entry, else the last one whose file is there, else the one that is made.
Place place_of(HostKind kind, Scope scope, const std::string& name, const Surroundings& here);

// The entry there; nothing: none. Throws where the file cannot be read or understood, with its name and the place in it.
struct Entry {
    std::optional<Server> server;  // none: something else than a program on standard input and output
    bool ours = false;             // it is pyro, whichever
};
std::optional<Entry> entry_at(const Place& place);

// Both give the text before and after. Throw failed_precondition where the name belongs to something that is not pyro.
Rewritten write_entry(const Place& place, const std::vector<std::string>& command, bool dry_run);
Rewritten remove_entry(const Place& place, bool dry_run);

// What a person would add to an empty file.
std::string snippet(const Place& place, const std::vector<std::string>& command);

}  // namespace pyro::host
