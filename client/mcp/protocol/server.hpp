// A server of the Model Context Protocol over stdio: register tools, resources and prompts, then serve.
//
//     mcp::Server server({.info = {.name = "greeter", .version = "1.0"}});
//     server.add(mcp::Tool{
//         .name = "greet",
//         .description = "Greets somebody by name.",
//         .input_schema = ordered_json::parse(R"({"type":"object","properties":{"name":{"type":"string","description":"who"}},"required":["name"]})"),
//         .annotations = {.read_only = true, .destructive = false, .idempotent = true, .open_world = false},
//         .run = [](mcp::Call&, const json& arguments) { return mcp::ToolResult::text("Hello, " + arguments.at("name").get<std::string>()); },
//     });
//     return server.serve_stdio();
#pragma once
#include "client/mcp/protocol/call.hpp"
#include "client/mcp/protocol/content.hpp"
#include "client/mcp/protocol/uri_template.hpp"
#include "common/error.hpp"

#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace pyro::mcp {

struct Implementation {
    std::string name;
    std::string version;
    std::string title = {};
    std::string description = {};
    std::string website_url = {};
    ordered_json icons = {};  // an array; null: none
};

// All four are always said: a client that finds none assumes the worst.
struct ToolAnnotations {
    bool read_only;
    bool destructive;
    bool idempotent;
    bool open_world;
};

// Handlers run on threads of their own, many at once. What a tool refuses or fails at is a result with isError: they return
// one, or throw pyro::Error.
struct Tool {
    std::string name;
    std::string title = {};
    std::string description;
    ordered_json input_schema;
    ordered_json output_schema = {};  // null: none. With one, every result that is no error has `structured` that conforms to it
    ToolAnnotations annotations;
    ordered_json icons = {};
    ordered_json meta = {};
    std::function<ToolResult(Call&, const json& arguments)> run;
};

// Values for what was typed so far, the best first; at most 100 of them are sent. `context`: arguments that are known already.
using Completer = std::function<std::vector<std::string>(Call&, const std::string& typed, const std::map<std::string, std::string>& context)>;

// Handlers of resources and prompts throw pyro::Error; not_found is what a client is told as "no such resource".
struct Resource {
    ResourceInfo info;
    std::function<std::vector<ResourceContents>(Call&)> read;
};

struct ResourceTemplate {
    ResourceInfo info;  // `uri` is the template: see UriTemplate
    std::function<std::vector<ResourceContents>(Call&, const std::string& uri, const std::map<std::string, std::string>& variables)> read;
    std::function<std::vector<ResourceInfo>(Call&)> list = {};  // those to show in resources/list; none: none
    std::map<std::string, Completer> complete = {};             // by variable
};

struct PromptArgument {
    std::string name;
    std::string description;
    bool required = false;
    std::string title = {};
    Completer complete = {};
};

struct Prompt {
    std::string name;
    std::string title = {};
    std::string description;
    std::vector<PromptArgument> arguments = {};
    ordered_json icons = {};
    std::function<PromptResult(Call&, const std::map<std::string, std::string>& arguments)> get;
};

struct ServerOptions {
    Implementation info;
    std::string instructions = {};
    bool logging = false;               // Call::log and logging/setLevel
    bool resource_updates = false;      // subscriptions to resources; then resource_updated() must be called
    bool resource_list_changes = false; // then resource_list_changed() must be called
    std::size_t page_size = 100;
    std::size_t max_running = 32;       // handlers at once; more wait
    std::size_t max_waiting = 256;      // more are refused
    std::chrono::milliseconds progress_interval{1000};
    std::chrono::milliseconds cache_time{300'000};  // how long clients may keep what cannot change while the server runs
    std::chrono::milliseconds grace{2000};          // for handlers to stop and output to be written, at the end
    // What a failed tool says. The default is all of the error, as JSON.
    std::function<ToolResult(const Error&)> render_error = {};
    // Lines for people, such as what a handler threw that is no pyro::Error. The default is stderr.
    std::function<void(const std::string&)> report = {};
};

class Server {
public:
    explicit Server(ServerOptions options);
    ~Server();

    // Before serving. Names and URIs are unique.
    void add(Tool tool);
    void add(Resource resource);
    void add(ResourceTemplate resource_template);
    void add(Prompt prompt);

    // Serves until the input ends, nobody reads the output, or SIGTERM or SIGINT comes; the exit status. stdout is the
    // protocol's alone from here on: what else is printed goes to stderr, and handlers' children have an empty stdin.
    // SIGPIPE is ignored. A handler that does not stop within `grace` is left behind by ending the process.
    int serve_stdio();
    // The same on other descriptors and without signals.
    void serve(int in, int out);

    // From any thread, while serving.
    void resource_updated(const std::string& uri);
    void resource_list_changed();

private:
    friend class Session;
    struct KnownTemplate { UriTemplate pattern; ResourceTemplate resource; };

    void serve(int in, int out, bool heed_signals);

    ServerOptions options_;
    std::vector<Tool> tools_;
    std::vector<Resource> resources_;
    std::vector<KnownTemplate> templates_;
    std::vector<Prompt> prompts_;
    std::mutex mutex_;
    Session* session_ = nullptr;  // while serving
};

}  // namespace pyro::mcp
