// Second connections for bytes: who was given a ticket, and who may come with it.
#pragma once
#include "daemon/io/event.hpp"
#include "daemon/io/stream.hpp"

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>

namespace pyro::rpc {

enum class Direction { both, to_client, from_client };

// One expected connection. Held by the handler that asked for it, through Call::attach().
class Attachment {
public:
    // 128 random bits in hex. For the client alone: never logged, never stored.
    const std::string& ticket() const noexcept { return ticket_; }
    // The client's connection, once. Error(timeout) when nobody came in the ticket's time, Cancelled when the call ended.
    io::Task<io::Stream> connected(std::stop_token stop);

private:
    friend class Tickets;
    Attachment(io::Executor executor, std::string ticket, uid_t uid, Direction direction, std::chrono::milliseconds lifetime);

    std::string ticket_;
    uid_t uid_;
    Direction direction_;
    io::Event arrived_;
    io::Deadline lifetime_;
    std::optional<io::Stream> stream_;
    bool voided_ = false;
};

// The tickets that are out. Bound to a uid, a call and a direction; used once; void when their time is up, or their call ended.
class Tickets {
public:
    explicit Tickets(io::Executor executor) : executor_(std::move(executor)) {}
    std::shared_ptr<Attachment> issue(uid_t uid, Direction direction, std::chrono::milliseconds lifetime);
    // Takes the ticket out of circulation and hands `connection` over, answered. What was never issued, is used up, void
    // or somebody else's is the same Error(not_found), and the connection stays the caller's.
    io::Task<void> redeem(std::string ticket, uid_t uid, io::Stream& connection, std::stop_token stop);
    void revoke(Attachment& attachment) noexcept;
    std::size_t size() const noexcept { return issued_.size(); }

private:
    io::Executor executor_;
    std::map<std::string, std::weak_ptr<Attachment>> issued_;
};

}  // namespace pyro::rpc
