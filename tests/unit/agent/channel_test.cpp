#include "daemon/agent/channel.hpp"
#include "daemon/io/event.hpp"
#include "daemon/io/task_group.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/run_coro.hpp"

#include <csignal>
#include <sys/socket.h>

using namespace pyro;
using namespace std::chrono_literals;
using agent::Channel;
using agent::ExecSession;
using proto::agent::FrameType;
using proto::agent::Output;
namespace wire = proto::agent;

namespace {

// The other end of the socket, played by hand.
class FakeGuest {
public:
    explicit FakeGuest(io::Stream stream) : stream_(std::move(stream)) {}

    struct Got {
        FrameType type{};
        std::uint32_t stream = 0;
        std::uint64_t offset = 0;
        std::string payload;
    };
    io::Task<Got> next() {
        while (true) {
            if (const auto frame = decoder_.next()) {
                Got got{frame->type, frame->stream, frame->offset, std::string(frame->payload)};
                co_return std::move(got);
            }
            std::span<char> space = decoder_.prepare(65536);
            const std::size_t count = co_await stream_.read_some(space, stop_);
            if (count == 0) throw Error(ErrorCode::unavailable, "the host closed");
            decoder_.commit(count);
        }
    }
    io::Task<Got> expect(FrameType type) {
        Got got = co_await next();
        REQUIRE(got.type == type);
        co_return std::move(got);
    }
    io::Task<void> send(FrameType type, std::uint32_t id, std::uint64_t offset, std::string payload) {
        std::string bytes;
        wire::append_frame(bytes, decoder_.connection(), type, id, offset, payload);
        co_await stream_.write_all(std::move(bytes), stop_);
    }
    io::Task<void> raw(std::string bytes) { co_await stream_.write_all(std::move(bytes), stop_); }
    io::Task<void> greet() {
        Got got = co_await expect(FrameType::attach);
        wire::Hello hello;
        hello.generation = wire::generation;
        std::string payload = wire::encode(hello);
        co_await send(FrameType::hello, 0, 0, std::move(payload));
    }
    void close() { stream_.close(); }
    std::uint64_t connection() const { return decoder_.connection(); }

private:
    io::Stream stream_;
    wire::FrameDecoder decoder_{0, true};
    std::stop_token stop_;
};

using Body = std::function<io::Task<void>(Channel&, FakeGuest&)>;

void with_fake(Body body) {
    test::run_coro([&]() -> io::Task<void> {
        io::Executor executor = co_await io::this_executor();
        int fds[2];
        REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
        FakeGuest guest(io::Stream(executor, UniqueFd(fds[1])));
        Channel channel(executor, io::Stream(executor, UniqueFd(fds[0])));
        std::exception_ptr failure;
        try {
            co_await body(channel, guest);
        } catch (...) {
            failure = std::current_exception();
        }
        co_await channel.close();
        if (failure) std::rethrow_exception(failure);
    });
}

agent::ExecSpec some_command() {
    agent::ExecSpec spec;
    spec.argv = {"run", "this"};
    return spec;
}

std::string tagged(Output which, std::string bytes) { return static_cast<char>(which) + bytes; }
std::string tag(Output which) { return tagged(which, ""); }

const std::stop_token never;

}  // namespace

