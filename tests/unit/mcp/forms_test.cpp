// The values of the protocol library: content by revision, messages, templates, schemas, sealed state.
#include "client/mcp/protocol/jsonrpc.hpp"
#include "client/mcp/protocol/request_state.hpp"
#include "client/mcp/protocol/schema.hpp"
#include "client/mcp/protocol/uri_template.hpp"
#include "client/mcp/protocol/wire_forms.hpp"
#include "tests/support/catch.hpp"

using namespace pyro::mcp;

TEST_CASE("base64 goes both ways") {
    const std::pair<std::string, std::string> pairs[] = {{"", ""}, {"f", "Zg=="}, {"fo", "Zm8="}, {"foo", "Zm9v"}, {"foob", "Zm9vYg=="}, {std::string("\0\xff\xfe", 3), "AP/+"}};
    for (const auto& [bytes, text] : pairs) {
        CHECK(base64(bytes) == text);
        CHECK(from_base64(text) == bytes);
    }
    for (const char* bad : {"Zg", "Zg=", "Z===", "====", "Zg==Zg==", "Zm9\n", "Zm 9"}) CHECK_FALSE(from_base64(bad));
}

TEST_CASE("a revision is known by its name") {
    for (const std::string_view name : revision_names) CHECK(to_string(*revision_from(name)) == name);
    CHECK_FALSE(revision_from("2025-11-26"));
    CHECK(is_modern(Revision::v2026_07_28));
    CHECK_FALSE(is_modern(newest_legacy));
}

TEST_CASE("structured content is of the form that a revision knows") {
    const ToolResult object = ToolResult::data({{"b", 1}, {"a", 2}});
    CHECK(dump(to_wire(object, Revision::v2025_06_18)) == R"({"content":[{"type":"text","text":"{\"b\":1,\"a\":2}"}],"structuredContent":{"b":1,"a":2}})");
    CHECK_FALSE(to_wire(object, Revision::v2025_03_26).contains("structuredContent"));
    const ToolResult list = ToolResult::data({1, 2});
    CHECK_FALSE(to_wire(list, Revision::v2025_11_25).contains("structuredContent"));
    CHECK(to_wire(list, Revision::v2026_07_28)["structuredContent"] == ordered_json({1, 2}));
    const ToolResult both{.content = {Content::text("as text")}, .structured = ordered_json::object(), .is_error = true};
    CHECK(dump(to_wire(both, newest_legacy)) == R"({"content":[{"type":"text","text":"as text"}],"structuredContent":{},"isError":true})");
}

TEST_CASE("an output schema that is no object is for 2026-07-28 only") {
    Tool tool{.name = "t", .description = "d", .input_schema = {{"type", "object"}}, .output_schema = {{"type", "array"}},
              .annotations = {.read_only = true, .destructive = false, .idempotent = false, .open_world = false}, .run = {}};
    CHECK_FALSE(to_wire(tool, Revision::v2025_11_25).contains("outputSchema"));
    CHECK(to_wire(tool, Revision::v2026_07_28).contains("outputSchema"));
}

