// The daemon's RPC with methods made for its tests: rpc_test_server SOCKET [LIMIT=VALUE]...
#include "daemon/io/loop.hpp"
#include "daemon/rpc/attach_stream.hpp"
#include "daemon/rpc/server.hpp"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

using namespace pyro;

namespace {

struct Nothing {
    static constexpr std::string_view doc = "Nothing.";
    static constexpr auto fields() { return std::array<proto::FieldInfo, 0>{}; }
};
struct Text {
    static constexpr std::string_view doc = "A text.";
    std::string text;
    std::int64_t count = 1;
    static constexpr auto fields() {
        return std::array{proto::field<&Text::text>("text", "The text"),
                          proto::field<&Text::count>("count", "How often", {.min = 0, .max = 1 << 30, .defaulted = true})};
    }
};
struct Count {
    static constexpr std::string_view doc = "A number.";
    std::int64_t count = 0;
    static constexpr auto fields() { return std::array{proto::field<&Count::count>("count", "The number")}; }
};
struct Identity {
    static constexpr std::string_view doc = "Who called.";
    std::int64_t uid = 0;
    std::int64_t gid = 0;
    std::int64_t pid = 0;
    std::string groups;
    bool admin = false;
    static constexpr auto fields() {
        return std::array{proto::field<&Identity::uid>("uid", "uid"), proto::field<&Identity::gid>("gid", "gid"),
                          proto::field<&Identity::pid>("pid", "pid"), proto::field<&Identity::groups>("groups", "sorted"),
                          proto::field<&Identity::admin>("admin", "trust")};
    }
};

template <class P, class R>
struct Method {
    using Params = P;
    using Result = R;
    static constexpr proto::Traits traits{};
};
struct Echo : Method<Text, Text> { static constexpr std::string_view name = "test.echo"; };
struct Wait : Method<Text, Nothing> { static constexpr std::string_view name = "test.wait"; };          // until stopped
struct Stopped : Method<Text, Nothing> { static constexpr std::string_view name = "test.stopped"; };    // until that one was
struct Release : Method<Text, Nothing> { static constexpr std::string_view name = "test.release"; };    // lets a gate go
struct Gate : Method<Text, Text> { static constexpr std::string_view name = "test.gate"; };             // waits for that, stop or not
struct Report : Method<Text, Nothing> { static constexpr std::string_view name = "test.report"; };      // progress, `count` times
struct Fail : Method<Text, Nothing> { static constexpr std::string_view name = "test.fail"; };
struct WhoAmI : Method<Nothing, Identity> { static constexpr std::string_view name = "test.whoami"; };
struct Echoing : Method<Text, Count> { static constexpr std::string_view name = "test.attach_echo"; };
struct Flooding : Method<Text, Count> { static constexpr std::string_view name = "test.attach_flood"; };
struct OneWay : Method<Text, Count> { static constexpr std::string_view name = "test.attach_one_way"; };  // what did the client send
struct Unused : Method<Text, Nothing> { static constexpr std::string_view name = "test.attach_unused"; };  // ends without waiting
struct Flooded : Method<Nothing, Count> { static constexpr std::string_view name = "test.flooded"; };
struct Status : Method<Nothing, Text> { static constexpr std::string_view name = "test.status"; };
struct Admin : Method<Text, Nothing> {
    static constexpr std::string_view name = "test.admin";
    static constexpr proto::Traits traits{.who = proto::Trust::admin};
};

using TestApi = proto::Methods<Echo, Wait, Stopped, Release, Gate, Report, Fail, WhoAmI, Echoing, Flooding, OneWay, Unused, Flooded, Status, Admin>;

template <class T>
using Task = io::Task<T>;

class Service {
public:
    explicit Service(io::Executor executor) : executor_(std::move(executor)) {}
    rpc::Server* server = nullptr;

