// Patches to a workspace: all of one or nothing, whatever comes between.
#include "tests/unit/files/overlay.hpp"

#include <linux/fs.h>
#include <set>
#include <sys/ptrace.h>
#include <sys/user.h>

using namespace pyro;
using namespace pyro::test;
using wire::ChangeKind;

namespace {

// The program, stopped at each of its system calls.
class Traced {
public:
    Traced(const std::vector<std::string>& arguments, std::string_view input)
        : in_(memory_file(input)), out_(memory_file()), err_(memory_file()) {
        std::vector<char*> words;
        for (const std::string& word : arguments) words.push_back(const_cast<char*>(word.c_str()));
        words.push_back(nullptr);
        pid_ = ::fork();
        REQUIRE(pid_ >= 0);
        if (pid_ == 0) {
            ::dup2(in_.get(), 0), ::dup2(out_.get(), 1), ::dup2(err_.get(), 2);
            ::setenv("ASAN_OPTIONS", "detect_leaks=0", 1);  // which it cannot when traced
            ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
            ::execv(words[0], words.data());
            ::_exit(127);
        }
        int status = 0;
        REQUIRE(::waitpid(pid_, &status, 0) == pid_);
        REQUIRE(WIFSTOPPED(status));
        REQUIRE(::ptrace(PTRACE_SETOPTIONS, pid_, nullptr, PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD) == 0);
    }
    Traced(const Traced&) = delete;
    Traced& operator=(const Traced&) = delete;
    ~Traced() {
        if (pid_ > 0) kill();
    }
    // To the beginning of its next system call, whose number it gives; -1 when it has ended.
    long next() {
        while (true) {
            int status = 0;
            if (::ptrace(PTRACE_SYSCALL, pid_, nullptr, nullptr) != 0 || ::waitpid(pid_, &status, 0) != pid_) FAIL("it cannot be traced");
            if (!WIFSTOPPED(status)) {
                status_ = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
                pid_ = 0;
                return -1;
            }
            if (WSTOPSIG(status) != (SIGTRAP | 0x80)) continue;
            inside_ = !inside_;
            if (!inside_) continue;
            if (::ptrace(PTRACE_GETREGS, pid_, nullptr, &registers_) != 0) FAIL("it cannot be traced");
            return static_cast<long>(registers_.orig_rax);
        }
    }
    // To the next that changes a file or a directory, or a lock on one: between two of these, it does not matter when it is killed.
    bool next_change() {
        static const std::set<long> changing{SYS_write, SYS_writev, SYS_mkdirat, SYS_unlinkat, SYS_renameat2, SYS_symlinkat, SYS_linkat, SYS_fchown,
                                             SYS_fchownat, SYS_fchmod, SYS_fchmodat, SYS_chmod, SYS_utimensat, SYS_ftruncate, SYS_flock};
        while (true) {
            const long call = next();
            if (call < 0) return false;
            if (changing.contains(call) || (call == SYS_openat && (registers_.rdx & O_CREAT) != 0)) return true;
        }
    }
    void kill() {
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
        pid_ = 0;
    }
    Outcome finish() {
        while (pid_ > 0) next();
        return Outcome{status_, content_of(out_), content_of(err_)};
    }

private:
    const UniqueFd in_, out_, err_;
    pid_t pid_ = 0;
    int status_ = 0;
    bool inside_ = false;
    user_regs_struct registers_{};
};

// Of every kind: what a patch can do to a tree.
constexpr const char* every_kind = R"(diff --git a/becomes_dir b/becomes_dir
deleted file mode 100644
--- a/becomes_dir
+++ /dev/null
@@ -1 +0,0 @@
-file
diff --git a/becomes_dir/in b/becomes_dir/in
new file mode 100644
--- /dev/null
+++ b/becomes_dir/in
@@ -0,0 +1 @@
+new
diff --git a/becomes_file b/becomes_file
new file mode 100755
--- /dev/null
+++ b/becomes_file
@@ -0,0 +1 @@
+new
diff --git a/becomes_file/deep/f b/becomes_file/deep/f
deleted file mode 100644
--- a/becomes_file/deep/f
+++ /dev/null
@@ -1 +0,0 @@
-f
diff --git a/becomes_file/g b/becomes_file/g
deleted file mode 100644
--- a/becomes_file/g
+++ /dev/null
@@ -1 +0,0 @@
-g
diff --git a/changed b/changed
--- a/changed
+++ b/changed
@@ -1,3 +1,3 @@
 1
-2
+two
 3
diff --git a/d/last b/d/last
deleted file mode 100644
--- a/d/last
+++ /dev/null
@@ -1 +0,0 @@
-last
diff --git a/empty b/empty
new file mode 100644
diff --git a/link b/link
--- a/link
+++ b/link
@@ -1 +1 @@
-changed
\ No newline at end of file
+/etc/passwd
\ No newline at end of file
diff --git a/moved b/n/m/moved
similarity index 100%
rename from moved
rename to n/m/moved
diff --git a/run.sh b/run.sh
old mode 100644
new mode 100755
)";

