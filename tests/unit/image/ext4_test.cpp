// What the writer makes, judged by e2fsprogs.
#include <fcntl.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <clocale>
#include <nlohmann/json.hpp>
#include <random>

#include "common/sparse_digest.hpp"
#include "image/build.hpp"
#include "image/directory_image.hpp"
#include "image/ext4_image.hpp"
#include "image/layer.hpp"
#include "image/seed.hpp"
#include "tests/support/catch.hpp"
#include "tests/unit/image/tar_builder.hpp"

using namespace pyro;
using namespace pyro::image;
using pyro::test::Member;
using pyro::test::TarBuilder;

namespace {

struct Ran {
    int code;
    std::string output;
};

Ran run_program(std::vector<std::string> arguments, int image) {
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    UniqueFd read_end(ends[0]), write_end(ends[1]);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, write_end.get(), 1);
    posix_spawn_file_actions_adddup2(&actions, write_end.get(), 2);
    posix_spawn_file_actions_adddup2(&actions, image, 9);
    std::vector<char*> argv;
    for (std::string& argument : arguments)
        argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_t pid = 0;
    char path[] = "PATH=/usr/sbin:/sbin:/usr/bin:/bin", pager[] = "DEBUGFS_PAGER=cat";
    char* env[] = {path, pager, nullptr};
    ::setenv("PATH", "/usr/sbin:/sbin:/usr/bin:/bin", 1);
    const int error = ::posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), env);
    posix_spawn_file_actions_destroy(&actions);
    REQUIRE(error == 0);
    write_end.reset();
    Ran out;
    out.output = read_up_to(read_end.get(), 128 << 20);
    int status = 0;
    REQUIRE(::waitpid(pid, &status, 0) == pid);
    out.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
    return out;
}

void must_be_clean(int image) {
    const Ran ran = run_program({"e2fsck", "-fn", "/proc/self/fd/9"}, image);
    INFO(ran.output);
    CHECK(ran.code == 0);
}

std::string debugfs(int image, const std::string& command) { return run_program({"debugfs", "-R", command, "/proc/self/fd/9"}, image).output; }

bool contains(const std::string& text, const std::string& part) {
    if (text.find(part) == std::string::npos)
        WARN(text.substr(0, 2000));
    return text.find(part) != std::string::npos;
}

// Catch would print both, megabytes of them.
bool same(const std::string& a, const std::string& b) { return a == b; }

UniqueFd image_file() {
    char name[] = "/tmp/pyro-ext4-XXXXXX";
    UniqueFd file(::mkostemp(name, O_CLOEXEC));
    REQUIRE(file);
    ::unlink(name);
    return file;
}

nlohmann::json seed(const std::string& stream, const UniqueFd& image, nlohmann::json limits = nlohmann::json::object()) {
    std::setlocale(LC_CTYPE, "C.UTF-8");
    const UniqueFd null(::open("/dev/null", O_WRONLY | O_CLOEXEC)), file = test::file_with(stream);
    Events events(null.get());
    return seed_image({{"stream_fd", file.get()}, {"image_fd", image.get()}, {"limits", std::move(limits)}}, events);
}

UniqueFd build(const std::vector<std::string>& layers, Ext4Options options = {}, TreeLimits limits = {}) {
    std::setlocale(LC_CTYPE, "C.UTF-8");
    UniqueFd image = image_file();
    Ext4Image store(image.get(), options);
    Tree tree(limits, [&store](ContentId content) { store.discard(content); });
    std::uint64_t unpacked = 0;
    for (const std::string& layer : layers) {
        const UniqueFd file = test::file_with(layer);
        unpacked += apply_layer(file.get(), tree, store, unpacked, [](std::uint64_t) {}).unpacked;
    }
    store.finish(tree);
    return image;
}

std::string noise(std::size_t size, unsigned seed) {
    std::mt19937 random(seed);
    std::string out(size, '\0');
    for (char& c : out)
        c = static_cast<char>(random());
    return out;
}

}  // namespace

