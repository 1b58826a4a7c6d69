// Every command that is one call and its result.
#include "client/cli/commands.hpp"
#include "client/cli/render.hpp"
#include "client/cli/terminal.hpp"

#include <unistd.h>

namespace pyro::client {

nlohmann::json call_daemon(Connection& daemon, const Invocation& call, const nlohmann::json& params, Streams* streams) {
    Signals signals(call_signals);
    ProgressLine progress(call.verb->words == "env pull" ? "[pull]" : call.verb->words == "env commit" ? "[commit]" : "pyro:", call.globals.json);
    CallOptions options;
    options.on_progress = [&](const proto::Progress& p) { progress.show(p); };
    options.signals = &signals;
    options.streams = streams;
    if (streams) streams->before_output = [&] { progress.clear(); };
    return daemon.call(call.verb->method->name, params, options);
}

int call_method(const Invocation& call) {
    Connection daemon({call.globals.socket});
    const nlohmann::json result = call_daemon(daemon, call, call.params);
    const proto::TypeInfo& type = call.verb->method->result();
    if (call.globals.id_only && !call.globals.json) {
        write_stdout(result.at(std::string(call.verb->method->traits.id_field)).get<std::string>() + "\n");
        return status::ok;
    }
    write_stdout(call.globals.json ? document(in_table_order(type, result)) : render(type, result, style_for(STDOUT_FILENO)));
    return status::ok;
}

}  // namespace pyro::client
