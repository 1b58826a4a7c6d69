#include "daemon/rpc/session.hpp"

#include "common/log.hpp"
#include "proto/errors.hpp"
#include "proto/rpc.hpp"

#include <array>
#include <charconv>

namespace pyro::rpc {
namespace {

constexpr std::string_view server_version = PYRO_VERSION;

std::array<int, 3> parse_version(std::string_view text) {
    std::array<int, 3> version{};
    const char* at = text.data();
    const char* const end = at + text.size();
    for (int& part : version) {
        at = std::from_chars(at, end, part).ptr;
        if (at == end || *at != '.') break;
        ++at;
    }
    return version;
}

// What a request is about, or an answer to one that made something.
std::string object_of(const nlohmann::json& fields) {
    for (const char* name : {"workspace_id", "vm_id", "exec_id", "environment"}) {
        const auto found = fields.find(name);
        if (found != fields.end() && found->is_string()) return found->get<std::string>().substr(0, 256);
    }
    return "";
}

}  // namespace

Session::Session(const SessionContext& context, std::shared_ptr<const Peer> peer, std::shared_ptr<UserShare> share, io::Stream connection)
    : context_(context), peer_(std::move(peer)), share_(std::move(share)), connection_(std::move(connection)),
      queue_(context.executor, context.limits.queue_bytes), serving_(context.executor), background_(context.executor) {}

Session::~Session() = default;

io::Task<void> Session::run(std::string first_line, std::stop_token server_stop) {
    const std::stop_callback<std::function<void()>> on_server_stop(server_stop, [this] {
        server_stopping_ = true;
        queue_.lift_limit();
        reading_.request_stop();
        end_calls();
    });
    background_.spawn(write_loop());
    co_await read_loop(std::move(first_line));

    // Either the client has no more to say, or it is gone, or it may not go on.
    const bool more_expected = !reading_.stop_requested() && !connection_.hung_up();
    if (more_expected) background_.spawn(watch_hangup());
    else end_calls();
    co_await serving_.join();
    queue_.finish();
    {
        const io::Deadline farewell(context_.executor, server_stopping_ ? context_.limits.farewell : context_.limits.write, {});
        const std::stop_callback<std::function<void()>> on_farewell(farewell.token(), [this] { writing_.request_stop(); });
        reading_.request_stop();  // ends the watcher
        co_await background_.join();
    }
    connection_.close();
}

void Session::end_calls() noexcept {
    const auto calls = calls_;  // a call that ends takes itself out
    for (const auto& [id, call] : calls) call->stop_.request_stop();
}

void Session::abandon() noexcept {
    queue_.close();
    reading_.request_stop();
    writing_.request_stop();
    end_calls();
}

io::Task<void> Session::watch_hangup() {
    co_await connection_.wait_hangup(reading_.get_token());
    abandon();
}

io::Task<void> Session::write_loop() {
    bool gone = false;
    try {
        for (;;) {
            std::optional<std::string> line = co_await queue_.pop();
            if (!line) break;
            std::string bytes = std::move(*line);
            co_await connection_.write_all(std::move(bytes), writing_.get_token());
        }
    } catch (const Error&) {
        gone = true;  // the client closed: its calls end, and there is nobody to tell
    } catch (const Cancelled&) {
        gone = true;
    }
    if (gone) abandon();
}

io::Task<void> Session::read_loop(std::string line) {
    std::optional<Error> breach;
    try {
        for (;;) {
            co_await handle_line(std::move(line));
            std::optional<std::string> next = co_await connection_.read_line(context_.limits.line_bytes, reading_.get_token());
            if (!next) break;
            line = std::move(*next);
        }
    } catch (const Cancelled&) {
    } catch (const Error& e) {
        breach = e;
    }
    if (!breach) co_return;
    reading_.request_stop();
    end_calls();
    if (breach->code() != ErrorCode::invalid_argument) co_return;
    std::string answer = proto::encode_error(std::nullopt, *breach, proto::invalid_request);
    co_await deliver(std::move(answer));
}

io::Task<void> Session::handle_line(std::string line) {
    std::string answer;
    proto::Request request;
    if (line.find_first_not_of(" \t\r") == std::string::npos) co_return;
    try {
        request = proto::parse_request(line);
        if (!request.id && request.method != proto::cancel_method)
            throw proto::MessageError(proto::invalid_request, Error(ErrorCode::invalid_argument, "a request needs an id",
                                                                    "the only notification a client sends is rpc.cancel"));
    } catch (const proto::MessageError& e) {
        answer = proto::encode_error(e.id(), e, e.number());
    }
    const std::size_t bytes = line.size();
    line = std::string();
    if (answer.empty()) co_await handle_request(std::move(request), bytes);
    else co_await deliver(std::move(answer));
}

void Session::check_room(std::size_t bytes) const {
    const Limits& limits = context_.limits;
    const auto refuse = [](std::string why) {
        throw Error(ErrorCode::quota_exceeded, std::move(why), "wait for an answer before sending the next").with_retryable(true);
    };
    if (calls_.size() >= limits.in_flight) refuse(std::to_string(calls_.size()) + " requests of this connection are being served");
    if (share_->request_bytes + bytes > limits.in_flight_bytes_per_uid)
        refuse("this user's requests being served are over " + std::to_string(limits.in_flight_bytes_per_uid) + " bytes");
}

io::Task<void> Session::handle_request(proto::Request request, std::size_t bytes) {
    std::string answer;
    try {
        if (request.method == proto::HelloParams::method) {
            answer = hello(request);
        } else if (request.method == proto::discover_method) {
            answer = R"({"jsonrpc":"2.0","id":)" + proto::dump_line(proto::to_json(*request.id)) + R"(,"result":)" + context_.discovery + "}";
        } else if (!greeted_) {
            throw Error(ErrorCode::failed_precondition, "the first message must be rpc.hello",
                        R"(send {"jsonrpc":"2.0","id":0,"method":"rpc.hello","params":{"version":")" + std::string(server_version) + R"("}} first)");
        } else if (request.method == proto::cancel_method) {
            cancel(request.params);
            if (!request.id) co_return;
            answer = proto::encode_result(*request.id, nlohmann::json::object());
        } else if (calls_.contains(*request.id)) {
            throw proto::MessageError(proto::invalid_request,
                                      Error(ErrorCode::invalid_argument, "a request with this id is being served", "give every request an id of its own"));
        } else {
            check_room(bytes);
            share_->request_bytes += bytes;
            auto call = std::make_shared<Call>(peer_, *request.id, *this, context_.tickets, context_.executor, context_.limits.ticket);
            calls_.emplace(*request.id, call);
            serving_.spawn(serve(std::move(call), std::move(request), bytes));
            co_return;
        }
    } catch (const proto::MessageError& e) {
        answer = proto::encode_error(request.id, e, e.number());
    } catch (const Error& e) {
        if (!request.id) co_return;  // a notification has no answer
        answer = proto::encode_error(request.id, e);
    }
    co_await deliver(std::move(answer));
}

std::string Session::hello(const proto::Request& request) {
    const auto params = proto::from_wire<proto::HelloParams>(request.params, proto::Unknown::ignore);
    greeted_ = true;
    client_version_ = params.version;
    proto::HelloResult result;
    result.version = server_version;
    result.features = {"attach", "cancel", "progress"};
    result.server = "pyrod";
    return proto::encode_result(*request.id, proto::to_wire(result));
}

void Session::cancel(const nlohmann::json& params) {
    const auto id = params.find("id");
    if (id == params.end() || params.size() != 1)
        throw Error(ErrorCode::invalid_argument, "rpc.cancel takes the id of a request and nothing else");
    for (const auto& [known, call] : calls_) {
        if (proto::to_json(known) != *id) continue;
        const auto kept = call;  // what the stop wakes may end the call
        kept->cancelled_ = true;
        kept->stop_.request_stop();
        return;
    }
    // A call that ended meanwhile: its answer is on its way.
}

// The one place where what a handler throws becomes an answer.
io::Task<void> Session::serve(std::shared_ptr<Call> call, proto::Request request, std::size_t bytes) {
    std::string answer, object = object_of(request.params), failure;
    std::string_view outcome = to_string(ErrorCode::internal);
    try {
        io::Task<nlohmann::json> dispatched = context_.router.dispatch(request.method, request.params, *call);
        request.params = nlohmann::json();
        const nlohmann::json result = co_await std::move(dispatched);
        if (std::string made = object_of(result); !made.empty()) object = std::move(made);
        answer = proto::encode_result(call->id(), result);
        outcome = "done";
    } catch (const Cancelled&) {
        const Error ended = server_stopping_ ? Error(ErrorCode::unavailable, "the daemon is stopping", "try again when it is back")
                                             : Error(ErrorCode::cancelled, request.method + " was cancelled");
        outcome = to_string(ended.code());
        answer = proto::encode_error(call->id(), ended);
    } catch (const proto::MessageError& e) {
        outcome = to_string(e.code());
        answer = proto::encode_error(call->id(), e, e.number());
    } catch (const Error& e) {
        if (e.code() == ErrorCode::internal) failure = e.message();
        outcome = to_string(e.code());
        answer = proto::encode_error(call->id(), explain(e));
    } catch (const std::exception& e) {
        failure = e.what();
        answer = proto::encode_error(call->id(), Error(ErrorCode::internal, "the daemon failed in " + request.method, "its log says more"));
    }
    call->end();
    share_->request_bytes -= bytes;
    co_await deliver(std::move(answer));
    // Behind the answer: the journal's work is nobody's to wait for.
    if (!failure.empty() || !context_.router.only_reads(request.method)) record(request.method, object, std::string(outcome), failure);
    calls_.erase(call->id());
}

// A failure of the daemon's own is an error in every log; what users did is information, for a journal.
void Session::record(const std::string& method, const std::string& object, const std::string& outcome, const std::string& failure) const {
    const std::string user = std::to_string(peer_->uid);
    const std::string line = method + (object.empty() ? "" : " " + object) + " for uid " + user + ": " + (failure.empty() ? outcome : failure);
    log::say(failure.empty() ? log::Level::info : log::Level::error, line,
             {{"PYRO_METHOD", method}, {"PYRO_OBJECT", object}, {"PYRO_USER", user}, {"PYRO_PID", std::to_string(peer_->pid)}, {"PYRO_OUTCOME", outcome}});
}

// An unknown field between different versions is a question of versions.
Error Session::explain(const Error& error) const {
    if (!error.details().contains("unknown_field") || client_version_ == server_version) return error;
    const bool client_newer = parse_version(client_version_) > parse_version(server_version);
    const std::string versions = "the client is " + client_version_.substr(0, 64) + ", the daemon " + std::string(server_version);
    return Error(error).with_hint(versions + (client_newer ? ": upgrade pyrod" : ": upgrade the client"));
}

io::Task<void> Session::deliver(std::string line) {
    const io::Deadline deadline(context_.executor, context_.limits.write, writing_.get_token());
    bool late = false;
    try {
        co_await queue_.push(std::move(line), deadline.token());
    } catch (const Cancelled&) {
        late = true;
    }
    if (late) abandon();
}

std::shared_ptr<Outbox::Droppable> Session::offer(std::string line) { return queue_.offer(std::move(line)); }

}  // namespace pyro::rpc