TEST_CASE("identity and first command are on the wire before the guest says a word, and its answers find their way") {
    with_fake([](Channel& channel, FakeGuest& guest) -> io::Task<void> {
        agent::Identity identity;
        identity.hostname = "h";
        channel.start(identity);
        std::shared_ptr<ExecSession> session = channel.exec(some_command());
        co_await guest.greet();
        FakeGuest::Got got = co_await guest.expect(FrameType::start);
        got = co_await guest.expect(FrameType::exec);
        wire::ExecSpec spec;
        REQUIRE(wire::decode(got.payload, spec));
        REQUIRE(spec.argv == some_command().argv);
        REQUIRE(got.stream == session->id());
        const std::uint64_t before = channel.progress();
        co_await guest.send(FrameType::ready, 0, 1, wire::encode(wire::Failure()));
        co_await channel.ready(never);
        REQUIRE(channel.progress() > before);
        co_await guest.send(FrameType::started, got.stream, 0, wire::encode(wire::Started()));
        co_await session->started(never);
        co_await guest.send(FrameType::output, got.stream, 0, tagged(Output::out, "abc"));
        co_await guest.send(FrameType::output, got.stream, 0, tagged(Output::err, "E"));
        co_await guest.send(FrameType::output, got.stream, 3, tagged(Output::out, "def"));
        co_await guest.send(FrameType::output_end, got.stream, 6, tag(Output::out));
        co_await guest.send(FrameType::output_end, got.stream, 1, tag(Output::err));
        wire::ExitStatus status;
        status.exit_code = 3;
        co_await guest.send(FrameType::exited, got.stream, 0, wire::encode(status));
        std::string out, err;
        while (std::optional<agent::Chunk> chunk = co_await session->read(never)) {
            std::string& to = chunk->stream == Output::out ? out : err;
            to += chunk->bytes;
        }
        REQUIRE(out == "abcdef");
        REQUIRE(err == "E");
        wire::ExitStatus ended = co_await session->exited(never);
        REQUIRE(ended.exit_code == 3);
        session.reset();
        got = co_await guest.expect(FrameType::release);
    });
}

TEST_CASE("a guest that breaks the protocol fails the channel, whatever way it does") {
    struct Case {
        const char* name;
        std::function<io::Task<void>(FakeGuest&, std::uint32_t)> act;
    };
    wire::Hello other;
    other.generation = wire::generation + 1;
    const std::string later = wire::encode(other);
    const std::vector<Case> cases{
        {"a second hello", [&](FakeGuest& g, std::uint32_t) { return g.send(FrameType::hello, 0, 0, later); }},
        {"garbage", [](FakeGuest& g, std::uint32_t) { return g.raw("some bytes"); }},
        {"a gap", [](FakeGuest& g, std::uint32_t id) { return g.send(FrameType::output, id, 1, tagged(Output::out, "x")); }},
        {"no stream", [](FakeGuest& g, std::uint32_t id) { return g.send(FrameType::output, id, 0, ""); }},
        {"a wrong stream", [](FakeGuest& g, std::uint32_t id) { return g.send(FrameType::output, id, 0, "\3x"); }},
        {"an end elsewhere", [](FakeGuest& g, std::uint32_t id) { return g.send(FrameType::output_end, id, 5, tag(Output::out)); }},
        {"an acknowledgement too far", [](FakeGuest& g, std::uint32_t id) { return g.send(FrameType::input_ack, id, 1, std::string(1, '\0')); }},
        {"a malformed acknowledgement", [](FakeGuest& g, std::uint32_t id) { return g.send(FrameType::input_ack, id, 0, ""); }},
        {"a malformed status", [](FakeGuest& g, std::uint32_t id) { return g.send(FrameType::exited, id, 0, "x"); }},
        {"a malformed start", [](FakeGuest& g, std::uint32_t id) { return g.send(FrameType::started, id, 0, ""); }},
        {"a malformed answer", [](FakeGuest& g, std::uint32_t) { return g.send(FrameType::ready, 0, 0, ""); }},
        {"a freeze nobody asked for", [](FakeGuest& g, std::uint32_t) { return g.send(FrameType::frozen, 0, 1, wire::encode(wire::Failure{})); }},
        {"a host's frame", [](FakeGuest& g, std::uint32_t id) { return g.send(FrameType::kill, id, 0, ""); }},
        {"an unknown type", [](FakeGuest& g, std::uint32_t id) { return g.send(static_cast<FrameType>(200), id, 0, ""); }},
    };
    for (const Case& c : cases) {
        INFO(c.name);
        with_fake([&](Channel& channel, FakeGuest& guest) -> io::Task<void> {
            std::shared_ptr<ExecSession> session = channel.exec(some_command());
            co_await guest.greet();
            co_await channel.hello(never);
            co_await c.act(guest, session->id());
            co_await channel.gone(never);
            REQUIRE(channel.failure());
            REQUIRE(channel.failure()->code() == ErrorCode::guest_failed);
            bool thrown = false;
            try {
                co_await session->exited(never);
            } catch (const Error& e) {
                thrown = e.code() == ErrorCode::guest_failed;
            }
            REQUIRE(thrown);
        });
    }
}

