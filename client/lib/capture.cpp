#include "client/lib/capture.hpp"

#include <algorithm>

namespace pyro::client {

namespace {

// Length of the well-formed UTF-8 sequence at the start of `s`, or 0.
std::size_t utf8_sequence(std::string_view s) {
    const auto at = [&](std::size_t i) { return i < s.size() ? static_cast<unsigned char>(s[i]) : 0u; };
    const auto follows = [&](std::size_t i) { return (at(i) & 0xC0u) == 0x80u; };
    const unsigned a = at(0), b = at(1);
    if (a < 0x80) return 1;
    if (a >= 0xC2 && a <= 0xDF) return follows(1) ? 2 : 0;
    if (a >= 0xE0 && a <= 0xEF) {
        if ((a == 0xE0 && b < 0xA0) || (a == 0xED && b > 0x9F)) return 0;
        return follows(1) && follows(2) ? 3 : 0;
    }
    if (a >= 0xF0 && a <= 0xF4) {
        if ((a == 0xF0 && b < 0x90) || (a == 0xF4 && b > 0x8F)) return 0;
        return follows(1) && follows(2) && follows(3) ? 4 : 0;
    }
    return 0;
}

bool continues(char c) { return (static_cast<unsigned char>(c) & 0xC0u) == 0x80u; }

}  // namespace

bool is_valid_utf8(std::string_view bytes) {
    while (!bytes.empty()) {
        const std::size_t n = utf8_sequence(bytes);
        if (n == 0) return false;
        bytes.remove_prefix(n);
    }
    return true;
}

std::string valid_utf8(std::string_view bytes) {
    std::string out;
    out.reserve(bytes.size());
    while (!bytes.empty()) {
        const std::size_t n = utf8_sequence(bytes);
        out += n ? bytes.substr(0, n) : std::string_view("\xEF\xBF\xBD");
        bytes.remove_prefix(n ? n : 1);
    }
    return out;
}

void Capture::add(std::string_view bytes) {
    total_ += bytes.size();
    const std::size_t to_head = std::min(bytes.size(), head_max_ - head_.size());
    head_ += bytes.substr(0, to_head);
    bytes.remove_prefix(to_head);
    if (bytes.size() > tail_max_) bytes.remove_prefix(bytes.size() - tail_max_);
    tail_ += bytes;
    if (tail_.size() >= 2 * tail_max_) tail_.erase(0, tail_.size() - tail_max_);
}

std::string Capture::text() const {
    std::string_view tail = std::string_view(tail_).substr(tail_.size() - kept_tail());
    if (!truncated()) return valid_utf8(head_ + std::string(tail));
    std::uint64_t missing = elided();
    std::string_view head = head_;
    // A character that the cut went through is left out whole.
    for (std::size_t back = 1; back <= 3 && back <= head.size(); ++back) {
        const std::string_view last = head.substr(head.size() - back);
        if (continues(last.front())) continue;
        if (utf8_sequence(last) == 0) { head.remove_suffix(back); missing += back; }
        break;
    }
    for (int i = 0; i < 3 && !tail.empty() && continues(tail.front()); ++i) { tail.remove_prefix(1); ++missing; }
    return valid_utf8(head) + "\n[" + std::to_string(missing) + " bytes left out]\n" + valid_utf8(tail);
}

}  // namespace pyro::client
