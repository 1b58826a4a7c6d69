// What the commands of `pyro host` take.
#pragma once
#include "client/host/chat_host.hpp"
#include "proto/field.hpp"

namespace pyro::client {

// Those of `pyro mcp serve` that a person may choose, as client/mcp/options.hpp has them.
enum class ServerProfile { vm_run, workspace_core, workspace_full };
constexpr auto enum_names(ServerProfile) { return std::array<std::string_view, 3>{"vm-run", "workspace-core", "workspace-full"}; }
enum class ServerMode { repro_fix, inspect };
constexpr auto enum_names(ServerMode) { return std::array<std::string_view, 2>{"repro-fix", "inspect"}; }

struct OneHost {
    host::HostKind host = host::HostKind::claude_code;
    std::optional<host::Scope> scope;
    std::string name = "pyro";
    template <class R>
    static constexpr auto fields_in(std::string_view scope_doc) {
        return std::array{
            proto::field<&OneHost::host, R>("host", "The chat host", {.cli = proto::Cli::positional}),
            proto::field<&OneHost::scope, R>("scope", scope_doc),
            proto::field<&OneHost::name, R>("name", "The server's name in the host", {.value = "NAME", .min = 1, .max = 64, .defaulted = true})};
    }
};

struct ServerChoice {
    std::optional<ServerProfile> profile;
    std::optional<ServerMode> mode;
    std::optional<std::string> environment, project_path, repo_url, repo_ref;
    bool no_project_source = false;
    std::vector<std::string> allow_path;
    bool allow_host_compat = false;
    template <class R>
    static constexpr auto fields_in() {
        return std::array{
            proto::field<&ServerChoice::profile, R>("profile", "Which tools the model has; else workspace-core"),
            proto::field<&ServerChoice::mode, R>("mode", "Tools and descriptions for one task, instead of a profile"),
            proto::field<&ServerChoice::environment, R>("environment", "What machines are made of unless a call says otherwise", {.min = 1, .max = 512, .completes = "environment"}),
            proto::field<&ServerChoice::project_path, R>("project_path", "Seed workspaces from this checkout or directory; else from the one the host starts the server in", {.value = "PATH", .min = 1, .max = 4096, .completes = "file"}),
            proto::field<&ServerChoice::repo_url, R>("repo_url", "Seed workspaces from a clone of this repository", {.value = "URL", .min = 1, .max = 4096}),
            proto::field<&ServerChoice::repo_ref, R>("repo_ref", "Branch, tag or commit of it", {.value = "REF", .min = 1, .max = 512}),
            proto::field<&ServerChoice::no_project_source, R>("no_project_source", "Seed workspaces from nothing", {.defaulted = true}),
            proto::field<&ServerChoice::allow_path, R>("allow_path", "The model may name paths below this one too", {.value = "PATH", .min = 1, .max = 64, .defaulted = true, .completes = "file"}),
            proto::field<&ServerChoice::allow_host_compat, R>("allow_host_compat", "The model may ask for a sandbox on the host where no guest can boot", {.defaulted = true})};
    }
};

struct MayTry {
    bool dry_run = false;
    template <class R>
    static constexpr auto fields_in() { return std::array{proto::field<&MayTry::dry_run, R>("dry_run", "Say what would change, and change nothing", {.defaulted = true})}; }
};

inline constexpr std::string_view scope_made = "user: all of your projects (default); project: a file in this one, for all who work on it; local (Claude Code): you, in this directory";
inline constexpr std::string_view scope_found = "user, project or local; else wherever the server is configured";

struct HostConnectParams : OneHost, ServerChoice, MayTry {
    static constexpr std::string_view doc = "Configure a chat host to start `pyro mcp serve`. Done twice it is done once; everything else in its file stays as it is.";
    static constexpr auto fields() { return proto::join(OneHost::fields_in<HostConnectParams>(scope_made), ServerChoice::fields_in<HostConnectParams>(), MayTry::fields_in<HostConnectParams>()); }
};
struct HostPrintParams : OneHost, ServerChoice {
    static constexpr std::string_view doc = "Print what `pyro host connect` would put into an empty file, to paste elsewhere.";
    static constexpr auto fields() { return proto::join(OneHost::fields_in<HostPrintParams>(scope_made), ServerChoice::fields_in<HostPrintParams>()); }
};
struct HostDisconnectParams : OneHost, MayTry {
    static constexpr std::string_view doc = "Take pyro out of a chat host's configuration.";
    static constexpr auto fields() { return proto::join(OneHost::fields_in<HostDisconnectParams>(scope_found), MayTry::fields_in<HostDisconnectParams>()); }
};
struct HostDoctorParams : OneHost {
    static constexpr std::string_view doc = "Check a chat host's configuration, and that the server it would start answers and reaches the daemon.";
    static constexpr auto fields() { return OneHost::fields_in<HostDoctorParams>(scope_found); }
};
struct HostRepairParams : OneHost, ServerChoice, MayTry {
    static constexpr std::string_view doc = "Mend what `pyro host doctor` finds wrong in the configuration. The server's options stay as configured unless any are given.";
    static constexpr auto fields() { return proto::join(OneHost::fields_in<HostRepairParams>(scope_found), ServerChoice::fields_in<HostRepairParams>(), MayTry::fields_in<HostRepairParams>()); }
};

}  // namespace pyro::client