TEST_CASE("content that an old client cannot take is said in text") {
    const Content link = Content::link({.uri = "test://a", .name = "A", .annotations = {{"lastModified", "now"}, {"priority", 1}}, .icons = ordered_json::array(), .meta = {{"k", 1}}});
    CHECK(dump(to_wire(link, Revision::v2025_03_26)) == R"({"type":"text","text":"A: test://a"})");
    CHECK(dump(to_wire(link, Revision::v2025_06_18)) == R"({"type":"resource_link","uri":"test://a","name":"A","annotations":{"lastModified":"now","priority":1},"_meta":{"k":1}})");
    CHECK(to_wire(link, Revision::v2025_11_25).contains("icons"));
    CHECK(to_wire(Content::audio("x", "audio/wav"), Revision::v2024_11_05)["type"] == "text");
    CHECK(to_wire(Content::audio("x", "audio/wav"), Revision::v2025_03_26)["type"] == "audio");
}

TEST_CASE("bytes that are no UTF-8 never break a line") {
    CHECK(dump(Content::text("a\xff\n").value) == "{\"type\":\"text\",\"text\":\"a\xef\xbf\xbd\\n\"}");
}

TEST_CASE("messages are bounded and told apart") {
    CHECK_NOTHROW(parse_message(std::string(64, '[') + std::string(64, ']')));
    for (const std::string& bad : {std::string("{"), std::string(65, '[') + std::string(65, ']'), std::string(500'000, '['), std::string("\"\xff\""), std::string("1e999")}) {
        try {
            parse_message(bad);
            FAIL("parsed: " << bad.substr(0, 40));
        } catch (const ProtocolError& e) {
            CHECK(e.code() == rpc_code::parse_error);
        }
    }
    const auto kind = [](const char* text) { return message_from(parse_message(text)).kind; };
    CHECK(kind(R"({"jsonrpc":"2.0","id":1,"method":"m"})") == Message::Kind::request);
    CHECK(kind(R"({"jsonrpc":"2.0","method":"m"})") == Message::Kind::notification);
    CHECK(kind(R"({"jsonrpc":"2.0","id":"a","error":{}})") == Message::Kind::response);
    const auto refusal = [](const char* text) -> std::pair<json, int> {
        try {
            message_from(parse_message(text));
        } catch (const BadMessage& bad) {
            return {bad.id, bad.error.code()};
        }
        return {json(), 0};
    };
    CHECK(refusal(R"({"jsonrpc":"2.0","id":null,"method":"m"})") == std::pair{json(), rpc_code::invalid_request});
    CHECK(refusal(R"({"jsonrpc":"2.0","id":1.0,"method":"m"})") == std::pair{json(), rpc_code::invalid_request});
    CHECK(refusal(R"({"jsonrpc":"2.0","id":"x","method":7})") == std::pair{json("x"), rpc_code::invalid_request});
    CHECK(refusal(R"({"jsonrpc":"2.0","id":3,"method":"m","params":[]})") == std::pair{json(3), rpc_code::invalid_params});
    CHECK(refusal(R"({"jsonrpc":"2.0","id":3,"result":1,"error":2})") == std::pair{json(3), rpc_code::invalid_request});
}

TEST_CASE("a URI template finds its variables") {
    using Values = std::map<std::string, std::string>;
    const UriTemplate one("test://template/{id}/data");
    CHECK(one.match("test://template/12/data") == Values{{"id", "12"}});
    CHECK(one.match("test://template/a%2Fb%20c/data") == Values{{"id", "a/b c"}});
    for (const char* other : {"test://template//data", "test://template/1/2/data", "test://template/1/data/", "test://template/1", "test://template/%zz/data", "test://template/%4/data", "", "x"})
        CHECK_FALSE(one.match(other));
    const UriTemplate rest("pyro://{workspace}/files/{+path}");
    CHECK(rest.match("pyro://w1/files/src/a/b.c") == Values{{"workspace", "w1"}, {"path", "src/a/b.c"}});
    CHECK_FALSE(rest.match("pyro://w1/files/"));
    CHECK(rest.variables() == std::vector<std::string>{"workspace", "path"});
    const UriTemplate middle("a:{+path}/log");
    CHECK(middle.match("a:x/log/y/log") == Values{{"path", "x/log/y"}});
    CHECK(UriTemplate("fixed:uri").match("fixed:uri") == Values{});
    CHECK_FALSE(UriTemplate("fixed:uri").match("fixed:uri2"));
}

TEST_CASE("arguments are checked by their schema") {
    const ordered_json schema = ordered_json::parse(R"({"type":"object","additionalProperties":false,"required":["name"],"properties":{
        "name":{"type":"string","minLength":2,"maxLength":3},"count":{"type":"integer","minimum":1,"maximum":9},"mode":{"enum":["a","b"]},
        "flag":{"type":"boolean"},"tags":{"type":"array","maxItems":2,"items":{"type":"string"}},"fixed":{"const":1},
        "labels":{"type":"object","additionalProperties":{"type":"string"}},"free":{"$ref":"#/$defs/x"}}})");
    const auto wrong = [&](const char* text) { return schema_violation(schema, json::parse(text)).value_or("nothing"); };
    CHECK(wrong(R"({"name":"ab","count":1.0,"mode":"b","flag":false,"tags":["x"],"fixed":1,"labels":{"k":"v"},"free":[1]})") == "nothing");
    CHECK(wrong(R"({"name":"äöü"})") == "nothing");
    CHECK(wrong(R"([])") == "the arguments: must be of type object");
    CHECK(wrong(R"({})") == "the arguments: \"name\" is missing");
    CHECK(wrong(R"({"name":1})") == "name: must be of type string");
    CHECK(wrong(R"({"name":"a"})") == "name: must be at least 2 characters long");
    CHECK(wrong(R"({"name":"abcd"})") == "name: must be at most 3 characters long");
    CHECK(wrong(R"({"name":"ab","count":0})") == "count: must be at least 1");
    CHECK(wrong(R"({"name":"ab","count":10})") == "count: must be at most 9");
    CHECK(wrong(R"({"name":"ab","count":1.5})") == "count: must be of type integer");
    CHECK(wrong(R"({"name":"ab","mode":"c"})") == "mode: must be one of [\"a\",\"b\"]");
    CHECK(wrong(R"({"name":"ab","fixed":2})") == "fixed: must be 1");
    CHECK(wrong(R"({"name":"ab","tags":["x",2]})") == "tags[1]: must be of type string");
    CHECK(wrong(R"({"name":"ab","tags":["x","y","z"]})") == "tags: must be at most 2 items long");
    CHECK(wrong(R"({"name":"ab","labels":{"k":1}})") == "labels.k: must be of type string");
    CHECK(wrong(R"({"name":"ab","other":1})") == "the arguments: there is no \"other\"");
}

TEST_CASE("state comes back only as it was sealed, to its call, in its time") {
    StateSeal seal;
    const json state{{"answers", {{"a", 1}}}};
    const auto now = StateSeal::Clock::now();
    const std::string sealed = seal.seal(state, "call", now);
    CHECK(seal.open(sealed, "call", now) == state);
    CHECK(seal.open(sealed, "call", now + StateSeal::lifetime - std::chrono::seconds(2)) == state);
    CHECK_FALSE(seal.open(sealed, "call", now + StateSeal::lifetime + std::chrono::seconds(2)));
    CHECK_FALSE(seal.open(sealed, "other call", now));
    CHECK_FALSE(StateSeal().open(sealed, "call", now));
    for (std::size_t i = 0; i < sealed.size(); ++i) {
        std::string changed = sealed;
        changed[i] = changed[i] == 'A' ? 'B' : 'A';
        CHECK_FALSE(seal.open(changed, "call", now));
    }
    // What was signed is one text of both: no part of one passes for a part of the other.
    const std::size_t dot = sealed.find('.');
    CHECK_FALSE(seal.open(sealed.substr(0, dot), "call", now));
    CHECK_FALSE(seal.open(sealed.substr(0, dot - 4) + sealed.substr(dot), sealed.substr(dot - 4, 4) + "\ncall", now));
}
