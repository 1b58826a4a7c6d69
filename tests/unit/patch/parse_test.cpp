#include <random>

#include "common/error.hpp"
#include "common/patch/names.hpp"
#include "common/patch/patch.hpp"
#include "tests/support/catch.hpp"

using namespace pyro;
using namespace pyro::patch;

namespace {

const std::string plain = "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n";
const std::string git = "diff --git a/x b/x\n";

// Of every kind something.
const std::string all_kinds =
    "From someone\n\n---\n x | 2 +-\n\n" + git + "index 1..2 100644\n--- a/x\n+++ b/x\n@@ -1,3 +1,3 @@ f()\n a\n-b\n+B\n c\n@@ -9,2 +9,3 @@\n i\n+J\n k\n"
    "diff --git a/e b/e\nnew file mode 100644\nindex 0000000..e69de29\n"
    "diff --git \"a/q\\t\" \"b/q\\t\"\nold mode 100644\nnew mode 100755\n"
    "diff --git a/o b/n n\nsimilarity index 90%\nrename from o\nrename to n n\n--- a/o\n+++ b/n n\t\n@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+b\n\\ No newline at end of file\n"
    "diff --git a/d b/d\ndeleted file mode 120000\n--- a/d\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n\\ No newline at end of file\n"
    "diff --git a/bin b/bin\nindex 1..2 100644\nBinary files a/bin and b/bin differ\n" + plain + "-- \n2.39.5\n";

std::string shape(const std::vector<FilePatch>& patches) {
    std::string text;
    for (const FilePatch& patch : patches) {
        text += (patch.old_path ? quote(*patch.old_path) : "-") + ">" + (patch.new_path ? quote(*patch.new_path) : "-");
        if (patch.old_mode) text += " old " + std::to_string(static_cast<unsigned>(*patch.old_mode) & 0777);
        if (patch.new_mode) text += " new " + std::to_string(static_cast<unsigned>(*patch.new_mode) & 0777);
        text += std::string(patch.renamed ? " renamed" : "") + (patch.copied ? " copied" : "") + (patch.binary ? " binary" : "") + (patch.may_create ? " may create" : "");
        for (const Hunk& hunk : patch.hunks)
            text += " @" + std::to_string(hunk.old_start) + "," + std::to_string(hunk.old_count) + "+" + std::to_string(hunk.new_start) + "," + std::to_string(hunk.new_count);
        text += "\n";
    }
    return text;
}

// Throws with the number of a line that is there (or would be the next), or gives patches that keep the invariants.
bool parsed(const std::string& text) {
    try {
        for (const FilePatch& patch : parse(text)) {
            REQUIRE((patch.old_path || patch.new_path));
            for (const auto& path : {patch.old_path, patch.new_path})
                if (path) check_path(*path);
            apply_one(patch, "a\nb\nc\n");
        }
        return true;
    } catch (const Error& error) {
        REQUIRE(error.code() == ErrorCode::invalid_argument);
        REQUIRE_FALSE(error.hint().empty());
        const std::size_t line = std::stoul(error.details().at("line"));
        REQUIRE((line >= 1 && line <= static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')) + 1));
        REQUIRE(error.message().starts_with("patch line " + std::to_string(line) + ": "));
        return false;
    }
}

}  // namespace

TEST_CASE("patches are read in the forms that are around") {
    const std::pair<std::string, std::string> cases[] = {
        {plain, "x>x @1,1+1,1\n"},
        {"--- a/x\t2020-01-01 10:00:00.000000000 +0100\n+++ b/x\t2020-01-01 10:00:01.000000000 +0100\n@@ -1,0 +2,1 @@\n+a\n", "x>x may create @1,0+2,1\n"},
        {"--- old/d/x.orig\n+++ new/d/x\n@@ -1 +1 @@\n-a\n+b\n", "d/x>d/x @1,1+1,1\n"},
        {"--- a/x\n+++ b/x.new\n@@ -1 +1 @@\n-a\n+b\n", "x>x @1,1+1,1\n"},
        {"--- a/a b\t\n+++ b/a b\t\n@@ -1 +1 @@\n-a\n+b\n", "a b>a b @1,1+1,1\n"},
        {"--- \"a/\\303\\251\\\"\"\n+++ \"b/\\303\\251\\\"\"\n@@ -1 +1 @@\n-a\n+b\n", "\"\\303\\251\\\"\">\"\\303\\251\\\"\" @1,1+1,1\n"},
        {"--- a/x\r\n+++ b/x\r\n@@ -1 +1 @@\r\n-a\r\n+b\r\n", "x>x @1,1+1,1\n"},
        {"--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+a\n", "->x @0,0+1,1\n"},
        {"--- a/x\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n", "x>- @1,1+0,0\n"},
        {"diff -ruN a/x b/x\n--- a/x\t1970-01-01 05:30:00.000000000 +0530\n+++ b/x\t2020-01-01 10:00:01 +0530\n@@ -0,0 +1 @@\n+a\n", "->x @0,0+1,1\n"},
        {"--- a/x\t2020-01-01 10:00:01 -0330\n+++ b/x\t1969-12-31 20:30:00 -0330\n@@ -1 +0,0 @@\n-a\n", "x>- @1,1+0,0\n"},
        {"--- a/x\t1970-01-01 00:00:01 +0000\n+++ b/x\t2020-01-01 10:00:01 +0000\n@@ -1 +1 @@\n-a\n+b\n", "x>x @1,1+1,1\n"},
        {git + "--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n-a\n+b\n\n", "x>x @1,2+1,2\n"},
        {"text\n\n" + plain + "\nmore text\n+ not a hunk's any more\n" + git + "old mode 100644\nnew mode 100755\n", "x>x @1,1+1,1\nx>x old 420 new 493\n"},
        {plain + plain, "x>x @1,1+1,1\nx>x @1,1+1,1\n"},
        {"diff --git a/a b/c b/a b/c\nnew file mode 100755\n", "->a b/c new 493\n"},
        {"diff --git a/x \"b/x\"\nnew file mode 100644\n", "->x new 420\n"},
        {"diff --git a/x b/y\ncopy from x\ncopy to y\n", "x>y copied\n"},
        {"diff --git a/x b/x\nindex 12..34 100755\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n", "x>x old 493 @1,1+1,1\n"},
        {all_kinds, "x>x old 420 @1,3+1,3 @9,2+9,3\n->e new 420\n\"q\\t\">\"q\\t\" old 420 new 493\no>n n renamed @1,1+1,1\nd>- old 0 @1,1+0,0\nbin>bin old 420 binary\nx>x @1,1+1,1\n"},
    };
    for (const auto& [text, expected] : cases) {
        INFO(text);
        CHECK(shape(parse(text)) == expected);
    }
    CHECK(parse("--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n-a\n+b\n\n")[0].hunks[0].body == "-a\n+b\n \n");
}

TEST_CASE("what is wrong with a patch is said with its line") {
    const std::string names = "--- a/x\n+++ b/x\n";
    const struct { std::string text; std::size_t line; std::string reason; } cases[] = {
        {"", 1, "no patch"}, {"\n", 1, "no patch"}, {"hello\nyou\n", 1, "no patch"},
        {names, 3, "without a hunk"}, {names + "text\n", 3, "without a hunk"}, {"--- a/x\n+++ b/x", 2, "ends within this line"},
        {"@@ -1 +1 @@\n-a\n+b\n", 1, "a hunk without a file"}, {plain + "\n@@ -1 +1 @@\n", 7, "a hunk without a file"},
        {names + "@@ -1,2 +1 @@\n-a\n+b\n", 3, "1 old and 0 new lines are missing"}, {names + "@@ -1 +1,2 @@\n-a\n+b\n" + plain, 6, "more lines than"},
        {names + "@@ -1 +1,2 @@\n-a\n+b\ntext\n", 6, "0 more old and 1 more new"}, {plain + "+c\n", 6, "more lines than its header says"},
        {plain + " c\n", 6, "more lines"}, {plain + "\n-c\n", 7, "more lines"}, {plain + "--- a/y\n", 6, "more lines"},
        {names + "@@ -1 +1 @@\n-a\n+b", 5, "ends within this line"}, {names + "@@ -1 +1 @@\n a\n", 3, "changes nothing"}, {names + "@@ -0,0 +0,0 @@\n", 3, "changes nothing"},
        {names + "@@ -1 +1 @@\n\\ No newline at end of file\n-a\n+b\n", 4, "belongs to no hunk"},
        {names + "@@ -1 +1 @@\n-a\n+b\n\\ No newline\n\\ No newline\n", 7, "more lines"},
        {names + "@@ -1,2 +1 @@\n-a\n\\ No newline at end of file\n-b\n+c\n", 6, "behind the one without newline"},
        {names + "@@ -1,2 +1,2 @@\n-a\n+b\n\\ No newline at end of file\n c\n", 7, "behind the one without newline"},
        {names + "@@ -1,99999999999999999999999 +1 @@\n-a\n+b\n", 3, "out of range"}, {names + "@@ -1,18446744073709551615 +1 @@\n-a\n+b\n", 3, "out of range"},
        {names + "@@ -1,4294967297 +1 @@\n-a\n+b\n", 3, "out of range"}, {names + "@@ --1 +1 @@\n-a\n+b\n", 3, "cannot be read"}, {names + "@@ -1 1 @@\n-a\n+b\n", 3, "begins with @@"},
        {names + "@@ -1, +1 @@\n-a\n+b\n", 3, "cannot be read"}, {names + "@@ -1 +1\n-a\n+b\n", 3, "begins with @@"}, {names + "@@ -1 +1 @@", 3, "ends within this line"},
        {"--- /dev/null\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n", 3, "no old lines"}, {"--- a/x\n+++ /dev/null\n@@ -1 +1 @@\n-a\n+b\n", 3, "keeps no lines"},
        {"--- /dev/null\n+++ /dev/null\n@@ -1 +1 @@\n-a\n+b\n", 2, "on both sides"},
        {"--- x\n+++ x\n@@ -1 +1 @@\n-a\n+b\n", 2, "no first component"}, {"--- a/x\n+++ /etc/passwd\n@@ -1 +1 @@\n-a\n+b\n", 2, "is absolute"},
        {"--- a/../x\n+++ b/../x\n@@ -1 +1 @@\n-a\n+b\n", 2, "\"..\""}, {"--- a//x\n+++ b//x\n@@ -1 +1 @@\n-a\n+b\n", 2, "is absolute"},
        {"--- a/\n+++ b/\n@@ -1 +1 @@\n-a\n+b\n", 2, "is empty"}, {"--- \"a/x\n+++ \"b/x\n@@ -1 +1 @@\n-a\n+b\n", 2, "not as git quotes"},
        {"--- \"a/\\000\"\n+++ \"b/\\000\"\n@@ -1 +1 @@\n-a\n+b\n", 2, "NUL"}, {"--- \"a/\\400\"\n+++ \"b/\\400\"\n@@ -1 +1 @@\n-a\n+b\n", 2, "not as git quotes"},
        {git, 2, "says no change"}, {git + "index 1..2\n", 3, "says no change"}, {"diff --git a/x b/y\n", 2, "does not name the file"}, {"diff --git", 1, "ends within this line"},
        {git + "index 1..2; 100644\n", 2, "index line"}, {git + "new file mode 100644\ndeleted file mode 100644\n", 4, "at once"},
        {git + "new file mode 160000\n", 2, "submodule"}, {git + "new file mode 040000\n", 2, "is not 100644"}, {git + "new file mode 100666\n", 2, "is not 100644"},
        {git + "old mode 104755\nnew mode 100644\n", 2, "is not 100644"}, {git + "old mode 100644\n", 3, "belong together"}, {git + "old mode 100644\nnew mode 120000\n", 4, "each other's mode"},
        {git + "GIT binary patch\nliteral 1\n", 2, "GIT binary patch"}, {"GIT binary patch\n", 1, "GIT binary patch"}, {"Binary files a/x and b/x differ\n", 1, "does not have"},
        {"diff --git a/x b/y\nrename from x\n", 3, "without two names"}, {git + "rename from x\nrename to x\n", 4, "without two names"},
        {"diff --git a/x b/y\nrename from ../x\n", 2, "\"..\""}, {"diff --git a/x b/.Git/y\nrename from x\nrename to .Git/y\n", 3, "beneath a .git"},
        {git + "--- a/x\n@@ -1 +1 @@\n-a\n+b\n", 3, "belong together"}, {git + "--- a/x\n+++ b/y\n@@ -1 +1 @@\n-a\n+b\n", 4, "names in the header"},
        {"diff --git a/x b/y\n--- a/x\n+++ b/y\n@@ -1 +1 @@\n-a\n+b\n", 4, "names in the header"}, {git + "--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+b\n", 4, "without \"new file mode\""},
        {git + "new file mode 100644\n--- a/x\n+++ b/x\n@@ -0,0 +1 @@\n+b\n", 5, "/dev/null is expected"}, {git + "--- a/x\n+++ b/x\n", 4, "without a hunk"},
        {"*** a/x\n--- b/x\n***************\n*** 1 ****\n", 3, "context diff"}, {"diff --cc x\n", 1, "combined"},
        {"diff --git a/" + std::string(50'000, 'x') + " b/x\n", 1, "longer than any name"}, {"--- a/" + std::string(5000, 'x') + "\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n", 2, "4095"},
    };
    for (const auto& one : cases) {
        INFO(one.text.substr(0, 300));
        try {
            parse(one.text);
            FAIL_CHECK("was taken");
        } catch (const Error& error) {
            CHECK_THAT(error.message(), Catch::Matchers::ContainsSubstring(one.reason));
            CHECK(error.message().starts_with("patch line " + std::to_string(one.line) + ": "));
            CHECK(error.details().at("line") == std::to_string(one.line));
            CHECK_FALSE(error.hint().empty());
        }
    }
}

TEST_CASE("paths that lead out, to no file or into .git are refused by name") {
    for (const std::string good : {"x", "a/b", ".x", "..x", "x..", "...", ".gitignore", "a.git", "git", " ", "a/ /b", "\n", "\xff", "-x", ".git x"}) {
        INFO(good);
        CHECK_NOTHROW(check_path(good));
    }
    for (const std::string& bad : {std::string(), std::string("/"), std::string("/x"), std::string("x/"), std::string("a//b"), std::string("."), std::string("./x"),
                                   std::string("a/./b"), std::string(".."), std::string("../x"), std::string("a/.."), std::string("a\0b", 3), std::string(".git"),
                                   std::string(".git/config"), std::string("a/.GIT/x"), std::string("a/.giT"), std::string(4096, 'x')}) {
        INFO(bad);
        CHECK_THROWS_AS(check_path(bad), Error);
    }
}

TEST_CASE("a quoted name is the name again") {
    std::string every_byte;
    for (int byte = 255; byte >= 0; --byte) every_byte += static_cast<char>(byte);
    const std::string quoted = quote(every_byte);
    CHECK(std::all_of(quoted.begin(), quoted.end(), [](char c) { return c >= ' ' && c < 127; }));
    const std::string text = quoted + " rest";
    std::string_view rest = text;
    CHECK(unquote(rest) == every_byte);
    CHECK(rest == " rest");
    CHECK(quote("plain name'") == "plain name'");
    for (const std::string_view bad : {"\"x", "\"", "\"\\", "\"\\\"", "\"\\x41\"", "\"\\08\"", "\"\\12\"", "\"\\18a\""}) {
        INFO(bad);
        rest = bad;
        CHECK_FALSE(unquote(rest));
    }
}

TEST_CASE("a patch that was cut is taken only where it could have ended") {
    const auto bodies = [](const std::string& text) {
        std::vector<std::string> all;
        for (const FilePatch& patch : parse(text))
            for (const Hunk& hunk : patch.hunks) all.push_back(hunk.body);
        return all;
    };
    const std::vector<std::string> whole = bodies(all_kinds);
    const std::size_t behind_last_hunk = all_kinds.rfind("-- \n");
    std::size_t taken = 0;
    for (std::size_t length = 0; length < behind_last_hunk; ++length) {
        const std::string part = all_kinds.substr(0, length);
        INFO(part);
        if (!parsed(part)) continue;
        ++taken;
        CHECK(part.back() == '\n');
        // No hunk is another than in the whole; of the last one the mark behind its last line may be missing.
        const std::vector<std::string> read = bodies(part);
        REQUIRE(read.size() <= whole.size());
        for (std::size_t i = 0; i < read.size(); ++i)
            CHECK((read[i] == whole[i] || (i + 1 == read.size() && read[i] + "\\ No newline at end of file\n" == whole[i])));
    }
    CHECK(taken == 13);  // behind each complete header and hunk, and before a +++ line
}

TEST_CASE("damaged patches are refused or mean something") {
    std::mt19937 dice(1);
    std::size_t taken = 0;
    for (int round = 0; round < 20'000; ++round) {
        std::string text = all_kinds;
        for (std::size_t damage = 1 + dice() % 3; damage > 0; --damage) {
            const std::size_t at = dice() % text.size();
            switch (dice() % 4) {
                case 0: text[at] = static_cast<char>(dice()); break;
                case 1: text.erase(at, 1 + dice() % 9); break;
                case 2: text.insert(at, text.substr(dice() % text.size(), dice() % 30)); break;
                default: text[at] = "0123456789,+-@ \\\n\"/"[dice() % 19]; break;
            }
        }
        INFO(text);
        taken += parsed(text);
    }
    CHECK(taken > 1000);
    CHECK(taken < 15'000);
}

TEST_CASE("a patch's size, files and hunks are bounded") {
    ParseLimits limits;
    limits.bytes = plain.size();
    CHECK_NOTHROW(parse(plain, limits));
    CHECK_THROWS_AS(parse(plain + "\n", limits), Error);
    limits = {};
    limits.files = 1;
    CHECK_THROWS_AS(parse(plain + plain, limits), Error);
    limits = {};
    limits.hunks = 1;
    CHECK_THROWS_AS(parse(plain + plain, limits), Error);
    // Lines of blanks and slashes, where a name could end at any place.
    std::string blanks = "diff --git ";
    for (int i = 0; i < 15'000; ++i) blanks += i % 2 ? "/" : " ";
    std::string text;
    for (int i = 0; i < 1000; ++i) text += blanks + "\n";
    CHECK_THROWS_AS(parse(text), Error);
    CHECK_THROWS_AS(parse(std::string(5u << 20, '\n')), Error);
    CHECK_THROWS_AS(parse("--- a/x\n+++ b/x\n@@ -1 +1 @@\n-" + std::string(50u << 20, 'x')), Error);
}

namespace {

std::string made_patch() {
    return make("a b", {}, {Mode::executable, "1\n2"}).text + make("c", {Mode::regular, "x\n"}, {Mode::symlink, "to"}).text
           + make("d", {Mode::regular, "1\n2\n3\n4\n5\n6\n7\n8\n9\n"}, {Mode::executable, "0\n2\n3\n4\n5\n6\n7\n8\n9\n10\n"}).text
           + make("e", {}, {Mode::regular, ""}).text + make_rename("a\nz", Mode::regular, "f \"q\"", Mode::executable).text
           + make("g", {Mode::regular, "x\n"}, {Mode::executable, "x\n"}).text + make("h", {Mode::regular, "\n\x1b[2J"}, {}).text;
}

std::string why_not_made(const std::string& text) {
    try {
        parse_made(text);
        return {};
    } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::invalid_argument);
        CHECK_FALSE(error.hint().empty());
        CHECK(error.details().contains("line"));
        return error.message();
    }
}

}  // namespace

TEST_CASE("what is made is read as made, and nothing else is") {
    const std::string text = made_patch();
    CHECK(shape(parse_made(text)) == shape(parse(text)));
    CHECK(parse_made(text).size() == 8);
    const auto with = [&](const std::string& from, const std::string& to) {
        std::string other = text;
        const std::size_t at = other.find(from);
        REQUIRE(at != std::string::npos);
        return other.replace(at, from.size(), to);
    };
    // All of these parse, with the same meaning or one that is not told.
    for (const std::string& other : {"\x1b[2J\n" + text, text + "\n", text + "-- \n2.39\n", with("diff --git a/d", "words\ndiff --git a/d"),
                                     with("diff --git a/d b/d", "diff --git x/d y/d"), with("--- a/d", "--- x/d"), with("--- a/d", "index 1..2 100644\n--- a/d"),
                                     with("@@ -1,4 +1,4 @@", "@@ -1,4 +1,4 @@ \x1b[2J"), with("@@ -1,4 +1,4 @@", "@@ -01,4 +1,4 @@"), with("@@ -1 +0,0 @@", "@@ -1,1 +0,0 @@"),
                                     with("similarity index 100%", "similarity index 90%"), with("similarity index 100%\n", ""), with("\\ No newline at end of file", "\\ none"),
                                     with("diff --git a/d b/d", "diff --git \"a/d\" b/d"), with("diff --git a/d b/d", "diff --git a/d b/d\r"),
                                     with("rename from", "copy from").replace(with("rename from", "copy from").find("rename to"), 9, "copy to"),
                                     with("diff --git a/e", plain + "diff --git a/e"), with("b/g\nold mode 100644\nnew mode 100755\n", "b/g\nindex 1..2\nBinary files a/g and b/g differ\n"),
                                     with("+++ b/d", "+++ b/d\t2020-01-01")}) {
        INFO(other);
        CHECK_NOTHROW(parse(other));
        CHECK(why_not_made(other).ends_with("not written as it would be written here") != why_not_made(other).ends_with("something behind it"));
    }
    CHECK(why_not_made(text + text).ends_with("out of order"));
    CHECK(why_not_made(plain).ends_with("would be written here"));
    CHECK(why_not_made(make("x", {}, {Mode::regular, ""}).text + make("x", {Mode::regular, ""}, {}).text).ends_with("out of order"));
    CHECK_FALSE(why_not_made("").empty());
    CHECK(why_not_made("diff --git a/../x b/../x\nnew file mode 100644\n").find("\"..\"") != std::string::npos);
}

TEST_CASE("no byte that is changed in a made patch goes unnoticed, but for its content") {
    const std::string text = made_patch();
    std::size_t refused = 0, taken = 0;
    for (std::size_t at = 0; at < text.size(); ++at)
        for (const char flip : {'\x01', '\x20', '\x40', '\x7f'}) {
            std::string other = text;
            other[at] = static_cast<char>(other[at] ^ flip);
            if (!why_not_made(other).empty()) {
                ++refused;
                continue;
            }
            ++taken;
            // It says what it does: written again, it is the same.
            for (const FilePatch& patch : parse_made(other)) CHECK_NOTHROW(check_path(patch.path()));
        }
    CHECK(refused > 3 * taken);
    CHECK(taken > 0);
}

TEST_CASE("a name of more than 255 bytes is none") {
    CHECK_NOTHROW(check_path("d/" + std::string(255, 'n')));
    CHECK_THROWS_AS(check_path("d/" + std::string(256, 'n')), Error);
    CHECK_THROWS_AS(check_path(std::string(256, 'n') + "/f"), Error);
}
