#include "proto/agent.hpp"
#include "tests/support/catch.hpp"

#include <random>

using namespace pyro::proto::agent;

namespace {

constexpr std::uint64_t here = 0x1122334455667788;

struct Sent {
    FrameType type;
    std::uint32_t stream;
    std::uint64_t offset;
    std::string payload;
    bool operator==(const Sent&) const = default;
};

std::vector<Sent> decode_all(FrameDecoder& decoder) {
    std::vector<Sent> frames;
    while (const auto frame = decoder.next()) frames.push_back({frame->type, frame->stream, frame->offset, std::string(frame->payload)});
    return frames;
}

std::string encoded(const std::vector<Sent>& frames, std::uint64_t connection = here) {
    std::string bytes;
    for (const Sent& f : frames) append_frame(bytes, connection, f.type, f.stream, f.offset, f.payload);
    return bytes;
}

std::vector<Sent> some_frames() {
    return {{FrameType::output, 1, 0, "hello"},
            {FrameType::output_end, 1, 5, std::string(1, '\1')},
            {FrameType::output, 0xffffffff, 1ull << 60, std::string(300, '\0')},
            {FrameType::exited, 1, 0, ""},
            {FrameType::output, 2, 0, encoded({{FrameType::kill, 9, 9, "a frame as payload"}})}};
}

void append_all(std::vector<Sent>& to, std::vector<Sent> from) { to.insert(to.end(), from.begin(), from.end()); }

}  // namespace

TEST_CASE("frames survive being cut at every byte") {
    const auto frames = some_frames();
    const std::string bytes = encoded(frames);
    for (std::size_t cut = 0; cut <= bytes.size(); ++cut) {
        FrameDecoder decoder(here);
        decoder.feed(std::string_view(bytes).substr(0, cut));
        auto got = decode_all(decoder);
        decoder.feed(std::string_view(bytes).substr(cut));
        append_all(got, decode_all(decoder));
        REQUIRE((got == frames));
        REQUIRE(decoder.discarded() == 0);
        REQUIRE(decoder.buffered() == 0);
    }
    FrameDecoder decoder(here);
    std::vector<Sent> got;
    for (const char byte : bytes) {
        decoder.feed({&byte, 1});
        append_all(got, decode_all(decoder));
    }
    REQUIRE((got == frames));
}

TEST_CASE("a connection that ends at any byte costs what was cut and nothing after the next attach") {
    const auto frames = some_frames();
    const std::string bytes = encoded(frames);
    for (std::size_t cut = 0; cut <= bytes.size(); ++cut) {
        FrameDecoder decoder(here, true);
        decoder.feed(std::string_view(bytes).substr(0, cut));
        auto got = decode_all(decoder);
        const std::size_t whole = got.size();
        REQUIRE(std::equal(got.begin(), got.end(), frames.begin()));
        const std::uint64_t next = here + 1;
        const std::vector<Sent> after{{FrameType::attach, 0, 0, ""}, {FrameType::start, 0, 0, "x"}};
        decoder.feed(resynchronisation() + encoded(after, next));
        got = decode_all(decoder);
        REQUIRE((got == after));
        REQUIRE(decoder.connection() == next);
        // Every whole frame was had, and only a whole one.
        REQUIRE(encoded(std::vector<Sent>(frames.begin(), frames.begin() + static_cast<std::ptrdiff_t>(whole))).size() <= cut);
    }
}

