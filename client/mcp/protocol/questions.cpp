#include "client/mcp/protocol/questions.hpp"

#include "client/mcp/protocol/params.hpp"
#include "common/error.hpp"

namespace pyro::mcp {

namespace {

bool may_ask(const std::string& method) { return method == "tools/call" || method == "prompts/get" || method == "resources/read"; }

// Everything a client may not change between the rounds of one call.
std::string binding_of(const ActiveRequest& request) {
    json params = request.params;
    for (const char* key : {"_meta", "inputResponses", "requestState"}) params.erase(key);
    return request.method + '\n' + params.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string_view capability_of(std::string_view method) { return method.substr(0, method.find('/')); }

}  // namespace

bool Questions::can_ask(const ActiveRequest& request, std::string_view method) const {
    if (!may_ask(request.method)) return false;
    const auto declared = request.capabilities.find(capability_of(method));
    if (declared == request.capabilities.end() || !declared->is_object()) return false;
    if (method != "elicitation/create") return true;
    // By forms, that is: the client may have said that it only opens pages.
    return request.revision >= since::elicitation && (declared->empty() || declared->contains("form"));
}

json Questions::ask(ActiveRequest& request, const std::string& key, std::string_view method, ordered_json params) {
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
    send_(request_message(id, method, std::move(params)));
    json outcome;
    bool answered = false;
    {
        std::unique_lock lock(mutex_);
        answered = answered_.wait(lock, request.stop.get_token(), [&] { return asked_[id].outcome.has_value(); });
        if (answered) outcome = std::move(*asked_[id].outcome);
        asked_.erase(id);
    }
    if (!answered) {
        send_(notification_message("notifications/cancelled", {{"requestId", id}}));
        throw Cancelled();
    }
    if (const auto result = outcome.find("result"); result != outcome.end()) return *result;
    throw Error(ErrorCode::failed_precondition, "the client refused " + std::string(method) + ": " + shown(string_or_empty(object_or_empty(outcome, "error"), "message")));
}

void Questions::take_up(ActiveRequest& request) {
    const auto sealed = request.params.find("requestState");
    if (!is_modern(request.revision) || !may_ask(request.method) || sealed == request.params.end()) return;
    const auto state = sealed->is_string() ? seal_.open(sealed->get_ref<const std::string&>(), binding_of(request)) : std::nullopt;
    if (!state) invalid_params("requestState is not of this call, or too old; call again without it");
    request.answers = state->at("answers");
    const std::string asked = state->at("asked");
    const json& responses = object_or_empty(request.params, "inputResponses");
    if (const auto response = responses.find(asked); response != responses.end() && response->is_object()) request.answers[asked] = *response;
}

ordered_json Questions::input_required(const ActiveRequest& request, InputRequired needed) {
    return {{"resultType", "input_required"},
            {"inputRequests", {{needed.key, {{"method", needed.method}, {"params", std::move(needed.params)}}}}},
            {"requestState", seal_.seal({{"asked", needed.key}, {"answers", request.answers}}, binding_of(request))}};
}

void Questions::on_response(Message message) {
    const std::lock_guard lock(mutex_);
    const auto asked = message.id.is_string() ? asked_.find(message.id.get<std::string>()) : asked_.end();
    if (asked == asked_.end()) return;
    asked->second.outcome = std::move(message.outcome);
    answered_.notify_all();
}

}  // namespace pyro::mcp
