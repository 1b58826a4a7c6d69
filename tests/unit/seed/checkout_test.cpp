#include <thread>

#include "tests/unit/seed/seed_site.hpp"

using namespace pyro;
using namespace pyro::test;

namespace {

using Words = std::vector<std::string>;

struct Variable {
    Variable(const char* name, const std::string& value) : name_(name) {
        if (const char* was = ::getenv(name))
            before_ = was;
        ::setenv(name, value.c_str(), 1);
    }
    ~Variable() {
        if (before_)
            ::setenv(name_, before_->c_str(), 1);
        else
            ::unsetenv(name_);
    }
    Variable(const Variable&) = delete;
    Variable& operator=(const Variable&) = delete;

private:
    const char* name_;
    std::optional<std::string> before_;
};

struct Checkout {
    explicit Checkout(const Words& init = {}) {
        std::filesystem::create_directory(top);
        Words words{"init", "-q", "-b", "main"};
        words.insert(words.end(), init.begin(), init.end());
        git(words);
    }
    void git(Words words, const std::string& directory = {}) {
        words.insert(words.begin(), "git");
        INFO(words[1]);
        REQUIRE(run(words, directory.empty() ? top : directory) == 0);
    }
    std::string said(Words words, const std::string& directory) {
        words.insert(words.begin(), "git");
        return output(words, directory);
    }
    void commit(const std::string& message) {
        git({"add", "-A"});
        git({"commit", "-q", "--allow-empty", "-m", message});
    }
    // Taken, unpacked by GNU tar, and looked over by the real git.
    std::string clone(const Seed& seed, const std::string& name = "clone") {
        const std::string at = untarred(site, seed.stream, name);
        if (!seed.packed.commit.empty()) {
            CHECK(said({"fsck", "--full", "--strict"}, at).find("error") == std::string::npos);
            CHECK(said({"rev-parse", "HEAD"}, at) == seed.packed.commit + "\n");
        }
        CHECK(site.nothing_left());
        return at;
    }
    static std::string reason(const Packed& packed, const std::string& path) {
        for (const Skipped& skipped : packed.skipped)
            if (skipped.path == path)
                return skipped.reason;
        return "not skipped";
    }
    Site site;
    std::string top = site / "in";
};

}  // namespace

