// A workspace's difference from its baseline, with git as the judge of it.
#include "common/patch/patch.hpp"
#include "tests/unit/files/overlay.hpp"

#include <algorithm>
#include <functional>
#include <random>
#include <set>

using namespace pyro;
using namespace pyro::test;
using wire::ChangeKind;
using wire::Reason;

namespace {

// What the patch should make of the lower directory: everything, but for what is told to be left out of it.
void check_against_git(const Overlay& overlay, const Difference& difference) {
    const GitTree lower = git_tree(overlay.lower), merged = git_tree(overlay.ws), made = overlay.by_git(difference.patch);
    std::set<std::string> left_out;
    for (const wire::Change& change : difference.changes)
        if (change.note || change.binary) left_out.insert(change.path);
    GitTree expected = merged;
    for (const std::string& path : left_out) {
        expected.erase(path);
        if (const auto old = lower.find(path); old != lower.end()) expected.insert(*old);
    }
    INFO(difference.patch.substr(0, 6000));
    CHECK(git_differences(made, expected) == "");
    if (difference.patch.empty()) return;
    std::size_t added = 0, deleted = 0, told_added = 0, told_deleted = 0;
    for (const patch::FilePatch& one : patch::parse_made(difference.patch)) {
        const patch::Stat lines = patch::stat(one);
        added += lines.added;
        deleted += lines.deleted;
        CHECK(std::any_of(difference.changes.begin(), difference.changes.end(),
                          [&](const wire::Change& change) { return change.path == one.path() && !change.note && !change.binary; }));
    }
    for (const wire::Change& change : difference.changes) told_added += change.added, told_deleted += change.deleted;
    CHECK(added == told_added);
    CHECK(deleted == told_deleted);
}

std::string lines(std::mt19937& random) {
    std::string text;
    for (std::size_t i = random() % 30; i > 0; --i) text += "line " + std::to_string(random() % 12) + (random() % 9 ? "\n" : "\r\n");
    if (random() % 4 == 0) text += "no newline";
    return text;
}

// Edits of somebody who works in a tree, by the names of a few files and directories.
class Editor {
public:
    Editor(fs::path top, std::mt19937& random, bool odd) : top_(std::move(top)), random_(random), odd_(odd) {}

    fs::path any_name() {
        static const std::vector<std::string> names{"a", "b", "c d", "e\tf", "\xc3\xbc", "q\"uote", "x", "y.txt", "back\\slash", "new\nline"};
        fs::path path;
        for (std::size_t depth = 1 + random_() % 3; depth > 0; --depth) path /= names[random_() % names.size()];
        return top_ / path;
    }
    std::string content() {
        if (odd_ && random_() % 4 == 0) return std::string("\0\1binary", 8) + std::to_string(random_() % 5);
        return lines(random_);
    }
    bool is(fs::file_type type, const fs::path& path) const {
        std::error_code ignored;
        return fs::symlink_status(path, ignored).type() == type;
    }
    void write(const fs::path& path) {
        std::error_code ignored;
        fs::create_directories(path.parent_path(), ignored);
        if (!is(fs::file_type::directory, path)) {
            fs::remove(path, ignored);
            std::ofstream(path, std::ios::binary) << content();
            if (random_() % 5 == 0) ::chmod(path.c_str(), 0755);
        }
    }
    void edit(const fs::path& path) {
        if (!is(fs::file_type::regular, path)) return write(path);
        std::string text = slurp(path);
        const std::size_t at = text.empty() ? 0 : text.find('\n', random_() % text.size());
        text.insert(at == std::string::npos ? text.size() : at, "\nedited " + std::to_string(random_() % 1000));
        std::ofstream(path, std::ios::binary) << text;
    }
    void some() {
        std::error_code ignored;
        const fs::path path = any_name();
        switch (random_() % 13) {
            case 0: case 1: case 2: return edit(path);
            case 3: write(path); return;
            case 4: fs::remove(path, ignored); return;
            case 5: fs::remove_all(path, ignored); return;
            case 6: fs::rename(path, any_name(), ignored); return;
            case 7: {
                const GitTree files = git_tree(top_);
                if (files.empty()) return;
                const fs::path to = any_name(), from = top_ / std::next(files.begin(), static_cast<std::ptrdiff_t>(random_() % files.size()))->first;
                fs::create_directories(to.parent_path(), ignored);
                fs::rename(from, to, ignored);
                return;
            }
            case 8:
                if (is(fs::file_type::regular, path)) ::chmod(path.c_str(), random_() % 2 ? 0755 : 0640);
                return;
            case 9:
                fs::remove_all(path, ignored);
                fs::create_directories(path.parent_path(), ignored);
                static_cast<void>(::symlink(random_() % 2 ? "a" : "../elsewhere", path.c_str()));
                return;
            case 10:
                fs::remove_all(path, ignored);
                fs::create_directories(path, ignored);
                write(path / "a");
                return;
            case 11:
                fs::remove_all(path, ignored);
                return write(path);
            default:
                if (!odd_) return edit(path);
                fs::remove_all(path, ignored);
                fs::create_directories(path.parent_path(), ignored);
                if (random_() % 3) static_cast<void>(::mkfifo(path.c_str(), 0600));
                else if (fs::create_directories(path / ".git", ignored)) std::ofstream(path / ".git/config") << random_();
        }
    }

private:
    const fs::path top_;
    std::mt19937& random_;
    const bool odd_;
};

}  // namespace

