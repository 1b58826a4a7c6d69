#include "daemon/rpc/send_queue.hpp"

#include <limits>

namespace pyro::rpc {

std::shared_ptr<Outbox::Droppable> SendQueue::append(std::string line) {
    auto message = std::make_shared<Outbox::Droppable>();
    message->line = std::move(line);
    entries_.push_back(Entry{message, message->line.size()});
    bytes_ += message->line.size();
    filled_.set();
    return message;
}

io::Task<bool> SendQueue::push(std::string line, std::stop_token stop) {
    while (!closed_ && bytes_ >= limit_) {
        room_.reset();
        co_await room_.wait(stop);
    }
    if (closed_) co_return false;
    append(std::move(line));
    co_return true;
}

std::shared_ptr<Outbox::Droppable> SendQueue::offer(std::string line) {
    if (closed_ || bytes_ >= limit_) return nullptr;
    return append(std::move(line));
}

io::Task<std::optional<std::string>> SendQueue::pop() {
    std::stop_token never;
    while (!closed_ && entries_.empty() && !finished_) {
        filled_.reset();
        co_await filled_.wait(never);
    }
    if (closed_ || entries_.empty()) co_return std::nullopt;
    const Entry entry = std::move(entries_.front());
    entries_.pop_front();
    bytes_ -= entry.bytes;
    if (bytes_ < limit_) room_.set();
    entry.message->taken = true;
    std::string line = std::move(entry.message->line);
    line += '\n';
    co_return line;
}

void SendQueue::lift_limit() noexcept {
    limit_ = std::numeric_limits<std::size_t>::max();
    room_.set();
}

void SendQueue::finish() noexcept {
    finished_ = true;
    filled_.set();
}

void SendQueue::close() noexcept {
    closed_ = true;
    entries_.clear();
    bytes_ = 0;
    filled_.set();
    room_.set();
}

}  // namespace pyro::rpc
