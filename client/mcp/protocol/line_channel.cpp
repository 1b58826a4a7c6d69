#include "client/mcp/protocol/line_channel.hpp"

#include "common/error.hpp"

#include <atomic>
#include <cerrno>
#include <climits>
#include <csignal>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

namespace pyro::mcp {

namespace {

std::atomic<int> signalled_channel{-1};  // the wake_ of the one that heeds signals
std::atomic<bool> signal_came{false};

void wake(int fd) {
    const std::uint64_t one = 1;
    const int saved = errno;
    // Full already: whoever polls it is awake.
    [[maybe_unused]] const ssize_t n = ::write(fd, &one, sizeof one);
    errno = saved;
}

void on_signal(int) {
    signal_came = true;
    if (const int fd = signalled_channel.load(); fd >= 0) wake(fd);
}

void handle(int signal, void (*handler)(int)) {
    struct sigaction action {};
    action.sa_handler = handler;
    action.sa_flags = SA_RESTART;  // what handlers of requests are in the middle of goes on
    ::sigaction(signal, &action, nullptr);
}

bool is_transient(int error) { return error == EAGAIN || error == EINTR; }

}  // namespace

LineChannel::LineChannel(int in, int out, bool heed_signals)
    : in_(in), out_(out), heed_signals_(heed_signals), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (!wake_) throw Error::from_errno("make an event descriptor");
    handle(SIGPIPE, SIG_IGN);
    if (!heed_signals_) return;
    signal_came = false;
    signalled_channel = wake_.get();
    handle(SIGTERM, on_signal);
    handle(SIGINT, on_signal);
}

LineChannel::~LineChannel() {
    // Signals stay heeded: one that comes while the process ends, as hosts send them one after the other, changes nothing.
    if (heed_signals_) signalled_channel = -1;
}

LineChannel::End LineChannel::run(const std::function<void(std::string_view)>& on_line, const std::function<void()>& on_long_line) {
    {
        const std::lock_guard lock(mutex_);
        runner_ = std::this_thread::get_id();
    }
    for (;;) {
        if (heed_signals_ && signal_came) return End::signalled;
        std::size_t waiting = 0;
        {
            const std::lock_guard lock(mutex_);
            waiting = waiting_bytes_;
        }
        pollfd fds[] = {{wake_.get(), POLLIN, 0},
                        {waiting > max_waiting ? -1 : in_, POLLIN, 0},
                        {out_, static_cast<short>(waiting > 0 ? POLLOUT : 0), 0}};
        if (::poll(fds, std::size(fds), -1) < 0 && errno != EINTR) return End::broken;
        if (fds[0].revents) {
            std::uint64_t count = 0;
            [[maybe_unused]] const ssize_t n = ::read(wake_.get(), &count, sizeof count);
        }
        if ((fds[2].revents & (POLLERR | POLLHUP | POLLNVAL)) || ((fds[2].revents & POLLOUT) && !write_some())) return End::broken;
        if (fds[1].revents) read_some(on_line, on_long_line);
        if (input_ended_) return End::closed;
    }
}

void LineChannel::read_some(const std::function<void(std::string_view)>& on_line, const std::function<void()>& on_long_line) {
    char buffer[64 << 10];
    const ssize_t n = ::read(in_, buffer, sizeof buffer);
    if (n < 0 && is_transient(errno)) return;
    if (n <= 0) {
        input_ended_ = true;  // an input that cannot be read has ended as well
        return;
    }
    std::string_view bytes(buffer, static_cast<std::size_t>(n));
    while (!bytes.empty()) {
        const std::size_t end = bytes.find('\n');
        const std::string_view part = bytes.substr(0, end);
        if (!skipping_ && partial_.size() + part.size() > max_line) {
            skipping_ = true;
            partial_ = {};
        }
        if (end == std::string_view::npos) {
            if (!skipping_) partial_ += part;
            return;
        }
        if (std::exchange(skipping_, false)) {
            on_long_line();
        } else if (partial_.empty()) {
            on_line(part);
        } else {
            partial_ += part;
            on_line(partial_);
            partial_ = {};
        }
        bytes.remove_prefix(end + 1);
    }
}

bool LineChannel::write_some() {
    std::unique_lock lock(mutex_);
    while (!waiting_.empty()) {
        const std::string_view rest = std::string_view(waiting_.front()).substr(written_);
        // The descriptors may be shared with others, so they stay blocking: a socket is asked not to wait this once, and a
        // pipe that poll calls writable takes this many bytes.
        ssize_t n = ::send(out_, rest.data(), rest.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        const bool is_socket = n >= 0 || errno != ENOTSOCK;
        if (!is_socket) n = ::write(out_, rest.data(), std::min<std::size_t>(rest.size(), PIPE_BUF));
        if (n < 0) return is_transient(errno);
        written_ += static_cast<std::size_t>(n);
        waiting_bytes_ -= static_cast<std::size_t>(n);
        if (written_ == waiting_.front().size()) {
            waiting_.pop_front();
            written_ = 0;
        }
        if (waiting_bytes_ <= max_waiting / 2) drained_.notify_all();
        if (!is_socket) break;
    }
    return true;
}

bool LineChannel::send(std::string line) {
    line += '\n';
    std::unique_lock lock(mutex_);
    if (std::this_thread::get_id() != runner_) drained_.wait(lock, [this] { return closed_ || waiting_bytes_ <= max_waiting / 2; });
    if (closed_) return false;
    waiting_bytes_ += line.size();
    waiting_.push_back(std::move(line));
    wake(wake_.get());
    return true;
}

void LineChannel::close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    drained_.notify_all();
}

void LineChannel::flush(std::chrono::milliseconds limit) {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    for (;;) {
        {
            const std::lock_guard lock(mutex_);
            if (waiting_.empty()) return;
        }
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
        pollfd out{out_, POLLOUT, 0};
        if (left.count() <= 0) return;
        const int n = ::poll(&out, 1, static_cast<int>(left.count()));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0 || !(out.revents & POLLOUT) || !write_some()) return;
    }
}

}  // namespace pyro::mcp
