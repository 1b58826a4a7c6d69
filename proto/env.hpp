// Environments: what a VM's disk starts from.
#pragma once
#include "proto/method.hpp"

namespace pyro::proto {

enum class EnvironmentState { available, installed, broken };
constexpr auto enum_names(EnvironmentState) { return std::array<std::string_view, 3>{"available", "installed", "broken"}; }

enum class EnvironmentSource { registry, debian_archive, imported, committed };
constexpr auto enum_names(EnvironmentSource) { return std::array<std::string_view, 4>{"registry", "debian-archive", "import", "commit"}; }

enum class ImportFormat { rootfs, oci_archive, docker_archive };
constexpr auto enum_names(ImportFormat) { return std::array<std::string_view, 3>{"rootfs", "oci-archive", "docker-archive"}; }

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
    std::optional<std::int64_t> last_used_at;
    std::optional<std::int64_t> owner_uid;
    std::optional<bool> shared;
    std::optional<std::string> problem;
    static constexpr auto fields() {
        return std::array{
            field<&EnvironmentInfo::name>("name", "Name to use with run and create"),
            field<&EnvironmentInfo::reference>("reference", "OCI reference it stands for, or repository it came from; empty for what was made here"),
            field<&EnvironmentInfo::state>("state", "available: may be pulled; installed: complete in the cache; broken: the next pull repairs it"),
            field<&EnvironmentInfo::description>("description", "What is in it"),
            field<&EnvironmentInfo::digest>("digest", "Identity of what is installed: content and source"),
            field<&EnvironmentInfo::source>("source", "Where it came from: an OCI registry, built here from the Debian archive, imported, or committed from a workspace"),
            field<&EnvironmentInfo::manifest_digest>("manifest_digest", "Digest of the registry's image manifest"),
            field<&EnvironmentInfo::size_bytes>("size_bytes", "Disk space it takes in the cache, in bytes"),
            field<&EnvironmentInfo::installed_at>("installed_at", "When it was installed, in Unix seconds"),
            field<&EnvironmentInfo::last_used_at>("last_used_at", "When it was last used, to the hour, in Unix seconds"),
            field<&EnvironmentInfo::owner_uid>("owner_uid", "User it belongs to"),
            field<&EnvironmentInfo::shared>("shared", "Whether all users see it: it was pulled without credentials"),
            field<&EnvironmentInfo::problem>("problem", "Why it is broken")};
    }
};

