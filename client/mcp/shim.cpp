#include "client/mcp/shim.hpp"

#include "client/mcp/protocol/wire_forms.hpp"
#include "client/mcp/text.hpp"
#include "proto/api.hpp"
#include "proto/codec.hpp"

#include <algorithm>
#include <cctype>

namespace pyro::shim {

Shim::Shim(ServeOptions how)
    : options(std::move(how)), project(options), paths([this] {
          std::vector<std::string> roots;
          if (auto root = project.root()) roots.push_back(std::move(*root));
          roots.insert(roots.end(), options.allowed_paths.begin(), options.allowed_paths.end());
          return roots;
      }) {}

namespace {

Request sorted(Shim& shim, const ToolSpec& spec, const json& arguments) {
    Request request{shim, spec, method_of(spec.name), json::object(), json::object()};
    const auto has = [](const proto::TypeInfo& type, std::string_view name) {
        for (const proto::FieldInfo& field : type.fields)
            if (field.name == name) return true;
        return false;
    };
    for (const auto& [name, value] : arguments.items()) (spec.own && has(spec.own(), name) ? request.own : request.params)[name] = value;
    if (has(request.method.params(), "environment") && !request.params.contains("environment")) request.params["environment"] = shim.options.environment;
    if (request.params.value("allow_host_compat", false) && !shim.options.allow_host_compat)
        throw Error(ErrorCode::failed_precondition, "this server was not started with --allow-host-compat", "leave allow_host_compat out; only whoever starts the server can allow it");
    for (const FieldChange& change : spec.changes)
        if (change.value && !request.params.contains(change.name)) request.params[std::string(change.name)] = *change.value;
    return request;
}

constexpr std::string_view creator = "workspace_create";

mcp::ToolResult still_running(const Request& request, const std::string& id, const Operation& operation) {
    return mcp::ToolResult::data({{"state", request.spec.name == creator ? "creating" : "running"}, {request.spec.handle, id}, {"phase", operation.phase()}});
}

mcp::ToolResult plain(Operation& operation, const Request& request) {
    ordered_json result = shaped(request.method.result(), request.call(operation));
    fit(result);
    return mcp::ToolResult::data(std::move(result));
}

// Also of one that a create of this server is still making, which the daemon may not know yet. Waits on its own time, not the daemon's
// alone, for that create may have begun with a pull.
mcp::ToolResult workspace_status(mcp::Call& call, Request request) {
    const auto until = Clock::now() + std::min(std::chrono::seconds(request.params.value("wait_seconds", 0)), longest_call);
    if (const auto made = request.shim.operations.find(std::string(creator), request.params["workspace_id"])) {
        const auto& [id, kept] = *made;
        if (!kept.operation->watch(call, until)) return kept.running(id);
        request.params["workspace_id"] = kept.operation->result().structured->at("workspace_id");
    }
    // The rest of the time is the daemon's; it answers before a call of it is given up.
    constexpr std::chrono::seconds for_the_answer{2};
    const auto left = std::chrono::ceil<std::chrono::seconds>(std::min(until - Clock::now(), Clock::duration(longest_call - for_the_answer)));
    request.params["wait_seconds"] = std::max<std::int64_t>(left.count(), 0);
    return brief(call, request.shim, [request](Operation& operation) { return plain(operation, request); });
}

}  // namespace

mcp::ToolResult repeatable(mcp::Call& call, const Request& request, Body body) {
    Shim& shim = request.shim;
    const std::string tool(request.spec.name), handle(request.spec.handle);
    if (request.own.contains(handle)) return shim.operations.resume(call, tool, request.own[handle]);
    const auto operation = std::make_shared<Operation>([request, body = std::move(body)](Operation& self) { return body(self, request); });
    const auto running = [request, weak = std::weak_ptr(operation)](const std::string& id) { return still_running(request, id, *weak.lock()); };
    // While it is not there yet, workspace_status is asked for it by the name it is going to have.
    return shim.operations.run(call, tool, operation, running, tool == creator ? request.params.value("name", "") : std::string());
}

mcp::ToolResult brief(mcp::Call& call, Shim& shim, Operation::Work work) {
    const auto operation = std::make_shared<Operation>(std::move(work));
    if (operation->wait(call, Clock::now() + longest_call)) return operation->result();
    operation->cancel();
    shim.operations.let_go(operation);
    throw Error(ErrorCode::timeout, "pyrod has not answered in " + std::to_string(longest_call.count()) + " seconds", "call again; `pyro doctor` says how it is").with_retryable(true);
}

mcp::Tool make_tool(Shim& shim, std::string_view name) {
    const ToolSpec& spec = spec_of(name);
    mcp::Tool tool = definition(name, shim.options);
    Handler handler = exec_handler(name);
    if (name == "workspace_status") handler = &workspace_status;
    if (!handler) {
        Body body = transfer_body(name);
        if (!body) body = &plain;
        handler = [body](mcp::Call& call, const Request& request) {
            if (!request.spec.handle.empty()) return repeatable(call, request, body);
            return brief(call, request.shim, [body, request](Operation& operation) { return body(operation, request); });
        };
    }
    tool.run = [&shim, &spec, handler](mcp::Call& call, const json& arguments) { return handler(call, sorted(shim, spec, arguments)); };
    return tool;
}

void add_everything(mcp::Server& server, Shim& shim) {
    for (const std::string_view tool : tools_of(shim.options)) server.add(make_tool(shim, tool));
    if (shim.options.mode == Mode::none && shim.options.profile == Profile::vm_run) return;
    add_resources(server, shim);
    add_prompts(server, shim.options);
}

std::string hint_for_models(std::string hint, const ServeOptions& options) {
    const auto replace = [&](const std::string& words, const std::string& name) {
        for (std::size_t at = 0; (at = hint.find(words, at)) != std::string::npos; at += name.size()) {
            const std::size_t end = at + words.size();
            if (end == hint.size() || (!std::isalnum(static_cast<unsigned char>(hint[end])) && hint[end] != '-')) hint.replace(at, words.size(), name);
        }
    };
    const std::vector<std::string_view> tools = tools_of(options);
    for (const proto::MethodInfo& method : proto::Api::list())
        if (std::find(tools.begin(), tools.end(), method.traits.mcp) != tools.end()) replace("pyro " + std::string(method.traits.cli), std::string(method.traits.mcp));
    replace("pyro workspace ps", "workspace_summary");
    replace("--force", "overwrite:true");
    replace("--exec", "exec_id");
    replace("--clear-label", "clear_labels");
    for (const std::string_view tool : tools)
        for (const proto::FieldInfo& field : method_of(tool).params().fields) {
            std::string flag = "--" + std::string(field.name);
            std::replace(flag.begin(), flag.end(), '_', '-');
            replace(flag, std::string(field.name));
        }
    return hint;
}

mcp::ServerOptions server_options(const ServeOptions& options) {
    mcp::ServerOptions out;
    out.info = {.name = "pyro", .version = PYRO_VERSION, .title = "pyro", .description = "Disposable Linux machines to run commands and change files in"};
    out.instructions = instructions(options);
    out.render_error = [options](const Error& error) {
        ordered_json told = mcp::error_data(error);
        told["hint"] = hint_for_models(error.hint(), options);
        for (auto& [key, value] : told["details"].items())
            if (value.is_string() && value.get_ref<const std::string&>().size() > most_shown / 2) value = std::string(whole_characters(value.get_ref<const std::string&>(), most_shown / 2)) + "...";
        return mcp::ToolResult::error(mcp::dump(told));
    };
    out.progress_interval = std::chrono::milliseconds(900);  // told once a second
    return out;
}

}  // namespace pyro::shim
