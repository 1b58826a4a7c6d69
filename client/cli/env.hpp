// What the commands of environments have in common.
#pragma once
#include "client/cli/commands.hpp"
#include "client/cli/render.hpp"
#include "client/cli/workspace_options.hpp"

namespace pyro::client {

// Where "environment" is an image of this host (oci:DIR and the like) the daemon is given it first, and the name it then has.
void import_named_image(Connection& daemon, const Invocation& call, nlohmann::json& params);

std::string environment_table(const std::vector<proto::EnvironmentInfo>& environments, std::int64_t now, Style style);

}  // namespace pyro::client