void every_kind_of_file(const Overlay& overlay) {
    overlay.base("becomes_dir", "file\n");
    overlay.base("becomes_file/deep/f", "f\n");
    overlay.base("becomes_file/g", "g\n");
    overlay.base("changed", "1\n2\n3\n", 0640);
    overlay.base("d/last", "last\n");
    overlay.base("moved", "moved\n", 0600);
    overlay.base("run.sh", "run\n", 0644);
    overlay.base("untouched/f", "x\n");
    fs::create_symlink("changed", overlay.lower / "link");
    ::chmod((overlay.lower / "becomes_file/deep").c_str(), 0711);
    for (const char* path : {"becomes_file", "becomes_file/deep", "d", "moved"}) REQUIRE(::chown((overlay.lower / path).c_str(), 1234, 1235) == 0);
}

// Of what is seen: modes, contents, times, but for the root's time and what is pyro's own.
Picture seen_in(const fs::path& top) {
    Picture picture = picture_of(top);
    std::erase_if(picture, [](const auto& one) { return one.first == "." || one.first.starts_with(".pyro-staging-"); });
    return picture;
}

std::map<std::string, std::string> owners_in(const fs::path& top) {
    std::map<std::string, std::string> owners;
    for (const auto& entry : fs::recursive_directory_iterator(top)) {
        struct stat info{};
        REQUIRE(::lstat(entry.path().c_str(), &info) == 0);
        owners[entry.path().lexically_relative(top).string()] = std::to_string(info.st_uid) + ":" + std::to_string(info.st_gid);
    }
    return owners;
}

}  // namespace

TEST_CASE("a patch makes what it says, and says what it made") {
    if (!is_root()) return;
    Overlay overlay;
    every_kind_of_file(overlay);
    overlay.mount();
    const Outcome outcome = overlay.run({"apply", "--owner", "1000:1001"}, every_kind);
    INFO(outcome.err);
    REQUIRE(outcome.status == 0);
    const auto change = [](ChangeKind kind, std::string path, std::uint64_t added, std::uint64_t deleted, std::string old_path = {}) {
        return wire::Change{kind, {}, false, added, deleted, std::move(path), std::move(old_path)};
    };
    CHECK(changes_of(outcome.out) == std::vector<wire::Change>{
        change(ChangeKind::deleted, "becomes_dir", 0, 1), change(ChangeKind::added, "becomes_dir/in", 1, 0), change(ChangeKind::added, "becomes_file", 1, 0),
        change(ChangeKind::deleted, "becomes_file/deep/f", 0, 1), change(ChangeKind::deleted, "becomes_file/g", 0, 1), change(ChangeKind::modified, "changed", 1, 1),
        change(ChangeKind::deleted, "d/last", 0, 1), change(ChangeKind::added, "empty", 0, 0), change(ChangeKind::modified, "link", 1, 1),
        change(ChangeKind::renamed, "n/m/moved", 0, 0, "moved"), change(ChangeKind::mode, "run.sh", 0, 0)});
    const Picture after = overlay.picture();
    CHECK(after.at("becomes_file").mode == (S_IFREG | 0755));
    CHECK(after.at("changed").content == "1\ntwo\n3\n");
    CHECK(after.at("changed").mode == (S_IFREG | 0640));
    CHECK(after.at("run.sh").mode == (S_IFREG | 0755));
    CHECK(after.at("n/m/moved").mode == (S_IFREG | 0600));
    CHECK(after.at("link").content == "/etc/passwd");
    CHECK_FALSE(after.contains("d"));
    CHECK(after.size() == 13);
    const auto owners = owners_in(overlay.ws);
    CHECK(owners.at("becomes_file") == "1000:1001");
    CHECK(owners.at("becomes_dir") == "1000:1001");
    CHECK(owners.at("n/m") == "1000:1001");
    CHECK(owners.at("empty") == "1000:1001");
    CHECK(owners.at("changed") == "0:0");
    CHECK(owners.at("n/m/moved") == "1234:1235");
    CHECK(overlay.is_clean());
    CHECK(git_differences(overlay.by_git(every_kind), git_tree(overlay.ws)) == "");
    // A second time nothing fits.
    CHECK(overlay.run({"apply"}, every_kind).refused_as(ErrorCode::failed_precondition, "becomes_dir"));
    CHECK(differences(overlay.picture(), after) == "");
}

