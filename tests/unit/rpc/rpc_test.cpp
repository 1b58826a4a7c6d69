#include "daemon/io/task_group.hpp"
#include "daemon/rpc/attach_stream.hpp"
#include "daemon/rpc/router.hpp"
#include "daemon/rpc/send_queue.hpp"
#include "proto/api.hpp"
#include "proto/errors.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/run_coro.hpp"

#include <sys/socket.h>

using namespace pyro;
using namespace pyro::rpc;
using namespace std::chrono_literals;
using test::run_coro;

namespace {

struct Params {
    static constexpr std::string_view doc = "Parameters.";
    std::string text;
    static constexpr auto fields() { return std::array{proto::field<&Params::text>("text", "The text")}; }
};
struct Open {
    static constexpr std::string_view name = "thing.open";
    using Params = ::Params;
    using Result = ::Params;
    static constexpr proto::Traits traits{};
};
struct Mend : Open {
    static constexpr std::string_view name = "thing.mend";
    static constexpr proto::Traits traits{.who = proto::Trust::admin};
};

struct Service {
    io::Task<Params> serve(Open, Params params, Call&) {
        params.text += "!";
        co_return params;
    }
    io::Task<Params> serve(Mend, Params params, Call&) { co_return params; }
};
struct Half {
    io::Task<Params> serve(Open, Params params, Call&) { co_return params; }
    Params serve(Mend, Params params, Call&) { return params; }  // not a task
};
static_assert(Serves<Open, Service> && Serves<Mend, Service>);
static_assert(Serves<Open, Half> && !Serves<Mend, Half>);
static_assert(!Serves<proto::VmRun, Service>, "a method without a handler must not bind");

struct Recorder final : Outbox {
    std::vector<std::string> lines;
    std::vector<std::shared_ptr<Droppable>> offered;
    bool full = false;
    io::Task<void> deliver(std::string line) override {
        lines.push_back(std::move(line));
        co_return;
    }
    std::shared_ptr<Droppable> offer(std::string line) override {
        if (full) return nullptr;
        offered.push_back(std::make_shared<Droppable>(Droppable{std::move(line), false}));
        return offered.back();
    }
};

std::shared_ptr<const Peer> peer_with(proto::Trust trust) {
    Peer peer;
    peer.uid = 1000;
    peer.trust = trust;
    return std::make_shared<const Peer>(peer);
}

// What dispatching ends in: the result's text, or the error's word and number.
io::Task<std::string> outcome(const Router& router, std::string method, nlohmann::json params, Call& call) {
    std::string said;
    try {
        io::Task<nlohmann::json> dispatched = router.dispatch(method, params, call);
        const nlohmann::json result = co_await std::move(dispatched);
        said = result["text"];
    } catch (const proto::MessageError& e) {
        said = std::to_string(e.number()) + " " + e.hint();
    } catch (const Error& e) {
        said = std::string(to_string(e.code())) + " " + e.message();
    }
    co_return said;
}

}  // namespace

TEST_CASE("the router serves, decodes strictly, and asks who may before it decodes") {
    run_coro([]() -> io::Task<void> {
        io::Executor executor = co_await io::this_executor();
        Service service;
        Router router;
        router.bind(service, proto::Methods<Open, Mend>{});
        Tickets tickets(executor);
        Recorder outbox;
        Call user(peer_with(proto::Trust::user), proto::RequestId(1), outbox, tickets, executor, 1s);
        Call admin(peer_with(proto::Trust::admin), proto::RequestId("one"), outbox, tickets, executor, 1s);
        const nlohmann::json good = {{"text", "hello"}};
        const nlohmann::json bad = {{"colour", "red"}};
        std::string said = co_await outcome(router, "thing.open", good, user);
        REQUIRE(said == "hello!");
        said = co_await outcome(router, "thing.open", bad, user);
        REQUIRE(said == "invalid_argument text: is missing");
        said = co_await outcome(router, "thing.mend", bad, user);
        REQUIRE(said == "failed_precondition thing.mend is for administrators");
        said = co_await outcome(router, "thing.mend", good, admin);
        REQUIRE(said == "hello");
        said = co_await outcome(router, "thing.opne", good, user);
        REQUIRE(said == "-32601 did you mean thing.open, thing.mend");
        said = co_await outcome(router, "zzz", good, user);
        REQUIRE(said == "-32601 rpc.discover lists the methods");
    });
}

