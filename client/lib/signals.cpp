#include "client/lib/signals.hpp"

#include "common/error.hpp"

#include <atomic>
#include <cerrno>
#include <fcntl.h>
#include <unistd.h>

namespace pyro::client {

namespace {
std::atomic<int> signal_pipe{-1};

extern "C" void on_client_signal(int number) {
    const int saved = errno;
    const auto byte = static_cast<unsigned char>(number);
    // A full pipe already holds more than anyone will act on.
    [[maybe_unused]] const ssize_t n = ::write(signal_pipe.load(), &byte, 1);
    errno = saved;
}
}  // namespace

Signals::Signals(std::initializer_list<int> which) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) throw Error::from_errno("make a pipe");
    read_.reset(ends[0]);
    write_.reset(ends[1]);
    PYRO_CHECK(signal_pipe.exchange(ends[1]) == -1);
    for (const int number : which) {
        struct sigaction old {};
        ::sigaction(number, nullptr, &old);
        if (old.sa_handler == SIG_IGN) continue;
        // No SA_RESTART: a write that blocks on a stopped terminal must come back.
        struct sigaction ours {};
        ours.sa_handler = on_client_signal;
        ::sigaction(number, &ours, nullptr);
        before_.emplace_back(number, old);
    }
}

Signals::~Signals() {
    for (const auto& [number, old] : before_) ::sigaction(number, &old, nullptr);
    signal_pipe.store(-1);
}

std::optional<int> Signals::take() noexcept {
    unsigned char byte = 0;
    if (::read(read_.get(), &byte, 1) != 1) return std::nullopt;
    return byte;
}

}  // namespace pyro::client
