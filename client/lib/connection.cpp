#include "client/lib/connection.hpp"

#include "client/lib/socket.hpp"
#include "proto/jsonrpc.hpp"
#include "proto/rpc.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace pyro::client {

using nlohmann::json;

std::string socket_path(const std::string& asked) {
    if (!asked.empty()) return asked;
    if (const char* from_env = std::getenv("PYRO_SOCKET"); from_env && *from_env) return from_env;
    return std::string(default_socket);
}

std::string how_to_start(const std::string& socket) {
    for (const char* unit : {"/etc/systemd/system/pyrod.service", "/usr/lib/systemd/system/pyrod.service"})
        if (socket == default_socket && ::access(unit, F_OK) == 0) return "sudo systemctl start pyrod";
    return "scripts/dev-daemon start";
}

namespace {

// Whether the account's groups name `pyro` although this process does not have it yet.
bool listed_in_group(const group& wanted) {
    const passwd* account = ::getpwuid(::getuid());
    if (!account) return false;
    for (char** member = wanted.gr_mem; *member; ++member)
        if (std::strcmp(*member, account->pw_name) == 0) return true;
    return false;
}

std::string permission_cure(const std::string& path) {
    const group* wanted = ::getgrnam("pyro");
    if (!wanted) return "ask the owner of " + path + " for access";
    if (listed_in_group(*wanted)) return "you are in group pyro, but this session began before: log in again, or run `newgrp pyro`";
    return "join group pyro: `sudo usermod -aG pyro $USER`, then log in again or run `newgrp pyro`";
}

std::array<long, 3> version_numbers(std::string_view text) {
    std::array<long, 3> numbers{};
    for (long& number : numbers) {
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
        if (error != std::errc()) break;
        text.remove_prefix(static_cast<std::size_t>(end - text.data()));
        if (text.empty() || text.front() != '.') break;
        text.remove_prefix(1);
    }
    return numbers;
}

std::string upgrade_hint(std::string_view daemon) {
    const std::string pair = "pyrod is " + std::string(daemon) + ", this client is " PYRO_VERSION ": ";
    return pair + (version_numbers(daemon) < version_numbers(PYRO_VERSION) ? "upgrade and restart pyrod" : "upgrade the client");
}

}  // namespace

CallStop::CallStop() : fd_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    if (!fd_) throw Error::from_errno("make an event");
}

void CallStop::ask(What what) noexcept {
    What nothing = What::nothing;
    if (!what_.compare_exchange_strong(nothing, what)) return;
    [[maybe_unused]] const int written = ::eventfd_write(fd_.get(), 1);
}

UniqueFd connect_to(const std::string& path, std::chrono::milliseconds patience) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path)
        throw Error(ErrorCode::invalid_argument, "the socket's path is longer than " + std::to_string(sizeof address.sun_path - 1) + " bytes: " + path,
                    "use a shorter one with --socket or PYRO_SOCKET");
    std::memcpy(address.sun_path, path.data(), path.size());

    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd) throw Error::from_errno("make a socket");
    // A Unix socket's connect waits for a place in the listener's queue for as long as a send would.
    const timeval wait{static_cast<time_t>(patience.count() / 1000), static_cast<suseconds_t>(patience.count() % 1000 * 1000)};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;

    const int why = errno;
    const auto failed = [&](ErrorCode code, std::string message, std::string hint, std::string fix) {
        return Error(code, std::move(message), std::move(hint)).with_detail("socket", path).with_detail("fix", std::move(fix));
    };
    const std::string start = how_to_start(path);
    switch (why) {
        case ENOENT: case ENOTDIR:
            throw failed(ErrorCode::unavailable, "pyrod is not running: there is no " + path, "start it: `" + start + "`; `pyro doctor` says more", start);
        case ECONNREFUSED:
            throw failed(ErrorCode::unavailable, "pyrod is not running: nothing answers at " + path, "start it: `" + start + "`; `pyro doctor` says more", start);
        case EACCES: case EPERM: throw failed(ErrorCode::failed_precondition, "no permission to use " + path, permission_cure(path), "sudo usermod -aG pyro $USER");
        case EAGAIN: case EINTR:
            throw failed(ErrorCode::unavailable, "pyrod does not take connections at " + path, "it is overloaded or hangs; its log says more", "scripts/dev-daemon stop; scripts/dev-daemon start");
        default: throw Error::from_errno("connect to " + path, why).with_detail("socket", path);
    }
}

