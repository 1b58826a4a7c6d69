// What is to be written to one client: bounded, in order.
#pragma once
#include "daemon/rpc/call.hpp"

#include <deque>

namespace pyro::rpc {

class SendQueue {
public:
    SendQueue(io::Executor executor, std::size_t limit) : limit_(limit), filled_(executor), room_(executor) {}

    // Waits until what is queued is under the limit. False when the queue was closed.
    io::Task<bool> push(std::string line, std::stop_token stop);
    std::shared_ptr<Outbox::Droppable> offer(std::string line);
    // The next line with its newline; nothing once finished and empty, or closed.
    io::Task<std::optional<std::string>> pop();

    void lift_limit() noexcept;  // the end is near: whoever waits for room has it
    void finish() noexcept;  // no more comes: pop() ends after the last
    void close() noexcept;   // forgets everything; nobody waits any longer
    std::size_t bytes() const noexcept { return bytes_; }

private:
    std::shared_ptr<Outbox::Droppable> append(std::string line);

    std::size_t limit_;
    std::size_t bytes_ = 0;  // as appended; a replaced progress may differ a little
    bool finished_ = false;
    bool closed_ = false;
    struct Entry { std::shared_ptr<Outbox::Droppable> message; std::size_t bytes; };
    std::deque<Entry> entries_;
    io::Event filled_;
    io::Event room_;
};

}  // namespace pyro::rpc