TEST_CASE("a checkout is its tracked files as they are, and a repository of HEAD alone") {
    Checkout c;
    put(c.top + "/kept", "kept");
    put(c.top + "/src/modified", "before");
    put(c.top + "/src/deeper/run", "#!/bin/sh\n", 0755);
    put(c.top + "/gone", "gone");
    put(c.top + "/-not-an-option", "x");
    put(c.top + "/--upload-pack=touch x", "x");
    put(c.top + "/odd\n\"\\\xff", "x");
    put(c.top + "/.gitignore", "*.o\n");
    std::filesystem::create_symlink("kept", c.top + "/link");
    c.commit("first, of which nobody is to know");
    put(c.top + "/big", std::string(3 << 20, 'b'));
    c.commit("second");
    put(c.top + "/src/modified", "after");
    put(c.top + "/staged", "staged");
    c.git({"add", "staged"});
    std::filesystem::remove(c.top + "/gone");
    put(c.top + "/untracked", "untracked");
    put(c.top + "/ignored.o", "ignored", 0);
    set_time(c.top + "/kept", 1600000000, 123456789);
    c.git({"config", "user.name", "Secret Name"});
    c.git({"config", "http.extraHeader", "Authorization: secret-token"});
    c.git({"remote", "add", "origin", "https://user:secret-token@example.org/x"});
    c.git({"tag", "v1"});
    c.git({"branch", "other"});
    put(c.top + "/.git/hooks/post-checkout", "#!/bin/sh\n", 0755);
    const std::string status = c.said({"status", "--short", "--untracked-files=no"}, c.top);

    const Seed seed = seed_of(c.top);
    CHECK(seed.packed.kind == SourceKind::checkout);
    CHECK(seed.packed.root == c.top);
    CHECK(seed.packed.branch == "main");
    CHECK(seed.packed.commit + "\n" == c.said({"rev-parse", "HEAD"}, c.top));
    CHECK(seed.packed.skipped_count == 1);
    CHECK(c.reason(seed.packed, "gone") == "deleted");
    const std::string at = c.clone(seed);
    CHECK(text_of(at + "/src/modified") == "after");
    CHECK(text_of(at + "/staged") == "staged");
    CHECK(text_of(at + "/big").size() == 3 << 20);
    CHECK_FALSE(there(at + "/untracked"));
    CHECK_FALSE(there(at + "/ignored.o"));
    CHECK_FALSE(there(at + "/.git/hooks"));
    std::filesystem::remove(c.top + "/ignored.o");
    Tree ours = tree_of(at), theirs = tree_of(c.top);
    for (const char* name : {"kept", "link", "src", "src/deeper", "src/deeper/run", "-not-an-option", "--upload-pack=touch x", "odd\n\"\\\xff"})
        CHECK(ours[name] == theirs[name]);
    CHECK(c.said({"status", "--short"}, at) == " D gone\n M src/modified\n?? staged\n");
    CHECK(c.said({"diff", "HEAD", "--", "src"}, at) == c.said({"diff", "HEAD", "--", "src"}, c.top));
    CHECK(c.said({"log", "--format=%s"}, at) == "second\n");
    CHECK(c.said({"branch", "-a"}, at) == "* main\n");
    CHECK(c.said({"tag"}, at).empty());
    CHECK(c.said({"remote"}, at).empty());
    CHECK(run({"grep", "-r", "-i", "secret", at}, at) == 1);
    c.git({"stash", "-q"}, at);  // all objects of HEAD are there
    CHECK(text_of(at + "/gone") == "gone");
    c.git({"commit", "-q", "--allow-empty", "-m", "third"}, at);

    // The same bytes each time, and however the repository is packed.
    CHECK(seed_of(c.top).packed.key == seed.packed.key);
    c.git({"gc", "-q"});
    CHECK(seed_of(c.top).packed.key == seed.packed.key);
    CHECK(c.said({"status", "--short", "--untracked-files=no"}, c.top) == status);  // and nothing has happened to it
}

TEST_CASE("a checkout is found from within, by its .git, and as a worktree") {
    Checkout c;
    put(c.top + "/src/deep/file", "x");
    put(c.top + "/top", "x");
    c.commit("first");
    const Digest key = seed_of(c.top).packed.key;
    CHECK(seed_of(c.top + "/src/deep", as(SourceKind::checkout)).packed.key == key);
    CHECK(seed_of(c.top + "/.git").packed.key == key);
    CHECK(seed_of(c.top + "/src/deep").packed.kind == SourceKind::directory);
    CHECK(seed_of(c.top, as(SourceKind::directory)).stream.find("hooks") != std::string::npos);
    CHECK(seed_refusal(c.site.path, as(SourceKind::checkout)).ends_with(" is in no Git checkout"));

    c.git({"worktree", "add", "-q", "-b", "topic/one", c.site / "tree"});
    put(c.site / "tree/more", "x");
    c.git({"add", "more"}, c.site / "tree");
    c.git({"commit", "-q", "-m", "more"}, c.site / "tree");
    for (const char* name : {"tree", "tree/.git"}) {
        const Seed seed = seed_of(c.site / name);
        CHECK(seed.packed.branch == "topic/one");
        const std::string at = c.clone(seed, std::string("clone-") + (std::string(name) == "tree" ? "1" : "2"));
        CHECK(c.said({"status", "--short", "--branch"}, at) == "## topic/one\n");
    }
    c.git({"pack-refs", "--all"});
    c.git({"checkout", "-q", "--detach"});
    const Seed detached = seed_of(c.top);
    CHECK(detached.packed.branch.empty());
    CHECK(c.said({"status", "--short", "--branch"}, c.clone(detached)) == "## HEAD (no branch)\n");
    CHECK(seed_of(c.site / "tree").packed.branch == "topic/one");
}

