// What is changed in a configuration, and that nothing else is.
#include "client/host/json_text.hpp"
#include "client/host/toml_text.hpp"
#include "common/error.hpp"
#include "tests/support/catch.hpp"

#include <random>

using namespace pyro;
using namespace pyro::host;

namespace {

const KeyPath entry{"mcp", "pyro"};
constexpr auto jsonc = Dialect::with_comments;

std::string put(const std::string& text, const Json& value = {{"command", "x"}}) { return with_json(text, jsonc, entry, value); }

std::string complaint_of(const std::function<void()>& act) {
    try {
        act();
    } catch (const Error& e) {
        return e.message();
    }
    return "nothing";
}

}  // namespace

TEST_CASE("a member comes behind the others, indented as they are, and comments stay where they were") {
    CHECK(put("") == "{\n  \"mcp\": {\n    \"pyro\": {\n      \"command\": \"x\"\n    }\n  }\n}\n");
    CHECK(put("{\n\t// mine\n\t\"mcp\": {\n\t\t\"a\": 1 // one\n\t\t/* tail */\n\t},\n\t\"z\": 2,\n}\n") ==
          "{\n\t// mine\n\t\"mcp\": {\n\t\t\"a\": 1, // one\n\t\t/* tail */\n\t\t\"pyro\": {\n\t\t\t\"command\": \"x\"\n\t\t}\n\t},\n\t\"z\": 2,\n}\n");
    CHECK(put("{\"mcp\": {\"a\": 1}}") == "{\"mcp\": {\"a\": 1, \"pyro\": {\"command\":\"x\"}}}");
    CHECK(put("{\n    \"mcp\": {\n        \"a\": 1,\n    },\n}\n") == "{\n    \"mcp\": {\n        \"a\": 1,\n        \"pyro\": {\n            \"command\": \"x\"\n        },\n    },\n}\n");
    CHECK(put("{\r\n  \"a\": 1\r\n}\r\n") == "{\r\n  \"a\": 1,\r\n  \"mcp\": {\r\n    \"pyro\": {\r\n      \"command\": \"x\"\r\n    }\r\n  }\r\n}\r\n");
    CHECK(put("{ // nothing yet\n}") == "{ // nothing yet\n  \"mcp\": {\n    \"pyro\": {\n      \"command\": \"x\"\n    }\n  }\n}");
}

TEST_CASE("a value that is there is replaced in its place") {
    const std::string text = "{\"mcp\": {\n  // ours\n  \"pyro\": { \"command\": \"old\", /* c */ \"x\": [1, 2] }, \"b\": 1e400000 }}";
    CHECK_THROWS(parse_json(text, jsonc));  // a number that is none
    const std::string right = "{\"mcp\": {\n  // ours\n  \"pyro\": { \"command\": \"old\", /* c */ \"x\": [1, 2] }, \"b\": 1e40 }}";
    CHECK(with_json(right, jsonc, {"mcp", "pyro", "command"}, "new") == "{\"mcp\": {\n  // ours\n  \"pyro\": { \"command\": \"new\", /* c */ \"x\": [1, 2] }, \"b\": 1e40 }}");
    CHECK(with_json("{\"a\": 1, \"a\": 2}", Dialect::strict, {"a"}, 3) == "{\"a\": 1, \"a\": 3}");
}

TEST_CASE("a member goes with its comma and its lines") {
    const auto without = [](const std::string& text) { return without_json(text, jsonc, {"pyro"}); };
    CHECK(without("{\n  \"a\": 1,\n  \"pyro\": {\n    \"x\": 1\n  }\n}\n") == "{\n  \"a\": 1\n}\n");
    CHECK(without("{\n  \"pyro\": 1,\n  \"b\": 2\n}\n") == "{\n  \"b\": 2\n}\n");
    CHECK(without("{\"a\": 1, \"pyro\": 2, \"b\": 3}") == "{\"a\": 1, \"b\": 3}");
    CHECK(without("{\"a\": 1, \"pyro\": 2}") == "{\"a\": 1}");
    CHECK(without("{ \"pyro\": 2 }") == "{}");
    CHECK(without("{\n  \"pyro\": 2,\n}") == "{}");
    CHECK(without("{\n  // kept\n  \"pyro\": 2\n}") == "{\n  // kept\n}");
    CHECK(without("{\n  \"a\": 1, // why\n  \"pyro\": 2, \"b\": 3\n}") == "{\n  \"a\": 1, // why\n  \"b\": 3\n}");
    CHECK(without("{\"pyro\": 1, \"a\": 2, \"pyro\": 3}") == "{\"a\": 2}");
    CHECK(without("{\"a\": 1}") == "{\"a\": 1}");
}