TEST_CASE("a frozen disk is told of, and one that cannot be frozen is an error") {
    for (const bool works : {true, false}) {
        INFO(works);
        with_fake([&](Channel& channel, FakeGuest& guest) -> io::Task<void> {
            co_await guest.greet();
            co_await channel.hello(never);
            const std::string answer = wire::encode(wire::Failure{works ? "" : "it is a tape"});
            const io::Executor executor = co_await io::this_executor();
            io::TaskGroup group(executor);
            const std::function<io::Task<void>()> reply = [&]() -> io::Task<void> { co_await guest.send(FrameType::frozen, 0, 1, answer); };
            group.spawn(reply);
            std::string said;
            try {
                co_await channel.freeze(std::chrono::seconds(60), never);
            } catch (const Error& e) {
                said = e.message();
            }
            co_await group.join();
            CHECK(said.empty() == works);
            CHECK((works || said.find("it is a tape") != std::string::npos));
            CHECK_FALSE(channel.failure());
        });
    }
}

TEST_CASE("nothing comes before a hello, and a hello is of a generation that is understood") {
    for (const int kind : {0, 1, 2, 3}) {
        with_fake([&](Channel& channel, FakeGuest& guest) -> io::Task<void> {
            FakeGuest::Got got = co_await guest.expect(FrameType::attach);
            wire::Hello hello;
            hello.generation = static_cast<std::uint8_t>(wire::generation + (kind == 1 ? 1 : 0));
            if (kind == 2) hello.generation = 0;
            std::string payload = wire::encode(hello);
            if (kind == 3) payload.pop_back();
            if (kind == 0) co_await guest.send(FrameType::ready, 0, 0, wire::encode(wire::Failure()));
            else co_await guest.send(FrameType::hello, 0, 0, payload);
            co_await channel.gone(never);
            REQUIRE(channel.failure()->code() == ErrorCode::guest_failed);
        });
    }
}

TEST_CASE("what the host has not taken is not acknowledged, and more than the window is not accepted") {
    with_fake([](Channel& channel, FakeGuest& guest) -> io::Task<void> {
        std::shared_ptr<ExecSession> session = channel.exec(some_command());
        co_await guest.greet();
        FakeGuest::Got got = co_await guest.expect(FrameType::exec);
        const std::string block(32768, 'b');
        std::uint64_t sent = 0;
        while (sent < wire::output_window) {
            co_await guest.send(FrameType::output, got.stream, sent, tagged(Output::out, block));
            sent += block.size();
        }
        // Taking the first chunks acknowledges them, with the read that follows.
        std::uint64_t taken = 0;
        while (taken < wire::output_window / 2) {
            std::optional<agent::Chunk> chunk = co_await session->read(never);
            REQUIRE(chunk->offset == taken);
            taken += chunk->bytes.size();
        }
        got = co_await guest.expect(FrameType::ack);
        REQUIRE(got.payload == tag(Output::out));
        REQUIRE(got.offset < taken);
        REQUIRE(got.offset >= wire::output_window / 4);
        std::uint64_t room = got.offset;
        while (room >= block.size()) {
            co_await guest.send(FrameType::output, session->id(), sent, tagged(Output::out, block));
            sent += block.size(), room -= block.size();
        }
        REQUIRE_FALSE(channel.failure());
        co_await guest.send(FrameType::output, session->id(), sent, tagged(Output::out, block));  // more than any acknowledgement allowed
        co_await channel.gone(never);
        REQUIRE(channel.failure()->message().find("more output") != std::string::npos);
    });
}

