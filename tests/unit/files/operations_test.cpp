#include "tests/unit/files/files_process.hpp"

#include <sys/sysmacros.h>

using namespace pyro;
using namespace pyro::test;

namespace {

std::vector<std::string> sorted_paths(const Tree& tree) {
    std::vector<std::string> paths;
    for (const auto& [path, thing] : tree.picture())
        if (path != ".") paths.push_back(path);
    return paths;  // a map of strings is in byte order
}

}  // namespace

TEST_CASE("a list has every entry once, typed, in the byte order of paths") {
    const Tree tree;
    tree.file("a/b", "12345", 0640);
    tree.file("a.c", "");
    tree.file("a-", "");
    tree.file("a0/x", "");
    fs::create_symlink("../../etc", tree.ws / "a/link");
    REQUIRE(::mkfifo((tree.ws / "fifo").c_str(), 0600) == 0);
    const Answer all = tree.ask({"list", ".", "--recursive"});
    CHECK(all.paths() == sorted_paths(tree));
    CHECK(all.paths() == std::vector<std::string>{"a", "a-", "a.c", "a/b", "a/link", "a0", "a0/x", "fifo"});
    CHECK(all.notes.empty());
    CHECK_FALSE(all.done.more);
    const wire::Entry& file = all.entries[3];
    struct stat info{};
    REQUIRE(::stat((tree.ws / "a/b").c_str(), &info) == 0);
    CHECK(file == wire::Entry{wire::Kind::file, 0640, 5, info.st_mtim.tv_sec, static_cast<std::uint32_t>(info.st_mtim.tv_nsec), "a/b", ""});
    CHECK(all.entries[4].kind == wire::Kind::symlink);
    CHECK(all.entries[4].target == "../../etc");
    CHECK(all.entries[0].kind == wire::Kind::directory);
    CHECK(all.entries[7].kind == wire::Kind::other);
    CHECK(tree.ask({"list", "."}).paths() == std::vector<std::string>{"a", "a-", "a.c", "a0", "fifo"});
    CHECK(tree.ask({"list", "a"}).paths() == std::vector<std::string>{"a/b", "a/link"});
    CHECK(tree.ask({"list", (tree.ws / "a//./").string()}).paths() == std::vector<std::string>{"a/b", "a/link"});
    CHECK(tree.ask({"list", "a/b"}).paths() == std::vector<std::string>{"a/b"});
    // A link is listed, not followed.
    CHECK(tree.ask({"list", "a/link"}).paths() == std::vector<std::string>{"a/link"});
    CHECK(tree.run({"list", "a/link/passwd"}).refused_as(ErrorCode::failed_precondition, "symbolic link"));
    CHECK(tree.run({"list", "no"}).refused_as(ErrorCode::not_found));
}

TEST_CASE("a list goes on behind any path, by any limit") {
    const Tree tree;
    for (const char* path : {"a/b/c", "a/b.c", "a/b/c!", "a.b/x", "a", "b/c/d/e/f", "b/c.d", "b/c/d-", "c"})
        if (!fs::exists(tree.ws / path)) tree.file(path, path);
    const std::vector<std::string> whole = tree.ask({"list", ".", "--recursive"}).paths();
    CHECK(whole == sorted_paths(tree));
    for (std::size_t limit = 1; limit <= whole.size() + 1; ++limit) {
        std::vector<std::string> collected;
        for (bool more = true; more;) {
            std::vector<std::string> words{"list", ".", "--recursive", "--limit", std::to_string(limit)};
            if (!collected.empty()) words.insert(words.end(), {"--after", collected.back()});
            const Answer part = tree.ask(words);
            more = part.done.more;
            CHECK(part.entries.size() == (more ? limit : whole.size() - collected.size()));
            for (const std::string& path : part.paths()) collected.push_back(path);
        }
        CHECK(collected == whole);
    }
    // Also behind what is not there, and in a part of the tree.
    CHECK(tree.ask({"list", "b", "--recursive", "--after", "b/c.zzz"}).paths() == std::vector<std::string>{"b/c/d", "b/c/d-", "b/c/d/e", "b/c/d/e/f"});
    CHECK(tree.ask({"list", ".", "--after", "zzz"}).paths().empty());
    CHECK(tree.ask({"list", ".", "--limit", "0"}).done.more);
}