TEST_CASE("an empty image is a clean file system with nothing allocated but its own") {
    const UniqueFd image = build({TarBuilder().directory("./").bytes()});
    must_be_clean(image.get());
    struct stat info {};
    REQUIRE(::fstat(image.get(), &info) == 0);
    CHECK(info.st_size == 8ll << 30);
    CHECK(info.st_blocks * 512 < 2 << 20);
}

TEST_CASE("a nasty tree arrives as it is") {
    TarBuilder tar;
    Member m;
    tar.directory("./", 0751);
    m.path = "suid", m.content = "run me", m.mode = 06755, m.uid = 100001, m.gid = 65534, m.mtime = 4294967296 + 5;
    m.pax = test::pax_record("SCHILY.xattr.security.capability", std::string("\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20)) +
            test::pax_record("SCHILY.xattr.user.note", std::string(600, 'n')) + test::pax_record("mtime", "4294967301.5");
    tar.add(m);
    Member node;
    node.path = "dev/null", node.type = '3', node.mode = 0666, node.major = 1, node.minor = 3;
    tar.add(node);
    node.path = "dev/large", node.type = '4', node.major = 259, node.minor = 70000;
    tar.add(node);
    node = Member();
    node.path = "dev/fifo", node.type = '6', node.mode = 0600;
    tar.add(node);
    tar.symlink("fast", std::string(59, 'f')).symlink("slow60", std::string(60, 's')).symlink("slow", std::string(4000, 's'));
    tar.file("hard1", "linked").hard_link("d/hard2", "hard1").hard_link("d/hard3", "d/hard2");
    tar.file(std::string(255, 'n'), "longest name").file("caf\xc3\xa9", "utf-8").file("raw\xff\xfe", "not utf-8").file("new\nline", "control");
    const std::string big = noise(3 << 20, 1), odd = noise(4097, 2);
    tar.file("big", big).file("odd", odd).file("empty", "");
    std::string holes(8 << 20, '\0');
    holes.replace(5 << 20, 5, "islet");
    tar.file("holes", holes).file("zeros", std::string(1 << 20, '\0'));
    const UniqueFd image = build({tar.bytes()});
    must_be_clean(image.get());

    const std::string suid = debugfs(image.get(), "stat /suid");
    CHECK(contains(suid, "Mode:  06755"));
    CHECK(contains(suid, "User: 100001   Group: 65534"));
    CHECK(contains(suid, "security.capability (20)"));
    CHECK(contains(suid, "user.note (600)"));
    CHECK(contains(suid, "mtime: 0x00000005:77359401"));  // 2^32 + 5 s and half a second
    CHECK(contains(debugfs(image.get(), "stat /dev/null"), "Device major/minor number: 01:03"));
    CHECK(contains(debugfs(image.get(), "stat /dev/large"), "Device major/minor number: 259:70000"));
    CHECK(contains(debugfs(image.get(), "stat /dev/fifo"), "Type: FIFO"));
    CHECK(contains(debugfs(image.get(), "stat /fast"), "Fast link dest: \"" + std::string(59, 'f')));
    CHECK(contains(debugfs(image.get(), "stat /slow60"), "Size: 60"));
    CHECK(contains(debugfs(image.get(), "stat /hard1"), "Links: 3"));
    CHECK(contains(debugfs(image.get(), "cat /d/hard3"), "linked"));
    CHECK(contains(debugfs(image.get(), "stat /" + std::string(255, 'n')), "Size: 12"));
    CHECK(contains(debugfs(image.get(), "cat /caf\xc3\xa9"), "utf-8"));
    CHECK(contains(debugfs(image.get(), "cat \"/raw\xff\xfe\""), "not utf-8"));
    CHECK(contains(debugfs(image.get(), "stat ."), "Mode:  0751"));
    // debugfs says its version before the content
    const auto cat = [&](const std::string& path) {
        const std::string out = debugfs(image.get(), "cat " + path);
        return out.substr(out.find('\n') + 1);
    };
    CHECK(same(cat("/big"), big));
    CHECK(same(cat("/odd"), odd));
    CHECK(same(cat("/holes"), holes));
    CHECK(contains(debugfs(image.get(), "stat /zeros"), "Blockcount: 0"));
    CHECK(contains(debugfs(image.get(), "stat /holes"), "Blockcount: 8"));
}

TEST_CASE("a sparse member keeps its holes") {
    // GNU sparse 1.0: the map, then the data.
    std::string map = "2\n1048576\n4096\n9437184\n100\n";
    map.resize(512, '\0');
    Member m;
    m.path = "GNUSparseFile.0/s";
    m.content = map + std::string(4096, 'a') + std::string(100, 'b');
    m.pax = test::pax_record("GNU.sparse.major", "1") + test::pax_record("GNU.sparse.minor", "0") + test::pax_record("GNU.sparse.name", "s") +
            test::pax_record("GNU.sparse.realsize", "10485760");
    const UniqueFd image = build({TarBuilder().add(m).bytes()});
    must_be_clean(image.get());
    std::string expected(10 << 20, '\0');
    expected.replace(1 << 20, 4096, std::string(4096, 'a'));
    expected.replace(9 << 20, 100, std::string(100, 'b'));
    const std::string out = debugfs(image.get(), "cat /s");
    CHECK(same(out.substr(out.find('\n') + 1), expected));
    CHECK(contains(debugfs(image.get(), "stat /s"), "Blockcount: 16"));
}

TEST_CASE("large directories, deep directories and many extents are clean") {
    TarBuilder tar;
    for (int i = 0; i < 10000; ++i)
        tar.file("many/" + std::string(40, 'x') + std::to_string(i), "");
    std::string deep = "deep";
    for (int i = 0; i < 300; ++i)
        deep += "/d";
    tar.file(deep + "/end", "e");
    for (int i = 0; i < 300; ++i)
        tar.directory("dirs/" + std::to_string(i));
    std::string comb(64ull << 20, '\0');  // an islet in every 128 KiB: 512 extents
    for (std::size_t at = 0; at < comb.size(); at += 128 << 10)
        comb[at + 7] = 'c';
    tar.file("comb", comb);
    const UniqueFd image = build({tar.bytes()});
    must_be_clean(image.get());
    const std::string out = debugfs(image.get(), "cat /comb");
    CHECK(same(out.substr(out.find('\n') + 1), comb));
    CHECK(contains(debugfs(image.get(), "stat /dirs"), "Links: 302"));
}

TEST_CASE("what later layers replace or hide leaves nothing behind") {
    const std::string big = noise(8 << 20, 3);
    const UniqueFd replaced = build({TarBuilder().file("a", big).file("b", big).bytes(), TarBuilder().file("a", "small").file(".wh.b", "").bytes()});
    must_be_clean(replaced.get());
    struct stat info {};
    REQUIRE(::fstat(replaced.get(), &info) == 0);
    CHECK(info.st_blocks * 512 < 4 << 20);
    CHECK(contains(debugfs(replaced.get(), "cat /a"), "small"));
    CHECK(contains(debugfs(replaced.get(), "stat /b"), "File not found"));
}

TEST_CASE("the same layers give the same bytes") {
    const std::string layer = TarBuilder().directory("./").file("a", noise(100000, 4)).symlink("l", "a").hard_link("h", "a").bytes();
    const UniqueFd one = build({layer}), two = build({layer});
    CHECK(sparse_digest(one.get()) == sparse_digest(two.get()));
    const UniqueFd other = build({layer, TarBuilder().file("b", "b").bytes()});
    CHECK(sparse_digest(one.get()) != sparse_digest(other.get()));
}

TEST_CASE("the sparse digest depends on content, not on holes") {
    const UniqueFd holes = image_file(), full = image_file();
    REQUIRE(::ftruncate(holes.get(), (1 << 20) + 77) == 0);
    REQUIRE(::pwrite(holes.get(), "x", 1, 500000) == 1);
    std::string bytes((1 << 20) + 77, '\0');
    bytes[500000] = 'x';
    write_all(full.get(), bytes);
    CHECK(sparse_digest(holes.get()) == sparse_digest(full.get()));
    REQUIRE(::ftruncate(holes.get(), (1 << 20) + 78) == 0);
    CHECK(sparse_digest(holes.get()) != sparse_digest(full.get()));
    REQUIRE(::pwrite(full.get(), "y", 1, 3) == 1);
    CHECK(sparse_digest(holes.get()) != sparse_digest(full.get()));
}

TEST_CASE("an image larger than was asked for, or with more files, gets the room it needs") {
    UniqueFd null(::open("/dev/null", O_WRONLY | O_CLOEXEC));
    Events events(null.get());
    for (const bool files : {false, true}) {
        TarBuilder tar;
        if (files)
            for (int i = 0; i < 6000; ++i)
                tar.file("f" + std::to_string(i), "");
        else
            tar.file("big", noise(100 << 20, 5));
        const UniqueFd layer = test::file_with(tar.bytes()), image = image_file();
        const nlohmann::json request = {{"layers", {{{"fd", layer.get()}, {"size", tar.bytes().size()}}}}, {"image_fd", image.get()}, {"disk_bytes", 64 << 20}};
        const nlohmann::json result = build_image(request, events);
        must_be_clean(image.get());
        CHECK(result["digest"] == sparse_digest(image.get()).str());
        if (!files)
            CHECK(result["size"].get<std::uint64_t>() >= 128u << 20);
        CHECK(contains(debugfs(image.get(), "stat /workspace"), "Type: directory"));
        CHECK(contains(debugfs(image.get(), "stat /tmp"), "Mode:  01777"));
    }
}

TEST_CASE("a layer that does not unpack to what the image says is refused") {
    UniqueFd null(::open("/dev/null", O_WRONLY | O_CLOEXEC));
    Events events(null.get());
    const UniqueFd layer = test::file_with(TarBuilder().file("a", "a").bytes()), image = image_file();
    const nlohmann::json request = {{"layers", {{{"fd", layer.get()}, {"diff_id", Digest::of("other").str()}}}}, {"image_fd", image.get()}};
    try {
        build_image(request, events);
        FAIL("was taken");
    } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::environment_invalid);
        CHECK(contains(error.message(), "layer 1"));
    }
}