TEST_CASE("the owner of what is written and unpacked is as told") {
    if (!is_root()) return;
    const Tree tree;
    tree.ask({"write", "new/d/f", "--parents", "--owner", "1000:1001"}, "x");
    tree.file("old", "x");
    REQUIRE(::chown((tree.ws / "old").c_str(), 7, 8) == 0);
    tree.ask({"write", "old", "--owner", "1000:1001"}, "y");
    std::map<std::string, std::string> owners = owners_in(tree.ws);
    for (const char* path : {"new", "new/d", "new/d/f"}) CHECK(owners.at(path) == "1000:1001");
    CHECK(owners.at("old") == "7:8");
    const Outcome packed = tree.run({"pack", "."});
    const Tree copy;
    fs::create_symlink("x", tree.ws / "link");
    copy.ask({"unpack", "--owner", "1000:1001"}, tree.run({"pack", "."}).out);
    owners = owners_in(copy.ws);
    CHECK(owners.size() == 5);
    for (const auto& [path, owner] : owners) CHECK(owner == "1000:1001");
    for (const char* owner : {"1000", "x:1", "1:", "4294967295:1", "-1:1", "1:2:3"}) CHECK(tree.run({"write", "f", "--owner", owner}).refused_as(ErrorCode::invalid_argument));
    CHECK(tree.run({"write", "f", "--owner", "0:0"}, "x", 65534).status == 1);
    CHECK_FALSE(fs::exists(tree.ws / "f"));
}

TEST_CASE("a patch that does not fit is rejected hunk by hunk and changes nothing") {
    const Tree tree;
    std::string text;
    for (int i = 1; i <= 40; ++i) text += "line " + std::to_string(i) + "\n";
    tree.file("f", text);
    tree.file("g", "other\n");
    tree.file("there", "x\n");
    const Picture before = tree.picture();
    const Outcome outcome = tree.run({"apply"}, "--- a/f\n+++ b/f\n@@ -1,3 +1,3 @@\n line 1\n-line 2\n+line two\n line 3\n@@ -10,3 +10,3 @@\n line 10\n-line eleven\n+x\n line 12\n"
                                                "@@ -20,3 +20,3 @@\n line 20\n-line 20.5\n+x\n line 22\n--- a/g\n+++ b/g\n@@ -1 +1 @@\n-no\x1b[31m\n+yes\n"
                                                "--- a/missing\n+++ b/missing\n@@ -1 +1 @@\n-a\n+b\ndiff --git a/there b/there\nnew file mode 100644\n");
    CHECK(outcome.refused_as(ErrorCode::failed_precondition, "\"f\", hunk 2: the lines that the hunk expects are not in the file; 5 rejections in 4 files; nothing was changed"));
    const std::vector<wire::Rejection> rejections = rejections_of(outcome.out);
    REQUIRE(rejections.size() == 5);
    CHECK(rejections[0] == wire::Rejection{2, 8, 10, "f", "the lines that the hunk expects are not in the file", {"line 10", "line eleven", "line 12"},
                                           {"line 10", "line 11", "line 12", "line 13"}});
    CHECK(rejections[1].hunk == 3);
    CHECK(rejections[2].expected == std::vector<std::string>{"no\x1b[31m"});
    CHECK(rejections[2].found == std::vector<std::string>{"other"});
    CHECK(rejections[3].path == "missing");
    CHECK(rejections[3].hunk == 0);
    CHECK(rejections[4].reason == "this exists already");
    CHECK(differences(tree.picture(), before) == "");

    // More than can be told, and lines that are too long.
    std::string many;
    const std::string wide(5000, 'w');
    for (int i = 0; i < 150; ++i) many += "--- a/n" + std::to_string(i) + "\n+++ b/n" + std::to_string(i) + "\n@@ -1 +1 @@\n-" + wide + "\n+b\n";
    for (int i = 0; i < 150; ++i) tree.file("n" + std::to_string(i), wide + "x\n");
    const Outcome told = tree.run({"apply"}, many);
    CHECK(told.refused_as(ErrorCode::failed_precondition, "100 rejections"));
    CHECK(rejections_of(told.out).size() == wire::max_rejections);
    CHECK(rejections_of(told.out)[0].found[0].size() <= wire::max_rejection_line_bytes);
}