TEST_CASE("near names") {
    const std::vector<std::string> names{"vm.run", "vm.create", "env.pull", "env.list"};
    REQUIRE(nearest_names("vm.rum", names) == std::vector<std::string>{"vm.run"});
    REQUIRE(nearest_names("env.lost", names).at(0) == "env.list");
    REQUIRE(nearest_names("", names).empty());
    REQUIRE(nearest_names(std::string(1 << 20, 'x'), names).empty());
}

TEST_CASE("a call's notifications carry its id, and progress of one phase is replaced until it is taken") {
    run_coro([]() -> io::Task<void> {
        io::Executor executor = co_await io::this_executor();
        Tickets tickets(executor);
        Recorder outbox;
        Call call(peer_with(proto::Trust::user), proto::RequestId("a"), outbox, tickets, executor, 1s);
        proto::ExecStarted started;
        started.ticket = "t";
        started.vm_id = "v";
        co_await call.notify(started);
        REQUIRE(outbox.lines.at(0) == R"({"jsonrpc":"2.0","method":"exec.started","params":{"id":"a","ticket":"t","vm_id":"v"}})");
        proto::Progress progress;
        progress.phase = "download";
        for (int i = 1; i <= 3; ++i) {
            progress.done = i;
            call.progress(progress);
        }
        REQUIRE(outbox.offered.size() == 1);
        REQUIRE(outbox.offered[0]->line.find(R"("done":3)") != std::string::npos);
        outbox.offered[0]->taken = true;
        call.progress(progress);
        REQUIRE(outbox.offered.size() == 2);
        progress.phase = "build";
        call.progress(progress);
        REQUIRE(outbox.offered.size() == 3);
        outbox.full = true;
        progress.phase = "boot";
        call.progress(progress);  // dropped
        outbox.full = false;
        call.progress(progress);
        REQUIRE(outbox.offered.size() == 4);
    });
}

TEST_CASE("the send queue makes room in order, drops what may be dropped, and ends cleanly") {
    run_coro([]() -> io::Task<void> {
        io::Executor executor = co_await io::this_executor();
        SendQueue queue(executor, 10);
        io::TaskGroup group(executor);
        const std::string ten(10, 'x');
        std::stop_source stop;
        bool pushed = co_await queue.push(ten, stop.get_token());
        REQUIRE(pushed);
        REQUIRE_FALSE(queue.offer("y"));
        std::vector<std::string> done;
        std::function<io::Task<void>()> waiting = [&]() -> io::Task<void> {
            std::string line = "second";
            co_await queue.push(std::move(line), stop.get_token());
            done.push_back("pushed");
        };
        group.spawn(waiting);
        co_await io::sleep_for(1ms, stop.get_token());
        REQUIRE(done.empty());
        std::optional<std::string> line = co_await queue.pop();
        REQUIRE(*line == ten + "\n");
        co_await group.join();
        REQUIRE(done.size() == 1);
        const auto droppable = queue.offer("old");
        REQUIRE(droppable);
        droppable->line = "new";
        queue.finish();
        line = co_await queue.pop();
        REQUIRE(*line == "second\n");
        REQUIRE_FALSE(droppable->taken);
        line = co_await queue.pop();
        REQUIRE(*line == "new\n");
        REQUIRE(droppable->taken);
        line = co_await queue.pop();
        REQUIRE_FALSE(line);
        REQUIRE(queue.bytes() == 0);
    });
}

