// What a request and an image together say about a command.
#pragma once
#include "daemon/agent/channel.hpp"
#include "daemon/env/manifest.hpp"
#include "proto/vm.hpp"

namespace pyro::service {

// What can be refused before anything starts: argv and command exclude each other, variables have sound names.
void check_command(const proto::VmCommand& request);

// argv as it is; else the command line by a login shell; else the image's entry point and command; else, on a terminal, a shell.
// The request's variables over the image's over a PATH. Error(invalid_argument) where there is nothing to run.
agent::ExecSpec exec_spec(const proto::VmCommand& request, const env::EnvironmentManifest& image);

}  // namespace pyro::service
