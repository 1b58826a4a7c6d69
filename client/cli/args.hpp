// argv to a request, by the tables. What is wrong with it is said here; the daemon never sees it.
#pragma once
#include "client/cli/verbs.hpp"
#include "common/error.hpp"

#include <nlohmann/json.hpp>

#include <set>
#include <string>
#include <vector>

namespace pyro::client {

struct Globals {
    bool json = false;
    bool id_only = false;  // of verbs whose method has an id_field
    std::string socket;  // empty: the environment's or the default
};

struct Invocation {
    enum class What { call, help, version };
    What what = What::call;
    std::string topic;            // help: the verb's or group's words; empty: all
    const Verb* verb = nullptr;   // call
    Globals globals;
    nlohmann::json params = nlohmann::json::object();  // call: decodes
    nlohmann::json own = nlohmann::json::object();     // the client's own fields: decode too, and may hold what is no UTF-8
    std::set<std::string> given;  // fields that were on the command line
};

// A command line that says nothing valid. Exit status 2.
class UsageError : public Error {
public:
    UsageError(std::string message, std::string topic, bool as_json)
        : Error(ErrorCode::invalid_argument, std::move(message), "try `pyro" + (topic.empty() ? "" : " " + topic) + " --help`"), json(as_json) {}
    bool json;  // --json was given
};

// `args` without the program's name. `environment` answers -e NAME; null: not set.
Invocation parse_args(const std::vector<std::string>& args, const char* (*environment)(const char* name));

}  // namespace pyro::client
