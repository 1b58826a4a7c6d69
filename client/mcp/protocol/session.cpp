#include "client/mcp/protocol/session.hpp"

#include "client/mcp/protocol/wire_forms.hpp"

#include <algorithm>

namespace pyro::mcp {

namespace {

constexpr std::size_t max_batch = 100;
constexpr std::size_t max_subscriptions = 64;
constexpr std::size_t max_subscribed_uris = 1000;

constexpr const char* version_key = "io.modelcontextprotocol/protocolVersion";
constexpr const char* capabilities_key = "io.modelcontextprotocol/clientCapabilities";
constexpr const char* client_key = "io.modelcontextprotocol/clientInfo";
constexpr const char* log_level_key = "io.modelcontextprotocol/logLevel";
constexpr const char* server_key = "io.modelcontextprotocol/serverInfo";
constexpr const char* subscription_key = "io.modelcontextprotocol/subscriptionId";

// Goes through the handler to where the round ends. Not an Error, so that nothing which handles errors swallows it.
struct InputRequired {
    std::string key;
    std::string method;
    ordered_json params;
};

[[noreturn]] void invalid_params(std::string why) { throw ProtocolError(rpc_code::invalid_params, "Invalid params: " + std::move(why)); }

std::string shown(const std::string& word) { return word.size() <= 200 ? word : word.substr(0, 200) + "..."; }

const json& object_or_empty(const json& object, const char* key) {
    static const json empty = json::object();
    const auto found = object.find(key);
    return found != object.end() && found->is_object() ? *found : empty;
}

std::string string_or_empty(const json& object, const char* key) {
    const auto found = object.find(key);
    return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

std::string required_string(const json& params, const char* key) {
    const auto found = params.find(key);
    if (found == params.end() || !found->is_string()) invalid_params(std::string(key) + " must be a string");
    return found->get<std::string>();
}

std::map<std::string, std::string> strings(const json& params, const char* key) {
    const auto found = params.find(key);
    std::map<std::string, std::string> values;
    if (found == params.end()) return values;
    if (!found->is_object()) invalid_params(std::string(key) + " must be an object");
    for (const auto& [name, value] : found->items()) {
        if (!value.is_string()) invalid_params(std::string(key) + "." + shown(name) + " must be a string");
        values[name] = value.get<std::string>();
    }
    return values;
}

bool is_id(const json& value) { return value.is_string() || value.is_number_integer(); }

bool may_ask(const std::string& method) { return method == "tools/call" || method == "prompts/get" || method == "resources/read"; }

// Everything a client may not change between the rounds of one call.
std::string binding_of(const ActiveRequest& request) {
    json params = request.params;
    for (const char* key : {"_meta", "inputResponses", "requestState"}) params.erase(key);
    return request.method + '\n' + params.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string_view capability_of(std::string_view method) { return method.substr(0, method.find('/')); }

}  // namespace

struct Session::MethodInfo {
    ordered_json (Session::*serve)(Call&, ActiveRequest&);
    const char* capability;  // without which a server does not know it; null: none
    bool legacy;
    bool modern;
    bool on_worker;  // runs handlers
    bool cached;     // 2026-07-28: says how long its result may be kept
};

const std::map<std::string_view, Session::MethodInfo> Session::methods = {
    {"initialize", {&Session::initialize, nullptr, true, false, false, false}},
    {"server/discover", {&Session::discover, nullptr, false, true, false, true}},
    {"ping", {&Session::ping, nullptr, true, false, false, false}},
    {"logging/setLevel", {&Session::set_level, "logging", true, false, false, false}},
    {"tools/list", {&Session::list_tools, "tools", true, true, false, true}},
    {"tools/call", {&Session::call_tool, "tools", true, true, true, false}},
    {"resources/list", {&Session::list_resources, "resources", true, true, true, true}},
    {"resources/templates/list", {&Session::list_templates, "resources", true, true, false, true}},
    {"resources/read", {&Session::read_resource, "resources", true, true, true, true}},
    {"resources/subscribe", {&Session::subscribe, "resources", true, false, false, false}},
    {"resources/unsubscribe", {&Session::unsubscribe, "resources", true, false, false, false}},
    {"prompts/list", {&Session::list_prompts, "prompts", true, true, false, true}},
    {"prompts/get", {&Session::get_prompt, "prompts", true, true, true, false}},
    {"completion/complete", {&Session::complete, "completions", true, true, true, false}},
    {"subscriptions/listen", {nullptr, nullptr, false, true, false, false}},
};

Session::Session(const Server& server, LineChannel& channel)
    : server_(server), channel_(channel), workers_(server.options_.max_running, server.options_.max_waiting) {}

// --- What comes in

void Session::on_line(std::string_view line) {
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) return;
    try {
        json message = parse_message(line);
        if (message.is_array()) take_batch(std::move(message));
        else take(std::move(message), nullptr);
    } catch (const ProtocolError& e) {
        answer_error(nullptr, e, nullptr);
    }
}

void Session::on_long_line() {
    answer_error(nullptr, ProtocolError(rpc_code::invalid_request, "Invalid request: a line is longer than " + std::to_string(LineChannel::max_line) + " bytes"), nullptr);
}

void Session::take_batch(json messages) {
    if (!legacy_ || !has_batches(legacy_->revision)) throw ProtocolError(rpc_code::invalid_request, "Invalid request: this protocol revision has no batches");
    if (messages.empty() || messages.size() > max_batch)
        throw ProtocolError(rpc_code::invalid_request, "Invalid request: a batch has 1 to " + std::to_string(max_batch) + " messages");
    const auto batch = std::make_shared<Batch>();
    batch->pending = 1;  // held open until the last message was taken
    for (json& message : messages) take(std::move(message), batch);
    std::optional<ordered_json> whole;
    {
        const std::lock_guard lock(mutex_);
        whole = add_to(*batch, std::nullopt);
    }
    if (whole) send(*whole);
}

void Session::take(json value, const std::shared_ptr<Batch>& batch) {
    if (batch) {
        const std::lock_guard lock(mutex_);
        ++batch->pending;
    }
    const auto no_answer = [&] {
        if (!batch) return;
        const std::lock_guard lock(mutex_);
        add_to(*batch, std::nullopt);  // never the last one: see take_batch
    };
    try {
        Message message = message_from(std::move(value));
        switch (message.kind) {
            case Message::Kind::request: on_request(std::move(message), batch); break;
            case Message::Kind::notification: on_notification(message); no_answer(); break;
            case Message::Kind::response: on_response(std::move(message)); no_answer(); break;
        }
    } catch (const BadMessage& bad) {
        answer_error(bad.id, bad.error, batch);
    }
}

void Session::on_request(Message message, const std::shared_ptr<Batch>& batch) {
    const auto request = std::make_shared<ActiveRequest>(ActiveRequest{std::move(message.id), std::move(message.method), std::move(message.params)});
    request->batch = batch;
    {
        const std::lock_guard lock(mutex_);
        if (!active_.try_emplace(request->id.dump(), request).second) {
            // Said with its id, so that the sender hears of it; the first request goes on.
            const ProtocolError in_use(rpc_code::invalid_request, "Invalid request: a request with this id is still being served");
            auto refusal = std::optional(error_message(request->id, in_use));
            if (batch) refusal = add_to(*batch, std::move(refusal));
            if (refusal) send(*refusal);
            return;
        }
    }
    try {
        classify(*request);
        const auto method = methods.find(request->method);
        if (method == methods.end() || !serves(method->first, method->second, request->revision)) throw ProtocolError(rpc_code::method_not_found, "Method not found: " + shown(request->method));
        if (batch && (request->method == "initialize" || is_modern(request->revision)))
            throw ProtocolError(rpc_code::invalid_request, "Invalid request: not in a batch");
        if (!method->second.serve) listen(request);
        else if (method->second.on_worker) serve_on_worker(request, method->second.serve);
        else answer(request, outcome_of(request, method->second.serve));
    } catch (const ProtocolError& e) {
        answer(request, error_message(request->id, e));
    }
}

// Each message says itself which era it belongs to.
void Session::classify(ActiveRequest& request) const {
    if (request.method == "initialize") return;
    const json& meta = object_or_empty(request.params, "_meta");
    if (const auto token = meta.find("progressToken"); token != meta.end()) {
        if (!is_id(*token)) invalid_params("_meta.progressToken must be a string or an integer");
        request.progress_token = *token;
    }
    const auto version = meta.find(version_key);
    if (version == meta.end()) {
        if (legacy_) {
            request.revision = legacy_->revision;
            request.capabilities = legacy_->capabilities;
            request.client_name = legacy_->client_name;
            return;
        }
        if (request.method == "ping") return;
        invalid_params(std::string("_meta lacks ") + version_key + (meta.contains(capabilities_key) ? "" : std::string(" and ") + capabilities_key) +
                       "; or send initialize first");
    }
    if (!version->is_string()) invalid_params(std::string("_meta.") + version_key + " must be a string");
    request.revision = stateless;
    if (revision_from(version->get<std::string>()) != stateless)
        throw ProtocolError(rpc_code::unsupported_protocol_version, "Unsupported protocol version: " + shown(version->get<std::string>()),
                            {{"supported", {to_string(stateless)}}, {"requested", shown(version->get<std::string>())}});
    const auto declared = meta.find(capabilities_key);
    if (declared == meta.end()) invalid_params(std::string("_meta lacks ") + capabilities_key);
    if (!declared->is_object()) invalid_params(std::string("_meta.") + capabilities_key + " must be an object");
    request.capabilities = *declared;
    if (const auto client = meta.find(client_key); client != meta.end()) {
        if (!client->is_object() || string_or_empty(*client, "name").empty()) invalid_params(std::string("_meta.") + client_key + " must be an object with a name");
        request.client_name = string_or_empty(*client, "name");
    }
    if (const auto level = meta.find(log_level_key); level != meta.end()) {
        if (level->is_string()) request.log_level = log_level_from(level->get<std::string>());
        if (!request.log_level) invalid_params(std::string("_meta.") + log_level_key + " is no log level");
    }
}

void Session::on_notification(const Message& message) {
    if (message.method != "notifications/cancelled") return;  // the others ask nothing of a server
    const auto id = message.params.find("requestId");
    if (id == message.params.end()) return;
    Request request;
    std::optional<ordered_json> whole_batch;
    {
        const std::lock_guard lock(mutex_);
        const auto found = active_.find(id->dump());
        if (found == active_.end()) return;  // answered in the meantime
        request = found->second;
        active_.erase(found);
        if (request->batch) whole_batch = add_to(*request->batch, std::nullopt);
    }
    if (whole_batch) send(*whole_batch);
    request->stop.request_stop();
}

void Session::on_response(Message message) {
    const std::lock_guard lock(mutex_);
    const auto asked = message.id.is_string() ? asked_.find(message.id.get<std::string>()) : asked_.end();
    if (asked == asked_.end()) return;
    asked->second.outcome = std::move(message.outcome);
    answered_.notify_all();
}

// --- Running handlers, and what becomes of them

void Session::serve_on_worker(const Request& request, ordered_json (Session::*serve)(Call&, ActiveRequest&)) {
    take_up_state(*request);
    const auto job = [this, request, serve] {
        if (!request->stop.stop_requested()) answer(request, outcome_of(request, serve));  // else cancelled while it waited
    };
    if (!workers_.start(job))
        throw ProtocolError(rpc_code::internal_error, "too many requests at once; repeat this one when another was answered");
}

ordered_json Session::outcome_of(const Request& request, ordered_json (Session::*serve)(Call&, ActiveRequest&)) {
    const auto failed = [&](int code, const std::string& message, ordered_json data = {}) {
        return error_message(request->id, ProtocolError(code, message, std::move(data)));
    };
    try {
        Call call(*this, request);
        return result_message(request->id, decorated(*request, (this->*serve)(call, *request)));
    } catch (const ProtocolError& e) {
        return error_message(request->id, e);
    } catch (InputRequired& needed) {
        return result_message(request->id, decorated(*request, input_required(*request, needed.key, needed.method, std::move(needed.params))));
    } catch (const Error& e) {
        switch (e.code()) {
            case ErrorCode::not_found:
                if (request->method == "resources/read" && !is_modern(request->revision)) return failed(rpc_code::resource_not_found, e.message(), error_data(e));
                return failed(rpc_code::invalid_params, e.message(), error_data(e));
            case ErrorCode::invalid_argument: return failed(rpc_code::invalid_params, e.message(), error_data(e));
            default: return failed(rpc_code::internal_error, e.message(), error_data(e));
        }
    } catch (const Cancelled&) {
        return failed(rpc_code::internal_error, "cancelled");
    } catch (const std::exception& e) {
        server_.options_.report(request->method + ": " + e.what());
        return failed(rpc_code::internal_error, "Internal error");
    }
}

void Session::answer(const Request& request, ordered_json message) {
    std::optional<ordered_json> ready(std::move(message));
    {
        const std::lock_guard lock(mutex_);
        const auto found = active_.find(request->id.dump());
        if (found == active_.end() || found->second != request) return;  // cancelled
        active_.erase(found);
        if (request->batch) ready = add_to(*request->batch, std::move(ready));
    }
    if (ready) send(*ready);
}

void Session::answer_error(const json& id, const ProtocolError& error, const std::shared_ptr<Batch>& batch) {
    const bool null_id = legacy_ && legacy_->revision < since::errors_without_id;
    auto message = std::optional(error_message(id, error, null_id));
    if (batch) {
        const std::lock_guard lock(mutex_);
        message = add_to(*batch, std::move(message));
    }
    if (message) send(*message);
}

// The whole batch, if that was the last of it and there is anything to say.
std::optional<ordered_json> Session::add_to(Batch& batch, std::optional<ordered_json> message) {
    if (message) batch.answers.push_back(std::move(*message));
    if (--batch.pending > 0 || batch.answers.empty()) return std::nullopt;
    return std::move(batch.answers);
}

void Session::send(const ordered_json& message) {
    std::string line = dump(message);
    if (line.size() >= LineChannel::max_line) {
        const json id = message.is_object() && message.contains("id") ? json(message["id"]) : json();
        line = dump(error_message(id, ProtocolError(rpc_code::internal_error, "the answer would be a line of more than " + std::to_string(LineChannel::max_line) + " bytes")));
    }
    channel_.send(std::move(line));
}

bool Session::end(LineChannel::End how) {
    std::map<std::string, Request> left;
    {
        const std::lock_guard lock(mutex_);
        left.swap(active_);
    }
    if (how == LineChannel::End::signalled)
        for (const auto& [key, request] : left)
            if (request->subscription) send(result_message(request->id, decorated(*request, {{"_meta", {{subscription_key, request->id}}}})));
    channel_.close();
    for (const auto& [key, request] : left) request->stop.request_stop();
    return workers_.finish(server_.options_.grace);
}

// --- Results of 2026-07-28

ordered_json Session::decorated(const ActiveRequest& request, ordered_json result) const {
    if (!is_modern(request.revision)) return result;
    if (!result.contains("resultType")) result["resultType"] = "complete";
    const auto method = methods.find(request.method);
    if (result["resultType"] == "complete" && method->second.cached) {
        const bool is_fixed = request.method != "resources/list" && request.method != "resources/read";
        result["ttlMs"] = is_fixed ? server_.options_.cache_time.count() : 0;
        result["cacheScope"] = "private";
    }
    const Implementation& info = server_.options_.info;
    // Briefly: all of it is in the answer to server/discover.
    ordered_json& meta = result["_meta"];
    if (!meta.contains(server_key)) meta[server_key] = to_wire(Implementation{info.name, info.version, info.title}, request.revision);
    return result;
}

void Session::take_up_state(ActiveRequest& request) {
    const auto sealed = request.params.find("requestState");
    if (!is_modern(request.revision) || !may_ask(request.method) || sealed == request.params.end()) return;
    const auto state = sealed->is_string() ? seal_.open(sealed->get_ref<const std::string&>(), binding_of(request)) : std::nullopt;
    if (!state) invalid_params("requestState is not of this call, or too old; call again without it");
    request.answers = state->at("answers");
    const std::string asked = state->at("asked");
    const json& responses = object_or_empty(request.params, "inputResponses");
    if (const auto response = responses.find(asked); response != responses.end() && response->is_object()) request.answers[asked] = *response;
}

ordered_json Session::input_required(const ActiveRequest& request, const std::string& key, std::string_view method, ordered_json params) {
    return {{"resultType", "input_required"},
            {"inputRequests", {{key, {{"method", method}, {"params", std::move(params)}}}}},
            {"requestState", seal_.seal({{"asked", key}, {"answers", request.answers}}, binding_of(request))}};
}

void Session::listen(const Request& request) {
    const auto filter = request->params.find("notifications");
    if (filter == request->params.end() || !filter->is_object()) invalid_params("notifications must be an object");
    const auto wants = [&](const char* key) {
        const auto found = filter->find(key);
        if (found == filter->end()) return false;
        if (!found->is_boolean()) invalid_params(std::string("notifications.") + key + " must be a boolean");
        return found->get<bool>();
    };
    wants("toolsListChanged");    // checked; tools and prompts never change while a server runs
    wants("promptsListChanged");
    Subscription subscription;
    ordered_json honoured = ordered_json::object();
    if (wants("resourcesListChanged") && server_.options_.resource_list_changes) honoured["resourcesListChanged"] = subscription.list_changes = true;
    if (const auto uris = filter->find("resourceSubscriptions"); uris != filter->end()) {
        if (!uris->is_array() || uris->size() > max_subscribed_uris) invalid_params("notifications.resourceSubscriptions must be an array of at most " + std::to_string(max_subscribed_uris));
        for (const json& uri : *uris) {
            if (!uri.is_string()) invalid_params("notifications.resourceSubscriptions must be strings");
            if (server_.options_.resource_updates) subscription.uris.insert(uri.get<std::string>());
        }
        if (!subscription.uris.empty()) honoured["resourceSubscriptions"] = subscription.uris;
    }
    const bool nothing_to_tell = honoured.empty();
    const ordered_json meta{{subscription_key, request->id}};
    {
        const std::lock_guard lock(mutex_);
        const auto open = std::count_if(active_.begin(), active_.end(), [](const auto& entry) { return entry.second->subscription.has_value(); });
        if (static_cast<std::size_t>(open) >= max_subscriptions) throw ProtocolError(rpc_code::internal_error, "too many subscriptions at once");
        // Sent before anything else of this subscription can be.
        send(notification_message("notifications/subscriptions/acknowledged", {{"notifications", std::move(honoured)}, {"_meta", meta}}));
        if (!nothing_to_tell) request->subscription = std::move(subscription);
    }
    if (nothing_to_tell) answer(request, result_message(request->id, decorated(*request, {{"_meta", meta}})));
}

// --- Notifications

void Session::resource_updated(const std::string& uri) {
    std::vector<ordered_json> messages;
    {
        const std::lock_guard lock(mutex_);
        if (legacy_subscriptions_.contains(uri)) messages.push_back(notification_message("notifications/resources/updated", {{"uri", uri}}));
        for (const auto& [key, request] : active_)
            if (request->subscription && request->subscription->uris.contains(uri))
                messages.push_back(notification_message("notifications/resources/updated", {{"uri", uri}, {"_meta", {{subscription_key, request->id}}}}));
    }
    for (const ordered_json& message : messages) send(message);
}

void Session::resource_list_changed() {
    std::vector<ordered_json> messages;
    {
        const std::lock_guard lock(mutex_);
        if (legacy_) messages.push_back({{"jsonrpc", "2.0"}, {"method", "notifications/resources/list_changed"}});
        for (const auto& [key, request] : active_)
            if (request->subscription && request->subscription->list_changes)
                messages.push_back(notification_message("notifications/resources/list_changed", {{"_meta", {{subscription_key, request->id}}}}));
    }
    for (const ordered_json& message : messages) send(message);
}

void Session::progress(ActiveRequest& request, double done, std::optional<double> total, std::string_view message) {
    if (request.progress_token.is_null() || request.stop.stop_requested()) return;
    {
        const std::lock_guard lock(mutex_);
        const auto now = std::chrono::steady_clock::now();
        if (request.last_progress && (done <= *request.last_progress || now - request.last_progress_at < server_.options_.progress_interval)) return;
        request.last_progress = done;
        request.last_progress_at = now;
    }
    ordered_json params{{"progressToken", request.progress_token}, {"progress", done}};
    if (total) params["total"] = *total;
    if (!message.empty() && request.revision >= since::progress_message) params["message"] = message;
    send(notification_message("notifications/progress", std::move(params)));
}

void Session::log(const ActiveRequest& request, LogLevel level, const ordered_json& data) {
    if (!server_.options_.logging) return;
    std::optional<LogLevel> least = request.log_level;
    if (!is_modern(request.revision)) {
        const std::lock_guard lock(mutex_);
        least = legacy_log_level_;
    }
    if (!least || level < *least) return;
    send(notification_message("notifications/message", {{"level", to_string(level)}, {"data", data}}));
}

// --- Asking the client

bool Session::can_ask(const ActiveRequest& request, std::string_view method) const {
    if (!may_ask(request.method)) return false;
    const auto declared = request.capabilities.find(capability_of(method));
    if (declared == request.capabilities.end() || !declared->is_object()) return false;
    if (method != "elicitation/create") return true;
    // By forms, that is: the client may have said that it only opens pages.
    return request.revision >= since::elicitation && (declared->empty() || declared->contains("form"));
}

json Session::ask(ActiveRequest& request, const std::string& key, std::string_view method, ordered_json params) {
    if (!can_ask(request, method)) {
        const std::string missing(capability_of(method));
        if (!is_modern(request.revision) || !may_ask(request.method))
            throw Error(ErrorCode::failed_precondition, "this needs " + missing + ", which the client does not offer", "use a client that does, or call without what needs it");
        throw ProtocolError(rpc_code::missing_client_capability, "the client did not declare " + missing,
                            {{"requiredCapabilities", {{missing, ordered_json::object()}}}});
    }
    if (is_modern(request.revision)) {
        if (const auto found = request.answers.find(key); found != request.answers.end()) return *found;
        throw InputRequired{key, std::string(method), std::move(params)};
    }
    std::string id;
    {
        const std::lock_guard lock(mutex_);
        id = "ask-" + std::to_string(next_ask_++);
        asked_[id] = {};
    }
    send(request_message(id, method, std::move(params)));
    json outcome;
    bool answered = false;
    {
        std::unique_lock lock(mutex_);
        answered = answered_.wait(lock, request.stop.get_token(), [&] { return asked_[id].outcome.has_value(); });
        if (answered) outcome = std::move(*asked_[id].outcome);
        asked_.erase(id);
    }
    if (!answered) {
        send(notification_message("notifications/cancelled", {{"requestId", id}}));
        throw Cancelled();
    }
    if (const auto result = outcome.find("result"); result != outcome.end()) return *result;
    throw Error(ErrorCode::failed_precondition, "the client refused " + std::string(method) + ": " + shown(string_or_empty(object_or_empty(outcome, "error"), "message")));
}

// --- Methods

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

bool Session::serves(std::string_view name, const MethodInfo& method, Revision revision) const {
    if (!(is_modern(revision) ? method.modern : method.legacy)) return false;
    // Legacy clients ask for lists that were not offered, and an empty one is an answer to them.
    const bool always = !method.capability || (name.ends_with("/list") && !is_modern(revision));
    return always || capabilities(stateless).contains(method.capability);
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