TEST_CASE("odd but honest repositories: unborn, empty, SHA-256, shallow, split and sparse") {
    SECTION("nothing committed") {
        Checkout c;
        put(c.top + "/staged", "x");
        c.git({"add", "staged"});
        const Seed seed = seed_of(c.top);
        CHECK(seed.packed.commit.empty());
        CHECK(seed.packed.branch == "main");
        CHECK(c.said({"status", "--short", "--branch"}, c.clone(seed)) == "## No commits yet on main\n?? staged\n");
    }
    SECTION("an empty commit") {
        Checkout c;
        c.commit("empty");
        CHECK(c.said({"status", "--short", "--branch"}, c.clone(seed_of(c.top))) == "## main\n");
    }
    SECTION("SHA-256") {
        Checkout c({"--object-format=sha256"});
        put(c.top + "/file", "x");
        c.commit("one");
        const Seed seed = seed_of(c.top);
        CHECK(seed.packed.commit.size() == 64);
        CHECK(c.said({"status", "--short"}, c.clone(seed)).empty());
    }
    SECTION("a shallow clone with a split index") {
        Checkout c;
        put(c.top + "/file", "x");
        c.commit("one");
        c.commit("two");
        c.git({"clone", "-q", "--depth=1", "file://" + c.top, c.site / "shallow"});
        c.git({"update-index", "--split-index"}, c.site / "shallow");
        const std::string at = c.clone(seed_of(c.site / "shallow"));
        CHECK(c.said({"status", "--short"}, at).empty());
        CHECK(c.said({"log", "--format=%s"}, at) == "two\n");
    }
    SECTION("sparse, with a sparse index") {
        Checkout c;
        for (const char* name : {"a/1", "b/1", "b/c/2", "top"})
            put(c.top + "/" + name, name);
        c.commit("one");
        c.git({"sparse-checkout", "set", "--cone", "--sparse-index", "a"});
        REQUIRE_FALSE(there(c.top + "/b"));
        const Seed seed = seed_of(c.top);
        CHECK(seed.packed.skipped_count == 2);
        const std::string at = c.clone(seed);
        CHECK(c.said({"status", "--short"}, at).empty());
        CHECK_FALSE(there(at + "/b"));
        CHECK(text_of(at + "/a/1") == "a/1");
    }
}

TEST_CASE("what a checkout has that cannot be taken is left out and told, and fails nothing") {
    Checkout c;
    for (const char* name : {"ok", "secret", "became/dir", "gone/1", "gone/2", "linked/file", "pipe", "closed/x"})
        put(c.top + "/" + name, name);
    put(c.site / "outside/file", "outside words");
    c.commit("one");
    c.git({"init", "-q", "-b", "main", c.site / "library"});
    put(c.site / "library/code", "library words");
    c.git({"add", "-A"}, c.site / "library");
    c.git({"commit", "-q", "-m", "library"}, c.site / "library");
    c.git({"-c", "protocol.file.allow=always", "submodule", "--quiet", "add", c.site / "library", "sub"});
    put(c.top + "/.gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n");
    const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + std::string(64, 'a') + "\nsize 12345\n";
    put(c.top + "/pointer.bin", pointer);
    put(c.top + "/smudged.bin", pointer);
    c.commit("two");
    put(c.top + "/smudged.bin", "the real thing");
    std::filesystem::remove_all(c.top + "/gone");
    std::filesystem::remove_all(c.top + "/linked");
    std::filesystem::create_directory_symlink(c.site / "outside", c.top + "/linked");
    std::filesystem::remove(c.top + "/pipe");
    REQUIRE(::mkfifo((c.top + "/pipe").c_str(), 0666) == 0);
    std::filesystem::remove_all(c.top + "/became");
    put(c.top + "/became", "a file");
    ::chmod((c.top + "/secret").c_str(), 0);
    ::chmod((c.top + "/closed").c_str(), 0);
    CHECK(as_nobody([&] {
              const Seed seed = seed_of(c.top);
              put(c.site / "tmp/stream", seed.stream);
              std::string told;
              for (const Skipped& skipped : seed.packed.skipped)
                  told += skipped.path + ": " + skipped.reason + "\n";
              put(c.site / "tmp/told", told);
              return seed.packed.skipped_count == seed.packed.skipped.size() ? 0 : 1;
          }) == 0);
    CHECK(text_of(c.site / "tmp/told") ==
          "became/dir: in the place of its directory is something else\n"
          "closed/x: cannot be read: Permission denied\n"
          "gone/1: deleted, with its directory\n"
          "gone/2: deleted, with its directory\n"
          "linked/file: in the place of its directory is something else\n"
          "pipe: a fifo\n"
          "secret: cannot be read: Permission denied\n"
          "sub: a submodule\n");
    const std::string stream = text_of(c.site / "tmp/stream");
    CHECK(stream.find("outside words") == std::string::npos);
    CHECK(stream.find("library words") == std::string::npos);
    const std::string at = untarred(c.site, stream);
    CHECK(text_of(at + "/pointer.bin") == pointer);
    CHECK(text_of(at + "/smudged.bin") == "the real thing");
    CHECK(std::filesystem::is_empty(at + "/sub"));
    CHECK(c.said({"ls-files", "--stage", "sub"}, at).starts_with("160000 "));
    CHECK(c.said({"status", "--short", "sub"}, at).empty());
    ::chmod((c.top + "/closed").c_str(), 0755);
    PackOptions few;
    few.listed_skips = 2;
    const Packed packed = seed_of(c.top, few).packed;
    CHECK(packed.skipped.size() == 2);
    CHECK(packed.skipped_count >= 6);
}

