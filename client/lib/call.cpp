// One call from its request to its answer: a single loop over the connection, the attach connection, the streams and the signals.
#include "client/lib/connection.hpp"
#include "client/lib/registry_auth.hpp"
#include "client/lib/socket.hpp"
#include "proto/attach.hpp"
#include "proto/jsonrpc.hpp"
#include "proto/rpc.hpp"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace pyro::client {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

namespace {

constexpr std::size_t max_unsent = 256u << 10;     // stdin read ahead of the daemon
constexpr std::size_t max_unwritten = 512u << 10;  // output read ahead of whoever reads ours
constexpr std::chrono::seconds cancel_patience{10};
constexpr std::chrono::seconds leftover_patience{2};

Error nonsense(const std::string& what) { return Error(ErrorCode::internal, "pyrod sent " + what, "`pyro doctor` compares the versions"); }

bool holds_only_utf8(const json& params) {
    try {
        params.dump();
        return true;
    } catch (const json::exception&) {
        return false;
    }
}

}  // namespace

// Bytes on their way to a file descriptor that may be slow, a terminal or a closed pipe.
class StreamWriter {
public:
    explicit StreamWriter(const Output& output) : output_(output) {
        struct stat status {};
        if (output.fd >= 0 && ::fstat(output.fd, &status) == 0) {
            // poll() promises room for PIPE_BUF bytes in a pipe or on a terminal; a file takes anything, a socket what it has room for.
            socket_ = S_ISSOCK(status.st_mode);
            if (S_ISREG(status.st_mode) || socket_) at_once_ = max_unwritten;
        }
    }

    void add(std::string_view bytes) {
        total_ += bytes.size();
        if (output_.capture) output_.capture->add(bytes);
        if (output_.whole) {
            if (bytes.size() > max_whole - output_.whole->size())
                throw Error(ErrorCode::quota_exceeded, "the result is too large for one document", "take it without --json");
            *output_.whole += bytes;
        }
        if (output_.take) output_.take(bytes);
        if (output_.fd >= 0) pending_ += bytes;
    }
    std::uint64_t total() const { return total_; }
    std::size_t unwritten() const { return pending_.size() - written_; }
    int fd() const { return output_.fd; }

    // Writes while there is room. Call when poll() says so.
    void write() {
        while (unwritten() > 0) {
            const std::size_t n = std::min(unwritten(), at_once_);
            const ssize_t done = socket_ ? ::send(output_.fd, pending_.data() + written_, n, MSG_DONTWAIT | MSG_NOSIGNAL)
                                         : ::write(output_.fd, pending_.data() + written_, n);
            if (done < 0) {
                if (errno == EAGAIN || errno == EINTR) return;
                if (errno == EPIPE || errno == ECONNRESET) throw OutputClosed();
                throw Error::from_errno("write the command's output");
            }
            written_ += static_cast<std::size_t>(done);
            pollfd room{output_.fd, POLLOUT, 0};
            if (::poll(&room, 1, 0) != 1 || !(room.revents & POLLOUT)) break;
        }
        if (written_ == pending_.size()) { pending_.clear(); written_ = 0; }
        else if (written_ > max_unwritten / 2) { pending_.erase(0, written_); written_ = 0; }
    }

private:
    Output output_;
    std::size_t at_once_ = PIPE_BUF;
    bool socket_ = false;
    std::string pending_;
    std::size_t written_ = 0;
    std::uint64_t total_ = 0;
};

class CallLoop {
public:
    CallLoop(Connection& connection, std::string_view method, const json& params, const CallOptions& options)
        : connection_(connection), method_(method), options_(options), id_(++connection.last_id_),
          out_(options.streams ? options.streams->out : Output{}), err_(options.streams ? options.streams->err : Output{}) {
        in_open_ = options.streams && options.streams->in >= 0;
        if (!holds_only_utf8(params))  // the encoder would replace it
            throw Error(ErrorCode::invalid_argument, "the request holds text that is not UTF-8", "pass such bytes on standard input");
        unsent_ = proto::encode_request({id_, method_, params}) + "\n";
        if (unsent_.size() > proto::max_line_bytes)
            throw Error(ErrorCode::invalid_argument, "the request is larger than " + std::to_string(proto::max_line_bytes >> 10) + " KiB", "pass big data on standard input");
    }