TEST_CASE("unpacking stays in its directory and gives up privileges") {
    char name[] = "/tmp/pyro-unpack-XXXXXX";
    REQUIRE(::mkdtemp(name));
    const std::string path = name;
    {
        TarBuilder tar;
        Member null;
        null.path = "dev/null", null.type = '3', null.major = 1, null.minor = 3;
        tar.directory("etc").file("etc/passwd", "inside").symlink("out", "/etc").file("out/shadow", "also inside").file("suid", "s", 04755).add(null);
        tar.file("h1", "h").hard_link("h2", "h1").file("e1", "").hard_link("e2", "e1").directory("closed", 0).file("closed/x", "x").file("gone", "g");
        const UniqueFd directory = open_file(path, O_RDONLY | O_DIRECTORY), one = test::file_with(tar.bytes()), two = test::file_with(TarBuilder().file(".wh.gone", "").bytes());
        DirectoryImage store(directory.get());
        Tree tree({}, [&store](ContentId content) { store.discard(content); });
        apply_layer(one.get(), tree, store, 0, [](std::uint64_t) {});
        apply_layer(two.get(), tree, store, 0, [](std::uint64_t) {});
        store.finish(tree);
        CHECK(read_file(path + "/etc/passwd") == "inside");
        CHECK(read_file(path + "/etc/shadow") == "also inside");
        struct stat info {};
        REQUIRE(::lstat((path + "/out").c_str(), &info) == 0);
        CHECK(S_ISLNK(info.st_mode));
        REQUIRE(::lstat((path + "/suid").c_str(), &info) == 0);
        CHECK((info.st_mode & 07777) == 0755);
        CHECK(::lstat((path + "/dev/null").c_str(), &info) == -1);
        REQUIRE(::lstat((path + "/h2").c_str(), &info) == 0);
        CHECK(info.st_nlink == 2);
        CHECK(::lstat((path + "/e2").c_str(), &info) == 0);
        CHECK(info.st_nlink == 2);
        CHECK(read_file(path + "/closed/x") == "x");
        CHECK(::lstat((path + "/gone").c_str(), &info) == -1);
        CHECK(::lstat((path + "/.pyro-unpack").c_str(), &info) == -1);
    }
    run_program({"rm", "-rf", path}, 0);
}

