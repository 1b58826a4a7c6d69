// The smallest server, in the tester's own process; what a server does on the wire is in tests/component/mcp/wire_test.py.
#include "client/mcp/protocol/server.hpp"
#include "client/mcp/protocol/workers.hpp"
#include "common/unique_fd.hpp"
#include "tests/support/catch.hpp"

#include <fcntl.h>
#include <latch>
#include <set>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

namespace mcp = pyro::mcp;
using mcp::json;
using mcp::ordered_json;
using pyro::UniqueFd;

namespace {

// A server on a thread of its own, and a client that talks with it line by line.
class Talk {
public:
    explicit Talk(mcp::Server& server) {
        int ends[2];
        if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) throw pyro::Error::from_errno("make a socket pair");
        ours_ = UniqueFd(ends[0]);
        theirs_ = UniqueFd(ends[1]);
        thread_ = std::thread([this, &server] { server.serve(theirs_.get(), theirs_.get()); });
    }
    ~Talk() {
        ::shutdown(ours_.get(), SHUT_WR);
        thread_.join();
    }
    json ask(const json& message) {
        pyro::write_all(ours_.get(), message.dump() + '\n');
        return next();
    }
    json next() {
        std::string line;
        for (char c = 0; ::read(ours_.get(), &c, 1) == 1 && c != '\n';) line += c;
        return json::parse(line);
    }

private:
    UniqueFd ours_, theirs_;
    std::thread thread_;
};

json modern_call(int id, const char* tool, json arguments) {
    return {{"jsonrpc", "2.0"}, {"id", id}, {"method", "tools/call"},
            {"params", {{"name", tool}, {"arguments", std::move(arguments)},
                        {"_meta", {{"io.modelcontextprotocol/protocolVersion", "2026-07-28"}, {"io.modelcontextprotocol/clientCapabilities", json::object()}}}}}};
}

}  // namespace

TEST_CASE("the example of the header answers") {
    mcp::Server server({.info = {.name = "greeter", .version = "1.0"}});
    server.add(mcp::Tool{
        .name = "greet",
        .description = "Greets somebody by name.",
        .input_schema = ordered_json::parse(R"({"type":"object","properties":{"name":{"type":"string","description":"who"}},"required":["name"]})"),
        .annotations = {.read_only = true, .destructive = false, .idempotent = true, .open_world = false},
        .run = [](mcp::Call&, const json& arguments) { return mcp::ToolResult::text("Hello, " + arguments.at("name").get<std::string>()); },
    });
    Talk talk(server);
    CHECK(talk.ask(modern_call(1, "greet", {{"name", "Ada"}}))["result"]["content"][0]["text"] == "Hello, Ada");
    CHECK(talk.ask(modern_call(2, "greet", json::object()))["result"]["isError"] == true);
}

TEST_CASE("only what is registered is offered, and what is not is empty or unknown") {
    mcp::Server server({.info = {.name = "empty", .version = "1"}});
    Talk talk(server);
    const json initialized = talk.ask({{"jsonrpc", "2.0"}, {"id", 1}, {"method", "initialize"}, {"params", {{"protocolVersion", "2025-06-18"}}}});
    CHECK(initialized["result"]["capabilities"] == json::object());
    CHECK_FALSE(initialized["result"].contains("instructions"));
    const std::pair<const char*, const char*> lists[] = {{"tools/list", "tools"}, {"resources/list", "resources"}, {"resources/templates/list", "resourceTemplates"}, {"prompts/list", "prompts"}};
    for (const auto& [method, member] : lists) CHECK(talk.ask({{"jsonrpc", "2.0"}, {"id", 2}, {"method", method}})["result"] == json{{member, json::array()}});
    for (const char* method : {"logging/setLevel", "resources/subscribe", "resources/unsubscribe", "resources/read", "tools/call", "prompts/get", "completion/complete"})
        CHECK(talk.ask({{"jsonrpc", "2.0"}, {"id", 3}, {"method", method}})["error"]["code"] == -32601);
    json modern = modern_call(4, "any", json::object());
    for (const char* method : {"tools/list", "prompts/list", "resources/list", "resources/templates/list", "tools/call"}) {
        modern["method"] = method;
        CHECK(talk.ask(modern)["error"]["code"] == -32601);
    }
}