    json run() {
        while (!finished()) {
            wait();
            if (options_.signals)
                while (const auto signal = options_.signals->take()) on_signal(*signal);
        }
        if (cancelled_by_) throw Interrupted(*cancelled_by_);
        if (stopped_) throw Cancelled();
        if (input_failure_) std::rethrow_exception(input_failure_);
        if (attach_error_ && error_ && error_->code() == ErrorCode::cancelled) throw *attach_error_;
        if (error_) throw connection_.explain(*error_);
        return std::move(*result_);
    }

private:
    enum class Attach { none, greeting, open, closed };

    bool answered() const { return result_ || error_; }

    bool finished() {
        if (!answered() || out_.unwritten() || err_.unwritten()) return false;
        if (!options_.streams || attach_ == Attach::none || attach_ == Attach::closed) {
            require_whole_output();
            return true;
        }
        if (error_ && options_.streams->upload) return true;  // nothing comes that way
        // An error says nothing of bytes: what the daemon had sent by then is read to its end.
        if (error_) return Clock::now() >= leftover_deadline_;
        return out_.total() >= expected_out_ && err_.total() >= expected_err_;
    }

    void require_whole_output() const {
        if (!result_ || !options_.streams || cancelled_by_ || stopped_ || input_failure_) return;
        if (out_.total() >= expected_out_ && err_.total() >= expected_err_) return;
        if (attach_error_) throw *attach_error_;
        throw Error(ErrorCode::unavailable,
                    "the connection with the command's output broke: " + std::to_string(out_.total() + err_.total()) + " of " +
                        std::to_string(expected_out_ + expected_err_) + " bytes came",
                    options_.streams->started ? "" : "run it again");  // a command that can be told can be taken up again
    }

    std::optional<Clock::time_point> deadline() const {
        std::optional<Clock::time_point> until;
        if (cancelled_by_ || stopped_ || attach_error_ || input_failure_) until = cancel_deadline_;
        if (error_ && attach_ != Attach::none && attach_ != Attach::closed) until = until ? std::min(*until, leftover_deadline_) : leftover_deadline_;
        return until;
    }

    void wait() {
        enum { rpc, attached, input, output, errors, signals, stop, count };
        pollfd fds[count];
        const auto watch = [&](int slot, int fd, int events) { fds[slot] = {events ? fd : -1, static_cast<short>(events), 0}; };
        const bool attach_live = attach_ == Attach::greeting || attach_ == Attach::open;
        const bool room = out_.unwritten() + err_.unwritten() < max_unwritten;
        watch(rpc, connection_.fd_.get(), (answered() ? 0 : POLLIN) | (unsent_.empty() ? 0 : POLLOUT));
        watch(attached, attach_fd_.get(), attach_live ? (room ? POLLIN : 0) | (attach_unsent_.empty() ? 0 : POLLOUT) : 0);
        watch(input, options_.streams ? options_.streams->in : -1,
              attach_ == Attach::open && in_open_ && !answered() && attach_unsent_.size() < max_unsent ? POLLIN : 0);
        watch(output, out_.fd(), out_.unwritten() ? POLLOUT : 0);
        watch(errors, err_.fd(), err_.unwritten() ? POLLOUT : 0);
        watch(signals, options_.signals ? options_.signals->fd() : -1, POLLIN);
        watch(stop, options_.stop ? options_.stop->fd() : -1, stopped_ ? 0 : POLLIN);

        int timeout = -1;
        if (const auto until = deadline()) {
            const auto left = std::chrono::ceil<std::chrono::milliseconds>(*until - Clock::now()).count();
            if (cancelled_by_ && Clock::now() >= cancel_deadline_) throw Interrupted(*cancelled_by_);
            if (stopped_ && Clock::now() >= cancel_deadline_) throw Cancelled();
            if (input_failure_ && Clock::now() >= cancel_deadline_) std::rethrow_exception(input_failure_);
            if (attach_error_ && Clock::now() >= cancel_deadline_) throw *attach_error_;
            timeout = static_cast<int>(std::max<std::int64_t>(left, 0));
        }
        if (::poll(fds, count, timeout) < 0) {
            if (errno == EINTR) return;
            throw Error::from_errno("wait for pyrod");
        }
        if (fds[stop].revents) on_stop();
        if (fds[output].revents) write(out_);
        if (fds[errors].revents) write(err_);
        if (fds[rpc].revents & POLLOUT && !send_some(connection_.fd_.get(), unsent_)) unsent_.clear();  // an answer may be waiting
        if (fds[rpc].revents & ~POLLOUT) read_messages();
        if (fds[attached].revents & POLLOUT && !send_some(attach_fd_.get(), attach_unsent_)) { attach_unsent_.clear(); in_open_ = false; }
        if (fds[attached].revents & ~POLLOUT && attach_live) read_attached();
        if (fds[input].revents) read_input();
    }

