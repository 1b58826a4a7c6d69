#include "client/mcp/options.hpp"

#include <algorithm>
#include <filesystem>
#include <set>

namespace pyro::shim {

const char* const help_text = R"(Usage: pyro mcp serve [OPTIONS]

Serve the tools of pyro to a chat host, by the Model Context Protocol on standard input and output. Hosts start it; see docs/integrations.md.

Tools:
  --profile vm-run|workspace-core|workspace-full   Which tools; default: workspace-core
  --mode repro-fix|inspect                         Tools and descriptions for one task, instead of a profile
  --environment ENVIRONMENT                        What machines are made of unless a call says otherwise

What workspaces are seeded from; default: the Git checkout it is started in:
  --project-path PATH                              This checkout or directory
  --repo-url URL [--repo-ref REF]                  A clone, made anew for each workspace
  --no-project-source                              Nothing

What a model may do on this host:
  --allow-path PATH                                Name paths below this one too, not only in the project (repeatable)
  --allow-host-compat                              Ask for a sandbox on the host where no guest can boot

  --socket PATH                                    The daemon's socket; default: PYRO_SOCKET, else /run/pyro/pyrod.sock
  --help, --version
)";

namespace {

[[noreturn]] void usage(const std::string& message) { throw Error(ErrorCode::invalid_argument, message, "try `pyro mcp serve --help`"); }

std::string absolute(const std::string& path) { return std::filesystem::absolute(path).lexically_normal().string(); }

Profile profile_of(const std::string& name) {
    if (name == "vm-run") return Profile::vm_run;
    if (name == "workspace-core") return Profile::workspace_core;
    if (name == "workspace-full") return Profile::workspace_full;
    usage("there is no profile " + name);
}

Mode mode_of(const std::string& name) {
    if (name == "repro-fix") return Mode::repro_fix;
    if (name == "inspect") return Mode::inspect;
    if (name == "cold-start" || name == "review-eval")
        throw Error(ErrorCode::failed_precondition, "mode " + name + " needs " + (name == "cold-start" ? "services" : "shells and snapshots") + ", which this version does not have",
                    "use --mode repro-fix or inspect, or a profile");
    usage("there is no mode " + name);
}

}  // namespace

CommandLine parse_command_line(const std::vector<std::string>& args) {
    CommandLine line;
    ServeOptions& options = line.options;
    options.directory = std::filesystem::current_path().string();
    bool serve = false;
    std::set<std::string> given;
    for (std::size_t i = 0; i < args.size(); ++i) {
        std::string name = args[i];
        if (name == "--help" || name == "-h") return {CommandLine::What::help};
        if (name == "--version") return {CommandLine::What::version};
        if (!name.starts_with("--")) {
            if (name != "serve" || serve) usage("unexpected argument \"" + name + "\"");
            serve = true;
            continue;
        }
        const std::size_t equals = name.find('=');
        const bool attached = equals != std::string::npos;
        std::string attached_value = attached ? name.substr(equals + 1) : std::string();
        name.resize(std::min(equals, name.size()));
        if (!given.insert(name).second && name != "--allow-path") usage(name + " is given twice");
        if (name == "--no-project-source" || name == "--allow-host-compat") {
            if (attached) usage(name + " takes no value");
            if (name == "--allow-host-compat") options.allow_host_compat = true;
            else options.project = ProjectKind::none;
            continue;
        }
        const auto value = [&] {
            if (!attached && i + 1 == args.size()) usage(name + " needs a value");
            std::string text = attached ? attached_value : args[++i];
            if (text.empty()) usage(name + " needs a value");
            return text;
        };
        if (name == "--profile") options.profile = profile_of(value());
        else if (name == "--mode") options.mode = mode_of(value());
        else if (name == "--environment") options.environment = value();
        else if (name == "--project-path") options.project = ProjectKind::path, options.project_path = absolute(value());
        else if (name == "--repo-url") options.project = ProjectKind::url, options.repo_url = value();
        else if (name == "--repo-ref") options.repo_ref = value();
        else if (name == "--allow-path") options.allowed_paths.push_back(absolute(value()));
        else if (name == "--socket") options.socket = value();
        else usage("there is no option " + name);
    }
    if (!serve) usage(args.empty() ? "say what to do: pyro mcp serve" : "the command is missing: pyro mcp serve");
    if (given.contains("--profile") && given.contains("--mode")) usage("--profile and --mode exclude each other");
    if (given.contains("--project-path") + given.contains("--repo-url") + given.contains("--no-project-source") > 1)
        usage("--project-path, --repo-url and --no-project-source exclude each other");
    if (given.contains("--repo-ref") && !given.contains("--repo-url")) usage("--repo-ref is of --repo-url");
    return line;
}

}  // namespace pyro::shim
