// What a request and an image together say about a command.
#pragma once
#include "daemon/agent/channel.hpp"
#include "daemon/env/manifest.hpp"

#include <map>
#include <optional>
#include <string>
#include <vector>

namespace pyro::service {

// The part that vm.run and vm.exec have in common.
struct CommandRequest {
    std::vector<std::string> argv;
    std::optional<std::string> command;
    bool interactive = false;
    bool tty = false;
    std::map<std::string, std::string> env;
    std::optional<std::string> workdir;
    std::optional<std::string> user;
    std::int64_t cols = 80, rows = 24;
};
template <class Params>
CommandRequest command_of(Params& params) {
    return CommandRequest{std::move(params.argv), std::move(params.command), params.interactive, params.tty, std::move(params.env),
                          std::move(params.workdir), std::move(params.user), params.cols, params.rows};
}

// What can be refused before anything starts: argv and command exclude each other, variables have sound names.
void check_command(const CommandRequest& request);

// argv as it is; else the command line by a login shell; else the image's entry point and command; else, on a terminal, a shell.
// The request's variables over the image's over a PATH. Error(invalid_argument) where there is nothing to run.
agent::ExecSpec exec_spec(const CommandRequest& request, const env::EnvironmentManifest& image);

}  // namespace pyro::service