TEST_CASE("a file that changes while it is read is left out of a checkout and told") {
    Checkout c;
    put(c.top + "/0-big", std::string(2 << 20, 'b'));
    put(c.top + "/1-goes", "x");
    c.commit("one");
    int blocks = 0;
    const Packed packed = pack(c.top, [&](std::string_view) {
        if (++blocks == 2)
            std::filesystem::remove(c.top + "/1-goes");
    });
    CHECK(c.reason(packed, "1-goes") == "deleted");
}

TEST_CASE("a file that is being written is left out of a checkout and told") {
    Checkout c;
    put(c.top + "/log", std::string(16 << 20, 'l'));
    put(c.top + "/still", "x");
    c.commit("one");
    std::string reason = "not skipped";
    std::jthread writer([&](std::stop_token stop) {
        const UniqueFd log = open_file(c.top + "/log", O_WRONLY | O_APPEND);
        while (!stop.stop_requested())
            write_all(log.get(), "more");
    });
    // Whether the writer has its turn during one reading is the scheduler's business; it will, some time.
    for (int attempt = 0; attempt < 200 && reason == "not skipped"; ++attempt) {
        const Packed packed = pack(c.top, [](std::string_view) {});
        reason = c.reason(packed, "log");
        CHECK(c.reason(packed, "still") == "not skipped");
    }
    CHECK(reason == "changed while it was read");
}