TEST_CASE("patches that lead elsewhere are refused by name") {
    const Tree tree;
    tree.file("f", "x\n");
    tree.file(".git/config", "x\n");
    fs::create_directory(tree.top / "outside");
    std::ofstream(tree.top / "outside/f") << "x\n";
    fs::create_symlink("../outside", tree.ws / "link");
    const Picture before = tree.picture();
    const auto refused = [&](const std::string& path, ErrorCode code, const std::string& part) {
        for (const std::string& patch : {"--- a/" + path + "\n+++ b/" + path + "\n@@ -1 +1 @@\n-x\n+y\n",
                                         "diff --git a/" + path + " b/" + path + "\nnew file mode 100644\n--- /dev/null\n+++ b/" + path + "\n@@ -0,0 +1 @@\n+y\n",
                                         "diff --git a/f b/" + path + "\nsimilarity index 100%\nrename from f\nrename to " + path + "\n"}) {
            INFO(patch);
            CHECK(tree.run({"apply"}, patch).refused_as(code, part));
        }
    };
    refused("../outside/f", ErrorCode::invalid_argument, "../outside/f");
    refused("/etc/passwd", ErrorCode::invalid_argument, "");
    refused("d/../../outside/f", ErrorCode::invalid_argument, "outside");
    refused(".git/config", ErrorCode::invalid_argument, ".git/config");
    refused("d/.Git/hooks/x", ErrorCode::invalid_argument, ".Git");
    refused(".pyro-staging-1/tree/x", ErrorCode::invalid_argument, ".pyro-staging-1");
    refused(".pyro-staging-", ErrorCode::invalid_argument, ".pyro-staging-");
    refused("link/f", ErrorCode::failed_precondition, "link");
    refused(std::string(256, 'n'), ErrorCode::invalid_argument, "255");
    CHECK(tree.run({"apply"}, "diff --git a/f b/f\nindex 1..2 100644\nBinary files a/f and b/f differ\n").refused_as(ErrorCode::failed_precondition, "\"f\""));
    CHECK(tree.run({"apply"}, "diff --git a/f b/f\nindex 1..2 100644\nGIT binary patch\nliteral 1\n").refused_as(ErrorCode::invalid_argument, "\"f\""));
    CHECK(tree.run({"apply"}, "").refused_as(ErrorCode::invalid_argument, "no patch"));
    CHECK(tree.run({"apply"}, std::string((64 << 20) + 1, '\n')).refused_as(ErrorCode::invalid_argument, "bytes"));
    // A link may lead anywhere; nothing goes through it, not even what the same patch makes.
    CHECK(tree.run({"apply"}, "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+../outside\n\\ No newline at end of file\n"
                              "diff --git a/l/x b/l/x\nnew file mode 100644\n--- /dev/null\n+++ b/l/x\n@@ -0,0 +1 @@\n+y\n").refused_as(ErrorCode::failed_precondition, "\"l\""));
    CHECK(differences(tree.picture(), before) == "");
    CHECK(slurp(tree.top / "outside/f") == "x\n");
    CHECK(tree.is_clean());
}

TEST_CASE("an apply that is killed anywhere leaves all or nothing") {
    if (!is_root()) return;
    Overlay overlay;
    every_kind_of_file(overlay);
    overlay.mount();
    const Picture before = seen_in(overlay.ws);
    const auto owners_before = owners_in(overlay.ws);
    REQUIRE(overlay.run({"apply"}, every_kind).status == 0);
    const GitTree made = git_tree(overlay.ws);
    std::size_t nothing = 0, undone = 0, all = 0;
    bool ended = false;
    for (int kill_at = 1; !ended; ++kill_at) {
        CAPTURE(kill_at);
        overlay.mount(kill_at % 2 ? "xino=off" : "xino=on");
        {
            Traced run(overlay.command({"apply"}), every_kind);
            for (int i = 0; i < kill_at && !ended; ++i) ended = !run.next_change();
        }
        const bool half = differences(seen_in(overlay.ws), before) != "";
        if (kill_at % 4 < 2) std::ofstream("/proc/sys/vm/drop_caches") << "2";
        CHECK(overlay.ask({"recover"}).done.directories <= 1);
        CHECK(overlay.is_clean());
        if (git_tree(overlay.ws) == made) {
            ++all;
            continue;
        }
        ++(half ? undone : nothing);
        CHECK(differences(seen_in(overlay.ws), before) == "");
        CHECK(owners_in(overlay.ws) == owners_before);
        CHECK(overlay.diff().changes.empty());
    }
    INFO(nothing << " before anything moved, " << undone << " undone, " << all << " done");
    CHECK(nothing > 10);
    CHECK(undone > 10);
    CHECK(all > 3);
}

