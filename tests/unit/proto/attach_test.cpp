#include "proto/attach.hpp"
#include "tests/support/catch.hpp"

using namespace pyro;
using namespace pyro::proto;

namespace {
std::vector<Frame> decode_in_pieces(const std::string& bytes, std::size_t piece, Side sender) {
    FrameDecoder decoder(sender);
    std::vector<Frame> frames;
    for (std::size_t at = 0; at < bytes.size(); at += piece) {
        decoder.feed(std::string_view(bytes).substr(at, piece));
        while (auto frame = decoder.next()) frames.push_back(std::move(*frame));
    }
    REQUIRE(decoder.between_frames());
    return frames;
}
}  // namespace

TEST_CASE("a frame's bytes are as documented") {
    REQUIRE(encode_frame(StreamId::out, "ab") == std::string("\1\2\0\0\0ab", 7));
    REQUIRE(encode_resize(TerminalSize{0x0102, 3}) == std::string("\3\4\0\0\0\2\1\3\0", 9));
    REQUIRE(encode_eof(StreamId::err) == std::string("\4\1\0\0\0\2", 6));
}

TEST_CASE("frames survive any cut of the stream") {
    const std::string client = encode_frame(StreamId::in, "abc") + encode_resize(TerminalSize{120, 30}) + encode_frame(StreamId::in, "") +
                               encode_frame(StreamId::in, std::string(max_frame_bytes, 'x')) + encode_eof(StreamId::in);
    for (const std::size_t piece : {1u, 2u, 3u, 7u, 4096u, 1u << 20}) {
        const std::vector<Frame> frames = decode_in_pieces(client, piece, Side::client);
        REQUIRE(frames.size() == 5);
        REQUIRE(frames[0] == Frame{StreamId::in, "abc"});
        REQUIRE(resize_of(frames[1]).cols == 120);
        REQUIRE(resize_of(frames[1]).rows == 30);
        REQUIRE(frames[2].bytes.empty());
        REQUIRE(frames[3].bytes.size() == max_frame_bytes);
        REQUIRE(eof_of(frames[4]) == StreamId::in);
    }
    const std::string daemon = encode_frame(StreamId::out, "o") + encode_frame(StreamId::err, "e") + encode_eof(StreamId::out) + encode_eof(StreamId::err);
    REQUIRE(decode_in_pieces(daemon, 1, Side::daemon).size() == 4);
}

TEST_CASE("frames that a side may not send are refused, large ones by their header") {
    const auto refused = [](const std::string& bytes, Side sender) {
        FrameDecoder decoder(sender);
        decoder.feed(bytes);
        try {
            decoder.next();
        } catch (const Error& e) {
            return e.code() == ErrorCode::invalid_argument;
        }
        return false;
    };
    REQUIRE(refused(encode_frame(StreamId::out, "x"), Side::client));
    REQUIRE(refused(encode_frame(StreamId::in, "x"), Side::daemon));
    REQUIRE(refused(encode_resize(TerminalSize{1, 1}), Side::daemon));
    REQUIRE(refused(encode_resize(TerminalSize{0, 1}), Side::client));
    REQUIRE(refused(encode_eof(StreamId::out), Side::client));
    REQUIRE(refused(encode_eof(StreamId::in), Side::daemon));
    REQUIRE(refused(encode_eof(StreamId::resize), Side::daemon));
    REQUIRE(refused(std::string("\0\1\0\1\0", 5), Side::client));          // 65,537
    REQUIRE(refused(std::string("\0\xff\xff\xff\xff", 5), Side::client));
    REQUIRE(refused(std::string("\5\0\0\0\0", 5), Side::client));
    REQUIRE(refused(std::string("\xff\0\0\0\0", 5), Side::daemon));
    REQUIRE(refused(std::string("\3\3\0\0\0", 5), Side::client));
    REQUIRE(refused(std::string("\4\0\0\0\0", 5), Side::client));
}

TEST_CASE("an end inside a frame can be told from one between frames") {
    FrameDecoder decoder(Side::client);
    decoder.feed(encode_frame(StreamId::in, "abc").substr(0, 6));
    REQUIRE_FALSE(decoder.next());
    REQUIRE_FALSE(decoder.between_frames());
}

TEST_CASE("the attach line and its answers") {
    REQUIRE(encode_attach("abc") == R"({"attach":"abc"})");
    REQUIRE(parse_attach(encode_attach("abc")) == "abc");
    for (const char* other : {"", "x", "[]", "{}", R"({"attach":1})", R"({"attach":"a","more":1})", R"({"jsonrpc":"2.0"})"})
        REQUIRE_FALSE(parse_attach(other));
    REQUIRE_NOTHROW(check_attach_reply(encode_attach_ok()));
    try {
        check_attach_reply(encode_attach_error(Error(ErrorCode::not_found, "no such ticket", "hint")));
        FAIL("accepted");
    } catch (const Error& e) {
        REQUIRE(e.code() == ErrorCode::not_found);
        REQUIRE(e.hint() == "hint");
    }
    try {  // refused by the listener, before it knew what the connection is for
        check_attach_reply(R"({"jsonrpc":"2.0","id":null,"error":{"code":1004,"message":"m","data":{"code":"quota_exceeded","message":"m"}}})");
        FAIL("accepted");
    } catch (const Error& e) {
        REQUIRE(e.code() == ErrorCode::quota_exceeded);
    }
    for (const char* garbage : {"", "{}", "[]", R"({"ok":false})", R"({"ok":1})"}) REQUIRE_THROWS_AS(check_attach_reply(garbage), Error);
}