TEST_CASE("a hostile checkout runs nothing on the host") {
    Checkout c;
    put(c.top + "/file.txt", "one\n");
    put(c.top + "/other.txt", "one\n");
    c.commit("one");
    c.git({"branch", "side"});
    put(c.top + "/file.txt", "two\n");
    c.commit("two");
    const std::string marks = c.site / "marks";
    std::filesystem::create_directory(marks);
    // A program that marks that it ran, and otherwise does nothing that matters.
    const auto program = [&](const std::string& name) {
        put(c.site / ("bin/" + name), "#!/bin/sh\necho ran >> '" + marks + "/" + name + "'\ncase " + name + " in filter|textconv) cat;; esac\nexit 0\n", 0755);
        return c.site / ("bin/" + name);
    };
    const auto took = [&] {
        bool any = !std::filesystem::is_empty(marks);
        std::filesystem::remove_all(marks);
        std::filesystem::create_directory(marks);
        return any;
    };
    // Shown to work: plain git, doing what is natural, runs it. Then the seed, which must not.
    const auto each = [&](const std::string& what, const Words& plain, const std::string& path = {}) {
        INFO(what);
        std::string ignored;
        Words words{"git"};
        words.insert(words.end(), plain.begin(), plain.end());
        run(words, c.top, &ignored);
        CHECK(took());
        const Seed seed = seed_of(path.empty() ? c.top : path);
        CHECK_FALSE(took());
        CHECK(seed.packed.commit.size() == 40);
        CHECK(seed.stream.find(c.site / "bin") == std::string::npos);
    };
    int changes = 0;
    const auto touch = [&] { put(c.top + "/file.txt", "changed " + std::to_string(++changes) + "\n"); };
    touch();
    SECTION("core.fsmonitor") {
        c.git({"config", "core.fsmonitor", program("fsmonitor")});
        each("fsmonitor", {"status"});
    }
    SECTION("hooks, in their place and in another") {
        std::filesystem::create_symlink(program("hook"), c.top + "/.git/hooks/post-index-change");
        each("hooks", {"add", "file.txt"});
        put(c.site / "hooks/post-checkout", text_of(program("elsewhere")), 0755);
        c.git({"config", "core.hooksPath", c.site / "hooks"});
        each("core.hooksPath", {"checkout", "-f", "main"});
    }
    SECTION("filters") {
        put(c.top + "/.gitattributes", "*.txt filter=evil\n");
        c.git({"add", ".gitattributes"});
        for (const char* kind : {"clean", "process"}) {
            c.git({"config", std::string("filter.evil.") + kind, program("filter")});
            touch();
            each(kind, {"add", "file.txt"});
        }
        c.git({"config", "filter.evil.smudge", program("filter")});
        each("smudge", {"checkout", "side"});
    }
    SECTION("attributes of the repository alone") {
        put(c.top + "/.git/info/attributes", "* filter=evil\n");
        c.git({"config", "filter.evil.clean", program("filter")});
        each("info/attributes", {"add", "file.txt"});
    }
    SECTION("external diff and textconv") {
        put(c.top + "/.git/info/attributes", "*.txt diff=evil\n");
        c.git({"config", "diff.external", program("external")});
        each("diff.external", {"diff"});
        c.git({"config", "--unset", "diff.external"});
        c.git({"config", "diff.evil.command", program("command")});
        each("diff.evil.command", {"diff"});
        c.git({"config", "--unset", "diff.evil.command"});
        c.git({"config", "diff.evil.textconv", program("textconv")});
        each("diff.evil.textconv", {"diff"});
    }
    SECTION("pagers, editors, signatures, ssh") {
        c.git({"config", "alias.evil", "!" + program("alias")});
        each("alias", {"evil"});
        c.git({"config", "core.editor", program("editor")});
        each("core.editor", {"commit", "--amend"});
        c.git({"config", "gpg.program", program("gpg")});
        each("gpg.program", {"commit", "-S", "--allow-empty", "-m", "x"});
        c.git({"config", "core.sshCommand", program("ssh")});
        each("core.sshCommand", {"fetch", "ssh://nowhere.invalid/x"});
        c.git({"config", "core.gitProxy", program("proxy")});
        each("core.gitProxy", {"fetch", "git://nowhere.invalid/x"});
        c.git({"config", "protocol.ext.allow", "always"});
        each("protocol.ext.allow", {"fetch", "ext::" + program("ext")});
        c.git({"config", "credential.helper", program("credential")});
        c.git({"config", "alias.fill", "!printf 'protocol=https\\nhost=x.invalid\\n\\n' | git credential fill"});
        each("credential.helper", {"fill"});
        c.git({"clone", "-q", "--bare", c.top, c.site / "lender"});
        put(c.top + "/.git/objects/info/alternates", c.site / "lender/objects\n");
        c.git({"config", "core.alternateRefsCommand", program("alternates")});
        each("core.alternateRefsCommand", {"rev-list", "--alternate-refs"});
    }
    SECTION("a merge driver") {
        put(c.top + "/.git/info/attributes", "*.txt merge=evil\n");
        c.git({"checkout", "-q", "-f", "main"});
        c.git({"checkout", "-q", "side"});
        put(c.top + "/file.txt", "three\n");
        c.commit("three");
        c.git({"config", "merge.evil.driver", program("merge")});
        each("merge.evil.driver", {"merge", "main"});
    }
    SECTION("includes") {
        put(c.site / "included", "[core]\n\tfsmonitor = " + program("included") + "\n");
        c.git({"config", "include.path", c.site / "included"});
        each("include.path", {"status"});
        c.git({"config", "--unset", "include.path"});
        c.git({"config", "includeIf.gitdir:**.path", c.site / "included"});
        each("includeIf", {"status"});
    }
    SECTION("a configuration of the worktree alone") {
        c.git({"config", "extensions.worktreeConfig", "true"});
        put(c.top + "/.git/config.worktree", "[core]\n\tfsmonitor = " + program("worktree") + "\n");
        each("config.worktree", {"status"});
    }
    SECTION("promised objects fetched by a transport of the repository's choice") {
        const std::string blob = c.said({"rev-parse", "HEAD:other.txt"}, c.top).substr(0, 40);
        std::filesystem::remove(c.top + "/.git/objects/" + blob.substr(0, 2) + "/" + blob.substr(2));
        c.git({"config", "core.repositoryFormatVersion", "1"});
        c.git({"config", "extensions.partialClone", "origin"});
        c.git({"config", "remote.origin.url", "ext::" + program("promisor")});
        c.git({"config", "remote.origin.promisor", "true"});
        c.git({"config", "protocol.ext.allow", "always"});
        std::string ignored;
        run({"git", "cat-file", "-p", blob}, c.top, &ignored);
        CHECK(took());
        CHECK(seed_refusal(c.top).find(" lacks the object " + blob + " of HEAD") != std::string::npos);
        CHECK_FALSE(took());
        CHECK(c.site.nothing_left());
    }
    SECTION("the environment, and a git of the checkout's own") {
        const Variable count("GIT_CONFIG_COUNT", "1"), key("GIT_CONFIG_KEY_0", "core.fsmonitor");
        const Variable value("GIT_CONFIG_VALUE_0", program("environment")), external("GIT_EXTERNAL_DIFF", program("external"));
        put(c.top + "/git", text_of(program("own-git")), 0755);
        {
            const Variable directory("GIT_DIR", "/nowhere"), index("GIT_INDEX_FILE", "/nowhere");
            const Variable path("PATH", std::string(".:") + ::getenv("PATH"));
            const std::string before = std::filesystem::current_path().string();
            std::filesystem::current_path(c.top);
            const std::string why = seed_refusal(".");
            std::filesystem::current_path(before);
            CHECK(why == "taken");
        }
        CHECK_FALSE(took());
        std::filesystem::remove(c.top + "/git");
        each("GIT_CONFIG_*", {"status"});
        each("GIT_EXTERNAL_DIFF", {"diff"});
    }
}

