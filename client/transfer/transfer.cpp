#include "client/transfer/transfer.hpp"

#include <cerrno>
#include <csignal>
#include <sys/socket.h>
#include <unistd.h>

namespace pyro::client {

namespace {

std::pair<UniqueFd, UniqueFd> socket_pair() {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) throw Error::from_errno("make a pair of sockets");
    return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// Signals are for the thread that polls for them.
template <class F>
std::jthread quiet_thread(F run) {
    sigset_t all, before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
        std::jthread thread(std::move(run));
        ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
        return thread;
    } catch (...) {
        ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
        throw;
    }
}

void send_all(int fd, std::string_view bytes) {
    while (!bytes.empty()) {
        const ssize_t n = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EPIPE || errno == ECONNRESET)) throw Cancelled();  // the call has ended, and says why
        if (n < 0) throw Error::from_errno("pass on what is to be sent");
        bytes.remove_prefix(static_cast<std::size_t>(n));
    }
}

}  // namespace

Upload::Upload(Produce produce, std::function<void()> afterwards) : produce_(std::move(produce)), afterwards_(std::move(afterwards)) {
    std::tie(near_, far_) = socket_pair();
}

Upload::~Upload() {
    near_.reset();  // a thread that waits for room is told that nobody reads
    thread_.request_stop();
}

void Upload::connect(Streams& streams) {
    streams.in = near_.get();
    streams.upload = true;
    streams.attached = [this] { start(); };
    streams.input_ended = [this] { produced_.get_future().get(); };
}

void Upload::start() {
    started_ = true;
    thread_ = quiet_thread([this](std::stop_token stop) {
        try {
            produce_([this](std::string_view bytes) { send_all(far_.get(), bytes); }, stop);
            produced_.set_value();
        } catch (...) {
            produced_.set_exception(std::current_exception());
            far_.reset();
            return;
        }
        far_.reset();  // the reader sees the end, and asks how it came about
        if (afterwards_) afterwards_();
    });
}

Download::Download(Consume consume) {
    std::tie(near_, far_) = socket_pair();
    thread_ = quiet_thread([this, consume = std::move(consume)](std::stop_token stop) {
        try {
            consume([this] { return next(); }, stop);
            // What comes behind the end of what it understands is no part of it, and is not waited for.
            while (!next().empty()) {}
            consumed_.set_value();
        } catch (...) {
            consumed_.set_exception(std::current_exception());
            far_.reset();  // the writer is told that nobody reads
        }
    });
}

Download::~Download() {
    near_.reset();
    thread_.request_stop();
}

std::string_view Download::next() {
    buffer_.resize(256u << 10);
    ssize_t n = 0;
    do n = ::recv(far_.get(), buffer_.data(), buffer_.size(), 0);
    while (n < 0 && errno == EINTR);
    if (n < 0) throw Error::from_errno("take over what came");
    if (n == 0 && !whole_) throw Cancelled();
    return std::string_view(buffer_).substr(0, static_cast<std::size_t>(n));
}

nlohmann::json Download::call(Connection& daemon, std::string_view method, const nlohmann::json& params, CallOptions options) {
    Streams streams;
    streams.out.fd = near_.get();
    options.streams = &streams;
    nlohmann::json result;
    try {
        result = daemon.call(method, params, options);
    } catch (const OutputClosed&) {
        consumed_.get_future().get();  // throws why
        throw;
    }
    whole_ = true;
    near_.reset();
    consumed_.get_future().get();
    return result;
}

}  // namespace pyro::client
