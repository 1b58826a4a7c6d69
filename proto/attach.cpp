#include "proto/attach.hpp"

#include "proto/jsonrpc.hpp"

namespace pyro::proto {
namespace {

[[noreturn]] void refuse_frame(std::string why) { throw Error(ErrorCode::invalid_argument, "attach connection: " + std::move(why)); }

std::uint8_t octet(char c) { return static_cast<std::uint8_t>(c); }

bool may_send(Side sender, StreamId stream) {
    if (stream == StreamId::eof) return true;
    const bool from_client = stream == StreamId::in || stream == StreamId::resize;
    return from_client == (sender == Side::client);
}

}  // namespace

std::string encode_frame(StreamId stream, std::string_view bytes) {
    PYRO_CHECK(bytes.size() <= max_frame_bytes);
    std::string frame;
    frame.reserve(frame_header_bytes + bytes.size());
    frame.push_back(static_cast<char>(stream));
    for (int shift = 0; shift < 32; shift += 8) frame.push_back(static_cast<char>(bytes.size() >> shift & 0xff));
    frame += bytes;
    return frame;
}

std::string encode_resize(TerminalSize size) {
    std::string bytes;
    for (const std::uint16_t value : {size.cols, size.rows}) {
        bytes.push_back(static_cast<char>(value & 0xff));
        bytes.push_back(static_cast<char>(value >> 8));
    }
    return encode_frame(StreamId::resize, bytes);
}

std::string encode_eof(StreamId of) {
    const char stream = static_cast<char>(of);
    return encode_frame(StreamId::eof, std::string_view(&stream, 1));
}

TerminalSize resize_of(const Frame& frame) {
    PYRO_CHECK(frame.stream == StreamId::resize && frame.bytes.size() == 4);
    const auto at = [&](std::size_t i) { return static_cast<std::uint16_t>(octet(frame.bytes[i]) | octet(frame.bytes[i + 1]) << 8); };
    return TerminalSize{at(0), at(2)};
}

StreamId eof_of(const Frame& frame) {
    PYRO_CHECK(frame.stream == StreamId::eof && frame.bytes.size() == 1);
    return static_cast<StreamId>(frame.bytes[0]);
}

FrameHeader decode_frame_header(const std::array<char, frame_header_bytes>& header, Side sender) {
    if (octet(header[0]) > static_cast<std::uint8_t>(StreamId::eof)) refuse_frame("no stream " + std::to_string(octet(header[0])));
    const auto stream = static_cast<StreamId>(header[0]);
    if (!may_send(sender, stream)) refuse_frame("stream " + std::to_string(octet(header[0])) + " does not go that way");
    std::uint32_t length = 0;
    for (std::size_t i = 0; i < 4; ++i) length |= static_cast<std::uint32_t>(octet(header[1 + i])) << (8 * i);
    if (length > max_frame_bytes) refuse_frame("a frame of " + std::to_string(length) + " bytes; at most " + std::to_string(max_frame_bytes));
    if (stream == StreamId::resize && length != 4) refuse_frame("a resize has 4 bytes");
    if (stream == StreamId::eof && length != 1) refuse_frame("an eof has 1 byte");
    return FrameHeader{stream, length};
}

void check_frame(const Frame& frame, Side sender) {
    if (frame.stream == StreamId::resize) {
        const TerminalSize size = resize_of(frame);
        if (size.cols == 0 || size.rows == 0) refuse_frame("a terminal has at least one column and row");
    } else if (frame.stream == StreamId::eof) {
        const std::uint8_t of = octet(frame.bytes[0]);
        if (sender == Side::client ? of != 0 : of != 1 && of != 2) refuse_frame("no end of stream " + std::to_string(of) + " from there");
    }
}

std::optional<Frame> FrameDecoder::next() {
    const std::string_view pending = std::string_view(buffer_).substr(taken_);
    if (pending.size() >= frame_header_bytes) {
        std::array<char, frame_header_bytes> bytes;
        pending.copy(bytes.data(), bytes.size());
        const FrameHeader header = decode_frame_header(bytes, sender_);
        if (pending.size() >= frame_header_bytes + header.length) {
            Frame frame{header.stream, std::string(pending.substr(frame_header_bytes, header.length))};
            check_frame(frame, sender_);
            taken_ += frame_header_bytes + header.length;
            return frame;
        }
    }
    buffer_.erase(0, taken_);
    taken_ = 0;
    return std::nullopt;
}

std::string encode_attach(const std::string& ticket) { return dump_line(nlohmann::json{{"attach", ticket}}); }

std::optional<std::string> parse_attach(std::string_view line) {
    if (line.size() > max_attach_line_bytes) return std::nullopt;
    // Anything else, malformed or not, is a message for the session to judge.
    const nlohmann::json message = nlohmann::json::parse(line.begin(), line.end(), nullptr, false);
    if (!message.is_object() || message.size() != 1 || !message.contains("attach") || !message["attach"].is_string()) return std::nullopt;
    return message["attach"].get<std::string>();
}

std::string encode_attach_ok() { return R"({"ok":true})"; }

std::string encode_attach_error(const Error& error) {
    return dump_line(nlohmann::json{{"ok", false}, {"error", error_to_json(error)}});
}

void check_attach_reply(std::string_view line) {
    const nlohmann::json reply = nlohmann::json::parse(line.begin(), line.end(), nullptr, false);
    if (reply.is_object()) {
        if (const auto ok = reply.find("ok"); ok != reply.end() && *ok == true) return;
        if (const auto error = reply.find("error"); error != reply.end() && error->is_object()) {
            // A connection the daemon refused before it knew what for is answered as a request would be.
            const auto data = error->find("data");
            throw error_from_json(data != error->end() && data->is_object() ? *data : *error);
        }
    }
    throw Error(ErrorCode::unavailable, "the daemon sent something that is no answer to an attach", "is that socket pyrod's?");
}

}  // namespace pyro::proto