TEST_CASE("a server may say how errors of tools look, and hears of those that are none of its own") {
    std::vector<std::string> reported;
    mcp::Server server({.info = {.name = "s", .version = "1"},
                        .render_error = [](const pyro::Error& e) { return mcp::ToolResult::error("rendered: " + e.message()); },
                        .report = [&](const std::string& line) { reported.push_back(line); }});
    const auto add = [&](const char* name, auto run) {
        server.add(mcp::Tool{.name = name, .description = "d", .input_schema = {{"type", "object"}}, .annotations = {.read_only = true, .destructive = false, .idempotent = true, .open_world = false}, .run = run});
    };
    add("fails", [](mcp::Call&, const json&) -> mcp::ToolResult { throw pyro::Error(pyro::ErrorCode::not_found, "no such thing"); });
    add("breaks", [](mcp::Call&, const json& arguments) -> mcp::ToolResult { return mcp::ToolResult::text(arguments.at("missing").get<std::string>()); });
    {
        Talk talk(server);
        CHECK(talk.ask(modern_call(1, "fails", json::object()))["result"]["content"][0]["text"] == "rendered: no such thing");
        CHECK(talk.ask(modern_call(2, "breaks", json::object()))["error"]["code"] == -32603);
    }
    REQUIRE(reported.size() == 1);
    CHECK_THAT(reported[0], Catch::Matchers::ContainsSubstring("tools/call") && Catch::Matchers::ContainsSubstring("missing"));
}

TEST_CASE("progress is told as often as the server's interval allows") {
    mcp::Server server({.info = {.name = "s", .version = "1"}, .progress_interval = std::chrono::hours(1)});
    server.add(mcp::Tool{.name = "busy", .description = "d", .input_schema = {{"type", "object"}}, .annotations = {.read_only = true, .destructive = false, .idempotent = true, .open_world = false},
                         .run = [](mcp::Call& call, const json&) {
                             for (int i = 0; i < 100; ++i) call.progress(i);
                             return mcp::ToolResult::text("done");
                         }});
    Talk talk(server);
    json call = modern_call(1, "busy", json::object());
    call["params"]["_meta"]["progressToken"] = "t";
    const json first = talk.ask(call);
    CHECK(first["method"] == "notifications/progress");
    CHECK(first["params"] == json{{"progressToken", "t"}, {"progress", 0.0}});
    CHECK(talk.next()["result"]["content"][0]["text"] == "done");
}

TEST_CASE("no more workers than allowed, no more waiting than allowed, and those are reused") {
    mcp::Workers workers(2, 3);
    std::latch go(1), done(5);
    std::mutex mutex;
    std::set<std::thread::id> threads;
    const auto job = [&] {
        go.wait();
        {
            const std::lock_guard lock(mutex);
            threads.insert(std::this_thread::get_id());
        }
        done.count_down();
    };
    for (int i = 0; i < 5; ++i) CHECK(workers.start(job));
    CHECK_FALSE(workers.start(job));
    go.count_down();
    done.wait();
    CHECK(threads.size() <= 2);
    CHECK(workers.finish(std::chrono::minutes(1)));
}

TEST_CASE("a worker that does not end is said, and what waits is dropped") {
    std::latch running(1), go(1);
    bool dropped_ran = false;
    {
        mcp::Workers workers(1, 1);
        REQUIRE(workers.start([&] { running.count_down(); go.wait(); }));
        running.wait();
        REQUIRE(workers.start([&] { dropped_ran = true; }));
        CHECK_FALSE(workers.finish(std::chrono::milliseconds(1)));
        go.count_down();
        CHECK(workers.finish(std::chrono::minutes(1)));
    }
    CHECK_FALSE(dropped_ran);
}
