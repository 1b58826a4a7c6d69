// run and vm exec: a command with its streams.
#include "client/cli/command_streams.hpp"
#include "client/cli/commands.hpp"
#include "client/cli/env.hpp"
#include "client/cli/render.hpp"
#include "client/cli/terminal.hpp"
#include "proto/codec.hpp"

#include <unistd.h>

namespace pyro::client {

using nlohmann::json;

int exit_status(const Ending& ending) {
    if (ending.timed_out) return status::timed_out;
    if (ending.exit_code) return static_cast<int>(*ending.exit_code);
    if (ending.signal) return 128 + static_cast<int>(*ending.signal);
    return status::pyro_failed;
}

std::string ending_words(const Ending& ending) {
    std::string text;
    if (ending.exit_code) text += " exit_code=" + std::to_string(*ending.exit_code);
    if (ending.signal) text += " signal=" + std::to_string(*ending.signal);
    if (ending.timed_out) text += " timed_out=true";
    if (ending.oom) text += " oom=true";
    return text;
}

std::string complaints(const Ending& ending, std::int64_t timeout_seconds, std::string_view more_memory) {
    std::string text;
    if (ending.exec_error) text += "pyro: " + printable(*ending.exec_error) + "\n";
    if (ending.timed_out) text += "pyro: the command took longer than --timeout-seconds " + std::to_string(timeout_seconds) + " and was ended\n";
    if (ending.oom) text += "pyro: the guest ran out of memory; " + std::string(more_memory) + "\n";
    return text;
}

std::string run_footer(const proto::ExecResult& result) {
    return "[run] environment=" + printable(result.environment) + " execution_mode=" + std::string(name_of(result.execution_mode)) +
           ending_words(result) + " duration_ms=" + std::to_string(result.duration_ms) + "\n";
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

// No command: the image's own or a shell, which is of use on a terminal only with it.
Invocation with_default_terminal(Invocation call) {
    const bool asked = call.params.value("interactive", false) || call.params.value("tty", false);
    if (!call.params.contains("argv") && !asked && !call.globals.json && ::isatty(STDIN_FILENO) && ::isatty(STDOUT_FILENO))
        call.params["interactive"] = call.params["tty"] = true;
    return call;
}

}  // namespace

int run_command(const Invocation& call) {
    json params = with_terminal(with_default_terminal(call));
    Connection daemon({call.globals.socket});
    import_named_image(daemon, call, params);
    const bool as_json = call.globals.json;
    CommandStreams command({.input = params.value("interactive", false), .tty = params.value("tty", false), .as_json = as_json, .tag = "[run]"});
    const auto result = proto::from_wire<proto::ExecResult>(command.call(daemon, call.verb->method->name, params), proto::Unknown::ignore);
    if (as_json) {
        write_stdout(document(in_table_order(proto::type_of<proto::RunReport>(), proto::to_wire(report_of(result, command.out, command.err)))));
        return exit_status(result);
    }
    const std::int64_t timeout = params.value("timeout_seconds", proto::VmRunParams{}.timeout_seconds);
    write_stderr(complaints(result, timeout, "--mem-mib gives it more") + run_footer(result));
    return exit_status(result);
}

}  // namespace pyro::client
