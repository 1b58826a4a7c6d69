#include "common/error.hpp"
#include "common/patch/patch.hpp"
#include "tests/support/catch.hpp"

using namespace pyro;
using namespace pyro::patch;

namespace {

using Lines = std::vector<std::string>;

std::string numbers(int from, int to) {
    std::string text;
    for (int i = from; i <= to; ++i) text += std::to_string(i) + "\n";
    return text;
}

FilePatch one(const std::string& hunks) { return parse("--- a/x\n+++ b/x\n" + hunks).at(0); }

Tree only(const std::string& name, const File& file) {
    return {[=](const std::string& path) { return path == name ? file : File{}; }, [](const std::string&) { return Lines{}; }};
}

}  // namespace

TEST_CASE("each rejected hunk says where, what it expects and what is there") {
    const std::string hunks = "@@ -4,7 +4,7 @@\n 4\n 5\n 6\n-seven\n+7!\n 8\n 9\n 10\n"      // another line in the middle
                              "@@ -12,3 +12,3 @@\n 12\n-13\n+13!\n 14\n"                        // fits
                              "@@ -19,3 +19,3 @@\n 19\n 20\n-21\n+21!\n";                       // behind the end
    const Applied applied = apply_one(one(hunks), numbers(1, 20));
    REQUIRE(applied.rejections.size() == 2);
    const Rejection& first = applied.rejections[0];
    CHECK((first.path == "x" && first.hunk == 1 && first.line == 3 && first.position == 4));
    CHECK(first.expected == Lines{"4", "5", "6", "seven", "8", "9", "10"});
    CHECK(first.found == Lines{"4", "5", "6", "7", "8", "9", "10", "11"});
    const Rejection& second = applied.rejections[1];
    CHECK((second.hunk == 3 && second.line == 17 && second.position == 19));
    CHECK(second.expected == Lines{"19", "20", "21"});
    CHECK(second.found == Lines{"19", "20"});
}

TEST_CASE("a rejection shows the lines around the difference, and no more") {
    std::string hunk = "@@ -1,200 +1,200 @@\n";
    for (int i = 1; i <= 200; ++i) hunk += (i == 150 ? "-" + std::string(600, 'y') + "\n+new\n" : " " + std::to_string(i) + "\n");
    const Applied applied = apply_one(one(hunk), numbers(1, 200));
    REQUIRE(applied.rejections.size() == 1);
    CHECK(applied.rejections[0].position == 147);
    CHECK(applied.rejections[0].expected.size() == 20);
    CHECK(applied.rejections[0].expected[3] == std::string(500, 'y') + "...");
    CHECK(applied.rejections[0].found.size() == 20);
    CHECK(applied.rejections[0].found[3] == "150");
}

TEST_CASE("hunks that moved are applied at the nearest place, one after the other") {
    const std::string hunks = "@@ -4,3 +4,4 @@\n 4\n-5\n+five\n+and more\n 6\n@@ -14,3 +15,2 @@\n 14\n-15\n 16\n";
    const Applied applied = apply_one(one(hunks), "new\n" + numbers(1, 20));
    REQUIRE(applied.rejections.empty());
    CHECK(applied.bytes == "new\n" + numbers(1, 4) + "five\nand more\n" + numbers(6, 14) + numbers(16, 20));
}

TEST_CASE("what applying may cost is bounded") {
    ApplyLimits limits;
    limits.lines = 10;
    const FilePatch patch = one("@@ -4,3 +4,3 @@\n 4\n-5\n+five\n 6\n");
    CHECK_NOTHROW(apply_one(patch, numbers(1, 9), limits));
    CHECK_THROWS_AS(apply_one(patch, numbers(1, 10), limits), Error);
    limits = {};
    limits.bytes = 20;
    CHECK(apply_all({patch}, only("x", {Mode::regular, numbers(1, 9)}), limits).changes.size() == 1);
    CHECK_THROWS_AS(apply_all({patch, patch}, only("x", {Mode::regular, numbers(1, 9)}), limits), Error);

    // Any place could be that of a hunk of equal lines, except for its last one.
    std::string equal = "@@ -500,501 +500,501 @@\n-0\n+zero\n";
    for (int i = 0; i < 499; ++i) equal += " 0\n";
    equal += " 1\n";
    std::string file;
    for (int i = 0; i < 100'000; ++i) file += "0\n";
    limits = {};
    limits.work = 1'000'000;
    CHECK_THROWS_AS(apply_one(one(equal), file, limits), Error);

    // Not every one of many rejections is told.
    std::string hunks;
    for (int i = 0; i < 1000; ++i) hunks += "@@ -5,3 +5,3 @@\n 4\n-x\n+y\n 6\n";
    CHECK(apply_one(one(hunks), numbers(1, 9)).rejections.size() == 100);
    const std::vector<FilePatch> patches(1000, patch);
    CHECK(apply_all(patches, only("y", {})).rejections.size() == 100);
}

TEST_CASE("many hunks in a large file are applied in one pass") {
    std::string hunks, before, after;
    for (int i = 0; i < 30'000; ++i) {
        const std::string n = std::to_string(i);
        before += "a" + n + "\nb" + n + "\nc" + n + "\n";
        after += "a" + n + "\nB" + n + "\nc" + n + "\n";
        const std::string range = std::to_string(3 * i + 1) + ",3";
        hunks += "@@ -" + range + " +" + range + " @@\n a" + n + "\n-b" + n + "\n+B" + n + "\n c" + n + "\n";
    }
    ApplyLimits limits;
    limits.work = 600'000;  // a few for each line
    const Applied applied = apply_one(one(hunks), before, limits);
    REQUIRE(applied.rejections.empty());
    CHECK((applied.bytes == after));
}
