// Frames over an attach connection.
#pragma once
#include "daemon/io/event.hpp"
#include "daemon/io/stream.hpp"
#include "proto/attach.hpp"

#include <optional>
#include <string>

namespace pyro::rpc {

// Owns the connection. One reader; writers of different streams may wait at once and are served in order, whole frames.
class AttachStream {
public:
    AttachStream(io::Executor executor, io::Stream connection);

    // The client's next frame, checked; nothing when it has no more to say. Error(invalid_argument) on a frame it may not
    // send, Error(unavailable) on an end in the middle of one.
    io::Task<std::optional<proto::Frame>> read_frame(std::stop_token stop);
    // Returns when the kernel took all of it: whoever awaits this does not run ahead of a client that does not read by more
    // than a socket buffer. Any size: cut into frames. Once cancelled or failed in the middle, every later write is
    // Error(unavailable).
    io::Task<void> write_frame(proto::StreamId stream, std::string bytes, std::stop_token stop);
    io::Task<void> write_eof(proto::StreamId of, std::stop_token stop);
    // Until the client is gone altogether.
    io::Task<void> wait_hangup(std::stop_token stop) { return connection_.wait_hangup(std::move(stop)); }
    bool hung_up() const noexcept { return connection_.hung_up(); }
    void shutdown_write() noexcept { connection_.shutdown_write(); }  // after the last frame: the client sees a clean end

private:
    io::Task<void> write_whole(std::string frame, std::stop_token stop);

    io::Stream connection_;
    io::Semaphore writing_;
    bool broken_ = false;
};

}  // namespace pyro::rpc