TEST_CASE("garbage at every position is passed over, and the frames after it are found") {
    std::mt19937 random(1);
    const auto frames = some_frames();
    for (const std::string& junk : {std::string("P"), std::string("PYRO"), std::string(100, 'P'), std::string(50, '\0'), std::string("PYRO\1\42\0\0garbage", 15)}) {
        std::vector<std::string> pieces;
        for (const Sent& f : frames) pieces.push_back(encoded({f}));
        for (std::size_t at = 0; at <= pieces.size(); ++at) {
            std::string bytes;
            for (std::size_t i = 0; i < pieces.size(); ++i) bytes += (i == at ? junk : "") + pieces[i];
            FrameDecoder decoder(here);
            decoder.feed(bytes);
            REQUIRE((decode_all(decoder) == frames));
            REQUIRE(decoder.discarded() == (at < pieces.size() ? junk.size() : 0));
        }
    }
    // Pure noise: bounded, no frame, no throw.
    for (int round = 0; round < 200; ++round) {
        std::string noise(random() % 4096, '\0');
        for (char& c : noise) c = random() % 3 ? static_cast<char>(random()) : 'P';
        FrameDecoder decoder(here);
        decoder.feed(noise);
        REQUIRE(decode_all(decoder).empty());
        REQUIRE(decoder.discarded() + decoder.buffered() == noise.size());
    }
}

TEST_CASE("one changed byte in a header or trailer loses that frame at most; the next whole one is found") {
    const std::vector<Sent> frames{{FrameType::output, 1, 7, "payload"}, {FrameType::exited, 2, 0, "next"}, {FrameType::exited, 3, 0, "and next"}};
    const std::string bytes = encoded(frames);
    const std::size_t first = frame_overhead + 7;
    for (std::size_t at = 0; at < first; ++at) {
        if (at >= header_size && at < header_size + 7) continue;  // a payload is as it was sent
        std::string changed = bytes;
        changed[at] = static_cast<char>(changed[at] ^ 0x20);
        FrameDecoder decoder(here);
        decoder.feed(changed);
        const auto got = decode_all(decoder);
        REQUIRE((got == std::vector<Sent>(frames.begin() + 1, frames.end())));
    }
}

TEST_CASE("the bounds of a header hold, with a correct check sum") {
    REQUIRE(std::string(max_payload, 'x').size() == 65536);
    FrameDecoder decoder(here);
    const std::vector<Sent> largest{{FrameType::output, 1, 0, std::string(max_payload, 'x')}};
    decoder.feed(encoded(largest));
    REQUIRE((decode_all(decoder) == largest));
    // Of another connection: no frame, except an attach for who follows it.
    decoder.feed(encoded({{FrameType::output, 1, 0, "stale"}, {FrameType::attach, 0, 0, ""}}, here + 1));
    REQUIRE(decode_all(decoder).empty());
    REQUIRE(decoder.connection() == here);
    FrameDecoder follower(here, true);
    follower.feed(encoded({{FrameType::output, 1, 0, "stale"}, {FrameType::attach, 0, 0, ""}}, here + 1));
    REQUIRE(decode_all(follower).size() == 1);
    REQUIRE(follower.connection() == here + 1);
    // A buffer of at most one frame and what was fed.
    FrameDecoder waiting(here);
    waiting.feed(encoded(largest).substr(0, 60000));
    REQUIRE(decode_all(waiting).empty());
    REQUIRE(waiting.buffered() == 60000);
}

namespace {

// `without` is as long as the record is without its last field, where that may be missing.
template <class T>
void check_strict(const T& record, std::size_t without = 0) {
    const std::string bytes = encode(record);
    T back;
    REQUIRE(decode(bytes, back));
    REQUIRE(encode(back) == bytes);
    for (std::size_t size = 0; size < bytes.size(); ++size) {
        T partial;
        REQUIRE(decode(bytes.substr(0, size), partial) == (size == without && without > 0));
    }
    T longer;
    REQUIRE_FALSE(decode(bytes + '\0', longer));
    // Whatever a peer sends: an answer, never an exception or a large allocation.
    std::mt19937 random(3);
    for (int i = 0; i < 2000; ++i) {
        std::string hostile = bytes;
        for (int change = 0; change < 3 && !hostile.empty(); ++change) hostile[random() % hostile.size()] = static_cast<char>(random());
        T value;
        (void)decode(hostile, value);
    }
}

}  // namespace

