// Bytes up or down over a call's attach connection.
#pragma once
#include "daemon/rpc/attach_stream.hpp"
#include "daemon/rpc/call.hpp"
#include "daemon/workspace/guest_program.hpp"

#include <cstdint>
#include <memory>

namespace pyro::service {

// Says where to attach, and is the connection once the client is there. Outlived by the call; outlives the source or sink.
class Transfer {
public:
    static io::Task<std::unique_ptr<Transfer>> open(rpc::Call& call, rpc::Direction direction);

    // Frames of stream 0 until `eof`. Error(unavailable) when the connection ends before that: nothing may be made of what came.
    workspace::UploadSource source();
    // Frames of stream 1.
    workspace::DownloadSink sink();
    io::Task<void> send(std::string bytes, std::stop_token stop);
    std::uint64_t sent() const noexcept { return sent_; }
    void finish();  // after the last byte

private:
    Transfer(rpc::Call& call, std::shared_ptr<rpc::Attachment> attachment) : call_(call), attachment_(std::move(attachment)) {}
    io::Task<rpc::AttachStream*> connection(std::stop_token stop);
    io::Task<std::optional<std::string>> next(std::stop_token stop);

    rpc::Call& call_;
    std::shared_ptr<rpc::Attachment> attachment_;
    std::unique_ptr<rpc::AttachStream> stream_;
    std::uint64_t sent_ = 0;
};

}  // namespace pyro::service