TEST_CASE("stdin waits for the window, goes on with acknowledgements, and ends") {
    with_fake([](Channel& channel, FakeGuest& guest) -> io::Task<void> {
        std::shared_ptr<ExecSession> session = channel.exec(some_command());
        co_await guest.greet();
        FakeGuest::Got got = co_await guest.expect(FrameType::exec);
        std::string data(wire::input_window + 100'000, '\0');
        for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i / 3);
        io::Executor executor = co_await io::this_executor();
        io::TaskGroup group(executor);
        bool written = false;
        std::function<io::Task<void>()> feed = [&]() -> io::Task<void> {
            co_await session->write_stdin(data, never);
            written = true;
            session->close_stdin();
        };
        group.spawn(feed);
        std::string received;
        while (received.size() < wire::input_window) {
            got = co_await guest.expect(FrameType::input);
            REQUIRE(got.offset == received.size());
            received += got.payload;
        }
        REQUIRE(received.size() == wire::input_window);
        REQUIRE_FALSE(written);
        co_await guest.send(FrameType::input_ack, session->id(), 200'000, std::string(1, '\0'));
        while (received.size() < data.size()) {
            got = co_await guest.expect(FrameType::input);
            REQUIRE(got.offset == received.size());
            received += got.payload;
        }
        got = co_await guest.expect(FrameType::input_end);
        REQUIRE(got.offset == data.size());
        co_await group.join();
        REQUIRE((received == data));
    });
}

TEST_CASE("a command whose owner went is killed, and forgotten once it ended") {
    with_fake([](Channel& channel, FakeGuest& guest) -> io::Task<void> {
        std::shared_ptr<ExecSession> session = channel.exec(some_command());
        co_await guest.greet();
        FakeGuest::Got got = co_await guest.expect(FrameType::exec);
        session.reset();
        got = co_await guest.expect(FrameType::kill);
        // Meanwhile it may write as much as it likes: nobody keeps it.
        const std::string block(32768, 'b');
        for (std::uint64_t sent = 0; sent < wire::output_window; sent += block.size()) co_await guest.send(FrameType::output, got.stream, sent, tagged(Output::out, block));
        co_await guest.send(FrameType::exited, got.stream, 0, wire::encode(wire::ExitStatus()));
        do {
            got = co_await guest.next();
        } while (got.type == FrameType::ack);
        REQUIRE(got.type == FrameType::release);
        co_await guest.send(FrameType::output_end, got.stream, 0, tag(Output::out));  // crossed with the release: harmless
        std::shared_ptr<ExecSession> next = channel.exec(some_command());
        FakeGuest::Got again = co_await guest.expect(FrameType::exec);
        REQUIRE(again.stream != got.stream);
        REQUIRE_FALSE(channel.failure());
    });
}

TEST_CASE("a guest that goes away fails everybody who waits; a closed channel too") {
    for (const bool by_guest : {true, false}) {
        with_fake([&](Channel& channel, FakeGuest& guest) -> io::Task<void> {
            std::shared_ptr<ExecSession> session = channel.exec(some_command());
            co_await guest.greet();
            co_await channel.hello(never);
            io::Executor executor = co_await io::this_executor();
            io::TaskGroup group(executor);
            std::vector<ErrorCode> codes;
            const auto waiting = [&](int what) -> io::Task<void> {
                try {
                    if (what == 0) co_await session->exited(never);
                    if (what == 1) co_await session->started(never);
                    if (what == 2) co_await session->read(never);
                    if (what == 3) co_await channel.ready(never);
                    if (what == 4) {
                        std::string much(wire::input_window + 1, 'x');
                        co_await session->write_stdin(std::move(much), never);
                    }
                } catch (const Error& e) {
                    codes.push_back(e.code());
                }
            };
            for (int what = 0; what < 5; ++what) group.spawn(waiting(what));
            FakeGuest::Got got = co_await guest.expect(FrameType::exec);
            got = co_await guest.expect(FrameType::input);
            if (by_guest) guest.close();
            else co_await channel.close();
            co_await group.join();
            const ErrorCode wanted = by_guest ? ErrorCode::guest_failed : ErrorCode::unavailable;
            REQUIRE(codes == std::vector<ErrorCode>(5, wanted));
        });
    }
}

TEST_CASE("a stop cancels the wait and nothing else") {
    with_fake([](Channel& channel, FakeGuest& guest) -> io::Task<void> {
        std::shared_ptr<ExecSession> session = channel.exec(some_command());
        std::stop_source stop;
        stop.request_stop();
        bool cancelled = false;
        try {
            co_await session->read(stop.get_token());
        } catch (const Cancelled&) {
            cancelled = true;
        }
        REQUIRE(cancelled);
        co_await guest.greet();
        FakeGuest::Got got = co_await guest.expect(FrameType::exec);
        co_await guest.send(FrameType::output, got.stream, 0, tagged(Output::out, "still"));
        std::optional<agent::Chunk> chunk = co_await session->read(never);
        REQUIRE(chunk->bytes == "still");
    });
}

TEST_CASE("a command too large for the wire is refused, a large one is cut into frames") {
    with_fake([](Channel& channel, FakeGuest& guest) -> io::Task<void> {
        agent::ExecSpec spec = some_command();
        spec.argv.push_back(std::string(wire::max_spec, 'x'));
        REQUIRE_THROWS_AS(channel.exec(spec), Error);
        spec.argv.back().resize(200'000);
        std::shared_ptr<ExecSession> session = channel.exec(spec);
        co_await guest.greet();
        std::string whole;
        FakeGuest::Got got;
        do {
            got = co_await guest.next();
            REQUIRE(got.offset == whole.size());
            whole += got.payload;
        } while (got.type == FrameType::exec_part);
        REQUIRE(got.type == FrameType::exec);
        wire::ExecSpec back;
        REQUIRE(wire::decode(whole, back));
        REQUIRE(back.argv == spec.argv);
    });
}

TEST_CASE("output in tiny pieces of both streams costs a bounded number of chunks and keeps its order in each") {
    with_fake([](Channel& channel, FakeGuest& guest) -> io::Task<void> {
        std::shared_ptr<ExecSession> session = channel.exec(some_command());
        co_await guest.greet();
        FakeGuest::Got got = co_await guest.expect(FrameType::exec);
        constexpr std::uint64_t pieces = 20000;
        std::string frames;
        for (std::uint64_t i = 0; i < pieces; ++i)
            for (const Output which : {Output::out, Output::err})
                wire::append_frame(frames, guest.connection(), FrameType::output, got.stream, i, tagged(which, std::string(1, static_cast<char>('a' + i % 26))));
        for (const Output which : {Output::out, Output::err})
            wire::append_frame(frames, guest.connection(), FrameType::output_end, got.stream, pieces, tag(which));
        const std::uint64_t seen = channel.progress() + 2 * pieces + 2;
        co_await guest.raw(std::move(frames));
        while (channel.progress() < seen) co_await io::sleep_for(1ms);  // all of it is with the host, and nobody has read
        std::array<std::string, 2> streams;
        std::size_t chunks = 0;
        while (true) {
            std::optional<agent::Chunk> chunk = co_await session->read(never);
            if (!chunk) break;
            ++chunks;
            std::string& stream = streams[chunk->stream == Output::out ? 0 : 1];
            REQUIRE(chunk->offset == stream.size());
            stream += chunk->bytes;
        }
        CHECK(chunks <= 4096 + 2);
        CHECK(streams[0] == streams[1]);
        REQUIRE(streams[0].size() == pieces);
        for (std::uint64_t i = 0; i < pieces; ++i) REQUIRE(streams[0][i] == static_cast<char>('a' + i % 26));
    });
}
