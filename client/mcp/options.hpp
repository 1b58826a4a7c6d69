// What `pyro mcp serve` is told on its command line: all that a model cannot change.
#pragma once
#include "common/error.hpp"

#include <string>
#include <vector>

namespace pyro::shim {

enum class Profile { vm_run, workspace_core, workspace_full };
enum class Mode { none, repro_fix, inspect };
enum class ProjectKind { here, path, url, none };

struct ServeOptions {
    Profile profile = Profile::workspace_core;
    Mode mode = Mode::none;
    ProjectKind project = ProjectKind::here;
    std::string project_path, repo_url, repo_ref;
    std::string environment;                 // empty: each call names one
    std::vector<std::string> allowed_paths;  // beside the project
    bool allow_host_compat = false;
    std::string socket;     // empty: PYRO_SOCKET, else the default
    std::string directory;  // where the server was started
};

struct CommandLine {
    enum class What { serve, help, version };
    What what = What::serve;
    ServeOptions options = {};
};

// `args` without the program's name. Throws invalid_argument.
CommandLine parse_command_line(const std::vector<std::string>& args);
extern const char* const help_text;

}  // namespace pyro::shim
