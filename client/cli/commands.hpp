// What each command does; each gives the exit status. Errors are thrown and rendered by cli_main.
#pragma once
#include "client/cli/args.hpp"
#include "client/cli/render.hpp"
#include "client/lib/connection.hpp"
#include "proto/exec.hpp"
#include "proto/system.hpp"

#include <initializer_list>
#include <string>
#include <vector>

namespace pyro::client {

// Exit statuses of the public contract that are pyro's own.
namespace status {
inline constexpr int ok = 0, doctor_failed = 1, usage = 2, timed_out = 124, pyro_failed = 125, interrupted = 130;
}

inline constexpr std::initializer_list<int> call_signals{SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGCONT};

// The whole program without its first word. Never throws.
int cli_main(const std::vector<std::string>& args) noexcept;

// The call's method; signals cancel it, and its progress is shown on standard error.
nlohmann::json call_daemon(Connection& daemon, const Invocation& call, const nlohmann::json& params, Streams* streams = nullptr);

int call_method(const Invocation& call);   // any method of the table that has no streams
int run_command(const Invocation& call);   // run, vm exec
int env_list_command(const Invocation& call);
int env_pull_command(const Invocation& call);
int env_import_command(const Invocation& call);
int env_commit_command(const Invocation& call);
int workspace_create_command(const Invocation& call);
int workspace_list_command(const Invocation& call);
int workspace_summary_command(const Invocation& call);
int workspace_exec_command(const Invocation& call);
int workspace_attach_command(const Invocation& call);
int workspace_logs_command(const Invocation& call);
int workspace_ps_command(const Invocation& call);
int file_list_command(const Invocation& call);
int file_read_command(const Invocation& call);
int file_write_command(const Invocation& call);
int patch_apply_command(const Invocation& call);
int diff_command(const Invocation& call);
int sync_push_command(const Invocation& call);
int export_command(const Invocation& call);
int doctor_command(const Invocation& call);
int demo_command(const Invocation& call);
int bench_command(const Invocation& call);
int completion_command(const Invocation& call);
// `pyro __complete environment|vm|workspace|exec WORKSPACE`: a candidate per line, its description after a tab. Nothing where the daemon is away or slow.
int complete_command(const std::vector<std::string>& args) noexcept;
// `pyro mcp ...` is the program pyro-mcp beside this one.
[[noreturn]] void become_mcp(const std::vector<std::string>& args);
std::string own_path();  // this program's, whole
// `pyro host connect` and so on: the client's alone.
int host_connect_command(const Invocation& call);
int host_disconnect_command(const Invocation& call);
int host_print_config_command(const Invocation& call);
int host_doctor_command(const Invocation& call);
int host_repair_command(const Invocation& call);

std::string completion_script(Shell shell);

// What the shell is told of a command that ended.
struct Ending {
    template <class Result>
    Ending(const Result& r) : exit_code(r.exit_code), signal(r.signal), exec_error(r.exec_error), timed_out(r.timed_out), oom(r.oom) {}
    const std::optional<std::int64_t>&exit_code, &signal;
    const std::optional<std::string>& exec_error;
    bool timed_out, oom;
};
int exit_status(const Ending& ending);
std::string ending_words(const Ending& ending);  // " exit_code=0" and so on, for a footer
// What else is to be said of it, in lines of pyro's own.
std::string complaints(const Ending& ending, std::int64_t timeout_seconds, std::string_view more_memory);
std::string run_footer(const proto::ExecResult& result);
// PASS, WARN, FAIL and a count of each; `more` ends the last line.
std::string render_checks(const std::vector<proto::Check>& checks, Style style, const std::string& more = {});
proto::RunReport report_of(const proto::ExecResult& result, const Capture& out, const Capture& err);

}  // namespace pyro::client
