#include "client/cli/render.hpp"
#include "client/lib/capture.hpp"
#include "proto/api.hpp"
#include "tests/support/catch.hpp"

using namespace pyro;
using namespace pyro::client;
using nlohmann::json;

TEST_CASE("a capture keeps head and tail, whole characters, and no more") {
    Capture capture(10);
    capture.add("0123456789");
    CHECK_FALSE(capture.truncated());
    CHECK(capture.text() == "0123456789");
    capture.add("ab");
    CHECK(capture.text() == "01234\n[2 bytes left out]\n789ab");

    Capture pieces(10), whole(10);
    const std::string text = std::string(1000, 'x') + "tail!";
    for (const char c : text) pieces.add(std::string_view(&c, 1));
    whole.add(text);
    CHECK(pieces.text() == "xxxxx\n[995 bytes left out]\ntail!");
    CHECK(whole.text() == pieces.text());

    Capture characters(8);
    characters.add("abc\xc3\xa9""defgh\xc3\xa9\xc3\xa9");  // the cut goes through the first and the second last é
    CHECK(characters.text() == "abc\n[7 bytes left out]\n\xc3\xa9\xc3\xa9");
    Capture split(8);
    split.add("0123----x\xc3\xa9z");
    CHECK(split.text() == "0123\n[4 bytes left out]\nx\xc3\xa9z");
    Capture middle(6);
    middle.add("abcdefgh\xe2\x82\xac" "12");
    CHECK(middle.text() == "abc\n[8 bytes left out]\n12");
}

TEST_CASE("invalid UTF-8 is replaced, valid is not") {
    CHECK(valid_utf8("a\xffz") == "a\xef\xbf\xbdz");
    CHECK(valid_utf8("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80") == "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
    for (const char* bad : {"\xc0\xaf", "\xe0\x80\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf5", "\x80", "\xe2\x82"}) CHECK_FALSE(is_valid_utf8(bad));
    CHECK(is_valid_utf8(""));
}

TEST_CASE("nobody else's control characters reach the terminal") {
    CHECK(printable("a\x1b[31mb\x7f\tc\r\n") == "a\\x1b[31mb\\x7f\tc\\x0d\\x0a");
    CHECK(printable("\xc2\x9b" "31m \xc3\xa9 \xc2\xa9") == "\\x9b31m \xc3\xa9 \xc2\xa9");
    CHECK(printable("\x9b") == "\xef\xbf\xbd");
}

TEST_CASE("sizes are for people") {
    CHECK(byte_size(0) == "0 B");
    CHECK(byte_size(1023) == "1023 B");
    CHECK(byte_size(1536) == "1.5 KiB");
    CHECK(byte_size(std::int64_t{5} << 30) == "5.0 GiB");
}

TEST_CASE("a list of records is a table, even when it is empty or strange") {
    const auto& type = proto::type_of<proto::VmListResult>();
    CHECK(render(type, {{"vms", json::array()}}, {}) == "VM ID  STATE  ENVIRONMENT  VCPU COUNT  MEM MIB  DISK GIB  NETWORK  CREATED  EXPIRES\n");
    const json vm{{"vm_id", "\xc3\xa9"}, {"state", "running"}, {"network", true}};
    const std::string plain = render(type, {{"vms", {vm}}}, {}), coloured = render(type, {{"vms", {vm}}}, {true});
    CHECK(plain.find("\xc3\xa9      running  -") != std::string::npos);
    CHECK(coloured.find("\xc3\xa9      \x1b[32mrunning\x1b[0m  -") != std::string::npos);
    for (const json& strange : {json(), json(7), json::array(), json{{"vms", 7}}, json{{"vms", {1, nullptr, "x", json::array()}}}, json{{"vms", {{{"vm_id", {1, 2}}, {"state", 3}}}}}})
        CHECK_FALSE(render(type, strange, {true}).empty());
}

TEST_CASE("a record is one field per line") {
    CHECK(render(proto::type_of<proto::EnvPruneResult>(), {{"removed", {"a b", "c"}}, {"freed_bytes", 2048}}, {}) == "removed:     'a b' c\nfreed_bytes: 2.0 KiB\n");
    CHECK(render(proto::type_of<proto::VmDeleteResult>(), {{"vm_id", "x\ny"}}, {}) == "vm_id: x\\x0ay\n");
    for (const json& strange : {json(), json(7), json{{"environment", 7}, {"env", 3}, {"layers", 5}, {"command", 1}}}) render(proto::type_of<proto::EnvInspectResult>(), strange, {});
}

TEST_CASE("documents keep the order of the table and what the table does not know") {
    const json value{{"zz", 1}, {"network", false}, {"vm_id", "a\xff"}};
    CHECK(in_table_order(proto::type_of<proto::VmNetworkInfoResult>(), value).dump(-1, ' ', false, json::error_handler_t::replace) == "{\"vm_id\":\"a\xef\xbf\xbd\",\"network\":false,\"zz\":1}");
}

TEST_CASE("errors are two lines for people and one shape for programs") {
    const Error error = Error(ErrorCode::not_found, "no such VM", "list them").with_detail("vm_id", "x");
    CHECK(render(error) == "pyro: no such VM\npyro: list them\n");
    CHECK(render(Error(ErrorCode::internal, "odd")) == "pyro: odd\n");
    CHECK(json::parse(error_document(error)) == json{{"error", {{"code", "not_found"}, {"message", "no such VM"}, {"hint", "list them"}, {"retryable", false}, {"details", {{"vm_id", "x"}}}}}});
}
