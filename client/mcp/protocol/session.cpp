#include "client/mcp/protocol/session.hpp"

#include "client/mcp/protocol/params.hpp"
#include "client/mcp/protocol/wire_forms.hpp"

#include <algorithm>

namespace pyro::mcp {

namespace {

constexpr std::size_t max_batch = 100;
constexpr std::size_t max_subscriptions = 64;

constexpr const char* version_key = "io.modelcontextprotocol/protocolVersion";
constexpr const char* capabilities_key = "io.modelcontextprotocol/clientCapabilities";
constexpr const char* client_key = "io.modelcontextprotocol/clientInfo";
constexpr const char* log_level_key = "io.modelcontextprotocol/logLevel";
constexpr const char* subscription_key = "io.modelcontextprotocol/subscriptionId";

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
    : server_(server), channel_(channel), questions_([this](const ordered_json& message) { send(message); }), workers_(server.options_.max_running, server.options_.max_waiting) {}

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
            case Message::Kind::response: questions_.on_response(std::move(message)); no_answer(); break;
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

bool Session::serves(std::string_view name, const MethodInfo& method, Revision revision) const {
    if (!(is_modern(revision) ? method.modern : method.legacy)) return false;
    // Legacy clients ask for lists that were not offered, and an empty one is an answer to them.
    const bool always = !method.capability || (name.ends_with("/list") && !is_modern(revision));
    return always || capabilities(stateless).contains(method.capability);
}

// --- Running handlers, and what becomes of them

void Session::serve_on_worker(const Request& request, ordered_json (Session::*serve)(Call&, ActiveRequest&)) {
    questions_.take_up(*request);
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
        return result_message(request->id, decorated(*request, questions_.input_required(*request, std::move(needed))));
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

}  // namespace pyro::mcp
