// One client's conversation.
#pragma once
#include "daemon/io/task_group.hpp"
#include "daemon/rpc/limits.hpp"
#include "daemon/rpc/router.hpp"
#include "daemon/rpc/send_queue.hpp"

#include <map>
#include <memory>
#include <string>

namespace pyro::rpc {

// What all sessions of a server share. Outlives them.
struct SessionContext {
    io::Executor executor;
    const Router& router;
    Tickets& tickets;
    const Limits& limits;
    const std::string& discovery;  // the OpenRPC document, as JSON without newlines
};

// Owns the connection and the calls made over it. One coroutine reads and starts calls, each call is a coroutine, one
// writes. The client's end, a protocol breach, an answer nobody takes and the server's stop all end the same way: every
// call is stopped and awaited, what is queued is written as far as it goes, then the connection closes.
class Session final : public Outbox {
public:
    Session(const SessionContext& context, std::shared_ptr<const Peer> peer, std::shared_ptr<UserShare> share, io::Stream connection);
    ~Session();

    // From the first line, which the caller has read, to the end. Never throws.
    io::Task<void> run(std::string first_line, std::stop_token server_stop);

private:
    io::Task<void> read_loop(std::string line);
    io::Task<void> write_loop();
    io::Task<void> watch_hangup();
    io::Task<void> handle_line(std::string line);
    io::Task<void> handle_request(proto::Request request, std::size_t bytes);
    io::Task<void> serve(std::shared_ptr<Call> call, proto::Request request, std::size_t bytes);
    void record(const std::string& method, const std::string& object, const std::string& outcome, const std::string& failure) const;
    void check_room(std::size_t bytes) const;
    std::string hello(const proto::Request& request);
    void cancel(const nlohmann::json& params);
    void end_calls() noexcept;
    void abandon() noexcept;  // the client is beyond reach: nothing more is read or written
    Error explain(const Error& error) const;
    io::Task<void> deliver(std::string line) override;
    std::shared_ptr<Droppable> offer(std::string line) override;

    const SessionContext& context_;
    std::shared_ptr<const Peer> peer_;
    std::shared_ptr<UserShare> share_;
    io::Stream connection_;
    SendQueue queue_;
    std::map<proto::RequestId, std::shared_ptr<Call>> calls_;
    bool greeted_ = false;
    bool server_stopping_ = false;
    std::string client_version_;
    std::stop_source reading_;
    std::stop_source writing_;
    io::TaskGroup serving_;     // the calls
    io::TaskGroup background_;  // the writer, the hang-up watcher
};

}  // namespace pyro::rpc