TEST_CASE("a recover that is killed itself is taken up by the next") {
    if (!is_root()) return;
    Overlay overlay;
    every_kind_of_file(overlay);
    overlay.mount();
    const Picture before = seen_in(overlay.ws);
    bool ended = false;
    std::size_t rounds = 0;
    for (int kill_at = 1; !ended; ++kill_at, ++rounds) {
        CAPTURE(kill_at);
        overlay.mount();
        {
            // At the removal of the plan everything is moved.
            Traced run(overlay.command({"apply"}), every_kind);
            for (long call = 0; !(call == SYS_unlinkat && !fs::exists(overlay.ws / "d") && fs::exists(overlay.ws / "n/m/moved")); call = run.next()) REQUIRE(call >= 0);
        }
        {
            Traced recover(overlay.command({"recover"}), "");
            for (int i = 0; i < kill_at && !ended; ++i) ended = !recover.next_change();
        }
        overlay.ask({"recover"});
        CHECK(overlay.is_clean());
        CHECK(differences(seen_in(overlay.ws), before) == "");
    }
    CHECK(rounds > 20);
}

TEST_CASE("a file that changes while a patch is applied is not lost") {
    if (!is_root()) return;
    Overlay overlay;
    every_kind_of_file(overlay);
    for (const char* path : {"changed", "d/last", "moved", "becomes_dir"}) {
        CAPTURE(path);
        overlay.mount();
        Traced run(overlay.command({"apply"}), every_kind);
        while (run.next() != SYS_renameat2) {}
        overlay.file(path, "written by somebody else meanwhile\n");
        const Picture before = seen_in(overlay.ws);
        CHECK(run.finish().refused_as(ErrorCode::failed_precondition, path));
        CHECK(differences(seen_in(overlay.ws), before) == "");
        CHECK(slurp(overlay.ws / path) == "written by somebody else meanwhile\n");
        CHECK(overlay.is_clean());
    }
    // And what comes where something new should.
    overlay.mount();
    Traced run(overlay.command({"apply"}), every_kind);
    while (run.next() != SYS_renameat2) {}
    overlay.file("empty", "mine\n");
    CHECK(run.finish().refused_as(ErrorCode::failed_precondition, "empty"));
    CHECK(slurp(overlay.ws / "empty") == "mine\n");
    CHECK(slurp(overlay.ws / "changed") == "1\n2\n3\n");
}

TEST_CASE("directories that turn into links and back lead neither a patch nor a difference elsewhere") {
    if (!is_root()) return;
    Overlay overlay;
    const fs::path outside = overlay.top / "outside";
    for (const char* path : {"outside/sub/g", "outside/f"}) {
        fs::create_directories((overlay.top / path).parent_path());
        std::ofstream(overlay.top / path) << "not theirs\n";
    }
    const Picture before = picture_of(outside);
    overlay.base("stays", "x\n");
    overlay.mount();
    overlay.file("d/f", "secret\n");
    overlay.file("d/sub/g", "secret\n");
    fs::create_symlink(outside, overlay.ws / "swap");
    const std::string patch = "--- a/d/f\n+++ b/d/f\n@@ -1 +1 @@\n-secret\n+patched\ndiff --git a/d/sub/g b/d/sub/g\ndeleted file mode 100644\n--- a/d/sub/g\n+++ /dev/null\n@@ -1 +0,0 @@\n-secret\n"
                              "diff --git a/d/new/x b/d/new/x\nnew file mode 100644\n--- /dev/null\n+++ b/d/new/x\n@@ -0,0 +1 @@\n+new\n";
    std::size_t worked = 0, refused = 0;
    {
        const Beside swapper([&] { ::renameat2(AT_FDCWD, (overlay.ws / "d").c_str(), AT_FDCWD, (overlay.ws / "swap").c_str(), RENAME_EXCHANGE); });
        for (int round = 0; round < 25 || ((worked == 0 || refused == 0) && round < 3000); ++round) {
            const Outcome applied = overlay.run({"apply"}, patch);
            CHECK((applied.status == 0 || applied.status == 1));
            ++(applied.status == 0 ? worked : refused);
            const Outcome told = overlay.run_diff();
            CHECK(told.status == 0);
            for (const std::string& said : {applied.out, applied.err, told.out}) CHECK(said.find("not theirs") == std::string::npos);
            // Made again where it is a directory.
            overlay.run({"remove", "d/new", "--recursive"});
            overlay.run({"write", "d/f"}, "secret\n");
            overlay.run({"write", "d/sub/g", "--parents"}, "secret\n");
        }
        CHECK(swapper.rounds() > 100);
    }
    CHECK(worked > 0);
    CHECK(refused > 0);
    CHECK(differences(picture_of(outside), before) == "");
}
