// What each command does; each gives the exit status. Errors are thrown and rendered by cli_main.
#pragma once
#include "client/cli/args.hpp"
#include "client/lib/connection.hpp"
#include "proto/vm.hpp"

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

int call_method(const Invocation& call);   // any method of the table that has no streams
int run_command(const Invocation& call);   // run, vm exec
int doctor_command(const Invocation& call);
int demo_command(const Invocation& call);
int bench_command(const Invocation& call);
int completion_command(const Invocation& call);
// `pyro __complete environment|vm`: a candidate per line, its description after a tab. Nothing where the daemon is away or slow.
int complete_command(const std::vector<std::string>& args) noexcept;
// `pyro mcp ...` is the program pyro-mcp beside this one.
[[noreturn]] void become_mcp(const std::vector<std::string>& args);

std::string completion_script(Shell shell);

// What the shell is told of a command that ended.
int exit_status(const proto::ExecResult& result);
std::string run_footer(const proto::ExecResult& result);
proto::RunReport report_of(const proto::ExecResult& result, const Capture& out, const Capture& err);

}  // namespace pyro::client
