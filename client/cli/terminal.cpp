#include "client/cli/terminal.hpp"

#include "client/cli/render.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace pyro::client {

namespace {
// Whether a failed write is to be tried again. A stream may be non-blocking through somebody else who has it open.
bool again_after(int fd) {
    if (errno == EAGAIN) {
        pollfd room{fd, POLLOUT, 0};
        return ::poll(&room, 1, -1) > 0 || errno == EINTR;
    }
    return errno == EINTR;
}
}  // namespace

void write_stdout(std::string_view text) {
    while (!text.empty()) {
        const ssize_t n = ::write(STDOUT_FILENO, text.data(), text.size());
        if (n < 0 && again_after(STDOUT_FILENO)) continue;
        if (n < 0 && errno == EPIPE) throw OutputClosed();
        if (n <= 0) throw Error::from_errno("write to standard output");
        text.remove_prefix(static_cast<std::size_t>(n));
    }
}

void write_stderr(std::string_view text) noexcept {
    while (!text.empty()) {
        const ssize_t n = ::write(STDERR_FILENO, text.data(), text.size());
        if (n < 0 && again_after(STDERR_FILENO)) continue;
        if (n <= 0) return;
        text.remove_prefix(static_cast<std::size_t>(n));
    }
}

std::optional<WindowSize> window_size(int fd) {
    winsize size{};
    if (::ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_row == 0) return std::nullopt;
    const auto bounded = [](unsigned short value) { return static_cast<std::uint16_t>(std::min<unsigned short>(value, 1000)); };
    return WindowSize{bounded(size.ws_col), bounded(size.ws_row)};
}

void RawTerminal::enter() {
    termios now{};
    if (::tcgetattr(fd_, &now) != 0) throw Error::from_errno("read the terminal's settings");
    if (!before_) before_ = now;
    ::cfmakeraw(&now);
    if (::tcsetattr(fd_, TCSADRAIN, &now) != 0) throw Error::from_errno("set the terminal to raw mode");
}

void RawTerminal::leave() noexcept {
    if (before_)
        while (::tcsetattr(fd_, TCSADRAIN, &*before_) != 0 && errno == EINTR) {}
    before_.reset();
}

ProgressLine::ProgressLine(std::string tag, bool silent) : tag_(std::move(tag)), silent_(silent), line_(false) {
    const char* term = std::getenv("TERM");
    line_ = ::isatty(STDERR_FILENO) && term && std::string_view(term) != "dumb";
}

void ProgressLine::show(const proto::Progress& progress) {
    if (silent_) return;
    const std::string message = progress.message ? printable(*progress.message) : std::string();
    if (!line_) {
        if (progress.phase == phase_) return;
        phase_ = progress.phase;
        write_stderr(tag_ + " phase=" + printable(phase_) + (message.empty() ? "" : " " + message) + "\n");
        return;
    }
    static constexpr std::string_view wheel = "|/-\\";
    std::string text = std::string(1, wheel[turn_++ % wheel.size()]) + " " + printable(progress.phase);
    if (progress.total && *progress.total > 0 && progress.done) {
        constexpr std::int64_t cells = 24;
        const std::int64_t done = std::clamp<std::int64_t>(*progress.done, 0, *progress.total);
        const double part = static_cast<double>(done) / static_cast<double>(*progress.total);
        const auto full = static_cast<std::size_t>(part * cells);
        text += " [" + std::string(full, '#') + std::string(cells - full, '-') + "] " + std::to_string(static_cast<int>(part * 100)) + "%";
        if (*progress.total > 100'000) text += " of " + byte_size(*progress.total);
    } else if (progress.done && *progress.done > 100'000) {
        text += " " + byte_size(*progress.done);
    }
    if (!message.empty()) text += "  " + message;
    const auto size = window_size(STDERR_FILENO);
    const std::size_t width = size ? size->cols - std::size_t{1} : 79;
    if (text.size() > width) text.resize(width);
    write_stderr("\r\x1b[K" + text);
    shown_ = true;
}

void ProgressLine::clear() noexcept {
    if (std::exchange(shown_, false)) write_stderr("\r\x1b[K");
}

}  // namespace pyro::client
