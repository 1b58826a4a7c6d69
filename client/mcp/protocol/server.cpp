#include "client/mcp/protocol/server.hpp"

#include "client/mcp/protocol/session.hpp"
#include "client/mcp/protocol/wire_forms.hpp"
#include "common/unique_fd.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fcntl.h>
#include <unistd.h>

namespace pyro::mcp {

namespace {

constexpr std::array log_level_names{
    std::string_view{"debug"}, std::string_view{"info"}, std::string_view{"notice"}, std::string_view{"warning"},
    std::string_view{"error"}, std::string_view{"critical"}, std::string_view{"alert"}, std::string_view{"emergency"},
};

// A number of its own for what was a standard one, which becomes `instead`.
UniqueFd take_over(int standard, int instead) {
    UniqueFd own(::fcntl(standard, F_DUPFD_CLOEXEC, 3));
    if (!own || ::dup2(instead, standard) < 0) throw Error::from_errno("take over standard input and output");
    return own;
}

}  // namespace

std::optional<LogLevel> log_level_from(std::string_view name) noexcept {
    const auto found = std::find(log_level_names.begin(), log_level_names.end(), name);
    if (found == log_level_names.end()) return std::nullopt;
    return static_cast<LogLevel>(found - log_level_names.begin());
}

std::string_view to_string(LogLevel level) noexcept { return log_level_names[static_cast<std::size_t>(level)]; }

std::stop_token Call::stop() const { return request_->stop.get_token(); }
Revision Call::revision() const { return request_->revision; }
const std::string& Call::client_name() const { return request_->client_name; }
bool Call::wants_progress() const { return !request_->progress_token.is_null(); }
void Call::progress(double done, std::optional<double> total, std::string_view message) { session_.progress(*request_, done, total, message); }
void Call::log(LogLevel level, const ordered_json& data) { session_.log(*request_, level, data); }
bool Call::can_ask(std::string_view method) const { return session_.can_ask(*request_, method); }
json Call::ask(const std::string& key, std::string_view method, ordered_json params) { return session_.ask(*request_, key, method, std::move(params)); }
json Call::elicit(const std::string& key, std::string_view message, ordered_json schema) {
    return ask(key, "elicitation/create", {{"message", message}, {"requestedSchema", std::move(schema)}});
}

ordered_json to_wire(const Implementation& info, Revision revision) {
    ordered_json wire{{"name", info.name}, {"version", info.version}};
    if (!info.title.empty() && revision >= since::title) wire["title"] = info.title;
    if (revision >= since::icons) {
        if (!info.description.empty()) wire["description"] = info.description;
        if (!info.website_url.empty()) wire["websiteUrl"] = info.website_url;
        if (info.icons.is_array()) wire["icons"] = info.icons;
    }
    return wire;
}

ordered_json to_wire(const Tool& tool, Revision revision) {
    ordered_json wire{{"name", tool.name}};
    const bool has_title = !tool.title.empty();
    if (has_title && revision >= since::title) wire["title"] = tool.title;
    wire["description"] = tool.description;
    wire["inputSchema"] = tool.input_schema;
    if (tool.output_schema.is_object() && revision >= since::structured_content) {
        const auto type = tool.output_schema.find("type");
        const bool is_object = type != tool.output_schema.end() && *type == "object";
        if (is_object || revision >= since::any_structured_content) wire["outputSchema"] = tool.output_schema;
    }
    if (revision >= since::tool_annotations) {
        ordered_json annotations = ordered_json::object();
        if (has_title && revision < since::title) annotations["title"] = tool.title;  // where that revision has it
        annotations["readOnlyHint"] = tool.annotations.read_only;
        annotations["destructiveHint"] = tool.annotations.destructive;
        annotations["idempotentHint"] = tool.annotations.idempotent;
        annotations["openWorldHint"] = tool.annotations.open_world;
        wire["annotations"] = std::move(annotations);
    }
    if (tool.icons.is_array() && revision >= since::icons) wire["icons"] = tool.icons;
    if (tool.meta.is_object() && revision >= since::meta) wire["_meta"] = tool.meta;
    return wire;
}

ordered_json to_wire(const Prompt& prompt, Revision revision) {
    ordered_json wire{{"name", prompt.name}};
    if (!prompt.title.empty() && revision >= since::title) wire["title"] = prompt.title;
    wire["description"] = prompt.description;
    if (!prompt.arguments.empty()) wire["arguments"] = ordered_json::array();
    for (const PromptArgument& argument : prompt.arguments) {
        ordered_json one{{"name", argument.name}};
        if (!argument.title.empty() && revision >= since::title) one["title"] = argument.title;
        one["description"] = argument.description;
        one["required"] = argument.required;
        wire["arguments"].push_back(std::move(one));
    }
    if (prompt.icons.is_array() && revision >= since::icons) wire["icons"] = prompt.icons;
    return wire;
}

ordered_json template_to_wire(const ResourceInfo& info, Revision revision) {
    ordered_json wire{{"uriTemplate", info.uri}};
    wire.update(to_wire(info, revision));
    wire.erase("uri");
    wire.erase("size");
    return wire;
}

ordered_json error_data(const Error& error) {
    return {{"code", to_string(error.code())}, {"message", error.message()}, {"hint", error.hint()}, {"retryable", error.retryable()}, {"details", error.details()}};
}

Server::Server(ServerOptions options) : options_(std::move(options)) {
    if (!options_.render_error) options_.render_error = [](const Error& error) { return ToolResult::error(dump(error_data(error))); };
    if (!options_.report)
        options_.report = [](const std::string& line) {
            const std::string whole = line + '\n';
            [[maybe_unused]] const ssize_t n = ::write(STDERR_FILENO, whole.data(), whole.size());
        };
}

Server::~Server() = default;

void Server::add(Tool tool) {
    PYRO_CHECK(tool.run && tool.input_schema.is_object() && tool.input_schema.value("type", "") == "object");
    for (const Tool& one : tools_) PYRO_CHECK(one.name != tool.name);
    tools_.push_back(std::move(tool));
}

void Server::add(Resource resource) {
    PYRO_CHECK(resource.read);
    for (const Resource& one : resources_) PYRO_CHECK(one.info.uri != resource.info.uri);
    resources_.push_back(std::move(resource));
}

void Server::add(ResourceTemplate resource_template) {
    PYRO_CHECK(resource_template.read);
    UriTemplate pattern(resource_template.info.uri);
    templates_.push_back({std::move(pattern), std::move(resource_template)});
}

void Server::add(Prompt prompt) {
    PYRO_CHECK(prompt.get);
    for (const Prompt& one : prompts_) PYRO_CHECK(one.name != prompt.name);
    prompts_.push_back(std::move(prompt));
}

int Server::serve_stdio() {
    const UniqueFd nothing = open_file("/dev/null", O_RDWR);
    const UniqueFd in = take_over(STDIN_FILENO, nothing.get());
    const UniqueFd out = take_over(STDOUT_FILENO, ::fcntl(STDERR_FILENO, F_GETFD) < 0 ? nothing.get() : STDERR_FILENO);
    serve(in.get(), out.get(), true);
    return 0;
}

void Server::serve(int in, int out) { serve(in, out, false); }

void Server::serve(int in, int out, bool heed_signals) {
    LineChannel channel(in, out, heed_signals);
    Session session(*this, channel);
    {
        const std::lock_guard lock(mutex_);
        session_ = &session;
    }
    const auto how = channel.run([&](std::string_view line) { session.on_line(line); }, [&] { session.on_long_line(); });
    const bool stopped = session.end(how);
    {
        const std::lock_guard lock(mutex_);
        session_ = nullptr;
    }
    channel.flush(options_.grace);
    if (stopped) return;
    options_.report("a request did not stop in time and was left behind");
    std::_Exit(0);
}

void Server::resource_updated(const std::string& uri) {
    const std::lock_guard lock(mutex_);
    if (session_) session_->resource_updated(uri);
}

void Server::resource_list_changed() {
    const std::lock_guard lock(mutex_);
    if (session_) session_->resource_list_changed();
}

}  // namespace pyro::mcp
