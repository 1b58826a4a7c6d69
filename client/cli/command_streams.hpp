// A command's streams as the user has them here: terminal, pipes, or memory for --json. For run, vm exec, workspace exec, attach, logs.
#pragma once
#include "client/cli/args.hpp"
#include "client/cli/terminal.hpp"

namespace pyro::client {

// What a terminal changes in the request of a command with VmCommand's fields. Throws UsageError for --tty without one.
nlohmann::json with_terminal(const Invocation& call);

class CommandStreams {
public:
    struct Wanted {
        bool input = false;      // pass on standard input
        bool tty = false;        // the command has a terminal: ours is its other end, raw if there is input
        bool as_json = false;    // keep output in memory
        bool leaves = false;     // signals leave the command running instead of cancelling it
        bool lives_on = false;   // it outlives its client: Ctrl-P Ctrl-Q leaves it
        std::string_view tag;    // of progress lines
    };
    explicit CommandStreams(const Wanted& wanted);
    CommandStreams(const CommandStreams&) = delete;
    CommandStreams& operator=(const CommandStreams&) = delete;

    // The terminal is as it was, and the progress line gone, when this returns or throws.
    nlohmann::json call(Connection& daemon, std::string_view method, const nlohmann::json& params);

    Streams streams;
    Capture out, err;

private:
    Signals signals_;  // ends last: no signal may find the terminal raw and kill
    RawTerminal raw_;
    ProgressLine progress_;
    CallOptions options_;
};

}  // namespace pyro::client