TEST_CASE("a difference says what git would, and git makes the workspace of it") {
    if (!is_root()) return;
    Overlay overlay;
    overlay.base("same", "same\n");
    overlay.base("changed", "1\n2\n3\n4\n5\n6\n7\n8\n9\n");
    overlay.base("run.sh", "#!/bin/sh\n");
    overlay.base("private", "x\n", 0600);
    overlay.base("gone", "old\n");
    overlay.base("moved", "the same content\n");
    overlay.base("d/one", "1\n");
    overlay.base("d/two", "2\n");
    overlay.base("d/sub/three", "3");
    overlay.base("becomes/a/file", "x\n");
    overlay.base("becomes_dir", "x\n");
    overlay.base("link_to_be", "x\n");
    overlay.base("replaced/kept", "kept\n");
    overlay.base("replaced/lost", "lost\n");
    overlay.base(".git/config", "not looked at\n");
    fs::create_symlink("same", overlay.lower / "link");
    overlay.mount();
    CHECK(overlay.diff().patch.empty());
    CHECK(overlay.diff().changes.empty());
    CHECK(overlay.diff({"--verify"}).changes.empty());

    overlay.file("changed", "1\n2\n3\n4\nfive\n6\n7\n8\n9");
    overlay.file("same", "same\n");  // written, and equal all the same
    ::chmod((overlay.ws / "run.sh").c_str(), 0755);
    ::chmod((overlay.ws / "private").c_str(), 0644);  // git does not know
    fs::remove(overlay.ws / "gone");
    fs::rename(overlay.ws / "moved", overlay.ws / "d/moved here");
    fs::remove_all(overlay.ws / "d/sub");
    fs::remove_all(overlay.ws / "becomes");
    overlay.file("becomes", "a file\n");
    fs::remove(overlay.ws / "becomes_dir");
    overlay.file("becomes_dir/in", "y\n");
    fs::remove(overlay.ws / "link_to_be");
    fs::create_symlink("/etc/passwd", overlay.ws / "link_to_be");
    fs::remove(overlay.ws / "link");
    fs::create_symlink("changed", overlay.ws / "link");
    fs::remove_all(overlay.ws / "replaced");  // and so opaque
    overlay.file("replaced/kept", "kept\n");
    overlay.file("empty", "");
    overlay.file("na\"me\n\xff", "odd\n");
    overlay.file(".git/config", "changed\n");
    overlay.file("n/.GIT/config", "new\n");
    overlay.file(".pyro-staging-x/f", "pyro's own\n");
    fs::create_directory(overlay.ws / "directories alone");

    const Difference difference = overlay.diff();
    std::map<std::string, ChangeKind> kinds;
    for (const wire::Change& change : difference.changes) kinds[change.path] = change.kind;
    CHECK(kinds == std::map<std::string, ChangeKind>{
        {"becomes", ChangeKind::added}, {"becomes/a/file", ChangeKind::deleted}, {"becomes_dir", ChangeKind::deleted}, {"becomes_dir/in", ChangeKind::added},
        {"changed", ChangeKind::modified}, {"d/moved here", ChangeKind::renamed}, {"d/sub/three", ChangeKind::deleted}, {"empty", ChangeKind::added},
        {"gone", ChangeKind::deleted}, {"link", ChangeKind::modified}, {"link_to_be", ChangeKind::type}, {"na\"me\n\xff", ChangeKind::added},
        {"replaced/lost", ChangeKind::deleted}, {"run.sh", ChangeKind::mode}});
    CHECK(difference.of("d/moved here").old_path == "moved");
    CHECK(difference.of("changed").added == 2);
    CHECK(difference.of("changed").deleted == 2);
    CHECK(difference.patch.find("diff --git a/changed b/changed\n--- a/changed\n+++ b/changed\n@@ -2,8 +2,8 @@\n 2\n 3\n 4\n-5\n+five\n") != std::string::npos);
    CHECK(difference.patch.find("old mode 100644\nnew mode 100755\n") != std::string::npos);
    GitTree merged = git_tree(overlay.ws);
    merged.erase(".pyro-staging-x/f");
    merged.erase("n/.GIT/config");
    CHECK(git_differences(overlay.by_git(difference.patch), merged) == "");
    CHECK(overlay.diff({"--verify"}).patch == difference.patch);

    // Parts of it.
    const auto paths = [&](const std::vector<std::string>& asked) {
        std::vector<std::string> all;
        for (const wire::Change& change : overlay.diff(asked).changes) all.push_back(change.path);
        return all;
    };
    CHECK(paths({"d"}) == std::vector<std::string>{"d/moved here", "d/sub/three"});
    CHECK(paths({"d/sub/three", "gone", "same", "nothing"}) == std::vector<std::string>{"d/sub/three", "gone"});
    CHECK(paths({"becomes"}) == std::vector<std::string>{"becomes", "becomes/a/file"});
    CHECK(paths({"becomes/a"}) == std::vector<std::string>{"becomes/a/file"});
    CHECK(paths({"replaced/lost"}) == std::vector<std::string>{"replaced/lost"});
    CHECK(paths({"d", "."}).size() == difference.changes.size());
}