    Task<Text> serve(Echo, Text params, rpc::Call&) {
        std::string all;
        for (std::int64_t i = 0; i < params.count; ++i) all += params.text;
        Text result;
        result.text = std::move(all);
        co_return result;
    }
    Task<Nothing> serve(Wait, Text params, rpc::Call& call) {
        io::Event never(executor_);
        try {
            co_await never.wait(call.stop());
        } catch (const Cancelled&) {
            stopped(params.text).set();
            throw;
        }
        co_return Nothing();
    }
    Task<Nothing> serve(Stopped, Text params, rpc::Call& call) {
        co_await stopped(params.text).wait(call.stop());
        co_return Nothing();
    }
    Task<Nothing> serve(Release, Text params, rpc::Call&) {
        gate(params.text).set();
        co_return Nothing();
    }
    Task<Text> serve(Gate, Text params, rpc::Call&) {
        std::stop_token never;
        co_await gate(params.text).wait(never);
        co_return params;
    }
    Task<Nothing> serve(Report, Text params, rpc::Call& call) {
        for (std::int64_t i = 0; i < params.count; ++i) {
            proto::Progress progress;
            progress.phase = params.text;
            progress.done = i + 1;
            call.progress(progress);
        }
        co_return Nothing();
    }
    Task<Nothing> serve(Fail, Text params, rpc::Call&) {
        if (params.text == "exception") throw std::runtime_error("the secret is 42\n\x1b]0;owned\a\xc2\x9b");
        if (params.text == "typed")
            throw Error(ErrorCode::guest_failed, "it \xff broke", "mend it").with_detail("noun", "guest").with_retryable(true);
        throw Error(error_code_from(params.text), "as asked");
        co_return Nothing();
    }
    Task<Identity> serve(WhoAmI, Nothing, rpc::Call& call) {
        const rpc::Peer& peer = call.peer();
        Identity result;
        result.uid = peer.uid;
        result.gid = peer.gid;
        result.pid = peer.pid;
        auto groups = peer.groups;
        std::sort(groups.begin(), groups.end());
        for (const gid_t group : groups) result.groups += (result.groups.empty() ? "" : ",") + std::to_string(group);
        result.admin = peer.trust == proto::Trust::admin;
        co_return result;
    }
    // What the client sends comes back on out, until its eof; then an eof.
    Task<Count> serve(Echoing, Text, rpc::Call& call) {
        auto attachment = call.attach();
        co_await started(call, *attachment);
        io::Stream connection = co_await attachment->connected(call.stop());
        rpc::AttachStream stream(executor_, std::move(connection));
        Count result;
        for (;;) {
            std::optional<proto::Frame> frame = co_await stream.read_frame(call.stop());
            if (!frame || frame->stream == proto::StreamId::eof) break;
            std::string bytes = std::move(frame->bytes);
            if (frame->stream == proto::StreamId::resize) {
                const proto::TerminalSize size = proto::resize_of(proto::Frame{proto::StreamId::resize, bytes});
                bytes = std::to_string(size.cols) + "x" + std::to_string(size.rows);
            }
            result.count += static_cast<std::int64_t>(bytes.size());
            co_await stream.write_frame(proto::StreamId::out, std::move(bytes), call.stop());
        }
        co_await stream.write_eof(proto::StreamId::out, call.stop());
        co_return result;
    }
    // Two writers at once, `count` pieces of 100,000 bytes each.
    Task<Count> serve(Flooding, Text params, rpc::Call& call) {
        auto attachment = call.attach(rpc::Direction::to_client);
        co_await started(call, *attachment);
        io::Stream connection = co_await attachment->connected(call.stop());
        rpc::AttachStream stream(executor_, std::move(connection));
        flooded_ = 0;
        io::TaskGroup writers(executor_);
        writers.spawn(flood(stream, proto::StreamId::out, params.count, call));
        writers.spawn(flood(stream, proto::StreamId::err, params.count, call));
        co_await writers.join();
        stopped(params.text).set();
        if (call.stop().stop_requested()) throw Cancelled();
        Count result;
        result.count = flooded_;
        co_return result;
    }
    Task<Count> serve(OneWay, Text, rpc::Call& call) {
        auto attachment = call.attach(rpc::Direction::from_client);
        co_await started(call, *attachment);
        io::Stream connection = co_await attachment->connected(call.stop());
        Count result;
        for (;;) {
            std::string chunk(65536, '\0');
            const std::size_t n = co_await connection.read_some(chunk, call.stop());
            if (n == 0) break;
            result.count += static_cast<std::int64_t>(n);
        }
        co_return result;
    }
    Task<Nothing> serve(Unused, Text, rpc::Call& call) {
        auto attachment = call.attach();
        co_await started(call, *attachment);
        co_return Nothing();
    }
    Task<Count> serve(Flooded, Nothing, rpc::Call&) {
        Count result;
        result.count = flooded_;
        co_return result;
    }
    Task<Text> serve(Status, Nothing, rpc::Call&) {
        Text result;
        result.text = std::to_string(server->connections()) + " connections, " + std::to_string(server->tickets()) + " tickets";
        co_return result;
    }
    Task<Nothing> serve(Admin, Text, rpc::Call&) { co_return Nothing(); }

private:
    static Task<void> started(rpc::Call& call, const rpc::Attachment& attachment) {
        proto::ExecStarted event;
        event.ticket = attachment.ticket();
        event.vm_id = "none";
        return call.notify(event);
    }
    Task<void> flood(rpc::AttachStream& stream, proto::StreamId id, std::int64_t pieces, rpc::Call& call) {
        try {
            for (std::int64_t i = 0; i < pieces; ++i) {
                std::string bytes(100'000, id == proto::StreamId::out ? 'o' : 'e');
                co_await stream.write_frame(id, std::move(bytes), call.stop());
                flooded_ += 100'000;
            }
        } catch (const Error&) {
            // The client went away; the other writer finds out for itself.
        }
    }
    io::Event& stopped(const std::string& name) { return stopped_.try_emplace(name, executor_).first->second; }
    io::Event& gate(const std::string& name) { return gates_.try_emplace(name, executor_).first->second; }

    io::Executor executor_;
    std::map<std::string, io::Event> stopped_;
    std::map<std::string, io::Event> gates_;
    std::int64_t flooded_ = 0;
};

rpc::ServerOptions options_from(int argc, char** argv) {
    rpc::ServerOptions options;
    options.discovery = "{\"openrpc\": \"1.3.2\",\n \"methods\": []}";
    for (int i = 2; i < argc; ++i) {
        const char* value = std::strchr(argv[i], '=');
        PYRO_CHECK(value);
        const std::string name(static_cast<const char*>(argv[i]), value);
        const auto number = static_cast<std::size_t>(std::strtoull(value + 1, nullptr, 10));
        const std::chrono::milliseconds time(number);
        if (name == "in_flight") options.limits.in_flight = number;
        else if (name == "in_flight_bytes") options.limits.in_flight_bytes_per_uid = number;
        else if (name == "sessions") options.limits.sessions = number;
        else if (name == "sessions_per_uid") options.limits.sessions_per_uid = number;
        else if (name == "queue_bytes") options.limits.queue_bytes = number;
        else if (name == "write_ms") options.limits.write = time;
        else if (name == "first_line_ms") options.limits.first_line = time;
        else if (name == "ticket_ms") options.limits.ticket = time;
        else PYRO_CHECK(!"no such limit");
    }
    return options;
}

Task<void> serve_until_signal(io::Loop& loop, std::string path, rpc::ServerOptions options) {
    Service service(loop.executor());
    rpc::Router router;
    router.bind(service, TestApi{});
    io::Signals signals(loop.executor(), {SIGTERM});
    UniqueFd listening = io::listen_unix(path, 0666);
    rpc::Server server(loop.executor(), std::move(listening), router, std::move(options));
    service.server = &server;
    server.start();
    std::puts("ready");
    std::fflush(stdout);
    std::stop_token never;
    co_await signals.next(never);
    server.stop();
    co_await server.join();
    std::printf("gone: %zu connections, %zu tickets\n", server.connections(), server.tickets());
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2) return 2;
    const std::string path = argv[1];
    rpc::ServerOptions options = options_from(argc, argv);
    io::Loop loop;
    loop.run([&] { return serve_until_signal(loop, path, options); });
    return 0;
}
