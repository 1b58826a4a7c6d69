#include "daemon/service/command_stream.hpp"

#include "daemon/compat/host_sandbox.hpp"
#include "daemon/io/task_group.hpp"
#include "daemon/rpc/attach_stream.hpp"

#include <optional>

namespace pyro::service {

namespace {

// How long a guest may take to report the end of a command it was told to kill; the VM goes after that in any case.
constexpr std::chrono::seconds kill_patience{5};

template <class Session>
class CommandStream {
public:
    CommandStream(rpc::Call& call, std::shared_ptr<rpc::Attachment> attachment, std::shared_ptr<Session> session, bool interactive)
        : attachment_(std::move(attachment)), session_(std::move(session)), interactive_(interactive), sent_(call.executor()),
          on_call_stop_(call.stop(), [this] { stop_.request_stop(); }),
          tasks_(call.executor(), [this](std::exception_ptr e) { fail(std::move(e)); }), executor_(call.executor()) {}

    io::Task<StreamOutcome> run(std::chrono::seconds timeout) {
        tasks_.spawn(output());
        std::exception_ptr failure;
        try {
            co_await await_end(timeout);
            co_await sent_.wait(stop_.get_token());
        } catch (...) {
            failure = std::current_exception();
        }
        stop_.request_stop();
        co_await tasks_.join();
        // What stopped us says more than that we were stopped.
        if (failure_) std::rethrow_exception(failure_);
        if (failure) std::rethrow_exception(failure);
        co_return outcome_;
    }

private:
    void fail(std::exception_ptr e) {
        if (!failure_) failure_ = std::move(e);
        stop_.request_stop();
    }

    io::Task<void> await_end(std::chrono::seconds timeout) {
        co_await session_->started(stop_.get_token());
        if (timeout == std::chrono::seconds::zero()) {
            outcome_.status = co_await session_->exited(stop_.get_token());
            co_return;
        }
        const bool in_time = co_await exited_within(timeout);
        if (in_time) co_return;
        outcome_.timed_out = true;
        session_->kill();
        const bool answered = co_await exited_within(kill_patience);
        // A guest that does not even answer to this will not end its streams either.
        if (!answered) sent_.set();
    }

    io::Task<bool> exited_within(std::chrono::seconds time) {
        io::Deadline deadline(executor_, time, stop_.get_token());
        bool stopped = false;
        try {
            outcome_.status = co_await session_->exited(deadline.token());
        } catch (const Cancelled&) {
            stopped = true;
        }
        if (stopped && !deadline.expired()) throw Cancelled();
        co_return !stopped;
    }

    io::Task<void> output() {
        io::Stream connection = co_await attachment_->connected(stop_.get_token());
        client_.emplace(executor_, std::move(connection));
        tasks_.spawn(input());
        for (;;) {
            std::optional<agent::Chunk> chunk = co_await session_->read(stop_.get_token());
            if (!chunk) break;
            const bool out = chunk->stream == proto::agent::Output::out;
            const std::size_t size = chunk->bytes.size();
            const proto::StreamId id = out ? proto::StreamId::out : proto::StreamId::err;
            co_await client_->write_frame(id, std::move(chunk->bytes), stop_.get_token());
            (out ? outcome_.stdout_bytes : outcome_.stderr_bytes) += size;
        }
        client_->shutdown_write();
        sent_.set();
    }

    io::Task<void> input() {
        for (;;) {
            std::optional<proto::Frame> frame = co_await client_->read_frame(stop_.get_token());
            if (!frame) break;
            if (frame->stream == proto::StreamId::resize) {
                const proto::TerminalSize size = proto::resize_of(*frame);
                session_->resize(size.cols, size.rows);
            } else if (!interactive_) {
                continue;
            } else if (frame->stream == proto::StreamId::eof) {
                session_->close_stdin();
            } else {
                co_await session_->write_stdin(std::move(frame->bytes), stop_.get_token());
            }
        }
        if (interactive_) session_->close_stdin();
        co_await client_->wait_hangup(stop_.get_token());
        if (!sent_.is_set()) throw Error(ErrorCode::unavailable, "the client closed its streams before the command ended");
    }

    std::shared_ptr<rpc::Attachment> attachment_;
    std::shared_ptr<Session> session_;
    const bool interactive_;
    StreamOutcome outcome_;
    std::optional<rpc::AttachStream> client_;
    std::exception_ptr failure_;
    std::stop_source stop_;
    io::Event sent_;  // everything the command wrote is with the client, or will never be
    std::stop_callback<std::function<void()>> on_call_stop_;
    io::TaskGroup tasks_;
    io::Executor executor_;
};

}  // namespace

template <class Session>
io::Task<StreamOutcome> stream_command(rpc::Call& call, std::shared_ptr<rpc::Attachment> attachment, std::shared_ptr<Session> session,
                                       bool interactive, std::chrono::seconds timeout) {
    CommandStream<Session> stream(call, std::move(attachment), std::move(session), interactive);
    StreamOutcome outcome = co_await stream.run(timeout);
    co_return outcome;
}

template io::Task<StreamOutcome> stream_command(rpc::Call&, std::shared_ptr<rpc::Attachment>, std::shared_ptr<agent::ExecSession>,
                                                bool, std::chrono::seconds);
template io::Task<StreamOutcome> stream_command(rpc::Call&, std::shared_ptr<rpc::Attachment>, std::shared_ptr<compat::HostSandbox>,
                                                bool, std::chrono::seconds);

}  // namespace pyro::service