    void write(StreamWriter& writer) {
        try {
            writer.write();
        } catch (const OutputClosed&) {
            unsent_ += cancel_line();
            send_some(connection_.fd_.get(), unsent_);  // closing the connection means the same, if this does not get through
            throw;
        }
        count_written();
    }

    void count_written() {
        options_.streams->out_written = out_.total() - out_.unwritten();
        options_.streams->err_written = err_.total() - err_.unwritten();
    }

    std::string cancel_line() const { return proto::encode_notification(proto::cancel_method, {{"id", id_}}) + "\n"; }

    void cancel() {
        cancel_deadline_ = Clock::now() + cancel_patience;
        if (!answered()) unsent_ += cancel_line();
    }

    void on_signal(int number) {
        Streams* streams = options_.streams;
        if (number == SIGWINCH) {
            if (attach_ == Attach::open) send_size();
        } else if (number == SIGCONT) {
            if (streams && streams->continued) streams->continued();
        } else {
            if (cancelled_by_ || options_.signals_leave) throw Interrupted(number);
            cancelled_by_ = number;
            cancel();
        }
    }

    void on_stop() {
        if (options_.stop->what() == CallStop::What::leave) throw Left();
        stopped_ = true;
        cancel();
    }

    void send_size() {
        if (!options_.streams || !options_.streams->window || attach_unsent_.size() > max_unsent) return;
        if (const auto size = options_.streams->window()) attach_unsent_ += proto::encode_resize({size->cols, size->rows});
    }

    void read_messages() {
        const bool open = receive(connection_.fd_.get(), connection_.unread_);
        std::string line;
        while (!answered() && take_line(connection_.unread_, scanned_, line)) on_message(line);
        if (open || answered()) return;
        if (cancelled_by_) throw Interrupted(*cancelled_by_);
        if (stopped_) throw Cancelled();
        if (input_failure_) std::rethrow_exception(input_failure_);
        throw Error(ErrorCode::unavailable, "pyrod closed the connection before " + method_ + " had ended", "it was stopped or failed; its log says more, `pyro doctor` says how it is");
    }

    void on_message(const std::string& line) {
        auto reply = proto::parse_reply(line);
        if (const auto* note = std::get_if<proto::Notification>(&reply)) return on_notification(*note);
        auto& response = std::get<proto::Response>(reply);
        // Without an id it can only be about what we sent, which is this.
        if (response.id && *response.id != proto::RequestId(id_)) return;
        if (const auto* error = std::get_if<Error>(&response.outcome)) {
            error_ = *error;
            leftover_deadline_ = Clock::now() + leftover_patience;
        } else {
            result_ = std::move(std::get<json>(response.outcome));
            expected_out_ = byte_count("stdout_bytes");
            expected_err_ = byte_count("stderr_bytes");
        }
    }

