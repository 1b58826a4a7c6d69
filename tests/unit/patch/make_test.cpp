#include <random>

#include "common/error.hpp"
#include "common/patch/patch.hpp"
#include "tests/support/catch.hpp"

using namespace pyro;
using namespace pyro::patch;

namespace {

File regular(std::string bytes, Mode mode = Mode::regular) { return {mode, std::move(bytes)}; }
File link_to(std::string target) { return {Mode::symlink, std::move(target)}; }

// Makes the change and applies it again.
Made made_and_applied(const std::string& before, const std::string& after, const MakeLimits& limits = {}) {
    Made made = make("x", regular(before), regular(after), limits);
    ParseLimits large;
    large.bytes = std::size_t{1} << 30;
    const std::vector<FilePatch> patches = parse(made.text, large);
    REQUIRE(patches.size() == 1);
    CHECK(stat(patches[0]) == made.stat);
    const Applied applied = apply_one(patches[0], before);
    INFO(before.substr(0, 100) << "\n" << made.text.substr(0, 500));
    REQUIRE(applied.rejections.empty());
    REQUIRE((applied.bytes == after));  // too long to be shown
    return made;
}

std::string lines(std::size_t count, const std::string& line) {
    std::string text;
    while (count-- > 0) text += line;
    return text;
}

}  // namespace

TEST_CASE("each kind of change is written as git writes it") {
    const std::string nul("a\0b\n", 4);
    const struct { const char* path; File before, after; std::string text; Stat stat; } cases[] = {
        {"x", regular("a\n"), regular("a\n"), "", {}},
        {"x", {}, {}, "", {}},
        {"d/x", regular("1\n2\n3\n4\n5\n6\n7\n8\n9\n"), regular("1\n2\n3\n4\nfive\n6\n7\n8\n9\n"),
         "diff --git a/d/x b/d/x\n--- a/d/x\n+++ b/d/x\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n", {1, 1}},
        {"x", {}, regular("a\nb\n"), "diff --git a/x b/x\nnew file mode 100644\n--- /dev/null\n+++ b/x\n@@ -0,0 +1,2 @@\n+a\n+b\n", {2, 0}},
        {"x", {}, regular("", Mode::executable), "diff --git a/x b/x\nnew file mode 100755\n", {}},
        {"x", regular(""), {}, "diff --git a/x b/x\ndeleted file mode 100644\n", {}},
        {"x", regular("a"), {}, "diff --git a/x b/x\ndeleted file mode 100644\n--- a/x\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n\\ No newline at end of file\n", {0, 1}},
        {"x", regular("a"), regular("a\n"), "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+a\n", {1, 1}},
        {"x", regular("a\nb"), regular("c\nb"),
         "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n-a\n+c\n b\n\\ No newline at end of file\n", {1, 1}},
        {"x", regular("a\r\n"), regular("a\n"), "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\r\n+a\n", {1, 1}},
        {"x", regular("a\n"), regular("a\n", Mode::executable), "diff --git a/x b/x\nold mode 100644\nnew mode 100755\n", {}},
        {"x", regular("a\n", Mode::executable), regular("b\n"),
         "diff --git a/x b/x\nold mode 100755\nnew mode 100644\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n", {1, 1}},
        {"x", {}, link_to("t"), "diff --git a/x b/x\nnew file mode 120000\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+t\n\\ No newline at end of file\n", {1, 0}},
        {"x", regular("a\n"), link_to("t"),
         "diff --git a/x b/x\ndeleted file mode 100644\n--- a/x\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n"
         "diff --git a/x b/x\nnew file mode 120000\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+t\n\\ No newline at end of file\n", {1, 1}},
        {"x", regular("a"), regular(nul), "diff --git a/x b/x\nBinary files a/x and b/x differ\n", {0, 0, true}},
        {"x", {}, regular(nul), "diff --git a/x b/x\nnew file mode 100644\nBinary files /dev/null and b/x differ\n", {0, 0, true}},
        {"x", regular(nul), regular(nul, Mode::executable), "diff --git a/x b/x\nold mode 100644\nnew mode 100755\n", {}},
        {"a b", regular("a\n"), regular(""), "diff --git a/a b b/a b\n--- a/a b\t\n+++ b/a b\t\n@@ -1 +0,0 @@\n-a\n", {0, 1}},
        {"\xc3\xa9\t\"\\\n\x01", regular(""), regular("a\n"),
         "diff --git \"a/\\303\\251\\t\\\"\\\\\\n\\001\" \"b/\\303\\251\\t\\\"\\\\\\n\\001\"\n--- \"a/\\303\\251\\t\\\"\\\\\\n\\001\"\n"
         "+++ \"b/\\303\\251\\t\\\"\\\\\\n\\001\"\n@@ -0,0 +1 @@\n+a\n", {1, 0}},
    };
    for (const auto& one : cases) {
        const Made made = make(one.path, one.before, one.after);
        CHECK(made.text == one.text);
        CHECK(made.stat == one.stat);
    }
    CHECK(make_rename("x", Mode::regular, "d/y z", Mode::executable).text ==
          "diff --git a/x b/d/y z\nold mode 100644\nnew mode 100755\nsimilarity index 100%\nrename from x\nrename to d/y z\n");
}