TEST_CASE("a seed's image is as large as its content and holds what travels") {
    TarBuilder tar;
    Member m;
    m.path = "suid", m.content = "run me", m.mode = 06755, m.uid = 1000, m.gid = 1000;
    m.pax = test::pax_record("SCHILY.xattr.user.note", "n") + test::pax_record("mtime", "1700000000.25");
    tar.add(m).directory("empty", 0700).directory("sticky", 03777).file("script", "#!", 0750).file("nothing", "").directory("lost+found");
    tar.symlink("away", "/etc/passwd").symlink("up", "../../x").symlink("long", std::string(300, 'l')).file("a", "one").hard_link("b", "a");
    tar.directory("sub").file("sub/.wh.a", "a name like others").file(".wh..wh..opq", "too").file("caf\xc3\xa9", "utf-8").file("raw\xff", "not utf-8");
    std::string comb(8ull << 20, '\0'), holes(8 << 20, '\0');
    for (std::size_t at = 0; at < comb.size(); at += 128 << 10)
        comb[at + 7] = 'c';
    holes.replace(5 << 20, 5, "islet");
    tar.file("comb", comb).file("holes", holes);
    const std::string filler(60 << 20, 'f'), big = noise(80 << 20, 3);  // over the end of the first group
    tar.file("filler", filler).file("big", big);
    const std::string stream = tar.bytes();
    const UniqueFd image = image_file();
    const nlohmann::json result = seed(stream, image);
    must_be_clean(image.get());
    CHECK(result["digest"] == Digest::of(stream).str());
    CHECK(result["stream_bytes"] == stream.size());
    CHECK(result["files"] == 13);
    CHECK(result["directories"] == 4);
    CHECK(result["symlinks"] == 3);
    CHECK(result["bytes"] == 6 + 2 + 0 + 3 + 3 + 18 + 3 + 5 + 9 + comb.size() + holes.size() + filler.size() + big.size());
    struct stat info {};
    REQUIRE(::fstat(image.get(), &info) == 0);
    CHECK(result["size"] == 256 << 20);
    CHECK(info.st_size == 256 << 20);
    CHECK(info.st_blocks * 512 < 144 << 20);
    const std::string suid = debugfs(image.get(), "stat /suid");
    CHECK(contains(suid, "Mode:  0755"));
    CHECK(contains(suid, "User:     0   Group:     0"));
    CHECK(contains(suid, "mtime: 0x6553f100:3b9aca00"));
    CHECK_FALSE(suid.find("user.note") != std::string::npos);
    CHECK(contains(debugfs(image.get(), "stat /empty"), "Mode:  0700"));
    CHECK(contains(debugfs(image.get(), "stat /sticky"), "Mode:  01777"));
    CHECK(contains(debugfs(image.get(), "stat /script"), "Mode:  0750"));
    CHECK(contains(debugfs(image.get(), "stat /away"), "Fast link dest: \"/etc/passwd\""));
    CHECK(contains(debugfs(image.get(), "stat /long"), "Size: 300"));
    CHECK(contains(debugfs(image.get(), "stat /b"), "Links: 2"));
    CHECK(contains(debugfs(image.get(), "cat /sub/.wh.a"), "a name like others"));
    CHECK(contains(debugfs(image.get(), "cat /.wh..wh..opq"), "too"));
    CHECK(contains(debugfs(image.get(), "cat \"/raw\xff\""), "not utf-8"));
    CHECK(contains(debugfs(image.get(), "stat /holes"), "Blockcount: 8"));
    for (const auto& [path, content] : {std::pair<const char*, const std::string*>{"/comb", &comb}, {"/holes", &holes}, {"/big", &big}}) {
        const std::string out = debugfs(image.get(), std::string("cat ") + path);
        CHECK(same(out.substr(out.find('\n') + 1), *content));
    }
    const std::string features = debugfs(image.get(), "features");
    CHECK(features.find("has_journal") == std::string::npos);
    CHECK(features.find("resize_inode") == std::string::npos);
}