TEST_CASE("a broken document is refused with the place") {
    const auto json_complaint = [](const std::string& text, Dialect dialect = jsonc) { return complaint_of([&] { parse_json(text, dialect); }); };
    CHECK(json_complaint("{\n  \"a\": 1\n  \"b\": 2\n}") == "line 3, column 3: a comma is missing before this");
    CHECK(json_complaint("{\"a\": tru}") == "line 1, column 7: this is no JSON value");
    CHECK(json_complaint("{\"a\": 1") == "line 1, column 8: the file ends where a bracket should be");
    CHECK(json_complaint("{\"a\": \"b\n\"}") == "line 1, column 7: this string does not end");
    CHECK(json_complaint("{} x") == "line 1, column 4: there is something behind the end of the document");
    CHECK(json_complaint("[1]") == "line 1, column 1: the document is not an object");
    CHECK(json_complaint("{a: 1}") == "line 1, column 2: a name in quotes should be here");
    CHECK(json_complaint("{} // c", Dialect::strict) == "line 1, column 4: a comment, which this file may not have");
    CHECK(json_complaint("{\"a\": 1,}", Dialect::strict) == "line 1, column 8: a comma before the end, which this file may not have");
    CHECK(json_complaint("{} /* c") == "line 1, column 4: this comment does not end");
    CHECK(json_complaint("{\"a\": \"\xff\"}") == "line 1, column 7: this is no JSON value");
    CHECK(json_complaint("{\"a\": " + std::string(100'000, '[')).ends_with("more than 64 levels"));
    CHECK(complaint_of([] { with_json("{\"mcp\": [1]}", jsonc, entry, 1); }) == "line 1, column 9: \"mcp\" is not an object");
    CHECK(complaint_of([] { parse_toml("a = 1\nb = \n"); }).starts_with("line 2, column "));
    CHECK(complaint_of([] { parse_toml("a = 1\na = 2\n"); }).starts_with("line 2, column "));
}

TEST_CASE("any document keeps all that was not asked to change") {
    std::mt19937 random(5);
    const auto below = [&](unsigned n) { return std::uniform_int_distribution<unsigned>(0, n - 1)(random); };
    const auto space = [&] {
        static constexpr const char* kinds[] = {"", " ", "\n", "\n  ", "\t", " // c, \"}{\n", "/* {\"a\": 1}, */", "\r\n"};
        return std::string(kinds[below(std::size(kinds))]);
    };
    const std::function<std::string(int)> object = [&](int depth) {
        std::string out = "{";
        const unsigned count = below(4);
        for (unsigned i = 0; i < count; ++i) {
            static constexpr const char* names[] = {"\"a\"", "\"mcp\"", "\"pyro\"", "\"q\\\"\\u00e9\""};
            out += space() + names[below(4)] + space() + ":" + space();
            if (depth > 0 && below(2)) out += object(depth - 1);
            else out += below(2) ? "\"x, } // \\\\\"" : "[1, {\"pyro\": []}, -2.5e3]";
            out += space() + (i + 1 < count || below(3) == 0 ? "," : "");
        }
        return out + space() + "}";
    };
    for (int round = 0; round < 3000; ++round) {
        const std::string text = space() + object(3) + space();
        INFO(text);
        Json before = parse_json(text, jsonc);
        if (before.contains("mcp") && !before["mcp"].is_object()) {
            CHECK_THROWS(put(text));
            continue;
        }
        const std::string with = put(text);
        Json expected = before;
        expected["mcp"]["pyro"] = {{"command", "x"}};
        CHECK(same_content(parse_json(with, jsonc), expected));
        CHECK(put(with) == with);
        const std::string without = without_json(with, jsonc, entry);
        expected["mcp"].erase("pyro");
        CHECK(same_content(parse_json(without, jsonc), expected));
    }
}

TEST_CASE("keys of a table of TOML are changed in their place") {
    const KeyPath table{"mcp_servers", "pyro"};
    const Json values{{"command", "/p\"q"}, {"args", {"mcp", "serve"}}};
    const std::string lines = "command = \"/p\\\"q\"\nargs = [\"mcp\", \"serve\"]\n";
    CHECK(with_toml("", table, values) == "[mcp_servers.pyro]\n" + lines);
    CHECK(with_toml("model = \"o\" # m", table, values) == "model = \"o\" # m\n\n[mcp_servers.pyro]\n" + lines);
    const std::string rich = "# top\n[mcp_servers.pyro] # ours\nargs = [ # old\n  \"a]\", 'b#', # c\n] # kept\ntool_timeout_sec = 60\ncommand = '''x'y'''# z\n\n"
                             "[mcp_servers.pyro.env]\nA = \"1\"\n\n[mcp_servers.other]\ncommand = \"\"\"\n[mcp_servers.pyro]\ncommand = 1\"\"\"\n";
    const std::string changed = "# top\n[mcp_servers.pyro] # ours\nargs = [\"mcp\", \"serve\"] # kept\ntool_timeout_sec = 60\ncommand = \"/p\\\"q\"# z\n\n"
                                "[mcp_servers.pyro.env]\nA = \"1\"\n\n[mcp_servers.other]\ncommand = \"\"\"\n[mcp_servers.pyro]\ncommand = 1\"\"\"\n";
    CHECK(with_toml(rich, table, values) == changed);
    CHECK(with_toml(changed, table, values) == changed);
    CHECK(without_toml(changed, table) == "# top\n\n[mcp_servers.other]\ncommand = \"\"\"\n[mcp_servers.pyro]\ncommand = 1\"\"\"\n");
    CHECK(with_toml("[mcp_servers.pyro]\ncommand = \"a\"", table, {{"enabled", true}}) == "[mcp_servers.pyro]\ncommand = \"a\"\nenabled = true\n");
    CHECK(with_toml("[ mcp_servers . \"pyro\" ]\r\ncommand = \"a\"\r\n", table, values) ==
          "[ mcp_servers . \"pyro\" ]\r\ncommand = \"/p\\\"q\"\r\nargs = [\"mcp\", \"serve\"]\r\n");
    CHECK(with_toml("[mcp_servers]\npyro.command = \"a\"\npyro.args = []\n", table, values) == "[mcp_servers]\npyro.command = \"/p\\\"q\"\npyro.args = [\"mcp\", \"serve\"]\n");
    CHECK(without_toml("a = 1979-05-27T07:32:00Z\n\n[mcp_servers.pyro]\ncommand = \"a\"\n", table) == "a = 1979-05-27T07:32:00Z\n");
    CHECK(without_toml("a = 1\n", table) == "a = 1\n");
}

TEST_CASE("what is not written as a table of its own is left alone") {
    const KeyPath table{"mcp_servers", "pyro"};
    for (const char* text : {"mcp_servers = { pyro = { command = \"a\" } }\n", "[mcp_servers]\npyro = { command = \"a\" }\n", "[mcp_servers.pyro.env]\nA = \"1\"\n", "mcp_servers = { other = {} }\n",
                             "mcp_servers = 1\n", "[[mcp_servers]]\n"}) {
        INFO(text);
        CHECK_THROWS_AS(with_toml(text, table, {{"command", "b"}}), Error);
    }
    CHECK_THROWS_AS(without_toml("mcp_servers = { pyro = { command = \"a\" } }\n", table), Error);
    CHECK(without_toml("[mcp_servers]\npyro = { command = \"a\" }\nb = {}\n", table) == "[mcp_servers]\nb = {}\n");
}
