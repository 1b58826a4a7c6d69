#include "client/cli/command_streams.hpp"

#include "client/cli/commands.hpp"

#include <cstdlib>
#include <unistd.h>

namespace pyro::client {

using nlohmann::json;

json with_terminal(const Invocation& call) {
    json params = call.params;
    if (!params.value("tty", false)) return params;
    const bool detached = params.value("detach", false);
    if (call.globals.json && !detached) throw UsageError("--tty and --json exclude each other", std::string(call.verb->words), true);
    if (!::isatty(STDIN_FILENO) && !detached) throw UsageError("--tty needs a terminal on standard input", std::string(call.verb->words), false);
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

CommandStreams::CommandStreams(const Wanted& wanted) : signals_(call_signals), raw_(STDIN_FILENO), progress_(std::string(wanted.tag), wanted.as_json) {
    streams.in = wanted.input ? STDIN_FILENO : -1;
    streams.out = wanted.as_json ? Output{-1, &out} : Output{STDOUT_FILENO};
    streams.err = wanted.as_json ? Output{-1, &err} : Output{STDERR_FILENO};
    streams.before_output = [this] { progress_.clear(); };
    if (wanted.tty) {
        streams.window = [] { return window_size(STDIN_FILENO); };
        if (wanted.input) {
            streams.terminal = !wanted.leaves;
            streams.leave_keys = wanted.lives_on;
            streams.attached = [this] { raw_.enter(); };
            streams.continued = [this] { if (raw_.entered()) raw_.enter(); };
        }
    }
    options_.on_progress = [this](const proto::Progress& p) { progress_.show(p); };
    options_.signals = &signals_;
    options_.signals_leave = wanted.leaves;
    options_.streams = &streams;
}

json CommandStreams::call(Connection& daemon, std::string_view method, const json& params) {
    struct Leave {
        CommandStreams& self;
        ~Leave() {
            self.raw_.leave();
            self.progress_.clear();
        }
    } leave{*this};
    return daemon.call(method, params, options_);
}

}  // namespace pyro::client
