// What the tools share. One per server.
#pragma once
#include "client/mcp/host_paths.hpp"
#include "client/mcp/operation.hpp"
#include "client/mcp/options.hpp"
#include "client/mcp/project.hpp"
#include "client/mcp/protocol/server.hpp"
#include "client/mcp/tool_table.hpp"

namespace pyro::shim {

using mcp::json;
using mcp::ordered_json;

struct Shim {
    explicit Shim(ServeOptions how);
    Shim(const Shim&) = delete;
    Shim& operator=(const Shim&) = delete;

    const ServeOptions options;
    const ProjectSource project;
    const HostPaths paths;
    Operations operations;
};

// A call of a tool, its arguments sorted by who takes them.
struct Request {
    Shim& shim;
    const ToolSpec& spec;
    const proto::MethodInfo& method;
    json params;  // the daemon's
    json own;     // ours

    template <class Own>
    Own own_as() const { return proto::from_wire<Own>(own); }
    json call(Operation& operation, client::Streams* streams = nullptr) const { return operation.call(shim.options.socket, method.name, params, streams); }
};

using Body = std::function<mcp::ToolResult(Operation&, const Request&)>;
using Handler = std::function<mcp::ToolResult(mcp::Call&, const Request&)>;

// Runs `body`, or waits on for what an earlier call began.
mcp::ToolResult repeatable(mcp::Call& call, const Request& request, Body body);
// The same for bodies that bear being done again: one that takes too long is given up.
mcp::ToolResult brief(mcp::Call& call, Shim& shim, Operation::Work work);

// By tool. Null: the call's result as it is.
Handler exec_handler(std::string_view tool);       // vm_run, vm_exec, workspace_exec, workspace_logs
Body transfer_body(std::string_view tool);         // what carries bytes
mcp::Tool make_tool(Shim& shim, std::string_view tool);

// With where the rest of it is.
mcp::ToolResult linked(ordered_json result, mcp::ResourceInfo resource);
mcp::ResourceInfo host_file(const std::string& path);
std::string workspace_uri(const std::string& workspace, const std::string& below);  // "pyro://workspaces/ID/BELOW"

// The patch of a diff, as many whole files of it as fit; `left_out` counts the others.
std::string fitting_patch(std::string_view patch, std::size_t budget, std::size_t& left_out);

void add_resources(mcp::Server& server, Shim& shim);
void add_prompts(mcp::Server& server, const ServeOptions& options);
std::string instructions(const ServeOptions& options);
// Commands and options of the command line as tools and arguments.
std::string hint_for_models(std::string hint, const ServeOptions& options);
// All of it. `shim` outlives the server.
void add_everything(mcp::Server& server, Shim& shim);
mcp::ServerOptions server_options(const ServeOptions& options);

}  // namespace pyro::shim
