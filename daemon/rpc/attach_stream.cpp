#include "daemon/rpc/attach_stream.hpp"

#include "common/error.hpp"

#include <array>

namespace pyro::rpc {

AttachStream::AttachStream(io::Executor executor, io::Stream connection)
    : connection_(std::move(connection)), writing_(std::move(executor), 1) {}

io::Task<std::optional<proto::Frame>> AttachStream::read_frame(std::stop_token stop) {
    std::array<char, proto::frame_header_bytes> bytes;
    const bool more = co_await connection_.read_exactly(bytes, stop);
    if (!more) co_return std::nullopt;
    const proto::FrameHeader header = proto::decode_frame_header(bytes, proto::Side::client);
    proto::Frame frame;
    frame.stream = header.stream;
    frame.bytes.resize(header.length);
    if (header.length > 0) {
        const bool whole = co_await connection_.read_exactly(frame.bytes, stop);
        if (!whole) throw Error(ErrorCode::unavailable, "the attach connection ended in the middle of a frame");
    }
    proto::check_frame(frame, proto::Side::client);
    co_return frame;
}

io::Task<void> AttachStream::write_whole(std::string frame, std::stop_token stop) {
    if (broken_) throw Error(ErrorCode::unavailable, "the attach connection broke in the middle of a frame");
    broken_ = true;  // until the frame is out
    co_await connection_.write_all(std::move(frame), stop);
    broken_ = false;
}

io::Task<void> AttachStream::write_frame(proto::StreamId stream, std::string bytes, std::stop_token stop) {
    std::string_view rest = bytes;
    while (!rest.empty()) {
        const io::Semaphore::Permit turn = co_await writing_.acquire(stop);
        std::string frame = proto::encode_frame(stream, rest.substr(0, proto::max_frame_bytes));
        rest.remove_prefix(std::min(rest.size(), proto::max_frame_bytes));
        co_await write_whole(std::move(frame), stop);
    }
}

io::Task<void> AttachStream::write_eof(proto::StreamId of, std::stop_token stop) {
    const io::Semaphore::Permit turn = co_await writing_.acquire(stop);
    std::string frame = proto::encode_eof(of);
    co_await write_whole(std::move(frame), stop);
}

}  // namespace pyro::rpc
