// The user's terminal: raw mode, its size, what is written to it.
#pragma once
#include "client/lib/connection.hpp"
#include "proto/events.hpp"

#include <optional>
#include <string>
#include <string_view>
#include <termios.h>

namespace pyro::client {

// Payload. Throws OutputClosed if nobody reads it any more, Error for a full disk.
void write_stdout(std::string_view text);
// What pyro says itself. If that cannot be written, there is nobody to tell.
void write_stderr(std::string_view text) noexcept;

std::optional<WindowSize> window_size(int fd);

// Raw from enter() on, as it was again when this ends. Everything that ends the process passes here: signals are calls' business.
class RawTerminal {
public:
    explicit RawTerminal(int fd) : fd_(fd) {}
    ~RawTerminal() { leave(); }
    RawTerminal(const RawTerminal&) = delete;
    RawTerminal& operator=(const RawTerminal&) = delete;
    void enter();  // also after somebody else has changed it
    void leave() noexcept;
    bool entered() const noexcept { return before_.has_value(); }

private:
    int fd_;
    std::optional<termios> before_;
};

// Progress of one call on standard error: a line that changes, on a terminal; else one marker line per phase.
class ProgressLine {
public:
    // `tag` begins the marker lines: "[pull]". Silent: nothing at all.
    ProgressLine(std::string tag, bool silent);
    ~ProgressLine() { clear(); }
    ProgressLine(const ProgressLine&) = delete;
    ProgressLine& operator=(const ProgressLine&) = delete;
    void show(const proto::Progress& progress);
    void clear() noexcept;

private:
    std::string tag_;
    bool silent_, line_, shown_ = false;
    std::string phase_;
    unsigned turn_ = 0;
};

}  // namespace pyro::client