TEST_CASE("payloads come back as they were, and a missing or extra byte is seen") {
    Attach attach;
    attach.resume = {{1, 2, 3}, {0xffffffff, ~0ull, 0}};
    check_strict(attach);
    Identity identity{"host", std::string(32, 'a'), std::string(36, 'b'), std::string(512, '\0'), 12345, {"A=1", "", "B=\0"}, "nameserver 1.1.1.1\n", {}};
    check_strict(identity);
    std::size_t without = encode(identity).size();
    identity.workspace = Workspace{true, "alice:staff"};
    check_strict(identity, without);
    ExecSpec spec{{"/bin/sh", "-c", ""}, {"A=b"}, "/work", "alice:staff", true, false, 1, 65535, false};
    check_strict(spec);
    without = encode(spec).size();
    spec.builtin = true;
    check_strict(spec, without);
    check_strict(Resize{80, 24});
    Hello hello;
    hello.generation = 1, hello.version = "0.1.0", hello.boot_id = "x", hello.started = true, hello.last_exec = 9;
    hello.execs = {{1, 2, 3, 4, true}};
    check_strict(hello);
    check_strict(Failure{"why"});
    check_strict(Started{1, 2});
    check_strict(ExitStatus{ExitStatus::Kind::signalled, 0, 9, true, -5, "text", 1, 2});
}

TEST_CASE("what an identity or a command does not say, it has not") {
    Identity identity;
    Identity earlier;
    earlier.workspace = Workspace{true, "bob"};
    REQUIRE(decode(encode(identity), earlier));
    REQUIRE_FALSE(earlier.workspace);
    identity.workspace = Workspace{false, ""};
    REQUIRE(decode(encode(identity), earlier));
    REQUIRE(earlier.workspace);
    REQUIRE_FALSE(earlier.workspace->seeded);
    ExecSpec spec, before;
    before.builtin = true;
    REQUIRE(decode(encode(spec), before));
    REQUIRE_FALSE(before.builtin);
    REQUIRE_FALSE(decode(encode(spec) + '\0', before));  // only ever said where it is so
    REQUIRE_FALSE(decode(encode(spec) + '\2', before));
    spec.builtin = true;
    REQUIRE(decode(encode(spec), before));
    REQUIRE(before.builtin);
}

TEST_CASE("every bound of a payload is enforced") {
    Identity identity;
    identity.workspace = Workspace{false, std::string(257, 'u')};
    REQUIRE_FALSE(decode(encode(identity), identity));
    identity = {};
    identity.hostname = std::string(65, 'h');
    REQUIRE_FALSE(decode(encode(identity), identity));
    identity = {};
    identity.entropy = std::string(513, 'e');
    REQUIRE_FALSE(decode(encode(identity), identity));
    identity = {};
    identity.machine_id = std::string(33, 'a');
    REQUIRE_FALSE(decode(encode(identity), identity));
    ExecSpec spec;
    spec.argv.resize(65537);
    REQUIRE_FALSE(decode(encode(spec), spec));
    spec = {};
    spec.user = std::string(257, 'u');
    REQUIRE_FALSE(decode(encode(spec), spec));
    spec = {};
    spec.cwd = std::string(4097, '/');
    REQUIRE_FALSE(decode(encode(spec), spec));
    Hello hello;
    hello.execs.resize(max_execs + 1);
    REQUIRE_FALSE(decode(encode(hello), hello));
    ExitStatus status;
    std::string bytes = encode(status);
    bytes[0] = 4;
    REQUIRE_FALSE(decode(bytes, status));
    bytes[0] = 0;
    REQUIRE_FALSE(decode(bytes, status));
    // A list that claims more elements than it has bytes allocates nothing.
    ExecSpec lying;
    REQUIRE_FALSE(decode(std::string("\xff\xff\0\0", 4), lying));
    REQUIRE(lying.argv.capacity() == 0);
}