TEST_CASE("a hostile checkout brings no other repository of the user along") {
    Checkout c;
    put(c.top + "/file", "x");
    c.commit("one");
    c.git({"init", "-q", "-b", "main", c.site / "private"});
    put(c.site / "private/secret", "private words");
    c.git({"add", "-A"}, c.site / "private");
    c.git({"commit", "-q", "-m", "private"}, c.site / "private");
    const std::string theirs = c.site / "private/.git", dot_git = c.top + "/.git", link = "a link, which is not followed";
    const std::string head = c.said({"rev-parse", "HEAD"}, c.site / "private");
    const auto refused = [&](const std::string& why) {
        INFO(why);
        CHECK(c.said({"log", "--format=%s"}, c.top) == "private\n");  // plain git would
        CHECK(seed_refusal(c.top).find(why) != std::string::npos);
        CHECK(c.site.nothing_left());
    };
    SECTION("a .git file") {
        std::filesystem::remove_all(dot_git);
        put(dot_git, "gitdir: ../private/.git\n");
        refused("which does not know of it");
    }
    SECTION("a .git link") {
        std::filesystem::remove_all(dot_git);
        std::filesystem::create_symlink("../private/.git", dot_git);
        refused(link);
    }
    SECTION("commondir") {
        put(dot_git + "/commondir", "../../private/.git\n");
        refused("commondir");
    }
    SECTION("a worktree that only says so") {
        std::filesystem::remove_all(dot_git);
        put(c.top + "/own/worktrees/w/HEAD", "ref: refs/heads/main\n");
        put(c.top + "/own/worktrees/w/commondir", "../../../../private/.git\n");
        put(c.top + "/own/worktrees/w/gitdir", dot_git + "\n");
        put(dot_git, "gitdir: own/worktrees/w\n");
        refused("which does not know of it");
    }
    SECTION("links in .git") {
        std::filesystem::remove_all(dot_git + "/refs");
        std::filesystem::create_symlink(theirs + "/refs", dot_git + "/refs");
        std::filesystem::rename(dot_git + "/objects", dot_git + "/was");
        std::filesystem::create_symlink(theirs + "/objects", dot_git + "/objects");
        refused("refs/heads/main is " + link);
        std::filesystem::remove(dot_git + "/refs");
        put(dot_git + "/refs/heads/main", head);
        refused("objects is no directory of its own");
        std::filesystem::remove(dot_git + "/objects");
        std::filesystem::create_directory(dot_git + "/objects");
        for (const auto& entry : std::filesystem::directory_iterator(theirs + "/objects"))
            std::filesystem::create_symlink(entry.path(), dot_git + "/objects/" + entry.path().filename().string());
        refused(link);
    }
    SECTION("alternates") {
        put(dot_git + "/objects/info/alternates", theirs + "/objects\n");
        put(dot_git + "/refs/heads/main", head);
        refused(" lacks the object " + head.substr(0, 40) + " of HEAD");
    }
    SECTION("a submodule's .git is known by its repository") {
        c.git({"-c", "protocol.file.allow=always", "submodule", "--quiet", "add", c.site / "private", "sub"});
        const Seed seed = seed_of(c.top + "/sub");
        CHECK(seed.packed.root == c.top + "/sub");
        CHECK(text_of(c.clone(seed) + "/secret") == "private words");
    }
}

