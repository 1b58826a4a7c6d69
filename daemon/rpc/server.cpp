#include "daemon/rpc/server.hpp"

#include "common/log.hpp"
#include "proto/attach.hpp"

#include <sys/socket.h>

namespace pyro::rpc {
namespace {

// To a connection that gets no coroutine of its own: what fits into its socket's buffer, which for a new one is all of it.
void dismiss(const io::Stream& connection, const Error& error) {
    const std::string line = proto::encode_error(std::nullopt, error) + "\n";
    [[maybe_unused]] const ssize_t best_effort = ::send(connection.native_handle(), line.data(), line.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

ServerOptions completed(ServerOptions options) {
    options.discovery = nlohmann::ordered_json::parse(options.discovery).dump();  // one line
    return options;
}

}  // namespace

struct Server::Place {
    Place(Server& of, uid_t u) : server(of), uid(u) {
        ++server.connections_;
        auto& entry = server.users_[uid];
        if (!entry) entry = std::make_shared<UserShare>();
        share = entry;
        ++share->connections;
    }
    ~Place() {
        --server.connections_;
        if (session) --share->sessions;
        if (--share->connections == 0) server.users_.erase(uid);
        server.place_freed_.set();
    }
    Place(const Place&) = delete;
    Place& operator=(const Place&) = delete;

    bool become_session() {
        if (share->sessions >= server.options_.limits.sessions_per_uid) return false;
        ++share->sessions;
        session = true;
        return true;
    }

    Server& server;
    uid_t uid;
    std::shared_ptr<UserShare> share;
    bool session = false;
};

Server::Server(io::Executor executor, UniqueFd listening, const Router& router, ServerOptions options)
    : executor_(executor), options_(completed(std::move(options))), tickets_(executor),
      context_{executor, router, tickets_, options_.limits, options_.discovery},
      listener_(executor, std::move(listening)), place_freed_(executor), tasks_(executor) {}

Server::~Server() = default;

void Server::start() { tasks_.spawn(accept_loop()); }

void Server::stop() noexcept {
    tasks_.stop();
    listener_.close();
}

io::Task<void> Server::join() { return tasks_.join(); }

io::Task<void> Server::accept_loop() {
    const std::stop_token stop = tasks_.token();
    for (;;) {
        std::optional<Error> failure;
        try {
            io::Stream connection = co_await listener_.accept(stop);
            admit(std::move(connection));
        } catch (const Error& e) {
            failure = e;
        }
        if (!failure) continue;
        // Out of descriptors, most likely: the next attempt when one of ours is given back, or others gave back theirs.
        log::say(log::Level::warning, failure->message());
        place_freed_.reset();
        const io::Deadline pause(executor_, std::chrono::seconds(1), stop);
        try {
            co_await place_freed_.wait(pause.token());
        } catch (const Cancelled&) {
            if (stop.stop_requested()) throw;
        }
    }
}

void Server::admit(io::Stream connection) {
    const Limits& limits = options_.limits;
    try {
        auto peer = std::make_shared<const Peer>(identify(connection));
        // Attach connections come beside the sessions, and are counted until they are handed over.
        const auto user = users_.find(peer->uid);
        const std::size_t of_uid = user == users_.end() ? 0 : user->second->connections;
        if (connections_ >= limits.sessions || of_uid >= 2 * limits.sessions_per_uid)
            throw Error(ErrorCode::quota_exceeded, "too many connections", "close some, then try again").with_retryable(true);
        auto place = std::make_shared<Place>(*this, peer->uid);
        tasks_.spawn(serve(std::move(connection), std::move(peer), std::move(place)));
    } catch (const Error& e) {
        dismiss(connection, e);
    }
}

// NOLINTNEXTLINE(readability-function-cognitive-complexity): the three ways a connection may go, in order
io::Task<void> Server::serve(io::Stream connection, std::shared_ptr<const Peer> peer, std::shared_ptr<Place> place) {
    const std::stop_token stop = tasks_.token();
    std::optional<std::string> line;
    std::optional<Error> refusal;
    {
        const io::Deadline patience(executor_, options_.limits.first_line, stop);
        try {
            line = co_await connection.read_line(options_.limits.line_bytes, patience.token());
        } catch (const Error& e) {
            if (e.code() == ErrorCode::invalid_argument) refusal = e;
        } catch (const Cancelled&) {
            if (patience.expired()) refusal = Error(ErrorCode::timeout, "nothing was said in time", "send a request within 30 seconds of connecting");
        }
    }
    if (refusal) dismiss(connection, *refusal);
    if (!line) co_return;

    if (const auto ticket = proto::parse_attach(*line)) {
        std::string answer;
        try {
            co_await tickets_.redeem(*ticket, peer->uid, connection, stop);
        } catch (const Error& e) {
            answer = proto::encode_attach_error(e) + "\n";
        }
        if (answer.empty()) co_return;
        [[maybe_unused]] const ssize_t best_effort = ::send(connection.native_handle(), answer.data(), answer.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        co_return;
    }

    if (!place->become_session()) {
        dismiss(connection, Error(ErrorCode::quota_exceeded, "this user has too many sessions", "close some, then try again").with_retryable(true));
        co_return;
    }
    auto session = std::make_shared<Session>(context_, std::move(peer), place->share, std::move(connection));
    std::string first_line = std::move(*line);
    co_await session->run(std::move(first_line), stop);
}

}  // namespace pyro::rpc
