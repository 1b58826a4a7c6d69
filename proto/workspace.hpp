// Workspaces: machines that stay, with a durable disk and /workspace in it.
#pragma once
#include "proto/vm.hpp"

namespace pyro::proto {

enum class WorkspaceState { creating, running, stopped, failed };
constexpr auto enum_names(WorkspaceState) { return std::array<std::string_view, 4>{"creating", "running", "stopped", "failed"}; }

enum class NetworkPolicy { off, egress, egress_and_ports };
constexpr auto enum_names(NetworkPolicy) { return std::array<std::string_view, 3>{"off", "egress", "egress+published-ports"}; }

enum class SeedSource { directory, archive, checkout };
constexpr auto enum_names(SeedSource) { return std::array<std::string_view, 3>{"directory", "archive", "checkout"}; }

enum class ChangeKind { added, modified, deleted, renamed, mode, type };
constexpr auto enum_names(ChangeKind) {
    return std::array<std::string_view, 6>{"added", "modified", "deleted", "renamed", "mode", "type"};
}

namespace limits {
inline constexpr FieldOptions workspace{.cli = Cli::positional, .value = "WORKSPACE", .min = 1, .max = 64, .completes = "workspace"};
inline constexpr FieldOptions workspace_name{.value = "NAME", .min = 1, .max = 64};
inline constexpr FieldOptions labels{.flag = "label", .value = "K=V", .max = 64, .defaulted = true};
inline constexpr FieldOptions workspace_ttl{.value = "SECONDS", .min = 1, .max = 31536000};
inline constexpr FieldOptions undeclared{.cli = Cli::none};
}  // namespace limits

// What a client says of the tar stream it seeds a workspace from.
struct SeedInfo {
    static constexpr std::string_view doc = "What a workspace was seeded from.";
    SeedSource source = SeedSource::directory;
    std::string path;
    std::int64_t files = 0;
    std::int64_t bytes = 0;
    std::int64_t skipped = 0;
    std::optional<std::string> commit;
    std::optional<std::string> branch;
    static constexpr auto fields() {
        return std::array{
            field<&SeedInfo::source>("source", "directory, archive, or checkout: the tracked files of a Git checkout and a clean .git"),
            field<&SeedInfo::path>("path", "Where it was on the client's side; for people, nobody opens it", {.max = 4096}),
            field<&SeedInfo::files>("files", "Files taken", {.min = 0, .defaulted = true}),
            field<&SeedInfo::bytes>("bytes", "Their bytes", {.min = 0, .defaulted = true}),
            field<&SeedInfo::skipped>("skipped", "What was left out: unreadable files, submodules and the like", {.min = 0, .defaulted = true}),
            field<&SeedInfo::commit>("commit", "HEAD of a checkout", {.max = 64}),
            field<&SeedInfo::branch>("branch", "Its branch", {.max = 1024})};
    }
};

struct WorkspaceInfo {
    static constexpr std::string_view doc = "A workspace.";
    std::string workspace_id;
    std::optional<std::string> name;
    WorkspaceState state = WorkspaceState::creating;
    std::string environment;
    std::string environment_digest;
    std::optional<ExecutionMode> execution_mode;
    std::optional<StartKind> start;
    std::int64_t vcpu_count = 0;
    std::int64_t mem_mib = 0;
    std::int64_t disk_gib = 0;
    NetworkPolicy network_policy = NetworkPolicy::off;
    std::map<std::string, std::string> labels;
    std::int64_t created_at = 0;
    std::int64_t last_activity_at = 0;
    std::optional<std::int64_t> expires_at;
    std::optional<std::int64_t> idle_seconds;
    std::int64_t running_execs = 0;
    std::int64_t background_processes = 0;
    std::optional<std::string> seed_digest;
    std::optional<SeedInfo> seed;
    std::optional<std::string> failure;
    static constexpr auto fields() {
        return std::array{
            field<&WorkspaceInfo::workspace_id>("workspace_id", "Identity of the workspace; lasts until it is deleted"),
            field<&WorkspaceInfo::name>("name", "Its name, unique among yours"),
            field<&WorkspaceInfo::state>("state", "creating: its files are on their way; running; stopped: the disk is kept, the next command starts it; failed: reset or delete it"),
            field<&WorkspaceInfo::environment>("environment", "Environment as named at create"),
            field<&WorkspaceInfo::environment_digest>("environment_digest", "Identity of that environment"),
            field<&WorkspaceInfo::execution_mode>("execution_mode", "Known once it was started"),
            field<&WorkspaceInfo::start>("start", "How its machine last started: cold, restored from a memory image, or a spare that was waiting"),
            field<&WorkspaceInfo::vcpu_count>("vcpu_count", "Virtual CPUs"),
            field<&WorkspaceInfo::mem_mib>("mem_mib", "Memory in MiB"),
            field<&WorkspaceInfo::disk_gib>("disk_gib", "Disk size in GiB"),
            field<&WorkspaceInfo::network_policy>("network_policy", "What of the network it may reach"),
            field<&WorkspaceInfo::labels>("labels", "Labels, for your own use"),
            field<&WorkspaceInfo::created_at>("created_at", "Unix seconds"),
            field<&WorkspaceInfo::last_activity_at>("last_activity_at", "When it was last used, in Unix seconds"),
            field<&WorkspaceInfo::expires_at>("expires_at", "Unix seconds; it is deleted then. Absent: never"),
            field<&WorkspaceInfo::idle_seconds>("idle_seconds", "It is stopped after so long without use. Absent: never"),
            field<&WorkspaceInfo::running_execs>("running_execs", "Commands that run in it"),
            field<&WorkspaceInfo::background_processes>("background_processes", "In workspace.status: processes that ended commands left behind"),
            field<&WorkspaceInfo::seed_digest>("seed_digest", "Content of its baseline; equal trees have equal digests"),
            field<&WorkspaceInfo::seed>("seed", "What it was seeded from"),
            field<&WorkspaceInfo::failure>("failure", "Why it failed")};
    }
};

struct WorkspaceCreateParams : MachineSizing {
    static constexpr std::string_view doc = "Create a workspace: a machine that stays, with a disk of its own and your files in /workspace.";
    std::string environment;
    std::optional<std::string> name;
    std::map<std::string, std::string> labels;
    NetworkPolicy network_policy = NetworkPolicy::off;
    std::optional<std::int64_t> ttl_seconds;
    std::optional<std::int64_t> idle_seconds;
    StartKind start = StartKind::spare;
    std::optional<SeedInfo> seed;
    std::optional<std::string> seed_digest;
    static constexpr auto fields() {
        return join(
            std::array{field<&WorkspaceCreateParams::environment>("environment", "Catalog name or OCI reference", limits::environment)},
            MachineSizing::fields_in<WorkspaceCreateParams>(),
            std::array{
                field<&WorkspaceCreateParams::name>("name", "Name to call it by, unique among your workspaces", limits::workspace_name),
                field<&WorkspaceCreateParams::labels>("labels", "Attach a label", limits::labels),
                field<&WorkspaceCreateParams::network_policy>("network_policy", "What of the network it may reach", {.defaulted = true}),
                field<&WorkspaceCreateParams::ttl_seconds>("ttl_seconds", "Delete it after so long; default: it lives until it is deleted", limits::workspace_ttl),
                field<&WorkspaceCreateParams::idle_seconds>("idle_seconds", "Stop it after so long without use; the next command starts it again", limits::workspace_ttl),
                field<&WorkspaceCreateParams::start>("start", "The fastest way to start that may be used; cold boots a kernel of its own", {.defaulted = true}),
                field<&WorkspaceCreateParams::seed>("seed", "The client has a tar stream to seed it from, and says so much of it; with seed_digest alone there is nothing to stream unless asked", limits::undeclared),
                field<&WorkspaceCreateParams::seed_digest>("seed_digest", "Digest of the stream, if it is known: what the daemon has already is not asked for again", {.cli = Cli::none, .min = 71, .max = 71})});
    }
};
struct WorkspaceCreate {
    static constexpr std::string_view name = "workspace.create";
    using Params = WorkspaceCreateParams;
    using Result = WorkspaceInfo;
    static constexpr Traits traits{.cli = "workspace create", .mcp = "workspace_create", .sdk = "create_workspace", .id_field = "workspace_id", .carries = Carries::upload};
};

struct WorkspaceListParams {
    static constexpr std::string_view doc = "List your workspaces, newest activity first.";
    std::map<std::string, std::string> labels;
    static constexpr auto fields() {
        return std::array{field<&WorkspaceListParams::labels>("labels", "Only those with this label", limits::labels)};
    }
};
struct WorkspaceListResult {
    static constexpr std::string_view doc = "Workspaces.";
    std::vector<WorkspaceInfo> workspaces;
    static constexpr auto fields() { return std::array{field<&WorkspaceListResult::workspaces>("workspaces", "Newest activity first")}; }
};
struct WorkspaceList {
    static constexpr std::string_view name = "workspace.list";
    using Params = WorkspaceListParams;
    using Result = WorkspaceListResult;
    static constexpr Traits traits{.cli = "workspace list", .mcp = "workspace_list", .sdk = "list_workspaces", .read_only = true};
};

struct WorkspaceStatusParams {
    static constexpr std::string_view doc = "Show one workspace.";
    std::string workspace_id;
    std::int64_t wait_seconds = 0;
    static constexpr auto fields() {
        return std::array{field<&WorkspaceStatusParams::workspace_id>("workspace_id", "Id, unique beginning of an id, or name", limits::workspace),
                          field<&WorkspaceStatusParams::wait_seconds>("wait_seconds", "While it is creating, wait so long for that to end", {.value = "SECONDS", .min = 0, .max = 3600, .defaulted = true})};
    }
};
struct WorkspaceStatus {
    static constexpr std::string_view name = "workspace.status";
    using Params = WorkspaceStatusParams;
    using Result = WorkspaceInfo;
    static constexpr Traits traits{.cli = "workspace status", .mcp = "workspace_status", .sdk = "status_workspace", .read_only = true};
};

struct WorkspaceUpdateParams {
    static constexpr std::string_view doc = "Change the name, the labels or the lifetime of a workspace.";
    std::string workspace_id;
    std::optional<std::string> name;
    bool clear_name = false;
    std::map<std::string, std::string> labels;
    std::vector<std::string> clear_labels;
    std::optional<std::int64_t> ttl_seconds;
    std::optional<std::int64_t> idle_seconds;
    static constexpr auto fields() {
        return std::array{
            field<&WorkspaceUpdateParams::workspace_id>("workspace_id", "Id, unique beginning of an id, or name", limits::workspace),
            field<&WorkspaceUpdateParams::name>("name", "The new name", limits::workspace_name),
            field<&WorkspaceUpdateParams::clear_name>("clear_name", "Take its name away", limits::flag),
            field<&WorkspaceUpdateParams::labels>("labels", "Attach or change a label", limits::labels),
            field<&WorkspaceUpdateParams::clear_labels>("clear_labels", "Take a label away", {.flag = "clear-label", .value = "K", .max = 64, .defaulted = true}),
            field<&WorkspaceUpdateParams::ttl_seconds>("ttl_seconds", "Delete it so long from now; 0: never", {.value = "SECONDS", .min = 0, .max = 31536000}),
            field<&WorkspaceUpdateParams::idle_seconds>("idle_seconds", "Stop it after so long without use; 0: never", {.value = "SECONDS", .min = 0, .max = 31536000})};
    }
};
struct WorkspaceUpdate {
    static constexpr std::string_view name = "workspace.update";
    using Params = WorkspaceUpdateParams;
    using Result = WorkspaceInfo;
    static constexpr Traits traits{.cli = "workspace update", .mcp = "workspace_update", .sdk = "update_workspace"};
};

struct WorkspaceStartParams {
    static constexpr std::string_view doc = "Start a stopped workspace. Commands start one by themselves.";
    std::string workspace_id;
    static constexpr auto fields() {
        return std::array{field<&WorkspaceStartParams::workspace_id>("workspace_id", "Id, unique beginning of an id, or name", limits::workspace)};
    }
};
struct WorkspaceStart {
    static constexpr std::string_view name = "workspace.start";
    using Params = WorkspaceStartParams;
    using Result = WorkspaceInfo;
    static constexpr Traits traits{.cli = "workspace start", .mcp = "workspace_start", .sdk = "start_workspace"};
};

struct WorkspaceStopParams {
    static constexpr std::string_view doc = "Stop a workspace: its commands end, what is on its disk stays.";
    std::string workspace_id;
    static constexpr auto fields() {
        return std::array{field<&WorkspaceStopParams::workspace_id>("workspace_id", "Id, unique beginning of an id, or name", limits::workspace)};
    }
};
struct WorkspaceStop {
    static constexpr std::string_view name = "workspace.stop";
    using Params = WorkspaceStopParams;
    using Result = WorkspaceInfo;
    static constexpr Traits traits{.cli = "workspace stop", .mcp = "workspace_stop", .sdk = "stop_workspace", .destructive = true};
};

struct WorkspaceResetParams {
    static constexpr std::string_view doc = "Bring a workspace back to its baseline: a fresh disk with the files it was created with. Its changes, commands and their output are gone; id, name and labels stay.";
    std::string workspace_id;
    static constexpr auto fields() {
        return std::array{field<&WorkspaceResetParams::workspace_id>("workspace_id", "Id, unique beginning of an id, or name", limits::workspace)};
    }
};
struct WorkspaceReset {
    static constexpr std::string_view name = "workspace.reset";
    using Params = WorkspaceResetParams;
    using Result = WorkspaceInfo;
    static constexpr Traits traits{.cli = "workspace reset", .mcp = "workspace_reset", .sdk = "reset_workspace", .destructive = true};
};

struct WorkspaceDeleteParams {
    static constexpr std::string_view doc = "Delete a workspace and everything in it, in whatever state it is.";
    std::string workspace_id;
    static constexpr auto fields() {
        return std::array{field<&WorkspaceDeleteParams::workspace_id>("workspace_id", "Id, unique beginning of an id, or name", limits::workspace)};
    }
};
struct WorkspaceDeleteResult {
    static constexpr std::string_view doc = "The workspace is gone.";
    std::string workspace_id;
    static constexpr auto fields() { return std::array{field<&WorkspaceDeleteResult::workspace_id>("workspace_id", "The workspace that was deleted")}; }
};
struct WorkspaceDelete {
    static constexpr std::string_view name = "workspace.delete";
    using Params = WorkspaceDeleteParams;
    using Result = WorkspaceDeleteResult;
    static constexpr Traits traits{.cli = "workspace delete", .mcp = "workspace_delete", .sdk = "delete_workspace", .destructive = true};
};

struct FileChange {
    static constexpr std::string_view doc = "What became of a file.";
    ChangeKind kind = ChangeKind::modified;
    std::string path;
    std::optional<std::string> old_path;
    std::int64_t added = 0;
    std::int64_t removed = 0;
    bool binary = false;
    std::optional<std::string> note;
    static constexpr auto fields() {
        return std::array{
            field<&FileChange::kind>("kind", "added, modified, deleted, renamed, mode: only its mode, type: another kind of file"),
            field<&FileChange::path>("path", "Path below /workspace; invalid UTF-8 replaced"),
            field<&FileChange::old_path>("old_path", "What a renamed one was called"),
            field<&FileChange::added>("added", "Lines added"),
            field<&FileChange::removed>("removed", "Lines removed"),
            field<&FileChange::binary>("binary", "Not text: named here, and not in the patch"),
            field<&FileChange::note>("note", "Why the patch does not have it, if it does not")};
    }
};

struct WorkspaceDiffParams {
    static constexpr std::string_view doc = "What changed in /workspace since the workspace was created: a patch in git's format that `git apply` takes.";
    std::string workspace_id;
    std::vector<std::string> paths;
    bool verify = false;
    std::int64_t max_bytes = 64 << 20;
    static constexpr auto fields() {
        return std::array{
            field<&WorkspaceDiffParams::workspace_id>("workspace_id", "Id, unique beginning of an id, or name", limits::workspace),
            field<&WorkspaceDiffParams::paths>("paths", "Only these files and what is below these directories", {.cli = Cli::rest, .value = "PATH", .max = 1024, .defaulted = true}),
            field<&WorkspaceDiffParams::verify>("verify", "Read and compare every file, whatever the guest's file system says of them", limits::flag),
            field<&WorkspaceDiffParams::max_bytes>("max_bytes", "At most so much of a patch; files for which it has no room are named", {.value = "BYTES", .min = 0, .max = 64 << 20, .defaulted = true})};
    }
};
struct WorkspaceDiffResult {
    static constexpr std::string_view doc = "What changed. The patch came over the attach connection.";
    std::string workspace_id;
    std::vector<FileChange> changes;
    std::int64_t changes_left_out = 0;
    std::int64_t stdout_bytes = 0;
    static constexpr auto fields() {
        return std::array{field<&WorkspaceDiffResult::workspace_id>("workspace_id", "The workspace"),
                          field<&WorkspaceDiffResult::changes>("changes", "A record per file, in the order of their paths"),
                          field<&WorkspaceDiffResult::changes_left_out>("changes_left_out", "How many more there are than `changes` names"),
                          field<&WorkspaceDiffResult::stdout_bytes>("stdout_bytes", "Bytes of the patch, sent on stream 1")};
    }
};
struct WorkspaceDiff {
    static constexpr std::string_view name = "workspace.diff";
    using Params = WorkspaceDiffParams;
    using Result = WorkspaceDiffResult;
    static constexpr Traits traits{.cli = "workspace diff", .mcp = "workspace_diff", .sdk = "diff_workspace", .read_only = true, .carries = Carries::download};
};

struct WorkspacePatchApplyParams {
    static constexpr std::string_view doc = "Apply a patch to /workspace, to all of its files or to none. Exact: a hunk that does not fit is refused and told.";
    std::string workspace_id;
    static constexpr auto fields() {
        return std::array{field<&WorkspacePatchApplyParams::workspace_id>("workspace_id", "Id, unique beginning of an id, or name", limits::workspace)};
    }
};
struct WorkspacePatchApplyResult {
    static constexpr std::string_view doc = "The patch was applied.";
    std::string workspace_id;
    std::vector<FileChange> changes;
    std::int64_t changes_left_out = 0;
    static constexpr auto fields() {
        return std::array{field<&WorkspacePatchApplyResult::workspace_id>("workspace_id", "The workspace"),
                          field<&WorkspacePatchApplyResult::changes>("changes", "A record per file"),
                          field<&WorkspacePatchApplyResult::changes_left_out>("changes_left_out", "How many more there are than `changes` names")};
    }
};
struct WorkspacePatchApply {
    static constexpr std::string_view name = "workspace.patch_apply";
    using Params = WorkspacePatchApplyParams;
    using Result = WorkspacePatchApplyResult;
    static constexpr Traits traits{.cli = "workspace patch apply", .mcp = "workspace_patch_apply", .sdk = "apply_workspace_patch", .destructive = true, .carries = Carries::upload};
};

struct WorkspaceSyncPushParams {
    static constexpr std::string_view doc = "Put files of the client's side into a workspace: all of them or none.";
    std::string workspace_id;
    std::string dest = "/workspace";
    static constexpr auto fields() {
        return std::array{field<&WorkspaceSyncPushParams::workspace_id>("workspace_id", "Id, unique beginning of an id, or name", limits::workspace),
                          field<&WorkspaceSyncPushParams::dest>("dest", "Directory in /workspace to put them in; made if missing", {.value = "DIR", .min = 1, .max = 4096, .defaulted = true})};
    }
};
struct TransferResult {
    static constexpr std::string_view doc = "What was transferred.";
    std::string workspace_id;
    std::int64_t files = 0;
    std::int64_t directories = 0;
    std::int64_t symlinks = 0;
    std::int64_t bytes = 0;
    std::int64_t left_out = 0;
    std::vector<std::string> notes;
    std::int64_t stdout_bytes = 0;
    static constexpr auto fields() {
        return std::array{
            field<&TransferResult::workspace_id>("workspace_id", "The workspace"),
            field<&TransferResult::files>("files", "Files"),
            field<&TransferResult::directories>("directories", "Directories"),
            field<&TransferResult::symlinks>("symlinks", "Symbolic links"),
            field<&TransferResult::bytes>("bytes", "Bytes of the files"),
            field<&TransferResult::left_out>("left_out", "Sockets, devices and the like, which do not travel"),
            field<&TransferResult::notes>("notes", "Why, for the first of those"),
            field<&TransferResult::stdout_bytes>("stdout_bytes", "Bytes of the stream, sent on stream 1")};
    }
};
struct WorkspaceSyncPush {
    static constexpr std::string_view name = "workspace.sync_push";
    using Params = WorkspaceSyncPushParams;
    using Result = TransferResult;
    static constexpr Traits traits{.cli = "workspace sync push", .mcp = "workspace_sync_push", .sdk = "push_workspace_sync", .destructive = true, .carries = Carries::upload};
};

struct WorkspaceExportParams {
    static constexpr std::string_view doc = "Take a file or a directory out of a workspace.";
    std::string workspace_id;
    std::string path = "/workspace";
    static constexpr auto fields() {
        return std::array{field<&WorkspaceExportParams::workspace_id>("workspace_id", "Id, unique beginning of an id, or name", limits::workspace),
                          field<&WorkspaceExportParams::path>("path", "File or directory in /workspace", {.cli = Cli::positional, .value = "PATH", .min = 1, .max = 4096, .defaulted = true})};
    }
};
struct WorkspaceExport {
    static constexpr std::string_view name = "workspace.export";
    using Params = WorkspaceExportParams;
    using Result = TransferResult;
    static constexpr Traits traits{.cli = "workspace export", .mcp = "workspace_export", .sdk = "export_workspace", .read_only = true, .carries = Carries::download};
};

struct WorkspaceReapExpiredParams {
    static constexpr std::string_view doc = "Delete your workspaces that are past their time now, without waiting for the daemon's own timer.";
    static constexpr auto fields() { return std::array<FieldInfo, 0>{}; }
};
struct WorkspaceReapExpiredResult {
    static constexpr std::string_view doc = "What was deleted.";
    std::vector<std::string> reaped;
    static constexpr auto fields() { return std::array{field<&WorkspaceReapExpiredResult::reaped>("reaped", "Ids of the workspaces that were deleted")}; }
};
struct WorkspaceReapExpired {
    static constexpr std::string_view name = "workspace.reap_expired";
    using Params = WorkspaceReapExpiredParams;
    using Result = WorkspaceReapExpiredResult;
    static constexpr Traits traits{.cli = "workspace reap-expired", .destructive = true};
};

}  // namespace pyro::proto
