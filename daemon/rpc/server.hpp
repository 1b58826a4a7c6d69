// The public socket: accepts, identifies, bounds and hands over.
#pragma once
#include "common/unique_fd.hpp"
#include "daemon/rpc/limits.hpp"
#include "daemon/rpc/router.hpp"
#include "daemon/rpc/session.hpp"

#include <map>
#include <string>

namespace pyro::rpc {

struct ServerOptions {
    Limits limits;
    std::string discovery = "{}";  // what rpc.discover answers, a JSON document
};

// Serves one listening socket. start(), then stop() and join() before it goes; the router and its services outlive it.
class Server {
public:
    Server(io::Executor executor, UniqueFd listening, const Router& router, ServerOptions options = {});
    ~Server();
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    void start();
    void stop() noexcept;    // no new connections; every call is stopped and answered, every session ends
    io::Task<void> join();   // until the last session is gone

    std::size_t connections() const noexcept { return connections_; }
    std::size_t tickets() const noexcept { return tickets_.size(); }

private:
    struct Place;  // one connection's share of the limits
    io::Task<void> accept_loop();
    void admit(io::Stream connection);
    io::Task<void> serve(io::Stream connection, std::shared_ptr<const Peer> peer, std::shared_ptr<Place> place);

    io::Executor executor_;
    ServerOptions options_;
    Tickets tickets_;
    SessionContext context_;
    io::Listener listener_;
    std::size_t connections_ = 0;
    std::map<uid_t, std::shared_ptr<UserShare>> users_;  // those with connections
    io::Event place_freed_;
    io::TaskGroup tasks_;
};

}  // namespace pyro::rpc
