// What a model is shown of a guest's bytes.
#include "client/mcp/shim.hpp"
#include "client/mcp/text.hpp"
#include "tests/support/catch.hpp"

using namespace pyro::shim;

namespace {

std::string stripped(const std::vector<std::string>& pieces) {
    AnsiFilter filter;
    std::string out;
    for (const std::string& piece : pieces) out += filter(piece);
    return out;
}

std::string shown(const std::vector<std::string>& pieces, std::size_t budget, std::vector<std::string>& notes, bool& truncated) {
    Shown stream;
    for (const std::string& piece : pieces) stream.add(piece);
    stream.finish();
    return stream.text(budget, "stdout", "ask again", notes, truncated);
}

}  // namespace

TEST_CASE("escape sequences go, text stays") {
    CHECK(stripped({"\x1b[31mred\x1b[0m"}) == "red");
    CHECK(stripped({"a\x1b", "[1;", "3", "1mb"}) == "ab");
    CHECK(stripped({"\x1b]0;title\abody", "\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\"}) == "bodylink");
    CHECK(stripped({"\x1b(Bx\x1b=y\x1b" "7z"}) == "xyz");
    CHECK(stripped({"\x1b[2K\rdone\n\ttab"}) == "\rdone\n\ttab");
    CHECK(stripped({"\x1b]never ended\nnext line"}) == "\nnext line");
    CHECK(stripped({"\x1b[31\nmtext"}) == "\nmtext");
    CHECK(stripped({"\xc3\xa9\x1b[m\xe2\x82\xac"}) == "\xc3\xa9\xe2\x82\xac");
}

TEST_CASE("all of a short stream, head and tail of a long one") {
    std::vector<std::string> notes;
    bool truncated = false;
    CHECK(shown({"short", " one\n"}, 100, notes, truncated) == "short one\n");
    CHECK_FALSE(truncated);
    std::string all;
    for (int i = 0; i < 100'000; ++i) all += std::to_string(i) + "\n";
    for (const std::size_t piece : {all.size(), std::size_t{1000}}) {
        std::vector<std::string> pieces;
        for (std::size_t at = 0; at < all.size(); at += piece) pieces.push_back(all.substr(at, piece));
        const std::string text = shown(pieces, 10'000, notes, truncated);
        CHECK(truncated);
        CHECK(json_size(text) < 10'500);
        CHECK(text.starts_with("0\n1\n2\n"));
        CHECK(text.ends_with("99998\n99999\n"));
        const std::size_t mark = text.find("\n[");
        const std::size_t end = text.find("]\n", mark);
        REQUIRE(mark != std::string::npos);
        CHECK(text.substr(mark, end - mark).find("; ask again") != std::string::npos);
        CHECK(std::stoull(text.substr(mark + 2)) == all.size() - mark - (text.size() - end - 2));
    }
    CHECK(notes.empty());
    truncated = false;
    // Between what the head holds and what a result may: nothing is dropped before it must be.
    const std::string middle(most_output + 5'000, 'x');
    CHECK(shown({middle}, most_output + 6'000, notes, truncated) == middle);
    CHECK_FALSE(truncated);
    const std::string cut = shown({middle}, most_output, notes, truncated);
    CHECK(truncated);
    CHECK(cut.find("[5000 bytes left out; ask again]") != std::string::npos);
}

TEST_CASE("what is no UTF-8 is replaced, and said") {
    std::vector<std::string> notes;
    bool truncated = false;
    CHECK(shown({"a\xff", "b\xc3"}, 100, notes, truncated) == "a\xef\xbf\xbd" "b\xef\xbf\xbd");
    REQUIRE(notes.size() == 1);
    CHECK(notes[0].starts_with("stdout: bytes that are no UTF-8"));
    notes.clear();
    Shown running;
    running.add("a\xe2\x82");  // the rest is under way
    CHECK(running.text(100, "stdout", "", notes, truncated) == "a");
    CHECK(running.raw_bytes() == 1);
    running.add("\xac!");
    CHECK(running.text(100, "stdout", "", notes, truncated) == "a\xe2\x82\xac!");
    CHECK(shown({"a\xc3", "\xa9"}, 100, notes, truncated) == "a\xc3\xa9");
    // Cut at characters' borders, wherever the budget ends.
    std::string euros;
    for (int i = 0; i < 10'000; ++i) euros += "\xe2\x82\xac";
    for (std::size_t budget = 100; budget < 110; ++budget) shown({euros}, budget, notes, truncated);
    CHECK(notes.empty());
}

TEST_CASE("what takes more room in JSON gets less of it") {
    CHECK(json_size("a\"\\\n\x01\xc3\xa9") == 1 + 2 + 2 + 2 + 6 + 1);
    std::vector<std::string> notes;
    bool truncated = false;
    const std::string text = shown({std::string(20'000, '\x01')}, 12'000, notes, truncated);
    CHECK(truncated);
    CHECK(json_size(text) < 12'200);
}

TEST_CASE("a result is made to fit") {
    ordered_json result{{"name", std::string(5'000, 'n')}, {"entries", ordered_json::array()}, {"patch", std::string(9'000, 'p')}};
    for (int i = 0; i < 5'000; ++i) result["entries"].push_back({{"path", "some/file/" + std::to_string(i)}});
    fit(result, {"patch"});
    CHECK(result.dump().size() < most_shown + 2'000);
    CHECK(result["patch"].get<std::string>().size() == 9'000);
    CHECK(result["name"].get<std::string>().size() == 2'003);
    const std::size_t kept = result["entries"].size();
    CHECK(kept > 100);
    CHECK(result["entries"][0]["path"] == "some/file/0");
    CHECK(result["notes"].dump().find("the last " + std::to_string(5'000 - kept) + " were left out") != std::string::npos);
    ordered_json small{{"a", 1}};
    fit(small);
    CHECK(small == ordered_json{{"a", 1}});
}

TEST_CASE("a patch is cut between files") {
    const std::string a = "diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -1 +1 @@\n-1\n+2\n", b = "diff --git a/b b/b\n" + std::string(500, '+') + "\n", c = "diff --git a/c b/c\nrename\n";
    std::size_t left_out = 0;
    CHECK(fitting_patch(a + b + c, 10'000, left_out) == a + b + c);
    CHECK(left_out == 0);
    CHECK(fitting_patch(a + b + c, 200, left_out) == a + c);
    CHECK(left_out == 1);
    CHECK(fitting_patch("", 200, left_out).empty());
}

TEST_CASE("hints name tools and arguments") {
    ServeOptions options;
    CHECK(hint_for_models("list yours: pyro workspace list", options) == "list yours: workspace_list");
    CHECK(hint_for_models("its output: pyro workspace logs W --exec E", options) == "its output: workspace_logs W exec_id E");
    CHECK(hint_for_models("create it with more --mem-mib", options) == "create it with more mem_mib");
    CHECK(hint_for_models("replace what is there with --force", options) == "replace what is there with overwrite:true");
    CHECK(hint_for_models("install it with: pyro env pull debian:12", options) == "install it with: pyro env pull debian:12");
}