TEST_CASE("names are bytes") {
    const Tree tree;
    for (const std::string& name : odd_names()) {
        tree.ask({"write", "--", name}, name);
        tree.ask({"write", "--parents", "--", "d/" + name + "/f"}, "x");
        CHECK(tree.run({"read", "--", name}).out == name);
        CHECK(tree.ask({"stat", "--", name}).entries.at(0).path == name);
    }
    CHECK(tree.ask({"list", ".", "--recursive"}).paths() == sorted_paths(tree));
    CHECK(tree.picture().size() == 2 + 3 * odd_names().size());
    for (const std::string& name : odd_names()) tree.ask({"remove", "--", name});
    tree.ask({"remove", "--recursive", "d"});
    CHECK(tree.picture().size() == 1);
    CHECK(tree.run({"write", std::string(256, 'n')}, "").refused_as(ErrorCode::invalid_argument, "255"));
    CHECK(tree.run({"read", "\x1b[31m\xff"}).refused_as(ErrorCode::not_found, "\"\\x1b[31m\\xff\""));
}

TEST_CASE("a read gives the bytes asked for, and says whether there are more") {
    const Tree tree;
    const std::string content = std::string(300'000, 'a') + "end";
    tree.file("f", content, 0600);
    const auto part = [&](std::vector<std::string> options) {
        options.insert(options.begin(), {"read", "f"});
        const Outcome outcome = tree.run(options);
        REQUIRE(outcome.status == 0);
        const Answer answer = answer_of(outcome.err);
        CHECK(answer.entries.at(0).size == content.size());
        CHECK(answer.entries.at(0).mode == 0600);
        CHECK(answer.done.bytes == outcome.out.size());
        return std::pair(outcome.out, answer.done.more);
    };
    CHECK(part({}) == std::pair(content, false));
    CHECK(part({"--offset", "300000"}) == std::pair(std::string("end"), false));
    CHECK(part({"--offset", "299999", "--limit", "3"}) == std::pair(std::string("aen"), true));
    CHECK(part({"--offset", "300001", "--limit", "2"}) == std::pair(std::string("nd"), false));
    CHECK(part({"--offset", "9999999"}) == std::pair(std::string(), false));
    CHECK(part({"--limit", "0"}) == std::pair(std::string(), true));
    CHECK(part({"--offset", "18446744073709551615"}) == std::pair(std::string(), false));
}

TEST_CASE("a read follows links that stay inside, and no others") {
    const Tree tree;
    tree.file("d/f", "inside");
    std::ofstream(tree.top / "secret") << "outside";
    fs::create_symlink("d/f", tree.ws / "to_file");
    fs::create_symlink("d", tree.ws / "to_directory");
    fs::create_symlink("../d/../d/f", tree.ws / "d/around");
    CHECK(tree.run({"read", "to_file"}).out == "inside");
    CHECK(tree.run({"read", "to_directory/f"}).out == "inside");
    CHECK(tree.run({"read", "d/around"}).out == "inside");
    fs::create_symlink("../secret", tree.ws / "up");
    fs::create_symlink(tree.top / "secret", tree.ws / "absolute");
    fs::create_symlink("/proc/self/root" + (tree.top / "secret").string(), tree.ws / "magic");
    fs::create_symlink("..", tree.ws / "parent");
    for (const char* path : {"up", "absolute", "magic", "parent/secret"}) {
        const Outcome outcome = tree.run({"read", path});
        CHECK(outcome.refused_as(ErrorCode::failed_precondition));
        CHECK(outcome.out.empty());
    }
    for (const char* path : {"../secret", "d/../../secret", "..", "/etc/passwd"}) CHECK(tree.run({"read", path}).refused_as(ErrorCode::invalid_argument));
    CHECK(tree.run({"read", tree.ws.string() + "x/f"}).refused_as(ErrorCode::invalid_argument, "outside"));
    CHECK(tree.run({"read", (tree.ws / "d/f").string()}).out == "inside");
    fs::create_symlink("loop", tree.ws / "loop");
    CHECK(tree.run({"read", "loop"}).refused_as(ErrorCode::failed_precondition));
}

TEST_CASE("what is no file is not read, and nothing waits for it") {
    const Tree tree;
    fs::create_directory(tree.ws / "d");
    REQUIRE(::mkfifo((tree.ws / "fifo").c_str(), 0600) == 0);
    CHECK(tree.run({"read", "d"}).refused_as(ErrorCode::failed_precondition, "directory"));
    CHECK(tree.run({"read", "."}).refused_as(ErrorCode::failed_precondition, "directory"));
    CHECK(tree.run({"read", "fifo"}).refused_as(ErrorCode::failed_precondition, "fifo"));
    CHECK(tree.run({"write", "fifo"}, "x").refused_as(ErrorCode::failed_precondition, "fifo"));
    if (is_root() && ::mknod((tree.ws / "zero").c_str(), S_IFCHR | 0666, makedev(1, 5)) == 0)
        CHECK(tree.run({"read", "zero"}).refused_as(ErrorCode::failed_precondition, "device"));
}

TEST_CASE("a write replaces the whole file or nothing") {
    const Tree tree;
    const auto mode_of = [&](const char* path) { return fs::status(tree.ws / path).permissions(); };
    CHECK(tree.ask({"write", "f"}, "one").done.bytes == 3);
    CHECK(slurp(tree.ws / "f") == "one");
    CHECK(mode_of("f") == fs::perms{0644});
    ::chmod((tree.ws / "f").c_str(), 04751);
    tree.ask({"write", "f"}, "two");
    CHECK(mode_of("f") == fs::perms{0751});
    tree.ask({"write", "f", "--mode", "0600", "--replace", "--length", "5"}, "three");
    CHECK(mode_of("f") == fs::perms{0600});
    CHECK(slurp(tree.ws / "f") == "three");

    const Picture before = tree.picture();
    CHECK(tree.run({"write", "f", "--length", "5"}, "four").refused_as(ErrorCode::unavailable, "4 of 5"));
    CHECK(tree.run({"write", "f", "--length", "3"}, "four").refused_as(ErrorCode::invalid_argument));
    CHECK(tree.run({"write", "f", "--create"}, "x").refused_as(ErrorCode::failed_precondition, "there already"));
    CHECK(tree.run({"write", "new", "--replace"}, "x").refused_as(ErrorCode::not_found));
    CHECK(tree.run({"write", "p/q/new"}, "x").refused_as(ErrorCode::not_found));
    CHECK(tree.run({"write", "p/q/new", "--parents", "--length", "9"}, "x").refused_as(ErrorCode::unavailable));
    CHECK(tree.run({"write", "p/q/new", "--parents", "--replace"}, "x").refused_as(ErrorCode::not_found));
    CHECK(tree.run({"write", "f/x", "--parents"}, "x").refused_as(ErrorCode::failed_precondition));
    CHECK(tree.run({"write", "."}, "x").refused_as(ErrorCode::failed_precondition, "directory"));
    CHECK(tree.run({"write", "f", "--mode", "4755"}, "x").refused_as(ErrorCode::invalid_argument));
    CHECK(differences(tree.picture(), before) == "");

    tree.ask({"write", "p/q/new", "--parents", "--create"}, "deep");
    CHECK(slurp(tree.ws / "p/q/new") == "deep");
    CHECK(mode_of("p/q") == fs::perms{0755});
    CHECK(tree.run({"write", "p"}, "x").refused_as(ErrorCode::failed_precondition, "directory"));
    tree.ask({"write", "empty"});
    CHECK(fs::file_size(tree.ws / "empty") == 0);
    std::string large(3 << 20, 'x');
    large += "end";
    tree.ask({"write", "large"}, large);
    CHECK(slurp(tree.ws / "large") == large);
}

TEST_CASE("a write replaces a link itself and goes through none") {
    const Tree tree;
    std::ofstream(tree.top / "secret") << "outside";
    fs::create_symlink("../secret", tree.ws / "link");
    fs::create_symlink("..", tree.ws / "parent");
    tree.ask({"write", "link"}, "mine");
    CHECK(fs::is_regular_file(fs::symlink_status(tree.ws / "link")));
    CHECK(slurp(tree.ws / "link") == "mine");
    CHECK(tree.run({"write", "parent/secret"}, "mine").refused_as(ErrorCode::failed_precondition));
    CHECK(tree.run({"write", "parent/made", "--parents"}, "mine").refused_as(ErrorCode::failed_precondition));
    CHECK(slurp(tree.top / "secret") == "outside");
    CHECK_FALSE(fs::exists(tree.top / "made"));
}

TEST_CASE("a remove takes what it was told to") {
    const Tree tree;
    tree.file("d/e/f", "x");
    tree.file("d/g", "x");
    fs::create_symlink("/etc", tree.ws / "d/link");
    fs::create_directory(tree.ws / "d/empty");
    tree.file("keep", "x");
    const Picture before = tree.picture();
    CHECK(tree.run({"remove", "d"}).refused_as(ErrorCode::failed_precondition, "not empty"));
    CHECK(tree.run({"remove", "."}).refused_as(ErrorCode::invalid_argument, "root"));
    CHECK(tree.run({"remove", "no", "--recursive"}).refused_as(ErrorCode::not_found));
    CHECK(differences(tree.picture(), before) == "");
    const Answer answer = tree.ask({"remove", "d", "--recursive"});
    CHECK(answer.done.files == 2);
    CHECK(answer.done.directories == 3);
    CHECK(answer.done.symlinks == 1);
    CHECK(sorted_paths(tree) == std::vector<std::string>{"keep"});
    fs::create_directory_symlink("/etc", tree.ws / "link");
    tree.ask({"remove", "link", "--recursive"});
    CHECK(fs::exists("/etc/passwd"));
    fs::create_directory(tree.ws / "empty");
    tree.ask({"remove", "empty"});
    CHECK(sorted_paths(tree) == std::vector<std::string>{"keep"});
}

TEST_CASE("an ordinary user removes what he may not write to but owns") {
    if (!is_root()) return;
    const Tree tree;
    tree.file("d/e/f", "x");
    for (const char* path : {"", "d", "d/e", "d/e/f"}) REQUIRE(::chown((tree.ws / path).c_str(), 65534, 65534) == 0);
    for (const char* path : {"d/e", "d"}) REQUIRE(::chmod((tree.ws / path).c_str(), path[1] ? 0 : 0555) == 0);
    const Outcome outcome = tree.run({"remove", "d", "--recursive"}, "", 65534);
    INFO(outcome.err);
    CHECK(outcome.status == 0);
    CHECK_FALSE(fs::exists(tree.ws / "d"));
    tree.file("mine", "x", 0600);
    CHECK(tree.run({"read", "mine"}, "", 65534).refused_as(ErrorCode::failed_precondition, "ermission"));
}

TEST_CASE("words that make no sense are refused") {
    const Tree tree;
    for (const std::vector<std::string>& words : std::vector<std::vector<std::string>>{
             {"list"}, {"list", "a", "b"}, {"list", ".", "--offset", "1"}, {"list", ".", "--limit"}, {"list", ".", "--limit", "-1"},
             {"list", ".", "--limit", "1x"}, {"list", ".", "--recursive", "--recursive"}, {"nothing"}, {"pack"}, {"unpack", "x"},
             {"write", "x", "--create", "--replace"}, {"write", "x", "--mode", "8"}})
        CHECK(tree.run(words).refused_as(ErrorCode::invalid_argument));
    CHECK(run_program({PYRO_GUEST_PROGRAM, "files"}).refused_as(ErrorCode::invalid_argument));
    CHECK(run_program({PYRO_GUEST_PROGRAM, "files", "list", ".", "--root", (tree.top / "nowhere").string()}).refused_as(ErrorCode::not_found));
    fs::create_directory_symlink("/etc", tree.top / "linked");
    CHECK(run_program({PYRO_GUEST_PROGRAM, "files", "list", ".", "--root", (tree.top / "linked").string()}).status == 1);
}
