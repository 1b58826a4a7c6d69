// Keeps the head and the tail of a stream, never more than it was told to.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace pyro::client {

// Owns at most `limit` bytes (1 MiB unless told), half of them the head, and twice the tail while it grows.
class Capture {
public:
    explicit Capture(std::size_t limit = 1 << 20) : head_max_(limit / 2), tail_max_(limit - limit / 2) {}

    void add(std::string_view bytes);
    bool truncated() const { return elided() > 0; }
    std::uint64_t elided() const { return total_ - head_.size() - kept_tail(); }
    // Head, a line that says how much is missing, tail. Cut at character borders; invalid UTF-8 replaced by U+FFFD.
    std::string text() const;

private:
    std::size_t kept_tail() const { return tail_.size() < tail_max_ ? tail_.size() : tail_max_; }

    std::size_t head_max_, tail_max_;
    std::uint64_t total_ = 0;
    std::string head_;
    std::string tail_;  // at most twice tail_max_; its last tail_max_ bytes count
};

// Replaces every byte that is no part of a well-formed UTF-8 sequence by U+FFFD.
std::string valid_utf8(std::string_view bytes);
bool is_valid_utf8(std::string_view bytes);

}  // namespace pyro::client
