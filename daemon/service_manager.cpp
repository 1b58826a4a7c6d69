#include "daemon/service_manager.hpp"

#include "common/error.hpp"
#include "common/log.hpp"
#include "daemon/io/event.hpp"

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace pyro {
namespace {

constexpr int first_inherited = 3;

std::string take_variable(const char* name) {
    const char* value = std::getenv(name);
    const std::string out = value ? value : "";
    ::unsetenv(name);
    return out;
}

// Both may be meant for a parent of ours.
bool is_us(const std::string& pid) { return pid == std::to_string(::getpid()); }

}  // namespace

ServiceManager::ServiceManager() : notify_socket_(take_variable("NOTIFY_SOCKET")) {
    const std::string count = take_variable("LISTEN_FDS"), period = take_variable("WATCHDOG_USEC"), watched = take_variable("WATCHDOG_PID");
    const bool sockets_are_ours = is_us(take_variable("LISTEN_PID"));
    take_variable("LISTEN_FDNAMES");
    if (sockets_are_ours && !count.empty()) {
        if (count != "1") throw Error(ErrorCode::failed_precondition, "pyrod was given " + count + " sockets", "have one ListenStream= in pyrod.socket");
        socket_ = UniqueFd(first_inherited);
        if (::fcntl(first_inherited, F_SETFD, FD_CLOEXEC) != 0) throw Error::from_errno("take the socket of the service manager");
    }
    if (watched.empty() || is_us(watched)) watchdog_ = std::chrono::microseconds(std::strtoull(period.c_str(), nullptr, 10));
}

UniqueFd ServiceManager::take_socket(const std::string& path) {
    if (!socket_) return UniqueFd();
    sockaddr_un address{};
    socklen_t length = sizeof address;
    int listens = 0;
    socklen_t size = sizeof listens;
    if (::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) throw Error::from_errno("look at the socket of the service manager");
    if (::getsockopt(socket_.get(), SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0) throw Error::from_errno("look at the socket of the service manager");
    const std::string there = address.sun_family == AF_UNIX ? std::string(address.sun_path, ::strnlen(address.sun_path, sizeof address.sun_path)) : "";
    if (there != path || !listens)
        throw Error(ErrorCode::failed_precondition, "pyrod.socket listens on " + (there.empty() ? "something else" : there) + ", the configuration says " + path,
                    "correct `socket` in pyrod.toml, or ListenStream= by: systemctl edit pyrod.socket");
    return std::move(socket_);
}

void ServiceManager::reloading() const noexcept {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    tell("RELOADING=1\nMONOTONIC_USEC=" + std::to_string(std::int64_t{now.tv_sec} * 1'000'000 + now.tv_nsec / 1000));
}

io::Task<void> ServiceManager::give_signs_of_life(std::stop_token stop) const {
    if (watchdog_.count() == 0) co_return;
    const io::Executor executor = co_await io::this_executor();
    io::Event never(executor);
    while (!stop.stop_requested()) {
        tell("WATCHDOG=1");
        const io::Deadline pause(executor, watchdog_ / 3, stop);
        try {
            co_await never.wait(pause.token());
        } catch (const Cancelled&) {
            continue;  // it was time, or it is over
        }
    }
}

void ServiceManager::tell(std::string_view what) const noexcept {
    if (notify_socket_.empty()) return;
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::size_t length = notify_socket_.copy(address.sun_path, sizeof address.sun_path - 1);
    if (address.sun_path[0] == '@') address.sun_path[0] = '\0';  // an abstract one
    const UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length);
    if (::sendto(fd.get(), what.data(), what.size(), MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&address), size) < 0)
        log::say(log::Level::warning, std::string("the service manager cannot be told: ") + std::strerror(errno));
}

}  // namespace pyro
