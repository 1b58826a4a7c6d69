#include "daemon/service/exec_follow.hpp"

#include "daemon/io/task_group.hpp"
#include "daemon/rpc/attach_stream.hpp"

#include <optional>

namespace pyro::service {
namespace {

constexpr std::size_t piece_bytes = 256u << 10;

class Follower {
public:
    Follower(rpc::Call& call, std::shared_ptr<rpc::Attachment> attachment, std::shared_ptr<workspace::Exec> exec, FollowRequest request)
        : attachment_(std::move(attachment)), exec_(std::move(exec)), request_(std::move(request)), executor_(call.executor()),
          on_call_stop_(call.stop(), [this] { stop_.request_stop(); }), tasks_(call.executor(), [this](std::exception_ptr e) { fail(std::move(e)); }) {}

    io::Task<Followed> run() {
        std::exception_ptr failure;
        try {
            co_await output();
        } catch (...) {
            failure = std::current_exception();
        }
        done_ = true;
        request_.pace.reset();
        exec_->took();
        stop_.request_stop();
        co_await tasks_.join();
        // What stopped us says more than that we were stopped.
        if (failure && failure_) std::rethrow_exception(failure_);
        if (failure) std::rethrow_exception(failure);
        co_return followed_;
    }

private:
    void fail(std::exception_ptr e) {
        if (!failure_) failure_ = std::move(e);
        stop_.request_stop();
    }

    io::Task<bool> send(const workspace::Journal& journal, proto::StreamId stream, std::uint64_t& at, std::uint64_t& sent) {
        workspace::Journal::Piece piece = journal.read(at, piece_bytes);
        const std::size_t count = piece.bytes.size();
        if (count > 0) co_await client_->write_frame(stream, std::move(piece.bytes), stop_.get_token());
        at = piece.offset + count;
        sent += count;
        co_return count > 0;
    }

    io::Task<void> output() {
        io::Stream connection = co_await attachment_->connected(stop_.get_token());
        client_.emplace(executor_, std::move(connection));
        tasks_.spawn(input());
        io::Deadline patience(executor_, request_.wait, stop_.get_token());
        for (;;) {
            const bool out = co_await send(exec_->out(), proto::StreamId::out, request_.out, followed_.stdout_bytes);
            const bool err = co_await send(exec_->err(), proto::StreamId::err, request_.err, followed_.stderr_bytes);
            if (request_.pace) *request_.pace = {request_.out, request_.err};
            if (request_.pace) exec_->took();
            if (out || err) continue;
            if (exec_->ended()) break;
            const bool any = followed_.stdout_bytes + followed_.stderr_bytes > 0;
            if (!request_.to_end && (any || request_.wait.count() == 0)) break;
            const std::stop_token enough = request_.to_end ? stop_.get_token() : patience.token();
            try {
                co_await exec_->wait(request_.out, request_.err, enough);
            } catch (const Cancelled&) {
                if (request_.to_end || !patience.expired()) throw;
                break;
            }
        }
        client_->shutdown_write();
    }

    io::Task<void> input() {
        for (;;) {
            std::optional<proto::Frame> frame = co_await client_->read_frame(stop_.get_token());
            if (!frame) break;
            if (!request_.input || exec_->ended()) continue;
            if (frame->stream == proto::StreamId::resize) {
                const proto::TerminalSize size = proto::resize_of(*frame);
                exec_->resize(size.cols, size.rows);
            } else if (frame->stream == proto::StreamId::eof) {
                exec_->close_stdin();
            } else {
                co_await exec_->write_stdin(std::move(frame->bytes), stop_.get_token());
            }
        }
        co_await client_->wait_hangup(stop_.get_token());
        if (!done_) throw Error(ErrorCode::unavailable, "the client closed its streams before the command ended");
    }

    std::shared_ptr<rpc::Attachment> attachment_;
    std::shared_ptr<workspace::Exec> exec_;
    FollowRequest request_;
    io::Executor executor_;
    Followed followed_;
    std::optional<rpc::AttachStream> client_;
    std::exception_ptr failure_;
    std::stop_source stop_;
    bool done_ = false;
    std::stop_callback<std::function<void()>> on_call_stop_;
    io::TaskGroup tasks_;
};

}  // namespace

io::Task<Followed> follow_exec(rpc::Call& call, std::shared_ptr<rpc::Attachment> attachment, std::shared_ptr<workspace::Exec> exec, FollowRequest request) {
    Follower follower(call, std::move(attachment), std::move(exec), std::move(request));
    Followed followed = co_await follower.run();
    co_return followed;
}

}  // namespace pyro::service
