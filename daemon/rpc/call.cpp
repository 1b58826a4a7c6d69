#include "daemon/rpc/call.hpp"

namespace pyro::rpc {

Call::Call(std::shared_ptr<const Peer> peer, proto::RequestId id, Outbox& outbox, Tickets& tickets, io::Executor executor,
           std::chrono::milliseconds ticket_lifetime)
    : peer_(std::move(peer)), id_(std::move(id)), outbox_(outbox), tickets_(tickets), executor_(std::move(executor)),
      ticket_lifetime_(ticket_lifetime) {}

Call::~Call() { end(); }

void Call::end() noexcept {
    for (const auto& attachment : attachments_) tickets_.revoke(*attachment);
    attachments_.clear();
}

std::string Call::notification(std::string_view method, nlohmann::json params) const {
    params["id"] = proto::to_json(id_);
    return proto::encode_notification(method, params);
}

io::Task<void> Call::notify(std::string method, nlohmann::json params) {
    return outbox_.deliver(notification(method, std::move(params)));
}

void Call::progress(const proto::Progress& progress) {
    std::string line = notification(proto::Progress::method, proto::to_wire(progress));
    if (last_progress_ && !last_progress_->taken && last_phase_ == progress.phase) {
        last_progress_->line = std::move(line);
        return;
    }
    last_progress_ = outbox_.offer(std::move(line));
    last_phase_ = progress.phase;
}

std::shared_ptr<Attachment> Call::attach(Direction direction) {
    auto attachment = tickets_.issue(peer_->uid, direction, ticket_lifetime_);
    attachments_.push_back(attachment);
    return attachment;
}

}  // namespace pyro::rpc
