#include "common/error.hpp"
#include "daemon/io/event.hpp"
#include "daemon/io/offload.hpp"
#include "daemon/io/stream.hpp"
#include "daemon/io/task_group.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/run_coro.hpp"

#include <thread>

#include <sys/socket.h>

using namespace pyro;
using namespace std::chrono_literals;
using test::run_coro;

namespace {
std::pair<UniqueFd, UniqueFd> socket_pair() {
    int fds[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}
}  // namespace

TEST_CASE("an event wakes every waiter, and a stop wakes only its own") {
    run_coro([]() -> io::Task<void> {
        io::Executor executor = co_await io::this_executor();
        io::Event event(executor);
        io::TaskGroup group(executor);
        std::stop_source stop;
        std::vector<std::string> seen;
        std::function<io::Task<void>()> stopped = [&]() -> io::Task<void> {
            try {
                co_await event.wait(stop.get_token());
                seen.push_back("woken");
            } catch (const Cancelled&) {
                seen.push_back("stopped");
            }
        };
        std::function<io::Task<void>()> waiting = [&]() -> io::Task<void> {
            std::stop_token never;
            co_await event.wait(never);
            seen.push_back("set");
        };
        group.spawn(stopped);
        group.spawn(waiting);
        group.spawn(waiting);
        co_await io::sleep_for(1ms);
        stop.request_stop();
        co_await io::sleep_for(1ms);
        REQUIRE(seen == std::vector<std::string>{"stopped"});
        event.set();
        co_await group.join();
        REQUIRE(seen == std::vector<std::string>{"stopped", "set", "set"});
    });
}

TEST_CASE("a semaphore serves in order and loses no permit to a cancelled waiter") {
    run_coro([]() -> io::Task<void> {
        io::Executor executor = co_await io::this_executor();
        io::Semaphore semaphore(executor, 1);
        io::TaskGroup group(executor);
        std::vector<int> order;
        std::stop_source stop;
        auto held = co_await semaphore.acquire();
        std::function<io::Task<void>()> cancelled = [&]() -> io::Task<void> {
            auto permit = co_await semaphore.acquire(stop.get_token());
            order.push_back(-1);
        };
        group.spawn(cancelled);
        for (int i = 0; i < 3; ++i) {
            std::function<io::Task<void>()> body = [&, i]() -> io::Task<void> {
                auto permit = co_await semaphore.acquire();
                order.push_back(i);
            };
            group.spawn(body);
        }
        co_await io::sleep_for(1ms);
        stop.request_stop();
        co_await io::sleep_for(1ms);
        held.release();
        co_await group.join();
        REQUIRE(order == std::vector<int>{0, 1, 2});
        auto again = co_await semaphore.acquire();
    });
}

TEST_CASE("a semaphore serves users in turn, and none beyond its share") {
    run_coro([]() -> io::Task<void> {
        io::Executor executor = co_await io::this_executor();
        io::Semaphore semaphore(executor, 2, 1);
        io::TaskGroup group(executor);
        std::vector<std::string> order;
        std::stop_source stop;
        auto first = co_await semaphore.acquire(7);
        const auto queue = [&](std::uint64_t key, std::string name, std::stop_token token) {
            std::function<io::Task<void>()> body = [&, key, name, token]() -> io::Task<void> {
                auto permit = co_await semaphore.acquire(key, token);
                order.push_back(name);
            };
            group.spawn(body);
        };
        queue(7, "seven, cancelled", stop.get_token());
        for (const char* name : {"seven 1", "seven 2", "seven 3"}) queue(7, name, {});
        co_await io::sleep_for(1ms);
        REQUIRE(order.empty());  // a place is free, but this user has his share
        auto other = co_await semaphore.acquire(9);
        queue(9, "nine", {});
        stop.request_stop();
        co_await io::sleep_for(1ms);
        REQUIRE(order.empty());
        first.release();
        other.release();
        co_await group.join();
        REQUIRE(order.size() == 4);
        REQUIRE(std::find(order.begin(), order.end(), "nine") <= order.begin() + 1);
        auto again = co_await semaphore.acquire(7);
    });
}

TEST_CASE("a deadline says whether time or its parent stopped it") {
    run_coro([]() -> io::Task<void> {
        io::Executor executor = co_await io::this_executor();
        std::stop_source parent;
        io::Deadline by_time(executor, 1ms, parent.get_token());
        io::Deadline by_parent(executor, 1h, parent.get_token());
        io::Event never(executor);
        bool cancelled = false;
        try { co_await never.wait(by_time.token()); } catch (const Cancelled&) { cancelled = true; }
        REQUIRE(cancelled);
        REQUIRE(by_time.expired());
        parent.request_stop();
        REQUIRE(by_parent.token().stop_requested());
        REQUIRE_FALSE(by_parent.expired());
    });
}

TEST_CASE("offloaded work runs elsewhere, resumes here, and brings its exception home") {
    io::WorkerPool pool(1);
    run_coro([&]() -> io::Task<void> {
        const auto here = std::this_thread::get_id();
        const auto who = [] { return std::this_thread::get_id(); };
        const auto there = co_await io::offload(pool, who);
        REQUIRE(there != here);
        REQUIRE(std::this_thread::get_id() == here);
        const auto fail = [] { throw Error(ErrorCode::timeout, "x"); };
        bool thrown = false;
        try {
            co_await io::offload(pool, fail);
        } catch (const Error& e) {
            thrown = e.code() == ErrorCode::timeout;
        }
        REQUIRE(thrown);
    });
}

TEST_CASE("lines are bounded, keep what follows, and a connection goes from lines to bytes") {
    run_coro([]() -> io::Task<void> {
        io::Executor executor = co_await io::this_executor();
        auto [left, right] = socket_pair();
        io::Stream a(executor, std::move(left));
        io::Stream b(executor, std::move(right));
        co_await a.write_all("one\ntwo\nrest");
        auto line = co_await b.read_line(10);
        REQUIRE(line == "one");
        line = co_await b.read_line(3);
        REQUIRE(line == "two");
        std::string rest(4, ' ');
        co_await b.read_exactly(rest);
        REQUIRE(rest == "rest");
        co_await a.write_all(std::string(12, 'x'));
        bool refused = false;
        try { co_await b.read_line(10); } catch (const Error& e) { refused = e.code() == ErrorCode::invalid_argument; }
        REQUIRE(refused);
    });
}

TEST_CASE("the end of a stream is an end, and writing to nobody is an error") {
    run_coro([]() -> io::Task<void> {
        io::Executor executor = co_await io::this_executor();
        auto [left, right] = socket_pair();
        io::Stream a(executor, std::move(left));
        co_await a.write_all("half");
        right.reset();
        bool failed = false;
        try { co_await a.write_all(std::string(1 << 20, 'x')); } catch (const Error& e) { failed = e.code() == ErrorCode::unavailable; }
        REQUIRE(failed);
        char byte;
        const std::size_t n = co_await a.read_some(std::span<char>(&byte, 1));
        REQUIRE(n == 0);
    });
}

TEST_CASE("a stopped read loses nothing that came later") {
    run_coro([]() -> io::Task<void> {
        io::Executor executor = co_await io::this_executor();
        auto [left, right] = socket_pair();
        io::Stream a(executor, std::move(left));
        io::Stream b(executor, std::move(right));
        io::Deadline soon(executor, 1ms, {});
        bool cancelled = false;
        try { co_await b.read_line(10, soon.token()); } catch (const Cancelled&) { cancelled = true; }
        REQUIRE(cancelled);
        co_await a.write_all("later\n");
        auto line = co_await b.read_line(10);
        REQUIRE(line == "later");
    });
}
