#include "daemon/service/transfer.hpp"

#include "common/error.hpp"

namespace pyro::service {

io::Task<std::unique_ptr<Transfer>> Transfer::open(rpc::Call& call, rpc::Direction direction) {
    std::unique_ptr<Transfer> transfer(new Transfer(call, call.attach(direction)));
    proto::StreamOpened opened;
    opened.ticket = transfer->attachment_->ticket();
    co_await call.notify(opened);
    co_return transfer;
}

io::Task<rpc::AttachStream*> Transfer::connection(std::stop_token stop) {
    if (!stream_) {
        io::Stream connected = co_await attachment_->connected(stop);
        stream_ = std::make_unique<rpc::AttachStream>(call_.executor(), std::move(connected));
    }
    co_return stream_.get();
}

io::Task<std::optional<std::string>> Transfer::next(std::stop_token stop) {
    rpc::AttachStream* stream = co_await connection(stop);
    std::optional<proto::Frame> frame = co_await stream->read_frame(stop);
    if (!frame) throw Error(ErrorCode::unavailable, "the upload broke off before its end", "nothing of it was kept; try again");
    if (frame->stream == proto::StreamId::eof) co_return std::nullopt;
    if (frame->stream != proto::StreamId::in) throw Error(ErrorCode::invalid_argument, "an upload has stream 0 alone");
    co_return std::move(frame->bytes);
}

workspace::UploadSource Transfer::source() {
    return [this](std::stop_token stop) { return next(std::move(stop)); };
}

io::Task<void> Transfer::send(std::string bytes, std::stop_token stop) {
    rpc::AttachStream* stream = co_await connection(stop);
    const std::size_t count = bytes.size();
    co_await stream->write_frame(proto::StreamId::out, std::move(bytes), stop);
    sent_ += count;
}

workspace::DownloadSink Transfer::sink() {
    return [this](std::string bytes, std::stop_token stop) { return send(std::move(bytes), std::move(stop)); };
}

void Transfer::finish() {
    if (stream_) stream_->shutdown_write();
}

}  // namespace pyro::service
