// The one place that dispatches commands and renders what they throw.
#include "client/cli/commands.hpp"
#include "client/cli/help.hpp"
#include "client/cli/render.hpp"
#include "client/cli/terminal.hpp"
#include "proto/errors.hpp"

#include <cstdlib>
#include <new>

namespace pyro::client {

namespace {

// Those that are more than a call and its result.
struct Command {
    std::string_view words;
    int (*run)(const Invocation&);
};
constexpr Command own_commands[] = {
    {"doctor", &doctor_command},
    {"demo", &demo_command},
    {"bench", &bench_command},
    {"completion", &completion_command},
    {"host connect", &host_connect_command},
    {"host disconnect", &host_disconnect_command},
    {"host print-config", &host_print_config_command},
    {"host doctor", &host_doctor_command},
    {"host repair", &host_repair_command},
    {"run", &run_command},
    {"vm exec", &run_command},
    {"env list", &env_list_command},
    {"env pull", &env_pull_command},
    {"env import", &env_import_command},
    {"env commit", &env_commit_command},
    {"workspace create", &workspace_create_command},
    {"workspace list", &workspace_list_command},
    {"workspace summary", &workspace_summary_command},
    {"workspace exec", &workspace_exec_command},
    {"workspace attach", &workspace_attach_command},
    {"workspace logs", &workspace_logs_command},
    {"workspace ps", &workspace_ps_command},
    {"workspace file list", &file_list_command},
    {"workspace file read", &file_read_command},
    {"workspace file write", &file_write_command},
    {"workspace patch apply", &patch_apply_command},
    {"workspace diff", &diff_command},
    {"workspace sync push", &sync_push_command},
    {"workspace export", &export_command},
};

int dispatch(const Invocation& call) {
    if (call.what == Invocation::What::version) {
        write_stdout(call.globals.json ? document({{"version", PYRO_VERSION}}) : std::string("pyro " PYRO_VERSION "\n"));
        return status::ok;
    }
    if (call.what == Invocation::What::help) {
        write_stdout(help_text(call.topic));
        return status::ok;
    }
    for (const auto& [words, command] : own_commands)
        if (words == call.verb->words) return command(call);
    return call_method(call);
}

int tell(const Error& error, bool as_json, int exit_status) {
    if (as_json) write_stdout(error_document(error));
    else write_stderr(render(error));
    return exit_status;
}

int guarded(const std::vector<std::string>& args) {
    Invocation call;
    try {
        if (!args.empty() && args.front() == "mcp") become_mcp({args.begin() + 1, args.end()});
        call = parse_args(args, [](const char* name) -> const char* { return std::getenv(name); });
        return dispatch(call);
    } catch (const UsageError& e) {
        return tell(e, e.json || call.globals.json, status::usage);
    } catch (const Interrupted& e) {
        const int exit_status = 128 + e.signal;
        if (!call.globals.json) return exit_status;
        return tell(Error(ErrorCode::cancelled, "interrupted"), true, exit_status);
    } catch (const Error& e) {
        return tell(e, call.globals.json, proto::numbers_of(e.code()).exit_status);
    } catch (const std::bad_alloc&) {
        return tell(Error(ErrorCode::quota_exceeded, "out of memory"), call.globals.json, status::pyro_failed);
    }
}

}  // namespace

int cli_main(const std::vector<std::string>& args) noexcept {
    constexpr int broken_pipe = 128 + SIGPIPE;
    try {
        return guarded(args);
    } catch (const OutputClosed&) {
        return broken_pipe;  // as every program whose reader has left
    } catch (const std::exception& e) {
        write_stderr("pyro: " + printable(e.what()) + "\n");
        return status::pyro_failed;
    }
}

}  // namespace pyro::client