TEST_CASE("seeds of nothing and of many names are clean, and equal streams are equal images") {
    const UniqueFd empty = image_file();
    CHECK(seed(TarBuilder().bytes(), empty)["files"] == 0);
    must_be_clean(empty.get());
    struct stat info {};
    REQUIRE(::fstat(empty.get(), &info) == 0);
    CHECK(info.st_size == 128 << 20);
    CHECK(info.st_blocks * 512 < 256 << 10);
    TarBuilder tar;
    for (int d = 0; d < 300; ++d) {
        tar.directory("d" + std::to_string(d));
        for (int f = 0; f < 60; ++f)
            tar.file("d" + std::to_string(d) + "/" + std::string(200, 'n') + std::to_string(f), f % 3 ? "" : "content");
        tar.symlink("d" + std::to_string(d) + "/s", std::string(200, 't'));
    }
    std::string deep = "deep";
    tar.directory(deep);
    for (int i = 0; i < 300; ++i)
        tar.directory(deep += "/d");
    const UniqueFd one = image_file(), two = image_file();
    const nlohmann::json first = seed(tar.bytes(), one), second = seed(tar.bytes(), two);
    must_be_clean(one.get());
    CHECK(first == second);
    CHECK(first["files"] == 18000);
    CHECK(sparse_digest(one.get()) == sparse_digest(two.get()));
}

