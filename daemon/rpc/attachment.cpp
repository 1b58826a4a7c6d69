#include "daemon/rpc/attachment.hpp"

#include "common/error.hpp"
#include "proto/attach.hpp"

#include <array>
#include <cerrno>
#include <functional>

#include <sys/random.h>

namespace pyro::rpc {
namespace {

std::string random_ticket() {
    std::array<unsigned char, 16> bytes;
    std::size_t have = 0;
    while (have < bytes.size()) {
        const ssize_t n = ::getrandom(bytes.data() + have, bytes.size() - have, 0);
        if (n < 0 && errno != EINTR) throw Error::from_errno("get random bytes");
        if (n > 0) have += static_cast<std::size_t>(n);
    }
    std::string ticket;
    for (const unsigned char byte : bytes) {
        ticket.push_back("0123456789abcdef"[byte >> 4]);
        ticket.push_back("0123456789abcdef"[byte & 15]);
    }
    return ticket;
}

}  // namespace

Attachment::Attachment(io::Executor executor, std::string ticket, uid_t uid, Direction direction, std::chrono::milliseconds lifetime)
    : ticket_(std::move(ticket)), uid_(uid), direction_(direction), arrived_(executor), lifetime_(executor, lifetime, {}) {}

io::Task<io::Stream> Attachment::connected(std::stop_token stop) {
    // Whichever is first: the connection, the end of the call (void), the end of its time, the caller's stop.
    std::stop_source either;
    const std::stop_callback<std::function<void()>> on_stop(stop, [&] { either.request_stop(); });
    const std::stop_callback<std::function<void()>> on_time(lifetime_.token(), [&] { either.request_stop(); });
    bool cancelled = false;
    try {
        co_await arrived_.wait(either.get_token());
    } catch (const Cancelled&) {
        cancelled = true;
    }
    if (stream_) {
        io::Stream stream = std::move(*stream_);
        stream_.reset();
        co_return stream;
    }
    if (cancelled && !stop.stop_requested() && !voided_)
        throw Error(ErrorCode::timeout, "no client attached in the ticket's time", "connect again and send the ticket at once");
    throw Cancelled();
}

std::shared_ptr<Attachment> Tickets::issue(uid_t uid, Direction direction, std::chrono::milliseconds lifetime) {
    std::shared_ptr<Attachment> attachment(new Attachment(executor_, random_ticket(), uid, direction, lifetime));
    issued_[attachment->ticket_] = attachment;
    return attachment;
}

io::Task<void> Tickets::redeem(std::string ticket, uid_t uid, io::Stream& connection, std::stop_token stop) {
    std::shared_ptr<Attachment> attachment;
    if (const auto found = issued_.find(ticket); found != issued_.end()) {
        attachment = found->second.lock();
        if (attachment && attachment->uid_ != uid) attachment = nullptr;
        else issued_.erase(found);
    }
    if (!attachment || attachment->lifetime_.expired() || attachment->voided_)
        throw Error(ErrorCode::not_found, "no such ticket", "a ticket is used once, within 30 seconds, while its call runs, by the user it was given to");
    std::string answer = proto::encode_attach_ok() + "\n";
    co_await connection.write_all(std::move(answer), stop);
    if (attachment->voided_) co_return;  // the call ended meanwhile: the connection ends with this one
    if (attachment->direction_ == Direction::to_client) connection.shutdown_read();
    if (attachment->direction_ == Direction::from_client) connection.shutdown_write();
    attachment->stream_.emplace(std::move(connection));
    attachment->arrived_.set();
}

void Tickets::revoke(Attachment& attachment) noexcept {
    issued_.erase(attachment.ticket_);
    attachment.voided_ = true;
    attachment.stream_.reset();
    attachment.arrived_.set();
}

}  // namespace pyro::rpc