    void on_notification(const proto::Notification& note) {
        if (!note.params.is_object() || note.params.value("id", json()) != id_) return;
        if (note.method == proto::Progress::method && options_.on_progress && !any_output_)
            options_.on_progress(proto::from_wire<proto::Progress>(note.params, proto::Unknown::ignore));
        if (note.method == proto::ExecStarted::method && options_.streams && options_.streams->started)
            options_.streams->started(proto::from_wire<proto::ExecStarted>(note.params, proto::Unknown::ignore));
        const bool offered = note.method == proto::ExecStarted::method || note.method == proto::StreamOpened::method;
        if (offered && options_.streams && attach_ == Attach::none)
            attach(proto::from_wire<proto::StreamOpened>(note.params, proto::Unknown::ignore).ticket);
    }

    std::uint64_t byte_count(const char* name) const {
        if (!options_.streams || !result_->is_object() || !result_->contains(name)) return 0;
        const json& value = result_->at(name);
        if (!value.is_number_unsigned()) throw nonsense(std::string("a ") + name + " that is no count");
        return value.get<std::uint64_t>();
    }

    void attach(const std::string& ticket) {
        attach_fd_ = connect_to(connection_.socket(), connection_.options_.patience);
        attach_unsent_ = proto::encode_attach(ticket) + "\n";
        attach_ = Attach::greeting;
    }

    void read_attached() {
        const bool open = receive(attach_fd_.get(), attach_unread_);
        if (attach_ == Attach::greeting) {
            std::string line;
            if (take_line(attach_unread_, attach_scanned_, line)) {
                try {
                    proto::check_attach_reply(line);
                } catch (Error& refused) {
                    // A call that has just ended takes its ticket along: its answer is on the way and says more.
                    attach_error_ = std::move(refused.add_context("attach to the command's streams"));
                    cancel();
                    attach_ = Attach::closed;
                    in_open_ = false;
                    attach_unsent_.clear();
                    return;
                }
                frames_.feed(std::exchange(attach_unread_, {}));
                attach_ = Attach::open;
                if (options_.streams->attached) options_.streams->attached();
                send_size();  // it may have changed since the request was made
            }
        } else {
            frames_.feed(std::exchange(attach_unread_, {}));
        }
        if (attach_ == Attach::open) take_frames();
        if (!open) {
            attach_ = Attach::closed;
            in_open_ = false;
            attach_unsent_.clear();
        } else if (error_) {
            leftover_deadline_ = Clock::now() + leftover_patience;
        }
    }

    void take_frames() {
        while (const auto frame = next_frame()) {
            if (frame->stream == proto::StreamId::eof || frame->bytes.empty()) continue;
            if (!any_output_ && options_.streams->before_output) options_.streams->before_output();
            any_output_ = true;
            (frame->stream == proto::StreamId::out ? out_ : err_).add(frame->bytes);
            count_written();
        }
    }

    std::optional<proto::Frame> next_frame() {
        try {
            return frames_.next();
        } catch (const Error& e) {  // invalid, but no argument of ours
            throw Error(ErrorCode::internal, "pyrod sent nonsense: " + e.message(), "`pyro doctor` compares the versions");
        }
    }

    void read_input() {
        char bytes[proto::max_frame_bytes];
        const ssize_t n = ::read(options_.streams->in, bytes, sizeof bytes);
        if (n < 0 && (errno == EINTR || errno == EAGAIN)) return;
        // Until the command shows itself the VM may still be booting, and Ctrl-C is for us.
        if (n > 0 && options_.streams->terminal && !any_output_ && std::memchr(bytes, 3, static_cast<std::size_t>(n))) return on_signal(SIGINT);
        if (n > 0) return pass_on(std::string_view(bytes, static_cast<std::size_t>(n)));
        in_open_ = false;
        if (options_.streams->upload && !input_is_whole(n < 0 ? errno : 0)) return break_off();
        // Of a command, a terminal that has gone and a descriptor that never was are an end of input too.
        attach_unsent_ += proto::encode_eof(proto::StreamId::in);
    }

