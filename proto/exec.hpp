// Commands in a workspace: they go on when their client leaves, and their output is kept.
#pragma once
#include "proto/workspace.hpp"

namespace pyro::proto {

enum class ExecState { starting, running, exited, lost };
constexpr auto enum_names(ExecState) { return std::array<std::string_view, 4>{"starting", "running", "exited", "lost"}; }

namespace limits {
inline constexpr FieldOptions exec_id{.cli = Cli::positional, .value = "EXEC", .min = 1, .max = 64, .completes = "exec"};
}

struct ExecInfo {
    static constexpr std::string_view doc = "A command in a workspace.";
    std::string exec_id;
    std::string workspace_id;
    ExecState state = ExecState::starting;
    std::vector<std::string> argv;
    std::string cwd;
    std::optional<std::string> user;
    bool tty = false;
    std::optional<std::int64_t> exit_code;
    std::optional<std::int64_t> signal;
    std::optional<std::string> exec_error;
    bool timed_out = false;
    bool cancelled = false;
    bool oom = false;
    std::int64_t started_at = 0;
    std::optional<std::int64_t> duration_ms;
    std::int64_t stdout_total = 0;
    std::int64_t stderr_total = 0;
    std::int64_t stdout_elided = 0;
    std::int64_t stderr_elided = 0;
    template <class R>
    static constexpr auto fields_in() {
        return std::array{
            field<&ExecInfo::exec_id, R>("exec_id", "Identity of the command in its workspace"),
            field<&ExecInfo::workspace_id, R>("workspace_id", "The workspace"),
            field<&ExecInfo::state, R>("state", "starting; running; exited; lost: its machine ended before it did"),
            field<&ExecInfo::argv, R>("argv", "The command"),
            field<&ExecInfo::cwd, R>("cwd", "Where it started"),
            field<&ExecInfo::user, R>("user", "As whom; absent: root"),
            field<&ExecInfo::tty, R>("tty", "Whether it has a terminal"),
            field<&ExecInfo::exit_code, R>("exit_code", "Its exit status; absent if a signal or a time-out ended it"),
            field<&ExecInfo::signal, R>("signal", "Number of the signal that ended it"),
            field<&ExecInfo::exec_error, R>("exec_error", "Why it could not be executed; exit_code is then 126 or 127"),
            field<&ExecInfo::timed_out, R>("timed_out", "Whether timeout_seconds ended it"),
            field<&ExecInfo::cancelled, R>("cancelled", "Whether it was cancelled or killed by request"),
            field<&ExecInfo::oom, R>("oom", "Whether the guest ran out of memory and killed it"),
            field<&ExecInfo::started_at, R>("started_at", "Unix seconds"),
            field<&ExecInfo::duration_ms, R>("duration_ms", "From its start to its end in the guest, in milliseconds; absent while it runs"),
            field<&ExecInfo::stdout_total, R>("stdout_total", "Bytes of standard output so far: where its next byte will be"),
            field<&ExecInfo::stderr_total, R>("stderr_total", "The same of standard error"),
            field<&ExecInfo::stdout_elided, R>("stdout_elided", "Bytes of it that are not kept any more, from the middle"),
            field<&ExecInfo::stderr_elided, R>("stderr_elided", "The same of standard error")};
    }
    static constexpr auto fields() { return fields_in<ExecInfo>(); }
};

// The answer to whoever followed the output.
struct ExecOutcome : ExecInfo {
    static constexpr std::string_view doc = "A command in a workspace, as it was when its follower was done. The output came over the attach connection.";
    std::int64_t stdout_bytes = 0;
    std::int64_t stderr_bytes = 0;
    static constexpr auto fields() {
        return join(fields_in<ExecOutcome>(),
                    std::array{field<&ExecOutcome::stdout_bytes>("stdout_bytes", "Bytes sent on stream 1; read that many before closing"),
                               field<&ExecOutcome::stderr_bytes>("stderr_bytes", "Bytes sent on stream 2")});
    }
};

// What clients make of an ExecOutcome and the streams they read.
struct ExecReport : ExecInfo {
    static constexpr std::string_view doc = "A command in a workspace, with its output.";
    bool truncated = false;
    std::string stdout_text;
    std::string stderr_text;
    static constexpr auto fields() {
        return join(fields_in<ExecReport>(),
                    std::array{field<&ExecReport::truncated>("truncated", "Whether the middle of stdout or stderr was left out"),
                               field<&ExecReport::stdout_text>("stdout", "Standard output; invalid UTF-8 replaced"),
                               field<&ExecReport::stderr_text>("stderr", "Standard error; invalid UTF-8 replaced")});
    }
};

struct ExecStartParams : VmCommand {
    static constexpr std::string_view doc = "Run a command in a workspace, starting it if it is stopped. It goes on when its client leaves; cancelling the call ends it.";
    std::string workspace_id;
    std::optional<std::string> cwd;
    bool detach = false;
    ExecStartParams() { timeout_seconds = 0; }
    static constexpr auto fields() {
        return std::array{
            field<&ExecStartParams::workspace_id>("workspace_id", "Id, unique beginning of an id, or name", limits::workspace),
            field<&VmCommand::argv, ExecStartParams>("argv", "Command and its arguments, run as they are", limits::argv),
            field<&VmCommand::command, ExecStartParams>("command", "Command line, run by /bin/sh -lc; instead of argv", limits::hidden_command),
            field<&VmCommand::timeout_seconds, ExecStartParams>("timeout_seconds", "Time the command may take from its start in the guest; 0: none", limits::command_timeout),
            field<&VmCommand::interactive, ExecStartParams>("interactive", "Pass on standard input", {.short_flag = 'i', .defaulted = true}),
            field<&VmCommand::tty, ExecStartParams>("tty", "Give the command a terminal", {.short_flag = 't', .defaulted = true}),
            field<&VmCommand::env, ExecStartParams>("env", "Set an environment variable", {.short_flag = 'e', .value = "K=V", .max = 1024, .defaulted = true}),
            field<&ExecStartParams::cwd>("cwd", "Directory to start in; relative to /workspace, which is the default", {.short_flag = 'w', .value = "DIR", .min = 1, .max = 4096}),
            field<&VmCommand::user, ExecStartParams>("user", "User to run as, name or uid[:gid]; default: the image's", {.short_flag = 'u', .value = "USER", .min = 1, .max = 256}),
            field<&ExecStartParams::detach>("detach", "Answer once it runs; see workspace logs and attach", {.short_flag = 'd', .defaulted = true}),
            field<&VmCommand::cols, ExecStartParams>("cols", "Width of the terminal", {.cli = Cli::none, .min = 1, .max = 1000, .defaulted = true}),
            field<&VmCommand::rows, ExecStartParams>("rows", "Height of the terminal", {.cli = Cli::none, .min = 1, .max = 1000, .defaulted = true})};
    }
};
struct ExecStart {
    static constexpr std::string_view name = "exec.start";
    using Params = ExecStartParams;
    using Result = ExecOutcome;
    static constexpr Traits traits{.cli = "workspace exec", .mcp = "workspace_exec", .sdk = "exec_workspace", .id_field = "exec_id", .destructive = true, .carries = Carries::streams};
};

struct ExecAttachParams {
    static constexpr std::string_view doc = "Take up the streams of a command that runs. Leaving does not end it.";
    std::string workspace_id;
    std::string exec_id;
    std::int64_t stdout_offset = 0;
    std::int64_t stderr_offset = 0;
    bool no_stdin = false;
    static constexpr auto fields() {
        return std::array{
            field<&ExecAttachParams::workspace_id>("workspace_id", "Id, unique beginning of an id, or name", limits::workspace),
            field<&ExecAttachParams::exec_id>("exec_id", "The command", limits::exec_id),
            field<&ExecAttachParams::stdout_offset>("stdout_offset", "First byte of standard output wanted", {.value = "BYTE", .min = 0, .defaulted = true}),
            field<&ExecAttachParams::stderr_offset>("stderr_offset", "First byte of standard error wanted", {.value = "BYTE", .min = 0, .defaulted = true}),
            field<&ExecAttachParams::no_stdin>("no_stdin", "Leave its standard input alone", limits::flag)};
    }
};
struct ExecAttach {
    static constexpr std::string_view name = "exec.attach";
    using Params = ExecAttachParams;
    using Result = ExecOutcome;
    static constexpr Traits traits{.cli = "workspace attach", .carries = Carries::streams};
};

struct ExecLogsParams {
    static constexpr std::string_view doc = "The output of a command, of one that ended or of one that runs.";
    std::string workspace_id;
    std::optional<std::string> exec_id;
    bool follow = false;
    std::int64_t stdout_offset = 0;
    std::int64_t stderr_offset = 0;
    std::int64_t wait_seconds = 0;
    static constexpr auto fields() {
        return std::array{
            field<&ExecLogsParams::workspace_id>("workspace_id", "Id, unique beginning of an id, or name", limits::workspace),
            field<&ExecLogsParams::exec_id>("exec_id", "The command; default: the last one", {.flag = "exec", .value = "EXEC", .min = 1, .max = 64, .completes = "exec"}),
            field<&ExecLogsParams::follow>("follow", "Go on until the command ends", {.short_flag = 'f', .defaulted = true}),
            field<&ExecLogsParams::stdout_offset>("stdout_offset", "First byte of standard output wanted", {.value = "BYTE", .min = 0, .defaulted = true}),
            field<&ExecLogsParams::stderr_offset>("stderr_offset", "First byte of standard error wanted", {.value = "BYTE", .min = 0, .defaulted = true}),
            field<&ExecLogsParams::wait_seconds>("wait_seconds", "Without follow: wait so long for something new, or for its end", {.value = "SECONDS", .min = 0, .max = 3600, .defaulted = true})};
    }
};
struct ExecLogs {
    static constexpr std::string_view name = "exec.logs";
    using Params = ExecLogsParams;
    using Result = ExecOutcome;
    static constexpr Traits traits{.cli = "workspace logs", .mcp = "workspace_logs", .sdk = "logs_workspace", .read_only = true, .carries = Carries::streams};
};

struct ExecListParams {
    static constexpr std::string_view doc = "List the commands of a workspace since its last reset, newest first.";
    std::string workspace_id;
    bool all = false;
    static constexpr auto fields() {
        return std::array{field<&ExecListParams::workspace_id>("workspace_id", "Id, unique beginning of an id, or name", limits::workspace),
                          field<&ExecListParams::all>("all", "Those that ended too", {.short_flag = 'a', .defaulted = true})};
    }
};
struct ExecListResult {
    static constexpr std::string_view doc = "Commands.";
    std::vector<ExecInfo> execs;
    static constexpr auto fields() { return std::array{field<&ExecListResult::execs>("execs", "Newest first")}; }
};
struct ExecList {
    static constexpr std::string_view name = "exec.list";
    using Params = ExecListParams;
    using Result = ExecListResult;
    static constexpr Traits traits{.cli = "workspace ps", .read_only = true};
};

enum class ExecSignal { TERM, KILL, INT, HUP, QUIT, USR1, USR2, STOP, CONT };
constexpr auto enum_names(ExecSignal) {
    return std::array<std::string_view, 9>{"TERM", "KILL", "INT", "HUP", "QUIT", "USR1", "USR2", "STOP", "CONT"};
}

struct ExecKillParams {
    static constexpr std::string_view doc = "Send a signal to a command; KILL ends all of its processes.";
    std::string workspace_id;
    std::string exec_id;
    ExecSignal signal = ExecSignal::KILL;
    static constexpr auto fields() {
        return std::array{field<&ExecKillParams::workspace_id>("workspace_id", "Id, unique beginning of an id, or name", limits::workspace),
                          field<&ExecKillParams::exec_id>("exec_id", "The command", limits::exec_id),
                          field<&ExecKillParams::signal>("signal", "Which", {.short_flag = 's', .defaulted = true})};
    }
};
struct ExecKill {
    static constexpr std::string_view name = "exec.kill";
    using Params = ExecKillParams;
    using Result = ExecInfo;
    static constexpr Traits traits{.cli = "workspace kill", .mcp = "workspace_exec_cancel", .destructive = true};
};

struct WorkspaceSummaryParams {
    static constexpr std::string_view doc = "What happened in a workspace since its last reset: commands and how they ended, files that changed.";
    std::string workspace_id;
    static constexpr auto fields() {
        return std::array{field<&WorkspaceSummaryParams::workspace_id>("workspace_id", "Id, unique beginning of an id, or name", limits::workspace)};
    }
};
struct WorkspaceSummaryResult {
    static constexpr std::string_view doc = "What happened in a workspace since its last reset.";
    WorkspaceInfo workspace;
    std::int64_t since = 0;
    std::vector<ExecInfo> execs;
    std::int64_t execs_total = 0;
    std::vector<FileChange> changes;
    std::int64_t changes_total = 0;
    std::optional<std::string> changes_unknown;
    std::int64_t exports = 0;
    static constexpr auto fields() {
        return std::array{
            field<&WorkspaceSummaryResult::workspace>("workspace", "The workspace"),
            field<&WorkspaceSummaryResult::since>("since", "When it was created or last reset, in Unix seconds"),
            field<&WorkspaceSummaryResult::execs>("execs", "The last commands, newest first; at most 50"),
            field<&WorkspaceSummaryResult::execs_total>("execs_total", "How many there were"),
            field<&WorkspaceSummaryResult::changes>("changes", "Files that differ from the baseline; at most 200"),
            field<&WorkspaceSummaryResult::changes_total>("changes_total", "How many there are"),
            field<&WorkspaceSummaryResult::changes_unknown>("changes_unknown", "Why nothing is said of files"),
            field<&WorkspaceSummaryResult::exports>("exports", "How often something was exported")};
    }
};
struct WorkspaceSummary {
    static constexpr std::string_view name = "workspace.summary";
    using Params = WorkspaceSummaryParams;
    using Result = WorkspaceSummaryResult;
    static constexpr Traits traits{.cli = "workspace summary", .mcp = "workspace_summary", .sdk = "summarize_workspace", .read_only = true};
};

}  // namespace pyro::proto