TEST_CASE("a difference leaves out what a patch cannot say, tells it, and still applies") {
    if (!is_root()) return;
    Overlay overlay;
    overlay.base("binary", std::string("\0a", 2));
    overlay.base("binary_gone", std::string("\0b", 2));
    overlay.base("binary_moved", std::string("\0c", 2));
    overlay.base("binary_to_dir", std::string("\0d", 2));
    overlay.base("d/binary", std::string("\0e", 2));
    overlay.base("d/text", "text\n");
    overlay.base("e/.git/config", "x");
    overlay.base("e/text", "text\n");
    overlay.base("large", std::string(9 << 20, 'x') + "\n");
    overlay.base("text", "text\n");
    overlay.base("to_fifo", "text\n");
    fs::create_directories(overlay.lower / "hollow/within");
    overlay.mount();
    overlay.file("binary", std::string("\0A", 2));
    fs::remove(overlay.ws / "binary_gone");
    fs::rename(overlay.ws / "binary_moved", overlay.ws / "here");
    for (const char* path : {"binary_to_dir", "d", "e", "hollow", "to_fifo"}) fs::remove_all(overlay.ws / path);
    overlay.file("binary_to_dir/in", "cannot be there\n");
    for (const char* path : {"d", "e", "hollow"}) overlay.file(path, "cannot be there\n");
    REQUIRE(::mkfifo((overlay.ws / "to_fifo").c_str(), 0600) == 0);
    overlay.file("large", std::string(9 << 20, 'y') + "\n");
    overlay.file("many", std::string(600'000, '\n'));
    overlay.file("text", "other\n");
    const Difference difference = overlay.diff();
    CHECK(difference.of("binary").binary);
    CHECK(difference.of("binary_gone").binary);
    CHECK(difference.of("binary_gone").kind == ChangeKind::deleted);
    CHECK(difference.of("here").old_path == "binary_moved");
    CHECK(difference.of("binary_to_dir").binary);
    CHECK(difference.of("binary_to_dir/in").note == Reason::in_the_way);
    for (const char* path : {"d", "e", "hollow"}) CHECK(difference.of(path).note == Reason::in_the_way);
    CHECK(difference.of("large").note == Reason::too_large);
    CHECK(difference.of("many").note == Reason::too_large);
    CHECK(difference.of("to_fifo").note == Reason::special);
    CHECK(difference.of("to_fifo").kind == ChangeKind::type);
    CHECK(difference.done.left_out == 2);
    CHECK(difference.done.more);
    CHECK(difference.patch.find("Binary files") == std::string::npos);
    check_against_git(overlay, difference);

    // A bound of the patch, at every file and within.
    const std::string whole = difference.patch;
    std::set<std::size_t> lengths;
    for (std::size_t most = 0; most <= whole.size(); most += 20) {
        const Difference part = overlay.diff({"--max-bytes", std::to_string(most)});
        CHECK(part.patch.size() <= most);
        CHECK(whole.starts_with(part.patch));
        CHECK(part.changes.size() == difference.changes.size());
        lengths.insert(part.patch.size());
    }
    CHECK(lengths.size() == 4);  // and all of it
    CHECK(overlay.diff({"--max-bytes", std::to_string(whole.size())}).patch == whole);
    CHECK(overlay.run_diff({"--max-bytes", "x"}).refused_as(ErrorCode::invalid_argument));
    CHECK(overlay.run({"diff", "--upper", overlay.upper.string()}).refused_as(ErrorCode::invalid_argument, "--lower"));
}

TEST_CASE("another file system in a workspace is told and not looked into") {
    if (!is_root()) return;
    Overlay overlay;
    overlay.base("m/f", "x\n");
    overlay.base("f", "x\n");
    overlay.mount();
    overlay.file("m/f", "y\n");
    REQUIRE(::mount("none", (overlay.ws / "m").c_str(), "tmpfs", 0, "size=1m") == 0);
    overlay.file("m/g", "z\n");
    REQUIRE(::mount("/etc/passwd", (overlay.ws / "f").c_str(), nullptr, MS_BIND, nullptr) == 0);
    for (const char* how : {"", "--verify"}) {
        const Difference difference = *how ? overlay.diff({how}) : overlay.diff();
        CHECK(difference.notes == std::vector<wire::Note>{{Reason::mount_point, "m"}});
        CHECK(difference.patch == "");
        CHECK(difference.changes.size() == (*how ? 1 : 0));
    }
    for (const char* path : {"m", "f"}) ::umount2((overlay.ws / path).c_str(), MNT_DETACH);
    CHECK(overlay.diff().of("m/f").kind == ChangeKind::modified);
}

TEST_CASE("whatever is edited, git makes the workspace of the difference, and so does apply") {
    if (!is_root()) return;
    std::mt19937 random(7);
    Overlay overlay;
    std::size_t patches = 0, renames = 0, types = 0, left_out = 0;
    for (int round = 0; round < 40; ++round) {
        CAPTURE(round);
        const bool odd = round % 3 == 2;
        for (const auto& entry : fs::directory_iterator(overlay.lower)) fs::remove_all(entry.path());
        Editor before(overlay.lower, random, odd);
        for (int i = 0; i < 30; ++i) before.some();
        overlay.mount(round % 4 == 3 ? "redirect_dir=on,metacopy=on" : round % 2 ? "xino=on" : "xino=off");
        Editor now(overlay.ws, random, odd);
        for (int i = 0; i < 25; ++i) now.some();
        const Difference difference = overlay.diff();
        CHECK(difference.notes.empty());
        check_against_git(overlay, difference);
        const Difference verified = overlay.diff({"--verify"});
        CHECK(verified.patch == difference.patch);
        CHECK(verified.changes == difference.changes);
        for (const wire::Change& change : difference.changes) {
            renames += change.kind == ChangeKind::renamed;
            types += change.kind == ChangeKind::type;
            left_out += change.note || change.binary;
        }
        if (difference.patch.empty()) continue;
        ++patches;
        const GitTree expected = overlay.by_git(difference.patch);
        overlay.mount(round % 2 ? "xino=off" : "xino=on");
        const Outcome applied = overlay.run({"apply"}, difference.patch);
        INFO(applied.err);
        CHECK(applied.status == 0);
        CHECK(git_differences(git_tree(overlay.ws), expected) == "");
        CHECK(overlay.is_clean());
        // What is left out may be there for a rename.
        const bool whole = std::none_of(difference.changes.begin(), difference.changes.end(), [](const wire::Change& change) { return change.note || change.binary; });
        if (whole) CHECK(overlay.diff().patch == difference.patch);
        // Told as the difference tells it.
        std::vector<std::string> told, of_difference;
        for (const wire::Change& change : changes_of(applied.out)) told.push_back(std::string(to_string(change.kind)) + " " + change.path + " < " + change.old_path);
        for (const wire::Change& change : difference.changes)
            if (!change.note && !change.binary) of_difference.push_back(std::string(to_string(change.kind)) + " " + change.path + " < " + change.old_path);
        CHECK(told == of_difference);
    }
    CHECK(patches > 30);
    CHECK(renames > 15);
    CHECK(types > 5);
    CHECK(left_out > 15);
}

TEST_CASE("a difference goes as deep as paths of patches") {
    if (!is_root()) return;
    Overlay overlay;
    overlay.base("top", "x\n");
    overlay.mount();
    UniqueFd at = open_file(overlay.ws, O_RDONLY | O_DIRECTORY);
    std::string path;
    for (int i = 0; i < 2046; ++i) {
        REQUIRE(::mkdirat(at.get(), "d", 0755) == 0);
        at = UniqueFd(::openat(at.get(), "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        REQUIRE(at);
        path += "d/";
    }
    for (const char* name : {"abc", "abcd", "z"}) write_all(UniqueFd(::openat(at.get(), name, O_WRONLY | O_CREAT | O_CLOEXEC, 0644)).get(), "bottom\n");
    REQUIRE((path + "abc").size() == wire::max_patch_path_bytes);
    const Difference difference = overlay.diff();
    CHECK(difference.of(path + "abc").added == 1);
    CHECK(difference.of(path + "z").added == 1);
    CHECK(difference.changes.size() == 2);
    path.pop_back();
    CHECK(difference.notes == std::vector<wire::Note>{{Reason::too_long, path}});
    overlay.mount();
    const Outcome applied = overlay.run({"apply"}, difference.patch);
    INFO(applied.err);
    CHECK(applied.status == 0);
    CHECK(overlay.diff().patch == difference.patch);
}

TEST_CASE("a difference costs what was changed, not what there is") {
    if (!is_root()) return;
    Overlay overlay;
    for (int i = 0; i < 10'000; ++i) overlay.base("d" + std::to_string(i / 100) + "/" + std::to_string(i), "line\n");
    overlay.mount();
    for (int i = 0; i < 20; ++i) overlay.file("d" + std::to_string(i % 4) + "/" + std::to_string(i % 4 * 100 + i), "changed\n");
    // A clock of strict access times: who has been read is told by it.
    const timespec long_ago[2] = {{1'000'000'000, 0}, {0, UTIME_OMIT}};
    const auto all = [&] {
        std::vector<fs::path> paths{overlay.lower};
        for (const auto& entry : fs::recursive_directory_iterator(overlay.lower)) paths.push_back(entry.path());
        return paths;
    };
    const std::vector<fs::path> paths = all();
    const auto read_now = [&](const std::vector<std::string>& options) {
        for (const fs::path& path : paths) REQUIRE(::utimensat(AT_FDCWD, path.c_str(), long_ago, 0) == 0);
        CHECK(overlay.diff(options).changes.size() == 20);
        std::size_t count = 0;
        for (const fs::path& path : paths) {
            struct stat info{};
            REQUIRE(::stat(path.c_str(), &info) == 0);
            count += info.st_atim.tv_sec != long_ago[0].tv_sec;
        }
        return count;
    };
    CHECK(read_now({}) == 20);
    CHECK(read_now({"--verify"}) > 10'000);
}

TEST_CASE("a file under a writer's hands is told as changing, or shown as it was at one time") {
    if (!is_root()) return;
    Overlay overlay;
    overlay.base("f", "start\n");
    overlay.mount();
    overlay.file("f", "written once\n");
    std::size_t shown = 0;
    {
        const Beside writer([&, n = 0]() mutable {
            const std::string line = std::to_string(++n % 10) + "\n";
            std::string text;
            for (int i = 0; i < 2000; ++i) text += line;
            const UniqueFd fd(::open((overlay.ws / "f").c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC));
            write_all(fd.get(), text);
        });
        for (int round = 0; round < 40 || writer.rounds() == 0; ++round) {
            const Difference difference = overlay.diff();
            REQUIRE(difference.changes.size() == 1);
            if (difference.of("f").note) CHECK(difference.of("f").note == Reason::changed);
            else overlay.by_git(difference.patch), ++shown;
        }
    }
    INFO(shown);
    CHECK(overlay.diff().of("f").added == 2000);
}