TEST_CASE("hunks with up to six lines between them are one") {
    const auto hunks_with = [](std::size_t between) {
        return parse(made_and_applied("a\n" + lines(between, "-\n") + "b\n", "A\n" + lines(between, "-\n") + "B\n").text)[0].hunks.size();
    };
    CHECK(hunks_with(6) == 1);
    CHECK(hunks_with(7) == 2);
}

TEST_CASE("what cannot be in a patch is refused") {
    CHECK_THROWS_AS(make("x", {Mode::directory, ""}, {}), Error);
    CHECK_THROWS_AS(make("x", {}, {Mode::other, ""}), Error);
    CHECK_THROWS_AS(make("../x", {}, regular("")), Error);
    CHECK_THROWS_AS(make_rename("x", Mode::regular, "y", Mode::symlink), Error);
    CHECK_THROWS_AS(make_rename("x", Mode::absent, "y", Mode::absent), Error);
    CHECK_THROWS_AS(make_rename("x", Mode::regular, ".git/y", Mode::regular), Error);
}

TEST_CASE("renames are paired by content and type, with the same base name first") {
    const std::vector<Moved> deleted{{"a/x", Mode::regular, "1"}, {"a/y", Mode::regular, "1"}, {"a/l", Mode::symlink, "1"}, {"a/z", Mode::regular, "2"}};
    const std::vector<Moved> added{{"b/new", Mode::executable, "1"}, {"b/y", Mode::regular, "1"}, {"b/more", Mode::regular, "1"},
                                   {"b/z", Mode::symlink, "2"}, {"b/l", Mode::symlink, "1"}};
    std::vector<std::pair<std::size_t, std::size_t>> pairs;
    for (const Pair& pair : pair_renames(deleted, added)) pairs.emplace_back(pair.deleted, pair.added);
    CHECK(pairs == std::vector<std::pair<std::size_t, std::size_t>>{{0, 0}, {1, 1}, {2, 4}});
}

TEST_CASE("a shortest edit is found: as short as by the table of longest common subsequences") {
    std::mt19937 dice(1);
    for (int round = 0; round < 2000; ++round) {
        std::string words[2];
        for (std::string& word : words)
            for (std::size_t length = dice() % 14; length > 0; --length) word += static_cast<char>('a' + dice() % (1 + round % 5));
        std::vector<std::vector<std::size_t>> common(words[0].size() + 1, std::vector<std::size_t>(words[1].size() + 1));
        std::string texts[2];
        for (std::size_t i = 1; i <= words[0].size(); ++i)
            for (std::size_t j = 1; j <= words[1].size(); ++j)
                common[i][j] = words[0][i - 1] == words[1][j - 1] ? common[i - 1][j - 1] + 1 : std::max(common[i - 1][j], common[i][j - 1]);
        for (int i = 0; i < 2; ++i)
            for (const char letter : words[i]) texts[i] += {letter, '\n'};
        if (texts[0] == texts[1]) continue;
        const Made made = made_and_applied(texts[0], texts[1]);
        INFO(words[0] << " " << words[1]);
        const std::size_t kept = common.back().back();
        REQUIRE(made.stat == Stat{words[1].size() - kept, words[0].size() - kept});
    }
}

TEST_CASE("beyond the limits a change is described worse, and correctly") {
    MakeLimits limits;
    limits.text_bytes = 3;
    CHECK(make("x", regular("a\nb\n"), regular("a\n"), limits).stat.binary);
    limits = {};
    limits.diff_lines = 9;
    const std::string before = "a\n" + lines(10, "-\n") + "b\n", after = "A\n" + lines(10, "-\n") + "B\n";
    CHECK(made_and_applied(before, after, limits).stat == Stat{12, 12});
    std::mt19937 dice(1);
    std::string texts[2];
    for (std::string& text : texts)
        for (int i = 0; i < 300; ++i) text += {static_cast<char>('a' + dice() % 4), '\n'};
    std::size_t previous = 301;
    for (limits = {}, limits.work = 0; limits.work <= 2'000'000; limits.work = limits.work * 5 + 40) {
        const Made made = made_and_applied(texts[0], texts[1], limits);
        CHECK(made.stat.added <= previous);
        previous = made.stat.added;
    }
    CHECK(previous == made_and_applied(texts[0], texts[1]).stat.added);
}

TEST_CASE("hostile content costs no more than the bounds") {
    const std::string long_line(50u << 20, 'x');
    CHECK(made_and_applied(long_line, long_line + "y").stat == Stat{1, 1});
    CHECK(make("x", {}, regular(long_line)).stat == Stat{1, 0});
    const std::string empty_lines = lines(1'000'000, "\n");
    CHECK(made_and_applied(empty_lines, empty_lines + "\n").stat == Stat{1, 0});
    CHECK(made_and_applied("a\n" + empty_lines + "b\n", "b\n" + empty_lines + "a\n").stat == Stat{1'000'002, 1'000'002});  // more than are compared
    // Lines in random order have no short edit; where lines have nothing in common, there is nothing to look for.
    std::mt19937 dice(1);
    std::string texts[2], other;
    for (std::string& text : texts)
        for (int i = 0; i < 200'000; ++i) text += {static_cast<char>('a' + dice() % 20), '\n'};
    for (int i = 0; i < 200'000; ++i) other += "line " + std::to_string(i) + "\n";
    CHECK(made_and_applied(texts[0], texts[1]).stat.added <= 200'000);
    CHECK(made_and_applied(texts[0], other).stat == Stat{200'000, 200'000});
}
