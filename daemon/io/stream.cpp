#include "daemon/io/stream.hpp"

#include "common/error.hpp"
#include "daemon/io/cancel.hpp"

#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/write.hpp>

#include <algorithm>
#include <cstring>

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

namespace pyro::io {

struct Stream::State {
    State(Executor executor, int fd) : descriptor(executor, fd) { descriptor.non_blocking(true); }
    asio::posix::stream_descriptor descriptor;
    std::string buffer;       // read but not yet taken
    std::size_t taken = 0;    // bytes at the front of the buffer that were

    std::string_view pending() const { return std::string_view(buffer).substr(taken); }
    void take(std::size_t n) {
        taken += n;
        if (taken == buffer.size()) { buffer.clear(); taken = 0; }
    }
};

namespace {
constexpr std::size_t read_size = 64 << 10;

[[noreturn]] void fail_stream(const char* what, boost::system::error_code ec, const std::stop_token& stop) {
    if (ec == asio::error::operation_aborted || stop.stop_requested()) throw Cancelled();
    throw Error(ErrorCode::unavailable, std::string(what) + ": " + ec.message());
}

// Templated on the private state type.
template <class S>
Task<std::size_t> fill_some(std::shared_ptr<S> state, std::span<char> into, std::stop_token stop) {
    CancelOn cancel(stop);
    boost::system::error_code ec;
    auto token = cancel.token(ec);
    const asio::mutable_buffer buffer(into.data(), into.size());
    const std::size_t n = co_await state->descriptor.async_read_some(buffer, token);
    if (ec == asio::error::eof || ec == asio::error::connection_reset) co_return 0;
    if (ec && n == 0) fail_stream("read", ec, stop);
    co_return n;
}
}  // namespace

Stream::Stream(Executor executor, UniqueFd connected)
    : state_(std::make_shared<State>(std::move(executor), connected.get())) {
    connected.release();
}
Stream::~Stream() { if (state_) close(); }
Stream::Stream(Stream&&) noexcept = default;
Stream& Stream::operator=(Stream&& other) noexcept {
    if (state_) close();
    state_ = std::move(other.state_);
    return *this;
}

Task<Stream> Stream::connect(std::string path, std::stop_token stop) {
    Executor executor = co_await asio::this_coro::executor;
    if (path.size() >= sizeof(sockaddr_un::sun_path))
        throw Error(ErrorCode::invalid_argument, "socket path is too long: " + path);
    asio::local::stream_protocol::socket socket(executor);
    const asio::local::stream_protocol::endpoint endpoint(path);
    {
        CancelOn cancel(stop);
        boost::system::error_code ec;
        auto token = cancel.token(ec);
        co_await socket.async_connect(endpoint, token);
        if (ec == asio::error::operation_aborted) throw Cancelled();
        if (ec) throw Error::from_errno("connect to " + path, ec.value());
    }
    co_return Stream(executor, UniqueFd(socket.release()));
}

Task<std::size_t> Stream::read_some(std::span<char> into, std::stop_token stop) {
    auto state = state_;
    if (const std::string_view pending = state->pending(); !pending.empty()) {
        const std::size_t n = std::min(into.size(), pending.size());
        std::memcpy(into.data(), pending.data(), n);
        state->take(n);
        co_return n;
    }
    const std::size_t n = co_await fill_some(state, into, stop);
    co_return n;
}

Task<bool> Stream::read_exactly(std::span<char> into, std::stop_token stop) {
    std::size_t have = 0;
    while (have < into.size()) {
        const std::size_t n = co_await read_some(into.subspan(have), stop);
        if (n == 0 && have == 0) co_return false;
        if (n == 0) throw Error(ErrorCode::unavailable, "the connection ended in the middle of a message");
        have += n;
    }
    co_return true;
}

Task<std::optional<std::string>> Stream::read_line(std::size_t limit, std::stop_token stop) {
    auto state = state_;
    std::size_t searched = 0;
    for (;;) {
        const std::string_view pending = state->pending();
        const std::size_t newline = pending.find('\n', searched);
        if (newline != std::string_view::npos && newline <= limit) {
            std::string line(pending.substr(0, newline));
            state->take(newline + 1);
            co_return line;
        }
        if (pending.size() > limit || newline != std::string_view::npos)
            throw Error(ErrorCode::invalid_argument, "a message is longer than " + std::to_string(limit) + " bytes");
        searched = pending.size();
        if (state->taken > 0) {
            state->buffer.erase(0, state->taken);
            state->taken = 0;
        }
        std::string chunk(read_size, '\0');
        const std::size_t n = co_await fill_some(state, std::span<char>(chunk), stop);
        if (n == 0) co_return std::nullopt;
        state->buffer.append(chunk, 0, n);
    }
}

Task<void> Stream::write_all(std::string bytes, std::stop_token stop) {
    co_await write_from(bytes, stop);
}

Task<void> Stream::write_from(std::string_view bytes, std::stop_token stop) {
    auto state = state_;
    CancelOn cancel(stop);
    boost::system::error_code ec;
    auto token = cancel.token(ec);
    const asio::const_buffer buffer(bytes.data(), bytes.size());
    co_await asio::async_write(state->descriptor, buffer, token);
    if (ec) fail_stream("write", ec, stop);
}

void Stream::send_with_fd(std::string_view bytes, int fd) {
    iovec data{const_cast<char*>(bytes.data()), bytes.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)]{};
    msghdr message{};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    if (::sendmsg(native_handle(), &message, MSG_NOSIGNAL | MSG_DONTWAIT) != static_cast<ssize_t>(bytes.size()))
        throw Error(ErrorCode::unavailable, "the other side does not take a descriptor");
}

