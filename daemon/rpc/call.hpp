// One request while it is served: all a handler knows of who asked.
#pragma once
#include "daemon/rpc/attachment.hpp"
#include "daemon/rpc/peer.hpp"
#include "proto/codec.hpp"
#include "proto/events.hpp"
#include "proto/jsonrpc.hpp"

#include <memory>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

namespace pyro::rpc {

// Where a call's messages go: its session.
class Outbox {
public:
    // Waits for room, for a client that does not read only so long: then its session ends. Nothing is said to a session that ended.
    virtual io::Task<void> deliver(std::string line) = 0;
    // Never waits. Nothing when there is no room; else a handle whose text may be replaced until it is `taken`.
    struct Droppable { std::string line; bool taken = false; };
    virtual std::shared_ptr<Droppable> offer(std::string line) = 0;

protected:
    ~Outbox() = default;
};

// Lives from the request's arrival until its answer is on its way: a handler may keep a reference through all of its
// suspensions, and nothing that outlives the handler may. Used on the domain thread.
class Call {
public:
    Call(std::shared_ptr<const Peer> peer, proto::RequestId id, Outbox& outbox, Tickets& tickets, io::Executor executor,
         std::chrono::milliseconds ticket_lifetime);
    ~Call();
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    const Peer& peer() const noexcept { return *peer_; }
    const proto::RequestId& id() const noexcept { return id_; }
    // Fires when the client cancels, or is gone, or the daemon stops.
    std::stop_token stop() const noexcept { return stop_.get_token(); }
    // Why: the client took it back, and is there to be told; else it is gone, or the daemon stops.
    bool cancelled() const noexcept { return cancelled_; }
    const io::Executor& executor() const noexcept { return executor_; }

    // A notification that must arrive; "id" is added. Waits while the client does not read.
    io::Task<void> notify(std::string method, nlohmann::json params);
    template <proto::Record Event>
    io::Task<void> notify(const Event& event) { return notify(std::string(Event::method), proto::to_wire(event)); }
    // A notification that may be missed: of one phase a slow client sees the latest, a client that does not read none.
    void progress(const proto::Progress& progress);

    // Expects a second connection: send the ticket by notify(), then await connected(). Void when the call ends.
    std::shared_ptr<Attachment> attach(Direction direction = Direction::both);

private:
    friend class Session;
    void end() noexcept;  // voids the tickets
    std::string notification(std::string_view method, nlohmann::json params) const;

    std::shared_ptr<const Peer> peer_;
    proto::RequestId id_;
    Outbox& outbox_;
    Tickets& tickets_;
    io::Executor executor_;
    std::chrono::milliseconds ticket_lifetime_;
    std::stop_source stop_;
    bool cancelled_ = false;
    std::vector<std::shared_ptr<Attachment>> attachments_;
    std::shared_ptr<Outbox::Droppable> last_progress_;
    std::string last_phase_;
};

}  // namespace pyro::rpc