TEST_CASE("a seed that is hostile, damaged or too large is refused by name") {
    const auto refusal = [](const std::string& stream, const nlohmann::json& limits = nlohmann::json::object()) {
        const UniqueFd image = image_file();
        try {
            seed(stream, image, limits);
        } catch (const Error& error) {
            CHECK(error.code() == ErrorCode::invalid_argument);
            CHECK_FALSE(error.hint().empty());
            return error.message();
        }
        return std::string("taken");
    };
    const auto special = [](char type) {
        Member node;
        node.path = "dev/x", node.type = type, node.major = 1, node.minor = 3;
        return TarBuilder().directory("dev").add(node).bytes();
    };
    CHECK(refusal(TarBuilder().file("/etc/passwd", "x").bytes()) == "the seed is refused: entry \"/etc/passwd\" is an absolute path");
    CHECK(refusal(TarBuilder().file("a/../../b", "x").bytes()) == "the seed is refused: entry \"a/../../b\" leaves the tree by \"..\"");
    CHECK(refusal(special('3')) == "the seed is refused: entry \"dev/x\" is a device");
    CHECK(refusal(special('4')) == "the seed is refused: entry \"dev/x\" is a device");
    CHECK(refusal(special('6')) == "the seed is refused: entry \"dev/x\" is a fifo");
    CHECK(refusal(TarBuilder().symlink("out", "/etc").file("out/passwd", "x").bytes()) ==
          "the seed is refused: entry \"out/passwd\" lies below the symlink \"out\"");
    CHECK(refusal(TarBuilder().directory("in").symlink("l", "in").file("l/x", "x").bytes()) == "the seed is refused: entry \"l/x\" lies below the symlink \"l\"");
    CHECK(refusal(TarBuilder().hard_link("a", "../../etc/passwd").bytes()) == "the seed is refused: entry \"a\" leaves the tree by \"..\"");
    CHECK(refusal(TarBuilder().symlink("out", "/etc").hard_link("a", "out/passwd").bytes()) == "the seed is refused: entry \"a\" lies below the symlink \"out\"");
    CHECK(refusal(TarBuilder().hard_link("a", "none").bytes()) == "the seed is refused: entry \"a\" is a hard link to \"none\", which is not there");
    const TarBuilder good = TarBuilder().file("a", "content").file("b", "content");
    CHECK(refusal(good.unfinished()) == "the seed is refused: it ends too early");
    CHECK(refusal(good.unfinished() + std::string(512, '\0')) == "the seed is refused: it ends too early");
    CHECK(contains(refusal(good.bytes().substr(0, 1024 + 300)), "entry \"a\""));
    CHECK(contains(refusal(std::string()), "the seed is refused: "));
    CHECK(contains(refusal("no tar at all, only some text that is long enough to be looked at" + std::string(2000, 'x')), "the seed is refused: "));
    CHECK(refusal(good.bytes(), {{"entries", 1}}) == "the seed is refused: entry \"b\" is one too many: the limit is 1");
    CHECK(contains(refusal(good.bytes(), {{"total_bytes", 1000}}), "1000 bytes"));
}