PeerCredentials Stream::peer() const {
    ucred credentials{};
    socklen_t size = sizeof credentials;
    if (::getsockopt(native_handle(), SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0)
        throw Error::from_errno("read the peer's credentials");
    return PeerCredentials{credentials.pid, credentials.uid, credentials.gid};
}

int Stream::native_handle() const noexcept { return state_->descriptor.native_handle(); }
void Stream::shutdown_write() noexcept { ::shutdown(native_handle(), SHUT_WR); }

void Stream::shutdown_read() noexcept { ::shutdown(native_handle(), SHUT_RD); }

bool Stream::hung_up() const noexcept {
    pollfd poll{native_handle(), 0, 0};
    return ::poll(&poll, 1, 0) != 0;  // only POLLHUP and POLLERR are reported unasked
}

Task<void> Stream::wait_hangup(std::stop_token stop) {
    auto state = state_;
    // A hang-up before the wait is seen by the check, one after it by the wait: both run on the thread that polls.
    while (!hung_up()) {
        CancelOn cancel(stop);
        boost::system::error_code ec;
        auto token = cancel.token(ec);
        co_await state->descriptor.async_wait(asio::posix::stream_descriptor::wait_error, token);
        if (ec) fail_stream("wait for the end of a connection", ec, stop);
    }
}

void Stream::close() noexcept {
    boost::system::error_code ignored;
    state_->descriptor.close(ignored);
}

UniqueFd listen_unix(const std::string& path, unsigned mode) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() > 100) throw Error(ErrorCode::invalid_argument, "socket path is over 100 bytes: " + path);
    std::memcpy(address.sun_path, path.data(), path.size());
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd) throw Error::from_errno("make a socket");
    ::unlink(path.c_str());
    // The mode is set before anybody can connect: the file appears with bind, connections are taken from listen on.
    if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) throw Error::from_errno("bind " + path);
    if (::chmod(path.c_str(), mode) != 0) throw Error::from_errno("set the mode of " + path);
    if (::listen(fd.get(), 128) != 0) throw Error::from_errno("listen on " + path);
    return fd;
}

struct Listener::State {
    State(Executor executor, int fd) : acceptor(executor, asio::local::stream_protocol(), fd) {}
    asio::local::stream_protocol::acceptor acceptor;
};

Listener::Listener(Executor executor, UniqueFd listening)
    : state_(std::make_shared<State>(std::move(executor), listening.get())) {
    listening.release();
}
Listener::~Listener() { close(); }

Task<Stream> Listener::accept(std::stop_token stop) {
    auto state = state_;
    Executor executor = state->acceptor.get_executor();
    asio::local::stream_protocol::socket socket(executor);
    {
        CancelOn cancel(stop);
        boost::system::error_code ec;
        auto token = cancel.token(ec);
        co_await state->acceptor.async_accept(socket, token);
        if (ec == asio::error::operation_aborted) throw Cancelled();
        if (ec) throw Error::from_errno("accept a connection", ec.value());
    }
    co_return Stream(executor, UniqueFd(socket.release()));
}

void Listener::close() noexcept {
    boost::system::error_code ignored;
    state_->acceptor.close(ignored);
}

Task<void> wait_readable(int fd, std::stop_token stop) {
    Executor executor = co_await asio::this_coro::executor;
    const int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (copy < 0) throw Error::from_errno("duplicate a file descriptor");
    asio::posix::stream_descriptor descriptor(executor, copy);
    CancelOn cancel(stop);
    boost::system::error_code ec;
    auto token = cancel.token(ec);
    co_await descriptor.async_wait(asio::posix::stream_descriptor::wait_read, token);
    if (ec) fail_stream("wait for a descriptor", ec, stop);
}

}  // namespace pyro::io
