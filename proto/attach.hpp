// Attach connections: the first line with the ticket, its answer, and then frames
// {stream u8, length u32 little-endian, bytes}. Pure; used by the daemon and by blocking clients.
#pragma once
#include "common/error.hpp"

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace pyro::proto {

inline constexpr std::size_t max_frame_bytes = 64 << 10;
inline constexpr std::size_t frame_header_bytes = 5;
inline constexpr std::size_t max_attach_line_bytes = 4096;  // of the first line and its answer

enum class StreamId : std::uint8_t { in = 0, out = 1, err = 2, resize = 3, eof = 4 };
enum class Side { client, daemon };

struct Frame {
    StreamId stream{};
    std::string bytes;
    bool operator==(const Frame&) const = default;
};

struct TerminalSize {
    std::uint16_t cols;
    std::uint16_t rows;
};

// Whole frames. `bytes` is at most max_frame_bytes.
std::string encode_frame(StreamId stream, std::string_view bytes);
std::string encode_resize(TerminalSize size);
std::string encode_eof(StreamId of);
// Of frames that passed the checks below.
TerminalSize resize_of(const Frame& frame);
StreamId eof_of(const Frame& frame);

// What `sender` may send: a client in, resize, eof of in; the daemon out, err, eof of those. The header is checked before
// the bytes are there, the content after. Both throw Error(invalid_argument).
struct FrameHeader {
    StreamId stream;
    std::uint32_t length;
};
FrameHeader decode_frame_header(const std::array<char, frame_header_bytes>& header, Side sender);
void check_frame(const Frame& frame, Side sender);

// Frames out of a byte stream in pieces of any size. Holds at most one frame and one piece. After an error it is of no use.
class FrameDecoder {
public:
    explicit FrameDecoder(Side sender) : sender_(sender) {}
    void feed(std::string_view bytes) { buffer_ += bytes; }
    std::optional<Frame> next();                                     // call until it has nothing
    bool between_frames() const noexcept { return taken_ == buffer_.size(); }  // an end of the stream here is a clean one

private:
    Side sender_;
    std::string buffer_;
    std::size_t taken_ = 0;
};

// {"attach":"TICKET"}; nothing when `line` is another message. Lines without their newline.
std::string encode_attach(const std::string& ticket);
std::optional<std::string> parse_attach(std::string_view line);
// {"ok":true}, or {"ok":false,"error":{code,message,hint,retryable,details}}.
std::string encode_attach_ok();
std::string encode_attach_error(const Error& error);
void check_attach_reply(std::string_view line);  // throws the daemon's Error, or Error(unavailable) on garbage

}  // namespace pyro::proto
