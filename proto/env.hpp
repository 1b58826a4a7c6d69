// Environments: what a VM's disk starts from.
#pragma once
#include "proto/method.hpp"

namespace pyro::proto {

enum class EnvironmentState { available, installed, broken };
constexpr auto enum_names(EnvironmentState) { return std::array<std::string_view, 3>{"available", "installed", "broken"}; }

enum class EnvironmentSource { registry, debian_archive };
constexpr auto enum_names(EnvironmentSource) { return std::array<std::string_view, 2>{"registry", "debian-archive"}; }

struct EnvironmentInfo {
    static constexpr std::string_view doc = "An environment: in the catalog, in the cache, or both.";
    std::string name;
    std::string reference;
    EnvironmentState state = EnvironmentState::available;
    std::string description;
    std::optional<std::string> digest;
    std::optional<EnvironmentSource> source;
    std::optional<std::string> manifest_digest;
    std::optional<std::int64_t> size_bytes;
    std::optional<std::int64_t> installed_at;
    std::optional<std::string> problem;
    static constexpr auto fields() {
        return std::array{
            field<&EnvironmentInfo::name>("name", "Name to use with run and create"),
            field<&EnvironmentInfo::reference>("reference", "OCI reference it stands for"),
            field<&EnvironmentInfo::state>("state", "available: may be pulled; installed: complete in the cache; broken: the next pull repairs it"),
            field<&EnvironmentInfo::description>("description", "What is in it"),
            field<&EnvironmentInfo::digest>("digest", "Identity of what is installed: content and source"),
            field<&EnvironmentInfo::source>("source", "Where it came from: an OCI registry, or built here from the Debian archive"),
            field<&EnvironmentInfo::manifest_digest>("manifest_digest", "Digest of the registry's image manifest"),
            field<&EnvironmentInfo::size_bytes>("size_bytes", "Disk space it takes in the cache, in bytes"),
            field<&EnvironmentInfo::installed_at>("installed_at", "When it was installed, in Unix seconds"),
            field<&EnvironmentInfo::problem>("problem", "Why it is broken")};
    }
};

struct EnvListParams {
    static constexpr std::string_view doc = "List the environments of the catalog and of the cache.";
    static constexpr auto fields() { return std::array<FieldInfo, 0>{}; }
};
struct EnvListResult {
    static constexpr std::string_view doc = "Environments, catalog first.";
    std::vector<EnvironmentInfo> environments;
    static constexpr auto fields() { return std::array{field<&EnvListResult::environments>("environments", "Catalog names, then other references in the cache")}; }
};
struct EnvList {
    static constexpr std::string_view name = "env.list";
    using Params = EnvListParams;
    using Result = EnvListResult;
    static constexpr Traits traits{.cli = "env list", .mcp = "vm_list_environments", .sdk = "list_environments", .read_only = true};
};

// Of a user's own auth files, for one registry. Used for the one pull it comes with, never stored, never logged.
struct RegistryCredentials {
    static constexpr std::string_view doc = "Who a registry is told is asking: username and password, or an identity token. For this pull alone; never stored.";
    std::string registry;
    std::optional<std::string> username;
    std::optional<std::string> password;
    std::optional<std::string> identity_token;
    static constexpr auto fields() {
        return std::array{
            field<&RegistryCredentials::registry>("registry", "Registry they are for, as references name it: docker.io, ghcr.io, host:port", {.min = 1, .max = 261}),
            field<&RegistryCredentials::username>("username", "User name", {.min = 1, .max = 1024}),
            field<&RegistryCredentials::password>("password", "Password or access token", {.max = 65536}),
            field<&RegistryCredentials::identity_token>("identity_token", "Token that the registry's token service exchanges for another; instead of a password", {.min = 1, .max = 65536})};
    }
};

struct EnvPullParams {
    static constexpr std::string_view doc = "Fetch an environment and build its root disk. An installed one is checked, a broken one repaired.";
    std::string environment;
    bool force = false;
    std::optional<RegistryCredentials> credentials;
    static constexpr auto fields() {
        return std::array{
            field<&EnvPullParams::environment>("environment", "Catalog name or OCI reference", {.cli = Cli::positional, .min = 1, .max = 512, .completes = "environment"}),
            field<&EnvPullParams::force>("force", "Pull again even if it is installed and complete", {.defaulted = true}),
            field<&EnvPullParams::credentials>("credentials", "For the registry it comes from. Clients send them after a refusal whose details say credentials: none, and no others", {.cli = Cli::none})};
    }
};
struct EnvPullResult {
    static constexpr std::string_view doc = "What is now installed.";
    EnvironmentInfo environment;
    bool changed = false;
    std::int64_t downloaded_bytes = 0;
    static constexpr auto fields() {
        return std::array{
            field<&EnvPullResult::environment>("environment", "The installed environment"),
            field<&EnvPullResult::changed>("changed", "False if it was installed and complete already"),
            field<&EnvPullResult::downloaded_bytes>("downloaded_bytes", "Bytes that came from the network")};
    }
};
struct EnvPull {
    static constexpr std::string_view name = "env.pull";
    using Params = EnvPullParams;
    using Result = EnvPullResult;
    static constexpr Traits traits{.cli = "env pull", .sdk = "pull_environment"};
};

struct EnvInspectParams {
    static constexpr std::string_view doc = "Show one environment: its configuration, layers and files.";
    std::string environment;
    static constexpr auto fields() {
        return std::array{field<&EnvInspectParams::environment>("environment", "Catalog name, OCI reference or digest", {.cli = Cli::positional, .min = 1, .max = 512, .completes = "environment"})};
    }
};
struct EnvLayer {
    static constexpr std::string_view doc = "One layer of an image.";
    std::string digest;
    std::int64_t size_bytes = 0;
    static constexpr auto fields() {
        return std::array{field<&EnvLayer::digest>("digest", "Digest of the layer as stored"),
                          field<&EnvLayer::size_bytes>("size_bytes", "Its compressed size in bytes")};
    }
};
struct EnvInspectResult {
    static constexpr std::string_view doc = "An environment in full.";
    EnvironmentInfo environment;
    std::string user;
    std::string workdir;
    std::vector<std::string> entrypoint;
    std::vector<std::string> command;
    std::map<std::string, std::string> env;
    std::vector<EnvLayer> layers;
    static constexpr auto fields() {
        return std::array{
            field<&EnvInspectResult::environment>("environment", "Name, state and origin"),
            field<&EnvInspectResult::user>("user", "User that commands run as; empty: root"),
            field<&EnvInspectResult::workdir>("workdir", "Directory that commands of run start in"),
            field<&EnvInspectResult::entrypoint>("entrypoint", "The image's entry point"),
            field<&EnvInspectResult::command>("command", "The image's default command"),
            field<&EnvInspectResult::env>("env", "The image's environment variables"),
            field<&EnvInspectResult::layers>("layers", "Layers, lowest first")};
    }
};
struct EnvInspect {
    static constexpr std::string_view name = "env.inspect";
    using Params = EnvInspectParams;
    using Result = EnvInspectResult;
    static constexpr Traits traits{.cli = "env inspect", .sdk = "inspect_environment", .read_only = true};
};

struct EnvPrepareParams {
    static constexpr std::string_view doc = "Make an environment ready for the fastest starts: install it, make its memory images, run something once.";
    std::string environment = "debian:12";
    bool force = false;
    static constexpr auto fields() {
        return std::array{
            field<&EnvPrepareParams::environment>("environment", "Catalog name or OCI reference", {.cli = Cli::positional, .min = 1, .max = 512, .defaulted = true, .completes = "environment"}),
            field<&EnvPrepareParams::force>("force", "Make the memory images again even if they are there", {.defaulted = true})};
    }
};
struct PrepareStep {
    static constexpr std::string_view doc = "One thing that is ready now.";
    std::string step;
    bool changed = false;
    std::int64_t took_ms = 0;
    static constexpr auto fields() {
        return std::array{field<&PrepareStep::step>("step", "environment; image: for new VMs; image-restart: for stopped ones; run: a command in a VM from the image; workspace-create, -exec, -reset, -delete: the daily loop once"),
                          field<&PrepareStep::changed>("changed", "False if it was there already"),
                          field<&PrepareStep::took_ms>("took_ms", "How long it took, in milliseconds")};
    }
};
struct EnvPrepareResult {
    static constexpr std::string_view doc = "What is ready, and what it took.";
    std::string environment;
    std::string environment_digest;
    std::vector<PrepareStep> steps;
    static constexpr auto fields() {
        return std::array{field<&EnvPrepareResult::environment>("environment", "Environment as named in the request"),
                          field<&EnvPrepareResult::environment_digest>("environment_digest", "Identity of what is installed"),
                          field<&EnvPrepareResult::steps>("steps", "In the order they were done")};
    }
};
struct EnvPrepare {
    static constexpr std::string_view name = "env.prepare";
    using Params = EnvPrepareParams;
    using Result = EnvPrepareResult;
    static constexpr Traits traits{.cli = "prepare", .sdk = "prepare_environment"};
};

struct EnvPruneParams {
    static constexpr std::string_view doc = "Remove environments that no name and no VM uses, broken installs and leftovers of pulls.";
    bool all = false;
    static constexpr auto fields() {
        return std::array{field<&EnvPruneParams::all>("all", "Also remove installed environments that no VM uses", {.defaulted = true})};
    }
};
struct EnvPruneResult {
    static constexpr std::string_view doc = "What was removed.";
    std::vector<std::string> removed;
    std::int64_t freed_bytes = 0;
    static constexpr auto fields() {
        return std::array{field<&EnvPruneResult::removed>("removed", "Names or digests of what was removed"),
                          field<&EnvPruneResult::freed_bytes>("freed_bytes", "Disk space won back, in bytes")};
    }
};
struct EnvPrune {
    static constexpr std::string_view name = "env.prune";
    using Params = EnvPruneParams;
    using Result = EnvPruneResult;
    static constexpr Traits traits{.cli = "env prune", .sdk = "prune_environments", .destructive = true};
};

}  // namespace pyro::proto
