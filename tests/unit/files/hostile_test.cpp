// Trees that somebody else changes, that are too deep, too full, or not all of one file system.
#include "tests/unit/files/files_process.hpp"
#include "tests/unit/image/tar_builder.hpp"

#include <linux/fs.h>
#include <sched.h>
#include <sys/mount.h>

using namespace pyro;
using namespace pyro::test;

namespace {

// In a mount namespace of this process.
class Mounted {
public:
    Mounted(const fs::path& where, const char* options) : where_(where) {
        fs::create_directories(where);
        if (!own_mounts()) return;
        REQUIRE(::mount("none", where.c_str(), "tmpfs", 0, options) == 0);
        there_ = true;
    }
    ~Mounted() {
        if (there_) ::umount2(where_.c_str(), MNT_DETACH);
    }
    explicit operator bool() const { return there_; }

private:
    static bool own_mounts() {
        static const bool own = is_root() && ::unshare(CLONE_NEWNS) == 0 && ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
        return own;
    }
    fs::path where_;
    bool there_ = false;
};

constexpr int deep_levels = 5000;

void make_deep(const fs::path& top) {
    UniqueFd at = open_file(top, O_RDONLY | O_DIRECTORY);
    for (int i = 0; i < deep_levels; ++i) {
        REQUIRE(::mkdirat(at.get(), "d", 0755) == 0);
        at = UniqueFd(::openat(at.get(), "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        REQUIRE(at);
    }
    const UniqueFd file(::openat(at.get(), "bottom", O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    write_all(file.get(), "found");
}

}  // namespace

TEST_CASE("a depth of thousands of directories is a tree like any other") {
    const Tree tree("/dev/shm");  // in memory: a disk is slow at thousands of directories
    make_deep(tree.ws);
    std::string bottom;
    for (int i = 0; i < deep_levels; ++i) bottom += "d/";
    bottom += "bottom";
    const Answer all = tree.ask({"list", ".", "--recursive"});
    CHECK(all.entries.size() == deep_levels + 1);
    CHECK(all.entries.back().path == bottom);
    CHECK(tree.run({"read", bottom}).out == "found");
    CHECK(tree.ask({"stat", bottom}).entries.at(0).size == 5);
    tree.ask({"write", bottom + "2"}, "second");
    tree.ask({"write", "--parents", bottom + "3/below/it"}, "third");

    const Outcome packed = tree.run({"pack", "."});
    CHECK(packed.status == 0);
    CHECK(answer_of(packed.err).done.files == 3);
    const Tree copy("/dev/shm");
    CHECK(copy.ask({"unpack"}, packed.out).done.files == 3);
    CHECK(copy.run({"read", bottom + "3/below/it"}).out == "third");
    // Onto a tree that is as deep: every level is gone through.
    copy.ask({"remove", bottom});
    copy.ask({"write", "--parents", bottom + "/is/now/a/directory"}, "x");
    CHECK(copy.run({"unpack"}, packed.out).refused_as(ErrorCode::failed_precondition, "bottom"));
    CHECK(copy.is_clean());
    copy.ask({"remove", "--recursive", "d"});
    CHECK(fs::is_empty(copy.ws));
}

TEST_CASE("a path that is too long is told and does not stop a list or a pack") {
    const Tree tree;
    UniqueFd at = open_file(tree.ws, O_RDONLY | O_DIRECTORY);
    const std::string name(255, 'l');
    for (std::size_t length = 0; length <= wire::max_path_bytes; length += 256) {
        REQUIRE(::mkdirat(at.get(), name.c_str(), 0755) == 0);
        at = UniqueFd(::openat(at.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    }
    tree.file("z", "behind");
    const Answer all = tree.ask({"list", ".", "--recursive"});
    CHECK(all.notes.size() == 1);
    CHECK(all.notes.at(0).reason == wire::Reason::too_long);
    CHECK(all.entries.back().path == "z");
    const Outcome packed = tree.run({"pack", "."});
    CHECK(packed.status == 0);
    CHECK(answer_of(packed.err).done.files == 1);
    CHECK(answer_of(packed.err).notes.at(0).reason == wire::Reason::too_long);
    tree.ask({"remove", "--recursive", name});
}

TEST_CASE("a directory that turns into a link and back leads nowhere else") {
    const Tree tree;
    const fs::path outside = tree.top / "outside";
    fs::create_directories(outside / "sub");
    std::ofstream(outside / "f") << "secret";
    std::ofstream(outside / "sub/g") << "secret";
    const timespec times[2] = {{1, 0}, {1'500'000'000, 42}};
    for (const char* path : {"sub", "."}) REQUIRE(::utimensat(AT_FDCWD, (outside / path).c_str(), times, 0) == 0);
    const Picture before = picture_of(outside);
    tree.file("d/f", "inside");
    tree.file("d/sub/g", "inside");
    const fs::path link = tree.top / "link";
    fs::create_symlink("../outside", link);  // from ws/d's place, and from top's to nowhere
    const std::string archive = TarBuilder().file("d/f", "inside").file("d/new", "inside").file("d/sub/g", "inside").directory("d/sub", 0777).bytes();

    const auto swap = [&] {
        ::renameat2(AT_FDCWD, (tree.ws / "d").c_str(), AT_FDCWD, link.c_str(), RENAME_EXCHANGE);
    };
    const std::vector<std::vector<std::string>> operations{
        {"write", "d/f"}, {"write", "d/made/by/it", "--parents"}, {"read", "d/f"}, {"read", "d/sub/g"}, {"remove", "d/new"}, {"remove", "d/sub/g"},
        {"remove", "d/sub", "--recursive"}, {"list", "d", "--recursive"}, {"list", ".", "--recursive"}, {"pack", "d"}, {"pack", "."},
        {"unpack"}, {"unpack", "--dest", "d"}, {"unpack", "--dest", "d/sub", "--replace-all"}, {"recover"}};
    std::size_t worked = 0, refused = 0;
    {
        const Beside swapper(swap);
        for (int round = 0; round < 6 || worked == 0 || refused == 0; ++round)
            for (const auto& operation : operations) {
                const Outcome outcome = tree.run(operation, operation[0] == "unpack" ? archive : "inside");
                CHECK((outcome.status == 0 || outcome.status == 1));
                ++(outcome.status == 0 ? worked : refused);
                CHECK(outcome.out.find("secret") == std::string::npos);
                CHECK(outcome.err.find("secret") == std::string::npos);
            }
        CHECK(swapper.rounds() > 100);
    }
    CHECK(differences(picture_of(outside), before) == "");
    tree.ask({"recover"});  // an undo that found its way gone left that to the next
    CHECK(tree.is_clean());
}

TEST_CASE("a tree that changes all the time is listed, packed and removed") {
    const Tree tree;
    tree.file("stays", "x");
    for (int i = 0; i < 20; ++i) tree.file("d" + std::to_string(i) + "/e/f", "x");
    {
        std::atomic<int> next = 0;
        const Beside changer([&] {
            const fs::path path = tree.ws / ("d" + std::to_string(next++ % 20));
            std::error_code ignored;
            fs::remove_all(path, ignored);
            if (next % 3 == 0) {
                std::ofstream(path) << "a file now";
            } else {
                fs::create_directories(path / "e", ignored);
                std::ofstream(path / "e/f") << std::string(static_cast<std::size_t>(next % 7) * 10'000, 'x');
            }
        });
        for (int round = 0; round < 12; ++round) {
            const Answer all = tree.ask({"list", ".", "--recursive"});
            CHECK(all.entries.back().path == "stays");
            const Outcome packed = tree.run({"pack", "."});
            CHECK(packed.status == 0);
            answer_of(packed.err);
            CHECK(run_program({"tar", "-t"}, packed.out).status == 0);
            const Outcome removed = tree.run({"remove", "d" + std::to_string(round % 20), "--recursive"});
            CHECK((removed.status == 0 || wire::decode_failure(removed.err).code() != ErrorCode::guest_failed));
        }
    }
    CHECK(tree.run({"read", "stays"}).out == "x");
}

TEST_CASE("another file system is a mount point and no way") {
    const Tree tree;
    tree.file("f", "x");
    const Mounted other(tree.ws / "m", "size=1m");
    if (!other) return;
    tree.file("m/inner", "x");
    const Answer all = tree.ask({"list", ".", "--recursive"});
    CHECK(all.paths() == std::vector<std::string>{"f", "m"});
    CHECK(all.notes == std::vector<wire::Note>{{wire::Reason::mount_point, "m"}});
    CHECK(answer_of(tree.run({"pack", "."}).err).notes == std::vector<wire::Note>{{wire::Reason::mount_point, "m"}});
    for (const std::vector<std::string>& words : std::vector<std::vector<std::string>>{
             {"read", "m/inner"}, {"write", "m/inner"}, {"list", "m"}, {"remove", "m/inner"}, {"remove", "m", "--recursive"}, {"unpack", "--dest", "m"}})
        CHECK(tree.run(words, words[0] == "unpack" ? TarBuilder().file("inner", "y").bytes() : "y").refused_as(ErrorCode::failed_precondition));
    const Picture before = tree.picture();
    CHECK(tree.run({"unpack", "--replace-all"}, TarBuilder().file("f", "y").bytes()).refused_as(ErrorCode::failed_precondition, "\"m\""));
    CHECK(differences(tree.picture(), before) == "");
    CHECK(tree.run({"unpack", "--staging", (tree.ws / "m").string()}, TarBuilder().bytes()).refused_as(ErrorCode::failed_precondition, "file system"));
}

TEST_CASE("a full disk is told from one without inodes, and nothing changes") {
    const Tree tree;
    {
        const Mounted disk(tree.ws, "size=1m");
        if (!disk) return;
        tree.file("f", "before");
        const Picture before = tree.picture();
        const std::string large(2 << 20, 'x');
        CHECK(tree.run({"write", "f"}, large).refused_as(ErrorCode::quota_exceeded, "space"));
        CHECK(tree.run({"write", "p/q/f", "--parents"}, large).refused_as(ErrorCode::quota_exceeded, "space"));
        CHECK(tree.run({"unpack"}, TarBuilder().file("f", "after").file("large", large).bytes()).refused_as(ErrorCode::quota_exceeded, "space"));
        CHECK(differences(tree.picture(), before) == "");
        tree.ask({"unpack"}, TarBuilder().file("f", "after").file("holes", std::string(2 << 20, '\0')).bytes());
        CHECK(fs::file_size(tree.ws / "holes") == 2 << 20);
    }
    {
        const Mounted disk(tree.ws, "nr_inodes=20");
        tree.file("f", "before");
        const Picture before = tree.picture();
        TarBuilder many;
        std::string parents;
        for (int i = 0; i < 30; ++i) {
            many.file("d/" + std::to_string(i), "x");
            parents += "p/";
        }
        CHECK(tree.run({"unpack"}, many.bytes()).refused_as(ErrorCode::quota_exceeded, "inodes"));
        CHECK(tree.run({"write", "--parents", parents + "f"}, "x").refused_as(ErrorCode::quota_exceeded, "inodes"));
        Picture after = tree.picture();
        // Directories that were made and taken away again show in their parent's time.
        after.at(".").mtime_s = before.at(".").mtime_s;
        after.at(".").mtime_ns = before.at(".").mtime_ns;
        CHECK(differences(after, before) == "");
    }
}

TEST_CASE("tens of thousands of entries in one directory are listed in parts") {
    const Tree tree;
    constexpr int count = 20'000;
    TarBuilder archive;
    for (int i = 0; i < count; ++i) archive.file("d/" + std::to_string(i), "");
    CHECK(tree.ask({"unpack"}, archive.bytes()).done.files == count);
    std::size_t seen = 0;
    std::string after;
    for (bool more = true; more;) {
        std::vector<std::string> words{"list", "d", "--limit", "7000"};
        if (!after.empty()) words.insert(words.end(), {"--after", after});
        const Answer part = tree.ask(words);
        seen += part.entries.size();
        after = part.entries.back().path;
        more = part.done.more;
    }
    CHECK(seen == count);
    CHECK(tree.ask({"remove", "d", "--recursive"}).done.files == count);
}
