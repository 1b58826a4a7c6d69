#include "tests/unit/files/files_process.hpp"
#include "tests/unit/image/tar_builder.hpp"

#include <cstring>
#include <poll.h>
#include <sys/inotify.h>

using namespace pyro;
using namespace pyro::test;

namespace {

// Of everything that tar can carry.
void make_source(const fs::path& top) {
    fs::create_directories(top / "a/b/empty");
    std::ofstream(top / "a/file") << std::string(100'000, 'f');
    std::ofstream(top / "a/none");
    std::ofstream(top / "a.c") << "between";
    for (const std::string& name : odd_names()) std::ofstream(top / name) << name;
    const std::string deep = "a/" + std::string(90, 'd') + "/" + std::string(90, 'e') + "/" + std::string(90, 'f');
    fs::create_directories(top / deep);
    std::ofstream(top / deep / "x") << "x";
    fs::create_symlink("../" + std::string(150, 't'), top / "a/long_link");
    fs::create_symlink("\xff/\xc3\xbc", top / "a/odd_link");
    fs::create_symlink("/usr/bin/env", top / "absolute");
    fs::create_hard_link(top / "a/file", top / "hard");
    std::ofstream(top / "sparse") << "head";
    fs::resize_file(top / "sparse", 3 << 20);
    std::ofstream(top / "sparse", std::ios::app) << "tail";
    fs::permissions(top / "a/none", fs::perms{0400});
    fs::permissions(top / "a/b", fs::perms{0750});
    const timespec old[2] = {{1, 500}, {-5, 0}};
    REQUIRE(::utimensat(AT_FDCWD, (top / "a/none").c_str(), old, 0) == 0);
    const timespec young[2] = {{1, 1}, {1'600'000'000, 123'456'789}};
    for (const char* path : {"a/file", "a/long_link", "a/b", "absolute", "sparse", "a", "."})
        REQUIRE(::utimensat(AT_FDCWD, (top / path).c_str(), young, AT_SYMLINK_NOFOLLOW) == 0);
}

Picture without_fractions(Picture picture) {
    for (auto& [path, thing] : picture) thing.mtime_ns = 0;
    return picture;
}

// Whatever of the archive, nothing changed and nothing left behind.
void check_refused(const Tree& tree, const std::string& archive, ErrorCode code, const std::string& part, std::vector<std::string> options = {}) {
    const Picture before = tree.picture();
    options.insert(options.begin(), "unpack");
    CHECK(tree.run(options, archive).refused_as(code, part));
    CHECK(differences(tree.picture(), before) == "");
}

std::string header_of(const std::string& path, char type, std::uint64_t size) {
    Member member;
    member.path = path;
    member.type = type;
    member.content = std::string(static_cast<std::size_t>(size), 'c');
    return TarBuilder().add(member).unfinished();
}

}  // namespace

TEST_CASE("what GNU tar and bsdtar pack is unpacked as it was") {
    const Tree source;
    make_source(source.ws);
    const Picture original = source.picture();
    const struct {
        const char* what;
        std::vector<std::string> command;
        bool fractions;
    } packers[] = {
        {"GNU tar, pax", {"tar", "--format=pax", "-C", source.ws.string(), "-c", "."}, true},
        {"GNU tar, its own format", {"tar", "--format=gnu", "-C", source.ws.string(), "-c", "."}, false},
        {"bsdtar, pax", {"bsdtar", "--format=pax", "--no-read-sparse", "-C", source.ws.string(), "-c", "."}, true},
    };
    for (const auto& packer : packers) {
        INFO(packer.what);
        const Outcome packed = run_program(packer.command);
        REQUIRE(packed.out.size() > 100'000);
        const Tree tree;
        const Answer answer = tree.ask({"unpack"}, packed.out);
        CHECK(answer.done.files + answer.done.hard_links == 8 + odd_names().size() - 2);
        CHECK(answer.done.hard_links == 1);
        CHECK(answer.done.symlinks == 3);
        if (packer.fractions) CHECK(differences(tree.picture(), original) == "");
        else CHECK(differences(without_fractions(tree.picture()), without_fractions(original)) == "");
        CHECK(fs::hard_link_count(tree.ws / "hard") == 2);
        struct stat info{};
        REQUIRE(::stat((tree.ws / "sparse").c_str(), &info) == 0);
        CHECK(info.st_blocks < 100);
    }
}

TEST_CASE("what is packed is what GNU tar, bsdtar and unpack make of it") {
    const Tree source;
    make_source(source.ws);
    const Outcome packed = source.run({"pack", "."});
    REQUIRE(packed.status == 0);
    const Answer report = answer_of(packed.err);
    CHECK(report.notes.empty());
    CHECK(report.done.left_out == 0);
    CHECK(source.run({"pack", "."}).out == packed.out);
    Picture original = source.picture();
    original.erase(".");  // the root's own values are not packed
    const Tree gnu, bsd, own;
    CHECK(run_program({"tar", "-C", gnu.ws.string(), "-xp"}, packed.out).status == 0);
    const Outcome bsd_unpacked = run_program({"bsdtar", "-C", bsd.ws.string(), "-xpf", "-"}, packed.out);
    INFO(bsd_unpacked.err);
    CHECK(bsd_unpacked.status == 0);
    own.ask({"unpack"}, packed.out);
    for (const Tree* tree : {&gnu, &bsd, &own}) {
        Picture there = tree->picture();
        there.erase(".");
        // bsdtar takes "a:" for a drive.
        if (tree == &bsd) there.insert(std::pair("a:b", there.extract("b").mapped()));
        CHECK(differences(there, original) == "");
    }
    // In an order that does not depend on how the files came to be.
    CHECK(own.run({"pack", "."}).out == packed.out);
    const Outcome part = source.run({"pack", "a.c", "a/b", "a/b/empty", "a/b"});
    const Outcome names = run_program({"tar", "-t"}, part.out);
    CHECK(names.out == "a.c\na/b/\na/b/empty/\n");
    CHECK(source.run({"pack", "a", "no"}).refused_as(ErrorCode::not_found));
    CHECK(source.run({"pack", "a", "no"}).out.empty());
}

TEST_CASE("a time before 1970 keeps its fraction") {
    // Not with bsdtar, which adds the fraction of a negative time instead of taking it away.
    const Tree source;
    source.file("f", "x");
    const timespec early[2] = {{1, 0}, {-5, 250'000'000}};
    REQUIRE(::utimensat(AT_FDCWD, (source.ws / "f").c_str(), early, 0) == 0);
    for (const std::string& archive : {source.run({"pack", "f"}).out, run_program({"tar", "--format=pax", "-C", source.ws.string(), "-c", "f"}).out}) {
        const Tree own, gnu;
        own.ask({"unpack"}, archive);
        CHECK(run_program({"tar", "-C", gnu.ws.string(), "-xp"}, archive).status == 0);
        for (const Tree* tree : {&own, &gnu}) CHECK(tree->picture().at("f") == source.picture().at("f"));
    }
}

TEST_CASE("what is no file, directory or link is left out of a pack, and told") {
    const Tree tree;
    tree.file("d/f", "x");
    REQUIRE(::mkfifo((tree.ws / "d/fifo").c_str(), 0600) == 0);
    for (int i = 0; i < 1200; ++i) REQUIRE(::mkfifo((tree.ws / ("fifo" + std::to_string(i))).c_str(), 0600) == 0);
    ::chmod((tree.ws / "d/f").c_str(), 06755);
    const Outcome packed = tree.run({"pack", "."});
    REQUIRE(packed.status == 0);
    const Answer report = answer_of(packed.err);
    CHECK(report.done.left_out == 1201);
    CHECK(report.notes.size() == wire::max_pack_notes);
    CHECK(report.notes.at(0) == wire::Note{wire::Reason::special, "d/fifo"});
    CHECK(run_program({"tar", "-tv"}, packed.out).out.starts_with("drwxr-xr-x 0/0"));
    CHECK(run_program({"tar", "-t"}, packed.out).out == "d/\nd/f\n");
    CHECK_FALSE(run_program({"tar", "-tv"}, packed.out).out.find("-rwxr-xr-x") == std::string::npos);
    if (!is_root()) return;
    ::chmod((tree.ws / "d/f").c_str(), 0600);
    const Outcome poor = tree.run({"pack", "d"}, "", 65534);
    CHECK(answer_of(poor.err).notes == std::vector<wire::Note>{{wire::Reason::unreadable, "d/f"}, {wire::Reason::special, "d/fifo"}});
}

TEST_CASE("a file that becomes shorter while it is packed is filled up, and told") {
    const Tree tree;
    const std::size_t size = 16 << 20;
    tree.file("f", std::string(size, 'x'));
    tree.file("g", "whole");
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    UniqueFd in(ends[0]), out(ends[1]);
    const UniqueFd nothing = memory_file(), err = memory_file();
    const pid_t pid = start(tree.command({"pack", "f", "g"}), nothing.get(), out.get(), err.get());
    out.reset();
    // It has begun, and the pipe holds less than the file.
    std::string packed = read_up_to(in.get(), 4096);
    fs::resize_file(tree.ws / "f", 1 << 20);
    packed += read_up_to(in.get(), size * 2);
    REQUIRE(status_of(pid) == 0);
    CHECK(answer_of(content_of(err)).notes == std::vector<wire::Note>{{wire::Reason::padded, "f"}});
    const Tree there;
    there.ask({"unpack"}, packed);
    const std::string content = slurp(there.ws / "f");
    CHECK(content.size() == size);
    CHECK(content.find_first_not_of('x') == content.find('\0'));
    CHECK(content.find_last_not_of('\0') < content.size() / 2);
    CHECK(slurp(there.ws / "g") == "whole");
}

TEST_CASE("an archive is merged with what is there") {
    const Tree tree;
    tree.file("d/old", "old", 0600);
    tree.file("d/same", "before", 0600);
    tree.file("d/link", "a file so far");
    fs::create_symlink("old", tree.ws / "d/file");
    REQUIRE(::chmod((tree.ws / "d").c_str(), 02700) == 0);
    Member directory;
    directory.path = "d/";
    directory.type = '5';
    directory.mode = 0750;
    directory.mtime = 1'000'000'000;
    const std::string archive = TarBuilder().add(directory).file("d/same", "after", 0640).file("d/file", "a link before").symlink("d/link", "same")
                                    .file("d/new/deep", "new").directory("e", 0555).file("e/in", "x").bytes();
    const Answer answer = tree.ask({"unpack"}, archive);
    CHECK(answer.done.files == 4);
    CHECK(answer.done.bytes == 5 + 13 + 3 + 1);
    const Picture after = tree.picture();
    CHECK(after.at("d").mode == (S_IFDIR | 0750));
    CHECK(after.at("d").mtime_s == 1'000'000'000);
    CHECK(after.at("d/old").content == "old");
    CHECK(after.at("d/same").content == "after");
    CHECK(after.at("d/same").mode == (S_IFREG | 0640));
    CHECK(after.at("d/file").content == "a link before");
    CHECK(after.at("d/link").content == "same");
    CHECK(after.at("d/new").mode == (S_IFDIR | 0755));
    CHECK(after.at("e").mode == (S_IFDIR | 0555));
    CHECK(after.size() == 10);

    // Elsewhere, where directories are missing, and in place of all that was there.
    tree.ask({"unpack", "--dest", "x/y"}, TarBuilder().file("f", "1").bytes());
    tree.ask({"unpack", "--dest", (tree.ws / "x/y").string()}, TarBuilder().file("g", "2").bytes());
    CHECK(slurp(tree.ws / "x/y/f") == "1");
    tree.file("x/z", "stays");
    tree.ask({"unpack", "--dest", "x/y", "--replace-all"}, TarBuilder().file("f/now/a/directory", "3").bytes());
    CHECK(slurp(tree.ws / "x/y/f/now/a/directory") == "3");
    CHECK_FALSE(fs::exists(tree.ws / "x/y/g"));
    CHECK(slurp(tree.ws / "x/z") == "stays");
    tree.ask({"unpack", "--replace-all"}, TarBuilder().directory("./", 0755).file("./d", "all").bytes());
    CHECK(tree.picture().size() == 2);
    CHECK(slurp(tree.ws / "d") == "all");
    tree.ask({"unpack", "--replace-all"}, TarBuilder().bytes());
    CHECK(tree.picture().size() == 1);
    fs::create_directory(tree.top / "aside");
    tree.ask({"unpack", "--staging", (tree.top / "aside").string()}, archive);
    CHECK(fs::is_empty(tree.top / "aside"));
    CHECK(slurp(tree.ws / "d/same") == "after");
}

TEST_CASE("of entries with one name the last counts") {
    const Tree tree;
    tree.ask({"unpack"}, TarBuilder().file("f", "first").hard_link("g", "f").file("f", "second").symlink("f", "x").file("f", "third")
                             .directory("d", 0700).directory("d", 0711).bytes());
    CHECK(slurp(tree.ws / "f") == "third");
    CHECK(slurp(tree.ws / "g") == "first");
    CHECK(tree.picture().at("d").mode == (S_IFDIR | 0711));
}

TEST_CASE("a conflict is refused by name before anything moves") {
    const Tree tree;
    tree.file("a", "first in the archive");
    tree.file("b/c", "a file");
    tree.file("d/e/f", "in a directory");
    fs::create_directory_symlink("/etc", tree.ws / "link");
    check_refused(tree, TarBuilder().file("a", "new").file("b/c/x", "").bytes(), ErrorCode::failed_precondition, "\"b/c\" is a directory");
    check_refused(tree, TarBuilder().file("a", "new").file("d/e", "").bytes(), ErrorCode::failed_precondition, "\"d/e\" is no directory");
    check_refused(tree, TarBuilder().file("a", "new").file("link/passwd", "").bytes(), ErrorCode::failed_precondition, "\"link\"");
    check_refused(tree, TarBuilder().file("x", "").bytes(), ErrorCode::failed_precondition, "\"a\"", {"--dest", "a/b"});
    check_refused(tree, TarBuilder().file("x", "").bytes(), ErrorCode::failed_precondition, "\"link\"", {"--dest", "link", "--replace-all"});
    // What the archive itself has.
    check_refused(tree, TarBuilder().symlink("s", "/etc").file("s/passwd", "").bytes(), ErrorCode::invalid_argument, "\"s\"");
    check_refused(tree, TarBuilder().file("s", "").file("s/x", "").bytes(), ErrorCode::invalid_argument, "\"s\"");
    check_refused(tree, TarBuilder().file("s/x", "").file("s", "").bytes(), ErrorCode::invalid_argument, "\"s\"");
    check_refused(tree, TarBuilder().file("s", "").directory("s").bytes(), ErrorCode::invalid_argument, "\"s\"");
}

TEST_CASE("hostile archives are refused by name and change nothing") {
    const Tree tree;
    tree.file("a", "there");
    std::ofstream(tree.top / "secret") << "outside";
    const auto refused = [&](const TarBuilder& archive, const std::string& part) { check_refused(tree, archive.bytes(), ErrorCode::invalid_argument, part); };
    const auto begun = [] { return TarBuilder().file("a", "new").file("b", "new"); };
    refused(begun().file("/etc/x", ""), "\"/etc/x\" is absolute");
    refused(begun().file("../x", ""), "\"../x\"");
    refused(begun().file("d/../../x", ""), "d/../../x");
    refused(begun().file("d//x", ""), "d//x");
    refused(begun().file("d/./x", ""), "d/./x");
    refused(begun().file("", ""), "\"\"");
    refused(begun().file(".", ""), "\".\"");
    refused(begun().file("x/", ""), "\"x/\"");
    refused(begun().file(std::string(256, 'n'), ""), "nnn");
    refused(begun().file(".pyro-staging-1/x", ""), ".pyro-staging-1");
    for (const char type : {'3', '4'}) {
        Member device;
        device.path = "dev";
        device.type = type;
        refused(begun().add(device), "\"dev\" is a device");
    }
    refused(begun().raw(header_of("pipe", '6', 0)), "\"pipe\" is a fifo");
    refused(begun().raw(header_of("s", 'S', 0)), "unknown type");
    refused(begun().raw(header_of("l", '5', 3)), "has content");
    refused(begun().hard_link("h", "../secret"), "../secret");
    refused(begun().hard_link("h", "/etc/passwd"), "/etc/passwd");
    refused(begun().hard_link("h", "later").file("later", ""), "\"later\"");
    refused(begun().directory("d").hard_link("h", "d"), "\"d\"");
    refused(begun().symlink("s", "../secret").hard_link("h", "s"), "\"s\"");
    refused(begun().symlink("s", "..").hard_link("h", "s/secret"), "s/secret");
    refused(begun().symlink("s", ""), "leads nowhere");
    refused(begun().symlink("s", std::string(4096, 't')), "too long");
    refused(begun().raw(std::string(512, '\0')).file("behind", ""), "middle");
    check_refused(tree, begun().bytes() + "x", ErrorCode::invalid_argument, "behind its end");
    refused(begun().raw(std::string(512, 'x')), "");

    const auto pax = [&](const std::string& records) {
        Member member;
        member.path = "f";
        member.pax = records;
        return begun().add(member);
    };
    refused(pax(pax_record("path", "../x")), "../x");
    refused(pax(pax_record("path", std::string("x\0y", 3))), "NUL");
    refused(pax(pax_record("path", "")), "empty");
    refused(pax(pax_record("mtime", "soon")), "time");
    refused(pax(pax_record("size", "-1")), "size");
    refused(pax(pax_record("size", "99999999999999999999")), "size");
    refused(pax(pax_record("GNU.sparse.major", "1")), "sparse");
    for (const char* record : {"5 a=b", "99 a=b\n", "0 a=b\n", "x a=b\n", "6 a=b\n6", "4 a\n", "5 =b\n", "123456789 a=b\n", "-1 a=b\n", "3 \n"}) refused(pax(record), "pax");
    refused(begun().raw(header_of("x", 'x', 0)), "last entry");
    refused(TarBuilder().raw(header_of("x", 'x', (1 << 20) + 1)), "pax records of");
    refused(begun().file("deep" + std::string(70'000, '/') + "x", ""), "");
    std::string deep;
    while (deep.size() <= wire::max_path_bytes) deep += "d/";
    refused(begun().file(deep + "x", ""), "too long");
    CHECK(slurp(tree.top / "secret") == "outside");
}

TEST_CASE("an archive that ends early changes nothing, wherever it ends") {
    const Tree tree;
    tree.file("a", "there");
    tree.file("d/x", "there");
    Member long_name;
    long_name.path = std::string(150, 'p');
    long_name.content = "content";
    const std::string archive = TarBuilder().file("a", std::string(700, 'n')).directory("d", 0700).file("d/x", "new").add(long_name).symlink("s", "x").hard_link("h", "a").bytes();
    const Picture before = tree.picture();
    for (std::size_t length = 0; length < archive.size(); length += length % 512 == 0 ? 1 : length % 512 == 1 ? 300 : 211 - (length % 512 > 400 ? 210 : 0)) {
        const Outcome outcome = tree.run({"unpack"}, std::string_view(archive).substr(0, length));
        CHECK(outcome.refused_as(ErrorCode::unavailable, "ends too early"));
        CHECK(differences(tree.picture(), before) == "");
    }
    tree.ask({"unpack"}, archive);
    CHECK(slurp(tree.ws / "d/x") == "new");
}

TEST_CASE("no byte of an archive does more than be refused") {
    Member long_name;
    long_name.path = std::string(101, 'p');
    const std::string archive = TarBuilder().file("a", "n").add(long_name).symlink("s", "x").hard_link("h", "a").bytes();
    std::size_t refusals = 0;
    const Tree tree("/dev/shm");
    for (std::size_t at = 0; at < archive.size() - 1024; at += 23) {
        std::string changed = archive;
        changed[at] = static_cast<char>(changed[at] ^ (at % 2 ? 0x80 : 0x11));
        const Outcome outcome = tree.run({"unpack"}, changed);
        CHECK((outcome.status == 0 || outcome.status == 1));
        refusals += outcome.status == 1 ? 1u : 0u;
        if (outcome.status == 1) CHECK(fs::is_empty(tree.ws));
        for (const auto& entry : fs::directory_iterator(tree.ws)) fs::remove_all(entry);
    }
    CHECK(refusals > 50);
}

TEST_CASE("a move that fails takes the ones before it back") {
    if (!is_root()) return;
    const Tree tree;
    tree.file("a/same", "before");
    tree.file("b/x", "x");
    tree.file("z/locked", "before");
    for (const char* path : {"", "a", "a/same", "b", "b/x"}) REQUIRE(::chown((tree.ws / path).c_str(), 65534, 65534) == 0);
    const timespec times[2] = {{1, 0}, {1'500'000'000, 42}};
    for (const char* path : {"a", "b", "z", "."}) REQUIRE(::utimensat(AT_FDCWD, (tree.ws / path).c_str(), times, 0) == 0);
    const std::string archive = TarBuilder().directory("a", 0711).file("a/same", "after").file("a/new", "x").directory("a/shut", 0500).file("a/shut/in", "x")
                                    .file("top", "x").directory("b", 0700).file("z/new", "x").bytes();
    const Picture before = tree.picture();
    for (const char* how : {"", "--replace-all"}) {
        // The user may not write to z, which is found out when most is done.
        std::vector<std::string> words{"unpack"};
        if (*how) words.insert(words.end(), {how, "--dest", "."});
        if (*how) REQUIRE(::chmod(tree.ws.c_str(), 01755) == 0);  // and not take z out of a sticky directory that is not his
        if (*how) REQUIRE(::chown(tree.ws.c_str(), 0, 65534) == 0);
        if (*how) REQUIRE(::chmod(tree.ws.c_str(), 01775) == 0);
        Picture now = tree.picture();
        CHECK(tree.run(words, archive, 65534).refused_as(ErrorCode::failed_precondition));
        Picture after = tree.picture();
        // The time of a directory that is not his he cannot set.
        if (*how) now.at(".") = after.at(".");
        CHECK(differences(after, now) == "");
        if (!*how) CHECK(differences(now, before) == "");
    }
}

TEST_CASE("what a killed unpack left is undone and removed") {
    const Tree tree;
    tree.file("old", "there");
    const std::string archive = TarBuilder().file("old", "new").file("f", std::string(2 << 20, 'x')).bytes();
    // While it waits for its archive: it has begun when it has taken more than a pipe holds.
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    UniqueFd in(ends[0]), out(ends[1]);
    const UniqueFd result = memory_file();
    const Picture before = tree.picture();
    const pid_t pid = start(tree.command({"unpack"}), in.get(), result.get(), result.get());
    in.reset();
    write_all(out.get(), std::string_view(archive).substr(0, 1 << 20));
    // Another one beside it does not take it for dead.
    CHECK(tree.ask({"recover"}).done.directories == 0);
    ::kill(pid, SIGKILL);
    CHECK(status_of(pid) == -SIGKILL);
    CHECK_FALSE(tree.is_clean());
    CHECK(tree.ask({"list", "."}).paths() == std::vector<std::string>{"old"});
    CHECK(tree.ask({"recover"}).done.directories == 1);
    const Picture after = tree.picture();
    CHECK(after.at("old") == before.at("old"));
    CHECK(after.size() == before.size());
    CHECK(tree.ask({"recover"}).done.directories == 0);
}

TEST_CASE("an unpack that is killed while it moves is undone") {
    // Many moves, and a kill at the first of them.
    const Tree tree;
    TarBuilder archive;
    for (int i = 0; i < 1000; ++i) {
        tree.file("d/" + std::to_string(i), "old");
        archive.file("d/" + std::to_string(i), "new").file("e/" + std::to_string(i), "new");
    }
    const timespec times[2] = {{1, 0}, {1'500'000'000, 42}};
    fs::create_directory(tree.ws / "e");
    for (const char* path : {"d", "e"}) REQUIRE(::utimensat(AT_FDCWD, (tree.ws / path).c_str(), times, 0) == 0);
    Picture before = tree.picture();
    before.erase(".");
    bool was_caught = false;
    while (!was_caught) {
        const UniqueFd watch(::inotify_init1(IN_CLOEXEC));
        REQUIRE(::inotify_add_watch(watch.get(), (tree.ws / "d").c_str(), IN_MOVED_TO) >= 0);
        const UniqueFd in = memory_file(archive.bytes()), result = memory_file();
        const pid_t pid = start(tree.command({"unpack"}), in.get(), result.get(), result.get());
        char event[4096];
        REQUIRE(::read(watch.get(), event, sizeof event) > 0);
        ::kill(pid, SIGKILL);
        status_of(pid);
        std::size_t fresh = 0;
        for (int i = 0; i < 1000; ++i) fresh += slurp(tree.ws / "d" / std::to_string(i)) == "new" ? 1u : 0u;
        was_caught = fresh > 0 && fresh < 1000;
        if (fresh == 1000) {
            // Too late: make it old again.
            for (int i = 0; i < 1000; ++i) tree.file("d/" + std::to_string(i), "old");
            fs::remove_all(tree.ws / "e");
            fs::create_directory(tree.ws / "e");
            for (const char* path : {"d", "e"}) REQUIRE(::utimensat(AT_FDCWD, (tree.ws / path).c_str(), times, 0) == 0);
            tree.ask({"recover"});
            before = tree.picture();
            before.erase(".");
        }
    }
    CHECK(tree.ask({"recover"}).done.directories == 1);
    Picture after = tree.picture();
    after.erase(".");
    CHECK(differences(after, before) == "");
    tree.ask({"unpack"}, archive.bytes());
    CHECK(slurp(tree.ws / "d/999") == "new");
}