TEST_CASE("what no git would make is refused: HEAD, names in the index, trees without end") {
    Checkout c;
    put(c.top + "/file", "x");
    c.commit("one");
    const std::string blob = c.said({"rev-parse", "HEAD:file"}, c.top).substr(0, 40);
    const auto with_head = [&](const std::string& head) {
        put(c.top + "/.git/HEAD", head);
        return seed_refusal(c.top);
    };
    CHECK(with_head("ref: refs/heads/../../../x\n").find("names no possible branch") != std::string::npos);
    CHECK(with_head("ref: --upload-pack=x\n").find("names no possible branch") != std::string::npos);
    CHECK(with_head("--upload-pack=touch x\n").find("is no commit: --upload-pack=touch x") != std::string::npos);
    CHECK(with_head(blob + "\n").find("is no commit") != std::string::npos);
    CHECK(with_head(std::string(40, '1') + "\n").find("lacks the object 1111") != std::string::npos);
    put(c.top + "/.git/HEAD", "ref: refs/heads/main\n");
    SECTION("a name in the index") {
        const std::string index = text_of(c.top + "/.git/index");
        for (const char* name : {".git", "..//", "/etc"}) {
            std::string hostile = index;
            hostile.replace(hostile.find("file"), 4, name);
            if (std::string(name) == ".git")
                CHECK(hostile.size() == index.size());
            put(c.top + "/.git/index", hostile.substr(0, hostile.size() - 20) + std::string(20, '\0'));  // a sum of zeros is not checked
            CHECK(seed_refusal(c.top).find("the index tracks ") != std::string::npos);
        }
    }
    SECTION("a tree of ten times ten times ten...") {
        // Nine small objects; a billion names.
        const auto bytes_of = [](const std::string& hex) {
            std::string bytes;
            for (std::size_t i = 0; i < hex.size(); i += 2)
                bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
            return bytes;
        };
        std::string object = blob, mode = "100644";
        for (int depth = 0; depth < 9; ++depth) {
            std::string tree;
            for (char name = 'a'; name < 'k'; ++name)
                tree += mode + " " + name + '\0' + bytes_of(object);
            put(c.site / "tree", tree);
            object = c.said({"hash-object", "-w", "-t", "tree", c.site / "tree"}, c.top).substr(0, 40);
            mode = "40000";
        }
        put(c.top + "/.git/refs/heads/main", c.said({"commit-tree", "-m", "bomb", object}, c.top));
        CHECK(seed_refusal(c.top).ends_with("has more than 1000000 tracked files"));
    }
    CHECK(c.site.nothing_left());
}
