// Commands in a workspace: exec, attach, logs, ps.
#include "client/cli/command_streams.hpp"
#include "client/cli/workspace.hpp"

#include <unistd.h>

namespace pyro::client {

using nlohmann::json;

std::string exec_table(const std::vector<proto::ExecInfo>& execs, std::int64_t now, Style style) {
    constexpr std::size_t command_width = 60;
    Cells rows{{"EXEC", "STATE", "ENDED", "TOOK", "STARTED", "COMMAND"}};
    for (const auto& exec : execs) {
        std::string command = command_line(exec.argv);
        if (command.size() > command_width) command = valid_utf8(command.substr(0, command_width - 3)) + "...";
        const std::string ended = exec.timed_out ? "timed out" : exec.exit_code ? std::to_string(*exec.exit_code) : exec.signal ? "signal " + std::to_string(*exec.signal) : "-";
        const std::string took = exec.duration_ms ? std::to_string(*exec.duration_ms / 1000) + "." + std::to_string(*exec.duration_ms % 1000 / 100) + " s" : "-";
        rows.push_back({printable(exec.exec_id), std::string(name_of(exec.state)), ended, took, age(now - exec.started_at), command});
    }
    return aligned(rows, style, 1);
}

std::string exec_footer(const proto::ExecInfo& exec) {
    std::string text = "[exec] workspace=" + printable(exec.workspace_id) + " exec=" + printable(exec.exec_id) + ending_words(exec);
    if (exec.state != proto::ExecState::exited) text += " state=" + std::string(name_of(exec.state));
    if (exec.duration_ms) text += " duration_ms=" + std::to_string(*exec.duration_ms);
    return text + "\n";
}

namespace {

proto::ExecReport report_of(const proto::ExecOutcome& outcome, const Capture& out, const Capture& err) {
    proto::ExecReport report;
    static_cast<proto::ExecInfo&>(report) = outcome;
    report.truncated = out.truncated() || err.truncated() || outcome.stdout_elided > 0 || outcome.stderr_elided > 0;
    report.stdout_text = out.text();
    report.stderr_text = err.text();
    return report;
}

void print_report(const proto::ExecOutcome& outcome, const CommandStreams& command) {
    write_stdout(document(in_table_order(proto::type_of<proto::ExecReport>(), proto::to_wire(report_of(outcome, command.out, command.err)))));
}

std::string how_to_attach(const std::string& workspace, const std::string& exec, std::uint64_t out_offset, std::uint64_t err_offset) {
    std::string command = "pyro workspace attach " + printable(workspace) + " " + printable(exec);
    if (out_offset > 0) command += " --stdout-offset " + std::to_string(out_offset);
    if (err_offset > 0) command += " --stderr-offset " + std::to_string(err_offset);
    return "`" + command + "`";
}

// What became of a command that we followed to its end, or to ours.
int tell_outcome(const Invocation& call, const proto::ExecOutcome& outcome, const CommandStreams& command, std::int64_t timeout_seconds) {
    if (call.globals.json) {
        print_report(outcome, command);
    } else {
        std::string own = complaints(outcome, timeout_seconds, "a workspace created with more --mem-mib has more");
        if (outcome.state == proto::ExecState::lost) own += "pyro: nobody knows how the command ended: its machine ended first\n";
        write_stderr(own + exec_footer(outcome));
    }
    return exit_status(outcome);
}

// Follows a command's streams. One that is left, or cut off, goes on: `ids` and the offsets say how to take it up again.
struct Followed {
    std::string workspace, exec;          // empty until they are known
    std::uint64_t out_offset = 0, err_offset = 0;
};
int follow(const Invocation& call, const json& params, CommandStreams& command, Connection& daemon, Followed ids, std::int64_t timeout_seconds) {
    command.streams.started = [&](const proto::ExecStarted& started) {
        if (started.workspace_id) ids.workspace = *started.workspace_id;
        if (started.exec_id) ids.exec = *started.exec_id;
    };
    const auto take_up_again = [&] {
        // In memory what came is lost with us.
        const bool as_json = call.globals.json;
        return how_to_attach(ids.workspace, ids.exec, as_json ? 0 : ids.out_offset + command.streams.out_written, as_json ? 0 : ids.err_offset + command.streams.err_written);
    };
    json result;
    try {
        result = command.call(daemon, call.verb->method->name, params);
    } catch (const Left&) {
        write_stderr("pyro: left; the command goes on: " + take_up_again() + "\n");
        return status::ok;
    } catch (const Interrupted&) {
        if (call.verb->words == "workspace attach" && !call.globals.json) write_stderr("pyro: left; the command goes on: " + take_up_again() + "\n");
        throw;
    } catch (const Error& e) {
        if (e.code() != ErrorCode::unavailable || ids.exec.empty()) throw;
        throw Error(e).with_hint((e.hint().empty() ? "" : e.hint() + "; ") + "the command may go on without us: " + take_up_again());
    }
    return tell_outcome(call, proto::from_wire<proto::ExecOutcome>(result, proto::Unknown::ignore), command, timeout_seconds);
}

}  // namespace

int workspace_exec_command(const Invocation& call) {
    const bool detach = call.params.value("detach", false), interactive = call.params.value("interactive", false), tty = call.params.value("tty", false);
    const auto usage = [&](const std::string& message) { return UsageError(message, std::string(call.verb->words), call.globals.json); };
    if (!call.params.contains("argv") && !tty) throw usage("CMD: is missing");  // on a terminal it is a shell
    if (detach && interactive) throw usage("--detach and --interactive exclude each other");
    const json params = with_terminal(call);
    Connection daemon({call.globals.socket});
    if (detach) {
        const auto outcome = proto::from_wire<proto::ExecOutcome>(call_daemon(daemon, call, params), proto::Unknown::ignore);
        if (call.globals.json) write_stdout(document(in_table_order(proto::type_of<proto::ExecInfo>(), proto::to_wire<proto::ExecInfo>(outcome))));
        else write_stdout(outcome.exec_id + "\n");
        return status::ok;
    }
    CommandStreams command({.input = interactive, .tty = tty, .as_json = call.globals.json, .lives_on = true, .tag = "[exec]"});
    return follow(call, params, command, daemon, {}, params.value("timeout_seconds", std::int64_t{0}));
}

int workspace_attach_command(const Invocation& call) {
    const auto asked = proto::from_wire<proto::ExecAttachParams>(call.params);
    Connection daemon({call.globals.socket});
    // Whether it has a terminal changes what ours is to be.
    bool tty = false;
    for (const auto& exec : daemon.call<proto::ExecList>({asked.workspace_id, true}).execs) tty |= exec.exec_id.starts_with(asked.exec_id) && exec.tty;
    const bool terminal = tty && !call.globals.json && ::isatty(STDIN_FILENO) && ::isatty(STDOUT_FILENO);
    CommandStreams command({.input = !asked.no_stdin, .tty = terminal, .as_json = call.globals.json, .leaves = true, .lives_on = true, .tag = "[exec]"});
    if (terminal && !asked.no_stdin) write_stderr("pyro: Ctrl-P Ctrl-Q leaves the command running\n");
    const Followed ids{asked.workspace_id, asked.exec_id, static_cast<std::uint64_t>(asked.stdout_offset), static_cast<std::uint64_t>(asked.stderr_offset)};
    return follow(call, call.params, command, daemon, ids, 0);
}

int workspace_logs_command(const Invocation& call) {
    Connection daemon({call.globals.socket});
    CommandStreams command({.as_json = call.globals.json, .leaves = true, .tag = "[logs]"});
    const auto outcome = proto::from_wire<proto::ExecOutcome>(command.call(daemon, call.verb->method->name, call.params), proto::Unknown::ignore);
    if (call.globals.json) {
        print_report(outcome, command);
        return status::ok;
    }
    std::string gone;
    const auto tell = [&](std::int64_t bytes, const char* stream) {
        if (bytes > 0) gone += "pyro: " + std::to_string(bytes) + " bytes of standard " + stream + ", from its middle, are not kept any more\n";
    };
    tell(outcome.stdout_elided, "output");
    tell(outcome.stderr_elided, "error");
    write_stderr(gone);
    return status::ok;
}

int workspace_ps_command(const Invocation& call) {
    if (call.globals.json) return call_method(call);
    Connection daemon({call.globals.socket});
    const auto list = proto::from_wire<proto::ExecListResult>(daemon.call(call.verb->method->name, call.params), proto::Unknown::ignore);
    write_stdout(exec_table(list.execs, unix_now(), style_for(STDOUT_FILENO)));
    return status::ok;
}

}  // namespace pyro::client
