#include "proto/errors.hpp"
#include "proto/jsonrpc.hpp"
#include "tests/support/catch.hpp"

using namespace pyro;
using namespace pyro::proto;

namespace {
int number_of(const std::string& line) {
    try {
        parse_request(line);
    } catch (const MessageError& e) {
        return e.number();
    }
    return 0;
}
}  // namespace

TEST_CASE("requests come back as they were sent") {
    for (const RequestId& id : {RequestId(7), RequestId("7"), RequestId(INT64_MIN), RequestId(INT64_MAX), RequestId("")}) {
        Request sent;
        sent.id = id;
        sent.method = "vm.run";
        sent.params["environment"] = "debian:12";
        const Request got = parse_request(encode_request(sent));
        REQUIRE(got.id == sent.id);
        REQUIRE(got.method == sent.method);
        REQUIRE(got.params == sent.params);
    }
    REQUIRE_FALSE(parse_request(encode_notification("rpc.cancel", {{"id", 1}})).id);
    REQUIRE(parse_request(R"({"jsonrpc":"2.0","id":1,"method":"x"})").params == nlohmann::json::object());
}

TEST_CASE("each kind of malformed message has its number") {
    REQUIRE(number_of("") == parse_error);
    REQUIRE(number_of("{") == parse_error);
    REQUIRE(number_of("{} {}") == parse_error);
    REQUIRE(number_of("{\"a\":\"\xc3\x28\"}") == parse_error);
    REQUIRE(number_of("{\"a\":\"\xed\xa0\x80\"}") == parse_error);
    REQUIRE(number_of(R"({"a":1,"a":2})") == parse_error);
    REQUIRE(number_of(R"({"a":{"b":1,"c":{},"b":2}})") == parse_error);
    REQUIRE(number_of(R"({"a":{"b":1},"c":{"b":2}})") == invalid_request);  // the same key in two objects
    REQUIRE(number_of(R"({"a":1e400})") == parse_error);
    REQUIRE(number_of("[]") == invalid_request);
    REQUIRE(number_of(R"({"jsonrpc":"2.0","method":"x","id":null})") == invalid_request);
    REQUIRE(number_of(R"({"jsonrpc":"2.0","method":"x","id":1.0})") == invalid_request);
    REQUIRE(number_of(R"({"jsonrpc":2.0,"method":"x","id":1})") == invalid_request);
}

TEST_CASE("nesting is bounded while parsing, however deep it goes on") {
    const auto nested = [](std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
    REQUIRE_NOTHROW(parse_json(nested(max_json_depth)));
    REQUIRE_THROWS_AS(parse_json(nested(max_json_depth + 1)), MessageError);
    REQUIRE_THROWS_AS(parse_json(std::string(1 << 20, '[')), MessageError);
    std::string objects;
    for (int i = 0; i < 10'000; ++i) objects += "{\"a\":";
    REQUIRE_THROWS_AS(parse_json(objects), MessageError);
}

TEST_CASE("a request that is wrong after its id names the id") {
    try {
        parse_request(R"({"jsonrpc":"2.0","id":"k","method":5})");
        FAIL("accepted");
    } catch (const MessageError& e) {
        REQUIRE(e.id() == RequestId("k"));
    }
}

TEST_CASE("an error crosses the wire whole, and its shape is exactly the contract's") {
    const Error sent = Error(ErrorCode::environment_invalid, "it \xff is\nbroken", "pull it again").with_detail("environment", "debian:12").with_retryable(true);
    const std::string line = encode_error(RequestId(3), sent);
    REQUIRE(line.find('\n') == std::string::npos);
    const nlohmann::json message = nlohmann::json::parse(line);
    REQUIRE(message["error"]["code"] == 1009);
    REQUIRE(message["error"]["data"].size() == 5);
    const auto reply = parse_reply(line);
    const auto& response = std::get<Response>(reply);
    REQUIRE(response.id == RequestId(3));
    const Error& got = std::get<Error>(response.outcome);
    REQUIRE(got.code() == ErrorCode::environment_invalid);
    REQUIRE(got.message() == "it \xef\xbf\xbd is\nbroken");
    REQUIRE(got.hint() == "pull it again");
    REQUIRE(got.retryable());
    REQUIRE(got.details() == sent.details());
}

TEST_CASE("replies: results, notifications, errors without an id, newer words, garbage") {
    const auto result = parse_reply(encode_result(RequestId("x"), {{"a", 1}}));
    REQUIRE(std::get<nlohmann::json>(std::get<Response>(result).outcome)["a"] == 1);
    const auto notification = parse_reply(encode_notification("progress", {{"id", 1}}));
    REQUIRE(std::get<Notification>(notification).method == "progress");
    const auto lost = parse_reply(encode_error(std::nullopt, Error(ErrorCode::invalid_argument, "what?"), parse_error));
    REQUIRE_FALSE(std::get<Response>(lost).id);
    const auto newer = parse_reply(R"({"jsonrpc":"2.0","id":1,"more":1,"error":{"code":1,"message":"m","data":{"code":"new_word","message":"m"}}})");
    REQUIRE(std::get<Error>(std::get<Response>(newer).outcome).code() == ErrorCode::internal);
    for (const char* garbage : {"", "x", "[]", "{}", R"({"id":1})", R"({"method":1,"params":{}})", R"({"id":1,"error":5})"})
        REQUIRE_THROWS_AS(parse_reply(garbage), Error);
}

TEST_CASE("application errors keep out of JSON-RPC's reserved range") {
    for (const ErrorNumbers& row : error_numbers) {
        const bool standard = row.json_rpc == -32602 || row.json_rpc == -32603;
        const bool reserved = row.json_rpc >= -32768 && row.json_rpc <= -32000;
        REQUIRE(standard == reserved);
        REQUIRE((row.exit_status == 124) == (row.code == ErrorCode::timeout));
    }
}
