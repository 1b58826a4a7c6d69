// run and vm exec: a command with its streams.
#include "client/cli/commands.hpp"
#include "client/cli/render.hpp"
#include "client/cli/terminal.hpp"
#include "proto/codec.hpp"

#include <cstdlib>
#include <unistd.h>

namespace pyro::client {

using nlohmann::json;

int exit_status(const proto::ExecResult& result) {
    if (result.timed_out) return status::timed_out;
    if (result.exit_code) return static_cast<int>(*result.exit_code);
    if (result.signal) return 128 + static_cast<int>(*result.signal);
    return status::pyro_failed;
}

std::string run_footer(const proto::ExecResult& result) {
    std::string text = "[run] environment=" + printable(result.environment) + " execution_mode=" +
                       std::string(enum_names(result.execution_mode)[static_cast<std::size_t>(result.execution_mode)]);
    if (result.exit_code) text += " exit_code=" + std::to_string(*result.exit_code);
    if (result.signal) text += " signal=" + std::to_string(*result.signal);
    if (result.timed_out) text += " timed_out=true";
    if (result.oom) text += " oom=true";
    return text + " duration_ms=" + std::to_string(result.duration_ms) + "\n";
}

proto::RunReport report_of(const proto::ExecResult& result, const Capture& out, const Capture& err) {
    proto::RunReport report;
    static_cast<proto::VmOutcome&>(report) = result;
    report.truncated = out.truncated() || err.truncated();
    report.stdout_text = out.text();
    report.stderr_text = err.text();
    return report;
}

namespace {

// What a terminal changes in the request.
json with_terminal(const Invocation& call) {
    json params = call.params;
    const auto flag = [&](const char* name) { return params.value(name, false); };
    const bool on_terminal = ::isatty(STDIN_FILENO) && ::isatty(STDOUT_FILENO);
    // No command: the image's own or a shell, which is of use on a terminal only with it.
    if (!params.contains("argv") && !flag("interactive") && !flag("tty") && on_terminal && !call.globals.json) params["interactive"] = params["tty"] = true;
    if (!flag("tty")) return params;
    if (call.globals.json) throw UsageError("--tty and --json exclude each other", std::string(call.verb->words), true);
    if (!::isatty(STDIN_FILENO)) throw UsageError("--tty needs a terminal on standard input", std::string(call.verb->words), false);
    if (!call.given.contains("timeout_seconds")) params["timeout_seconds"] = 0;
    if (const auto size = window_size(STDIN_FILENO)) {
        params["cols"] = size->cols;
        params["rows"] = size->rows;
    }
    if (const char* term = std::getenv("TERM"); term && *term && is_valid_utf8(term)) {
        json& env = params["env"];
        if (!env.contains("TERM")) env["TERM"] = term;
    }
    return params;
}

}  // namespace

int run_command(const Invocation& call) {
    const json params = with_terminal(call);
    const bool tty = params.value("tty", false), interactive = params.value("interactive", false);
    const bool as_json = call.globals.json;

    Signals signals(call_signals);  // ends last: no signal may find the terminal raw and kill
    RawTerminal raw(STDIN_FILENO);
    ProgressLine progress("[run]", as_json);
    Capture out, err;
    Streams streams;
    streams.in = interactive ? STDIN_FILENO : -1;
    streams.out = as_json ? Output{-1, &out} : Output{STDOUT_FILENO, nullptr};
    streams.err = as_json ? Output{-1, &err} : Output{STDERR_FILENO, nullptr};
    streams.before_output = [&] { progress.clear(); };
    if (tty) {
        streams.window = [] { return window_size(STDIN_FILENO); };
        streams.terminal = interactive;
        if (interactive) {
            streams.attached = [&] { raw.enter(); };
            streams.continued = [&] { if (raw.entered()) raw.enter(); };
        }
    }
    CallOptions options;
    options.on_progress = [&](const proto::Progress& p) { progress.show(p); };
    options.signals = &signals;
    options.streams = &streams;

    Connection daemon({call.globals.socket});
    const auto result = proto::from_wire<proto::ExecResult>(daemon.call(call.verb->method->name, params, options), proto::Unknown::ignore);
    raw.leave();
    progress.clear();
    if (as_json) {
        write_stdout(document(in_table_order(proto::type_of<proto::RunReport>(), proto::to_wire(report_of(result, out, err)))));
        return exit_status(result);
    }
    std::string own;
    if (result.exec_error) own += "pyro: " + printable(*result.exec_error) + "\n";
    if (result.timed_out)
        own += "pyro: the command took longer than --timeout-seconds " + std::to_string(params.value("timeout_seconds", proto::VmRunParams{}.timeout_seconds)) + " and was ended\n";
    if (result.oom) own += "pyro: the guest ran out of memory; --mem-mib gives it more\n";
    write_stderr(own + run_footer(result));
    return exit_status(result);
}

}  // namespace pyro::client