bool receive(int fd, std::string& into) {
    const std::size_t at = into.size();
    into.resize(at + read_size);
    const ssize_t n = ::recv(fd, into.data() + at, read_size, MSG_DONTWAIT);
    into.resize(at + static_cast<std::size_t>(std::max<ssize_t>(n, 0)));
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return true;
    return n > 0;  // a reset is an end like any other
}

bool send_some(int fd, std::string& bytes) {
    const ssize_t n = ::send(fd, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    bytes.erase(0, static_cast<std::size_t>(n));
    return true;
}

bool take_line(std::string& from, std::size_t& scanned, std::string& line) {
    const std::size_t end = from.find('\n', scanned);
    if (end == std::string::npos) {
        scanned = from.size();
        if (scanned > max_line)
            throw Error(ErrorCode::internal, "pyrod sent a line of more than " + std::to_string(max_line >> 20) + " MiB", "is something else listening on that socket?");
        return false;
    }
    line.assign(from, 0, end);
    from.erase(0, end + 1);
    scanned = 0;
    return true;
}

Connection::Connection(ConnectOptions options) : options_(std::move(options)) {
    options_.socket = socket_path(options_.socket);
    const auto deadline = std::chrono::steady_clock::now() + options_.patience;
    fd_ = connect_to(options_.socket, options_.patience);

    const std::int64_t id = ++last_id_;
    std::string hello = proto::encode_request({id, std::string(proto::HelloParams::method), proto::to_wire(proto::HelloParams{PYRO_VERSION, {}})}) + "\n";
    const auto broken = [&](const std::string& why) {
        return Error(ErrorCode::unavailable, "pyrod at " + options_.socket + " " + why, "`pyro doctor` and the daemon's log say more").with_detail("socket", options_.socket);
    };
    std::string line;
    for (std::size_t scanned = 0; !take_line(unread_, scanned, line);) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
        if (left.count() <= 0) throw broken("does not answer");
        pollfd wait{fd_.get(), static_cast<short>(POLLIN | (hello.empty() ? 0 : POLLOUT)), 0};
        if (::poll(&wait, 1, static_cast<int>(left.count())) < 0 && errno != EINTR) throw Error::from_errno("wait for pyrod");
        if ((wait.revents & POLLOUT) && !send_some(fd_.get(), hello)) hello.clear();  // its last words may still be unread
        if ((wait.revents & ~POLLOUT) && !receive(fd_.get(), unread_) && unread_.find('\n') == std::string::npos)
            throw broken("closed the connection before it greeted");
    }
    const Error stranger(ErrorCode::unavailable, "what answers at " + options_.socket + " is not pyrod", "choose another socket with --socket or PYRO_SOCKET");
    std::optional<std::variant<proto::Response, proto::Notification>> reply;
    try {
        reply = proto::parse_reply(line);
    } catch (const Error&) {
        throw stranger;
    }
    auto* response = std::get_if<proto::Response>(&*reply);
    if (!response) throw stranger;
    if (auto* refused = std::get_if<Error>(&response->outcome)) throw std::move(refused->add_context("pyrod refused the connection"));
    try {
        daemon_version_ = proto::from_wire<proto::HelloResult>(std::get<json>(response->outcome), proto::Unknown::ignore).version;
    } catch (const Error&) {
        throw stranger;
    }
    if (version_numbers(daemon_version_)[0] != version_numbers(PYRO_VERSION)[0])
        throw Error(ErrorCode::failed_precondition, "pyrod and this client do not speak the same protocol", upgrade_hint(daemon_version_));
}

Error Connection::explain(Error error) const {
    if (error.code() != ErrorCode::invalid_argument || daemon_version_ == PYRO_VERSION) return error;
    const std::string hint = upgrade_hint(daemon_version_);
    if (error.hint().find(daemon_version_) != std::string::npos) return error;  // the daemon has said so itself
    return std::move(error).with_hint(error.hint().empty() ? hint : error.hint() + "; " + hint);
}

}  // namespace pyro::client