TEST_CASE("a closed queue lets everybody go") {
    run_coro([]() -> io::Task<void> {
        io::Executor executor = co_await io::this_executor();
        SendQueue queue(executor, 1);
        io::TaskGroup group(executor);
        std::stop_token never;
        std::string line = "x";
        co_await queue.push(line, never);
        std::vector<bool> results;
        std::function<io::Task<void>()> waiting = [&]() -> io::Task<void> {
            std::string mine = "y";
            const bool ok = co_await queue.push(mine, never);
            results.push_back(ok);
        };
        group.spawn(waiting);
        group.spawn(waiting);
        co_await io::sleep_for(1ms, never);
        REQUIRE(results.empty());
        queue.close();
        co_await group.join();
        REQUIRE(results == std::vector<bool>{false, false});
        std::optional<std::string> nothing = co_await queue.pop();
        REQUIRE_FALSE(nothing);
        REQUIRE_FALSE(queue.offer("z"));
    });
}

TEST_CASE("a frame cancelled in the middle spoils the stream, and later writers are told") {
    run_coro([]() -> io::Task<void> {
        io::Executor executor = co_await io::this_executor();
        int fds[2];
        REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
        const UniqueFd client(fds[1]);
        AttachStream stream(executor, io::Stream(executor, UniqueFd(fds[0])));
        std::stop_source stop;
        io::TaskGroup group(executor);
        bool cancelled = false;
        std::function<io::Task<void>()> writing = [&]() -> io::Task<void> {
            std::string much(64 << 20, 'x');
            auto writes = stream.write_frame(proto::StreamId::out, std::move(much), stop.get_token());
            try {
                co_await std::move(writes);
            } catch (const Cancelled&) {
                cancelled = true;
            }
        };
        group.spawn(writing);
        std::stop_token never;
        co_await io::sleep_for(1ms, never);
        stop.request_stop();
        co_await group.join();
        REQUIRE(cancelled);
        bool told = false;
        auto writes = stream.write_eof(proto::StreamId::out, never);
        try {
            co_await std::move(writes);
        } catch (const Error& e) {
            told = e.code() == ErrorCode::unavailable;
        }
        REQUIRE(told);
    });
}

TEST_CASE("tickets: one use, one owner, gone with their call or time") {
    run_coro([]() -> io::Task<void> {
        io::Executor executor = co_await io::this_executor();
        Tickets tickets(executor);
        std::stop_token never;
        int fds[2];
        REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
        const UniqueFd client(fds[1]);
        io::Stream connection(executor, UniqueFd(fds[0]));

        std::shared_ptr<Attachment> a = tickets.issue(1000, Direction::both, 1h);
        std::shared_ptr<Attachment> b = tickets.issue(1000, Direction::both, 1h);
        REQUIRE(a->ticket().size() == 32);
        REQUIRE(a->ticket() != b->ticket());
        REQUIRE(tickets.size() == 2);

        std::string ticket = a->ticket();
        bool refused = false;
        auto by_other = tickets.redeem(ticket, 1001, connection, never);
        try {
            co_await std::move(by_other);
        } catch (const Error& e) {
            refused = e.code() == ErrorCode::not_found;
            REQUIRE(e.message().find(ticket) == std::string::npos);
        }
        REQUIRE(refused);
        REQUIRE(tickets.size() == 2);

        co_await tickets.redeem(ticket, 1000, connection, never);
        REQUIRE(tickets.size() == 1);
        io::Stream taken = co_await a->connected(never);
        REQUIRE(taken.native_handle() == fds[0]);

        tickets.revoke(*b);
        REQUIRE(tickets.size() == 0);
        bool cancelled = false;
        auto waiting = b->connected(never);
        try {
            co_await std::move(waiting);
        } catch (const Cancelled&) {
            cancelled = true;
        }
        REQUIRE(cancelled);

        std::shared_ptr<Attachment> late = tickets.issue(1000, Direction::both, 1ms);
        bool timed_out = false;
        auto never_comes = late->connected(never);
        try {
            co_await std::move(never_comes);
        } catch (const Error& e) {
            timed_out = e.code() == ErrorCode::timeout;
        }
        REQUIRE(timed_out);
        refused = false;
        ticket = late->ticket();
        auto too_late = tickets.redeem(ticket, 1000, taken, never);
        try {
            co_await std::move(too_late);
        } catch (const Error& e) {
            refused = e.code() == ErrorCode::not_found;
        }
        REQUIRE(refused);
    });
}
