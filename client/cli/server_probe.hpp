// A server of the Model Context Protocol, started as a chat host would start it, and asked the first things that a host asks.
#pragma once
#include "client/cli/child.hpp"
#include "common/error.hpp"

#include <optional>
#include <string>
#include <vector>

namespace pyro::client {

struct ServerStart {
    std::vector<std::string> command;
    std::optional<std::vector<std::string>> environment;  // "K=V" each; none: ours
    std::string directory;                                // empty: ours
};

struct ServerAnswers {
    std::string name, version;
    std::size_t tools = 0;
    // Whether its daemon answered it; empty where the server's tools leave no harmless way to ask.
    std::optional<bool> daemon_answered;
    std::string daemon_error;
};

// Throws what is wrong: `invalid_argument` where it does not take its command line, with its own words.
ServerAnswers ask_server(const ServerStart& start, bool about_daemon, Signals& signals);

}  // namespace pyro::client
