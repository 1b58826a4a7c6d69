// One request while its handler runs.
#pragma once
#include "client/mcp/protocol/content.hpp"

#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>

namespace pyro::mcp {

class Session;
struct ActiveRequest;

enum class LogLevel { debug, info, notice, warning, error, critical, alert, emergency };
std::optional<LogLevel> log_level_from(std::string_view name) noexcept;
std::string_view to_string(LogLevel level) noexcept;

// What a handler knows of its request and may do beside answering it. Valid while the handler runs, on its thread and on those
// it joins before it returns.
class Call {
public:
    Call(Session& session, std::shared_ptr<ActiveRequest> request) : session_(session), request_(std::move(request)) {}

    // Stop is asked for when the client cancels and when the server ends; what a handler returns then is thrown away. Callbacks
    // on it run on the thread that reads messages: they must be short.
    std::stop_token stop() const;
    Revision revision() const;
    const std::string& client_name() const;  // as the client calls itself; empty: it did not say

    // Does nothing where the client did not ask, where `done` did not grow, and more often than the server's progress_interval.
    bool wants_progress() const;
    void progress(double done, std::optional<double> total = {}, std::string_view message = {});

    // To a client that asked for messages of this level (see ServerOptions::logging).
    void log(LogLevel level, const ordered_json& data);

    // Asks the client's user or model (elicitation/create with a form, sampling/createMessage, roots/list) and returns the result.
    // With 2026-07-28 this throws through the handler, which is then run again from its start with the answer: what a handler
    // does before its last ask() must bear repetition, and `key` must name the question uniquely in it.
    // A client that did not declare the capability is refused; ask can_ask() where there is another way.
    bool can_ask(std::string_view method) const;
    json ask(const std::string& key, std::string_view method, ordered_json params);
    json elicit(const std::string& key, std::string_view message, ordered_json schema);

private:
    Session& session_;
    std::shared_ptr<ActiveRequest> request_;
};

}  // namespace pyro::mcp
