// What each method answers, from what is registered.
#include "client/mcp/protocol/params.hpp"
#include "client/mcp/protocol/session.hpp"
#include "client/mcp/protocol/wire_forms.hpp"

#include <algorithm>

namespace pyro::mcp {

ordered_json Session::capabilities(Revision revision) const {
    const ServerOptions& options = server_.options_;
    ordered_json wire = ordered_json::object();
    if (!server_.tools_.empty()) wire["tools"] = ordered_json::object();
    if (!server_.resources_.empty() || !server_.templates_.empty()) {
        ordered_json& resources = wire["resources"] = ordered_json::object();
        if (options.resource_updates) resources["subscribe"] = true;
        if (options.resource_list_changes) resources["listChanged"] = true;
    }
    if (!server_.prompts_.empty()) wire["prompts"] = ordered_json::object();
    if (completes() && revision >= since::completions_capability) wire["completions"] = ordered_json::object();
    if (options.logging) wire["logging"] = ordered_json::object();
    return wire;
}

bool Session::completes() const {
    for (const auto& known : server_.templates_)
        if (!known.resource.complete.empty()) return true;
    for (const Prompt& prompt : server_.prompts_)
        for (const PromptArgument& argument : prompt.arguments)
            if (argument.complete) return true;
    return false;
}

ordered_json Session::initialize(Call&, ActiveRequest& request) {
    const auto wanted = revision_from(required_string(request.params, "protocolVersion"));
    const Revision revision = wanted && !is_modern(*wanted) ? *wanted : newest_legacy;
    {
        const std::lock_guard lock(mutex_);
        legacy_ = Legacy{revision, object_or_empty(request.params, "capabilities"), string_or_empty(object_or_empty(request.params, "clientInfo"), "name")};
    }
    ordered_json result{{"protocolVersion", to_string(revision)},
                        {"capabilities", capabilities(revision)},
                        {"serverInfo", to_wire(server_.options_.info, revision)}};
    if (!server_.options_.instructions.empty()) result["instructions"] = server_.options_.instructions;
    return result;
}

ordered_json Session::discover(Call&, ActiveRequest& request) {
    ordered_json result{{"supportedVersions", {to_string(stateless)}}, {"capabilities", capabilities(request.revision)}};
    if (!server_.options_.instructions.empty()) result["instructions"] = server_.options_.instructions;
    result["_meta"][server_key] = to_wire(server_.options_.info, request.revision);
    return result;
}

ordered_json Session::ping(Call&, ActiveRequest&) { return ordered_json::object(); }

ordered_json Session::set_level(Call&, ActiveRequest& request) {
    const auto level = log_level_from(required_string(request.params, "level"));
    if (!level) invalid_params("level is no log level");
    const std::lock_guard lock(mutex_);
    legacy_log_level_ = *level;
    return ordered_json::object();
}

ordered_json Session::page(const ActiveRequest& request, const char* member, std::vector<ordered_json> items) const {
    // A cursor is "METHOD:INDEX" in base64: opaque to clients, and of no other list.
    std::size_t first = 0;
    if (const auto cursor = request.params.find("cursor"); cursor != request.params.end()) {
        const auto text = cursor->is_string() ? from_base64(cursor->get_ref<const std::string&>()) : std::nullopt;
        const std::string prefix = request.method + ':';
        const bool ours = text && text->starts_with(prefix) && text->size() > prefix.size() && text->size() <= prefix.size() + 9 &&
                          text->find_first_not_of("0123456789", prefix.size()) == std::string::npos;
        if (!ours) invalid_params("cursor is not one of this list");
        first = std::stoul(text->substr(prefix.size()));
    }
    const std::size_t last = std::min(items.size(), first + server_.options_.page_size);
    ordered_json shown_items = ordered_json::array();
    for (std::size_t i = first; i < last; ++i) shown_items.push_back(std::move(items[i]));
    ordered_json result{{member, std::move(shown_items)}};
    if (last < items.size()) result["nextCursor"] = base64(request.method + ':' + std::to_string(last));
    return result;
}

ordered_json Session::list_tools(Call&, ActiveRequest& request) {
    std::vector<ordered_json> items;
    for (const Tool& tool : server_.tools_) items.push_back(to_wire(tool, request.revision));
    return page(request, "tools", std::move(items));
}

ordered_json Session::call_tool(Call& call, ActiveRequest& request) {
    const std::string name = required_string(request.params, "name");
    const auto tool = std::find_if(server_.tools_.begin(), server_.tools_.end(), [&](const Tool& one) { return one.name == name; });
    if (tool == server_.tools_.end()) throw ProtocolError(rpc_code::invalid_params, "Unknown tool: " + shown(name));
    if (request.params.contains("arguments") && !request.params["arguments"].is_object()) invalid_params("arguments must be an object");
    const json& arguments = object_or_empty(request.params, "arguments");
    const auto run = [&]() -> ToolResult {
        try {
            if (const auto wrong = schema_violation(tool->input_schema, arguments)) throw Error(ErrorCode::invalid_argument, *wrong);
            return tool->run(call, arguments);
        } catch (const Error& e) {
            return server_.options_.render_error(e);
        } catch (const Cancelled&) {
            return server_.options_.render_error(Error(ErrorCode::cancelled, "cancelled"));
        }
    };
    return to_wire(run(), request.revision);
}

ordered_json Session::list_resources(Call& call, ActiveRequest& request) {
    std::vector<ordered_json> items;
    for (const Resource& resource : server_.resources_) items.push_back(to_wire(resource.info, request.revision));
    for (const auto& known : server_.templates_) {
        if (!known.resource.list) continue;
        for (const ResourceInfo& info : known.resource.list(call)) items.push_back(to_wire(info, request.revision));
    }
    return page(request, "resources", std::move(items));
}

ordered_json Session::list_templates(Call&, ActiveRequest& request) {
    std::vector<ordered_json> items;
    for (const auto& known : server_.templates_) items.push_back(template_to_wire(known.resource.info, request.revision));
    return page(request, "resourceTemplates", std::move(items));
}

ordered_json Session::read_resource(Call& call, ActiveRequest& request) {
    const std::string uri = required_string(request.params, "uri");
    const auto contents = [&]() -> std::vector<ResourceContents> {
        for (const Resource& resource : server_.resources_)
            if (resource.info.uri == uri) return resource.read(call);
        for (const auto& known : server_.templates_)
            if (const auto variables = known.pattern.match(uri)) return known.resource.read(call, uri, *variables);
        throw Error(ErrorCode::not_found, "Resource not found: " + shown(uri)).with_detail("uri", shown(uri));
    };
    ordered_json wire = ordered_json::array();
    for (const ResourceContents& one : contents()) wire.push_back(to_wire(one));
    return {{"contents", std::move(wire)}};
}

ordered_json Session::subscribe(Call&, ActiveRequest& request) {
    if (!server_.options_.resource_updates) throw ProtocolError(rpc_code::method_not_found, "Method not found: resources/subscribe");
    std::string uri = required_string(request.params, "uri");
    const std::lock_guard lock(mutex_);
    if (legacy_subscriptions_.size() >= max_subscribed_uris) throw ProtocolError(rpc_code::internal_error, "too many subscriptions at once");
    legacy_subscriptions_.insert(std::move(uri));
    return ordered_json::object();
}

ordered_json Session::unsubscribe(Call&, ActiveRequest& request) {
    if (!server_.options_.resource_updates) throw ProtocolError(rpc_code::method_not_found, "Method not found: resources/unsubscribe");
    const std::string uri = required_string(request.params, "uri");
    const std::lock_guard lock(mutex_);
    legacy_subscriptions_.erase(uri);
    return ordered_json::object();
}

ordered_json Session::list_prompts(Call&, ActiveRequest& request) {
    std::vector<ordered_json> items;
    for (const Prompt& prompt : server_.prompts_) items.push_back(to_wire(prompt, request.revision));
    return page(request, "prompts", std::move(items));
}

ordered_json Session::get_prompt(Call& call, ActiveRequest& request) {
    const std::string name = required_string(request.params, "name");
    const auto prompt = std::find_if(server_.prompts_.begin(), server_.prompts_.end(), [&](const Prompt& one) { return one.name == name; });
    if (prompt == server_.prompts_.end()) invalid_params("Unknown prompt: " + shown(name));
    const auto arguments = strings(request.params, "arguments");
    for (const PromptArgument& argument : prompt->arguments)
        if (argument.required && !arguments.contains(argument.name)) invalid_params("the argument " + argument.name + " is missing");
    return to_wire(prompt->get(call, arguments), request.revision);
}

ordered_json Session::complete(Call& call, ActiveRequest& request) {
    const json& ref = object_or_empty(request.params, "ref");
    const json& argument = object_or_empty(request.params, "argument");
    const std::string type = string_or_empty(ref, "type");
    const std::string name = required_string(argument, "name");
    const std::string typed = required_string(argument, "value");
    const auto context = strings(object_or_empty(request.params, "context"), "arguments");
    const auto completer = [&]() -> const Completer* {
        if (type == "ref/prompt") {
            for (const Prompt& prompt : server_.prompts_) {
                if (prompt.name != string_or_empty(ref, "name")) continue;
                for (const PromptArgument& one : prompt.arguments)
                    if (one.name == name) return &one.complete;
                invalid_params("the prompt has no argument " + shown(name));
            }
            invalid_params("Unknown prompt: " + shown(string_or_empty(ref, "name")));
        }
        if (type == "ref/resource") {
            for (const auto& known : server_.templates_) {
                if (known.resource.info.uri != string_or_empty(ref, "uri")) continue;
                const auto found = known.resource.complete.find(name);
                return found == known.resource.complete.end() ? nullptr : &found->second;
            }
            invalid_params("Unknown resource template: " + shown(string_or_empty(ref, "uri")));
        }
        invalid_params("ref.type must be ref/prompt or ref/resource");
    }();
    std::vector<std::string> values;
    if (completer && *completer) values = (*completer)(call, typed, context);
    const std::size_t total = values.size();
    values.resize(std::min<std::size_t>(total, 100));
    return {{"completion", {{"values", values}, {"total", total}, {"hasMore", total > values.size()}}}};
}

}  // namespace pyro::mcp