    bool input_is_whole(int error) {
        try {
            if (error != 0) throw Error::from_errno("read what is to be sent", error);
            if (options_.streams->input_ended) options_.streams->input_ended();
        } catch (...) {
            input_failure_ = std::current_exception();  // thrown by run(), once the daemon has let go of what it got
        }
        return !input_failure_;
    }

    void break_off() {
        attach_ = Attach::closed;
        attach_fd_.reset();
        attach_unsent_.clear();
        cancel();
    }

    void pass_on(std::string_view bytes) {
        constexpr char ctrl_p = 16, ctrl_q = 17;
        std::string held;
        if (options_.streams->leave_keys) {
            // A Ctrl-P waits for what comes behind it.
            if (std::exchange(ctrl_p_, false)) held = ctrl_p;
            held += bytes;
            if (held.find(std::string{ctrl_p, ctrl_q}) != std::string::npos) throw Left();
            if (held.back() == ctrl_p) {
                ctrl_p_ = true;
                held.pop_back();
            }
            bytes = held;
        }
        while (!bytes.empty()) {
            attach_unsent_ += proto::encode_frame(proto::StreamId::in, bytes.substr(0, proto::max_frame_bytes));
            bytes.remove_prefix(std::min(bytes.size(), proto::max_frame_bytes));
        }
    }

    Connection& connection_;
    const std::string method_;
    const CallOptions& options_;
    const std::int64_t id_;
    std::string unsent_;
    std::size_t scanned_ = 0;

    std::optional<json> result_;
    std::optional<Error> error_, attach_error_;
    std::uint64_t expected_out_ = 0, expected_err_ = 0;

    Attach attach_ = Attach::none;
    UniqueFd attach_fd_;
    std::string attach_unsent_, attach_unread_;
    std::size_t attach_scanned_ = 0;
    proto::FrameDecoder frames_{proto::Side::daemon};
    StreamWriter out_, err_;
    bool in_open_ = false, any_output_ = false, ctrl_p_ = false, stopped_ = false;
    std::exception_ptr input_failure_;

    std::optional<int> cancelled_by_;
    Clock::time_point cancel_deadline_, leftover_deadline_;
};

json Connection::call(std::string_view method, const json& params, const CallOptions& options) {
    std::optional<Error> refused;
    try {
        return CallLoop(*this, method, params, options).run();
    } catch (const Error& error) {
        const auto detail = error.details().find("credentials");
        if (detail == error.details().end() || detail->second != "none" || !params.contains("environment")) throw;
        refused = error;
    }
    // Credentials leave the user only where a registry wants some, and for the registry that he himself named.
    const auto reference = [&]() -> std::optional<ImageRef> {
        try {
            return ImageRef::parse(params["environment"].get<std::string>());
        } catch (const Error&) {
            return std::nullopt;  // no name of a registry's
        }
    }();
    if (!reference) throw *refused;
    const auto credentials = find_registry_credentials(*reference, auth_file_paths(&std::getenv), options);
    if (!credentials) throw *refused;
    json pull = {{"environment", params["environment"]}};
    if (method == proto::EnvPull::name) pull = params;
    pull["credentials"] = proto::to_wire(*credentials);
    CallOptions of_pull = options;
    of_pull.streams = nullptr;
    json pulled = CallLoop(*this, proto::EnvPull::name, pull, of_pull).run();
    if (method == proto::EnvPull::name) return pulled;
    return CallLoop(*this, method, params, options).run();
}

}  // namespace pyro::client