struct EnvListParams {
    static constexpr std::string_view doc = "List the environments of the catalog and of the cache.";
    static constexpr auto fields() { return std::array<FieldInfo, 0>{}; }
};
struct EnvUsage {
    static constexpr std::string_view doc = "What one user has installed.";
    std::int64_t uid = 0;
    std::int64_t environments = 0;
    std::int64_t size_bytes = 0;
    static constexpr auto fields() {
        return std::array{
            field<&EnvUsage::uid>("uid", "The user"),
            field<&EnvUsage::environments>("environments", "How many environments"),
            field<&EnvUsage::size_bytes>("size_bytes", "Disk space of their root disks; what users share counts for each")};
    }
};
struct EnvListResult {
    static constexpr std::string_view doc = "Environments, catalog first.";
    std::vector<EnvironmentInfo> environments;
    std::optional<std::int64_t> used_bytes;
    std::int64_t budget_bytes = 0;
    std::vector<EnvUsage> usage;
    static constexpr auto fields() {
        return std::array{
            field<&EnvListResult::environments>("environments", "Catalog names, then other references in the cache and names you gave"),
            field<&EnvListResult::used_bytes>("used_bytes", "For administrators: disk space of all users' environments, layers included"),
            field<&EnvListResult::budget_bytes>("budget_bytes", "What they may take; 0: as much as there is", {.defaulted = true}),
            field<&EnvListResult::usage>("usage", "Yours; an administrator's: everybody's", {.defaulted = true})};
    }
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
    static constexpr std::string_view doc = "Fetch what a name means now and build its root disk. An installed one is checked, a broken one repaired.";
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
    std::optional<std::string> previous_digest;
    std::optional<std::string> unresolved;
    static constexpr auto fields() {
        return std::array{
            field<&EnvPullResult::environment>("environment", "The installed environment"),
            field<&EnvPullResult::changed>("changed", "False if it was installed and complete already"),
            field<&EnvPullResult::downloaded_bytes>("downloaded_bytes", "Bytes that came from the network, or from you"),
            field<&EnvPullResult::previous_digest>("previous_digest", "What the name led to before, if that was another; what runs on it goes on"),
            field<&EnvPullResult::unresolved>("unresolved", "Why the registry could not be asked whether the name still means this; what is installed stays")};
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
    bool packages = false;
    static constexpr auto fields() {
        return std::array{
            field<&EnvInspectParams::environment>("environment", "Catalog name, OCI reference, @name or digest", {.cli = Cli::positional, .min = 1, .max = 512, .completes = "environment"}),
            field<&EnvInspectParams::packages>("packages", "List the packages too", {.defaulted = true})};
    }
};
struct EnvPackage {
    static constexpr std::string_view doc = "A package that is installed in an environment.";
    std::string name;
    std::string version;
    std::string manager;
    static constexpr auto fields() {
        return std::array{field<&EnvPackage::name>("name", "Its name"), field<&EnvPackage::version>("version", "Its version"),
                          field<&EnvPackage::manager>("manager", "Whose database lists it: dpkg, apk")};
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
    std::int64_t package_count = 0;
    std::vector<EnvPackage> packages;
    static constexpr auto fields() {
        return std::array{
            field<&EnvInspectResult::environment>("environment", "Name, state and origin"),
            field<&EnvInspectResult::user>("user", "User that commands run as; empty: root"),
            field<&EnvInspectResult::workdir>("workdir", "Directory that commands of run start in"),
            field<&EnvInspectResult::entrypoint>("entrypoint", "The image's entry point"),
            field<&EnvInspectResult::command>("command", "The image's default command"),
            field<&EnvInspectResult::env>("env", "The image's environment variables"),
            field<&EnvInspectResult::layers>("layers", "Layers, lowest first"),
            field<&EnvInspectResult::package_count>("package_count", "Packages that dpkg's or apk's database lists; 0 where there is none", {.defaulted = true}),
            field<&EnvInspectResult::packages>("packages", "These packages, where asked for", {.defaulted = true})};
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
    static constexpr std::string_view doc = "Remove environments that no name, VM or workspace uses, broken installs and leftovers of pulls. What you imported or committed stays: see env remove.";
    bool all = false;
    bool dry_run = false;
    std::optional<std::int64_t> older_than_seconds;
    static constexpr auto fields() {
        return std::array{
            field<&EnvPruneParams::all>("all", "Also remove environments with a name that can be pulled again", {.defaulted = true}),
            field<&EnvPruneParams::dry_run>("dry_run", "Remove nothing, say what would go", {.defaulted = true}),
            field<&EnvPruneParams::older_than_seconds>("older_than_seconds", "Only what was not used for so long, for example 7d", {.flag = "older-than", .value = "DURATION", .min = 1, .max = 315360000})};
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

struct EnvRemoveParams {
    static constexpr std::string_view doc = "Take a name from an environment; the last one takes its files along.";
    std::string environment;
    bool force = false;
    static constexpr auto fields() {
        return std::array{
            field<&EnvRemoveParams::environment>("environment", "@name, catalog name, OCI reference or digest", {.cli = Cli::positional, .min = 1, .max = 512, .completes = "environment"}),
            field<&EnvRemoveParams::force>("force", "By digest: also one with several names", {.defaulted = true})};
    }
};
struct EnvRemove {
    static constexpr std::string_view name = "env.remove";
    using Params = EnvRemoveParams;
    using Result = EnvPruneResult;
    static constexpr Traits traits{.cli = "env remove", .sdk = "remove_environment", .destructive = true};
};

struct EnvImportParams {
    static constexpr std::string_view doc = "Make an environment of a root file system's tar, an OCI layout or what docker save wrote. It is yours, and called @NAME.";
    std::string name;
    std::optional<ImportFormat> format;
    std::optional<std::string> tag;
    std::optional<std::string> digest;
    bool force = false;
    std::optional<std::string> user;
    std::optional<std::string> workdir;
    std::map<std::string, std::string> env;
    std::vector<std::string> entrypoint;
    std::vector<std::string> command;
    static constexpr auto fields() {
        return std::array{
            field<&EnvImportParams::name>("name", "What you will call it, with or without the @", {.cli = Cli::positional, .min = 1, .max = 129}),
            field<&EnvImportParams::format>("format", "What it is; default: told from its content"),
            field<&EnvImportParams::tag>("tag", "Which image, of several", {.min = 1, .max = 512}),
            field<&EnvImportParams::digest>("digest", "Digest of its manifest, if it is known: what you have already is not asked for again", {.cli = Cli::none, .min = 71, .max = 71}),
            field<&EnvImportParams::force>("force", "Replace what has that name", {.defaulted = true}),
            field<&EnvImportParams::user>("user", "Root file system: user that commands run as", {.short_flag = 'u', .min = 1, .max = 256}),
            field<&EnvImportParams::workdir>("workdir", "Root file system: directory that commands start in", {.short_flag = 'w', .value = "DIR", .min = 1, .max = 4096}),
            field<&EnvImportParams::env>("env", "Root file system: environment variable", {.short_flag = 'e', .max = 1024, .defaulted = true}),
            field<&EnvImportParams::entrypoint>("entrypoint", "Root file system: a word of its entry point", {.value = "WORD", .max = 256, .defaulted = true}),
            field<&EnvImportParams::command>("command", "Root file system: a word of its default command", {.flag = "cmd", .value = "WORD", .max = 256, .defaulted = true})};
    }
};
struct EnvImport {
    static constexpr std::string_view name = "env.import";
    using Params = EnvImportParams;
    using Result = EnvPullResult;
    static constexpr Traits traits{.cli = "env import", .sdk = "import_environment", .carries = Carries::upload};
};

struct EnvCommitParams {
    static constexpr std::string_view doc = "Make an environment of a workspace's disk as it is: all but /workspace and what is one machine's own. It is yours, and called @NAME.";
    std::string workspace_id;
    std::string name;
    bool force = false;
    static constexpr auto fields() {
        return std::array{
            field<&EnvCommitParams::workspace_id>("workspace_id", "Id, unique beginning of an id, or name", {.cli = Cli::positional, .value = "WORKSPACE", .min = 1, .max = 64, .completes = "workspace"}),
            field<&EnvCommitParams::name>("name", "What you will call it, with or without the @", {.cli = Cli::positional, .min = 1, .max = 129}),
            field<&EnvCommitParams::force>("force", "Replace what has that name", {.defaulted = true})};
    }
};
struct EnvCommit {
    static constexpr std::string_view name = "env.commit";
    using Params = EnvCommitParams;
    using Result = EnvPullResult;
    static constexpr Traits traits{.cli = "env commit", .sdk = "commit_environment"};
};

}  // namespace pyro::proto
