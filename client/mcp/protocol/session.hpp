// One connection of a server: which era each message belongs to, what is under way, who is told of what.
#pragma once
#include "client/mcp/protocol/active_request.hpp"
#include "client/mcp/protocol/jsonrpc.hpp"
#include "client/mcp/protocol/line_channel.hpp"
#include "client/mcp/protocol/questions.hpp"
#include "client/mcp/protocol/server.hpp"
#include "client/mcp/protocol/workers.hpp"

#include <map>
#include <mutex>
#include <set>

namespace pyro::mcp {

inline constexpr const char* server_key = "io.modelcontextprotocol/serverInfo";  // in `_meta`
inline constexpr std::size_t max_subscribed_uris = 1000;

// on_line() and on_long_line() are the channel's thread's; the rest is any thread's. Nothing is sent with the mutex held, save by
// the channel's own thread, which is never held up.
class Session {
public:
    Session(const Server& server, LineChannel& channel);

    void on_line(std::string_view line);
    void on_long_line();
    // Nothing is answered from here on. False: a handler does not stop.
    bool end(LineChannel::End how);

    void resource_updated(const std::string& uri);
    void resource_list_changed();

    // What Call is made of.
    void progress(ActiveRequest& request, double done, std::optional<double> total, std::string_view message);
    void log(const ActiveRequest& request, LogLevel level, const ordered_json& data);
    bool can_ask(const ActiveRequest& request, std::string_view method) const { return questions_.can_ask(request, method); }
    json ask(ActiveRequest& request, const std::string& key, std::string_view method, ordered_json params) { return questions_.ask(request, key, method, std::move(params)); }

private:
    using Request = std::shared_ptr<ActiveRequest>;
    struct Legacy { Revision revision; json capabilities; std::string client_name; };
    struct MethodInfo;
    static const std::map<std::string_view, MethodInfo> methods;

    void take_batch(json messages);
    void take(json value, const std::shared_ptr<Batch>& batch);
    void on_request(Message message, const std::shared_ptr<Batch>& batch);
    void on_notification(const Message& message);
    void classify(ActiveRequest& request) const;
    void serve_on_worker(const Request& request, ordered_json (Session::*serve)(Call&, ActiveRequest&));
    ordered_json outcome_of(const Request& request, ordered_json (Session::*serve)(Call&, ActiveRequest&));

    // One per method, in session_methods.cpp; each returns the result.
    ordered_json initialize(Call&, ActiveRequest&);
    ordered_json discover(Call&, ActiveRequest&);
    ordered_json ping(Call&, ActiveRequest&);
    ordered_json set_level(Call&, ActiveRequest&);
    ordered_json list_tools(Call&, ActiveRequest&);
    ordered_json call_tool(Call&, ActiveRequest&);
    ordered_json list_resources(Call&, ActiveRequest&);
    ordered_json list_templates(Call&, ActiveRequest&);
    ordered_json read_resource(Call&, ActiveRequest&);
    ordered_json subscribe(Call&, ActiveRequest&);
    ordered_json unsubscribe(Call&, ActiveRequest&);
    ordered_json list_prompts(Call&, ActiveRequest&);
    ordered_json get_prompt(Call&, ActiveRequest&);
    ordered_json complete(Call&, ActiveRequest&);
    void listen(const Request& request);

    ordered_json capabilities(Revision revision) const;
    bool completes() const;
    bool serves(std::string_view name, const MethodInfo& method, Revision revision) const;
    ordered_json page(const ActiveRequest& request, const char* member, std::vector<ordered_json> items) const;
    ordered_json decorated(const ActiveRequest& request, ordered_json result) const;
    void answer(const Request& request, ordered_json message);
    void answer_error(const json& id, const ProtocolError& error, const std::shared_ptr<Batch>& batch);
    std::optional<ordered_json> add_to(Batch& batch, std::optional<ordered_json> message);
    void send(const ordered_json& message);

    const Server& server_;
    LineChannel& channel_;
    Questions questions_;

    mutable std::mutex mutex_;
    std::map<std::string, Request> active_;  // by the id as JSON, so that "1" is not 1
    std::optional<Legacy> legacy_;
    LogLevel legacy_log_level_ = LogLevel::info;
    std::set<std::string> legacy_subscriptions_;

    Workers workers_;  // last: its threads use all of the above
};

}  // namespace pyro::mcp
