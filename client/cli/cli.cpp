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

int dispatch(const Invocation& call) {
    if (call.what == Invocation::What::version) {
        write_stdout(call.globals.json ? document({{"version", PYRO_VERSION}}) : std::string("pyro " PYRO_VERSION "\n"));
        return status::ok;
    }
    if (call.what == Invocation::What::help) {
        write_stdout(help_text(call.topic));
        return status::ok;
    }
    if (call.verb->words == "doctor") return doctor_command(call);
    if (call.verb->words == "demo") return demo_command(call);
    if (call.verb->words == "bench") return bench_command(call);
    if (call.verb->words == "completion") return completion_command(call);
    return call.verb->method->traits.carries == proto::Carries::streams ? run_command(call) : call_method(call);
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
