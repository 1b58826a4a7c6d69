#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

#include "tests/unit/seed/seed_site.hpp"

using namespace pyro;
using namespace pyro::test;

namespace {

// One of everything that is kept.
void fill(const std::string& root) {
    put(root + "/a-b", "before a/ in the order of whole paths, behind it in ours");
    put(root + "/a/run", "#!/bin/sh\n", 04755);
    put(root + "/a/none", "");
    put(root + "/back\\slash\nline", "x");
    put(root + "/caf\xc3\xa9", "utf-8");
    put(root + "/cafe\xcc\x81", "utf-8, decomposed: another name");
    put(root + "/latin-\xe9\xff", "no utf-8");
    put(root + "/" + std::string(255, 'n'), "longest");
    put(root + "/-rf", "no option");
    std::filesystem::create_directories(root + "/empty");
    std::filesystem::create_directories(root + "/sticky");
    ::chmod((root + "/sticky").c_str(), 03777);
    ::chmod((root + "/empty").c_str(), 0700);
    std::filesystem::create_symlink("../none", root + "/a/link");
    std::filesystem::create_symlink(std::string(200, 't'), root + "/long-target");
    std::filesystem::create_hard_link(root + "/a/run", root + "/a/same");
    set_time(root + "/a/none", 1, 5);
    set_time(root + "/a-b", 1700000000, 123456789);
    set_time(root + "/a/link", 1600000000, 1);
    set_time(root + "/caf\xc3\xa9", -5, 0);
    set_time(root + "/-rf", (std::int64_t{1} << 33) + 1, 0);
    set_time(root + "/empty", 1500000000, 999999999);
}

struct FewDescriptors {
    FewDescriptors() {
        ::getrlimit(RLIMIT_NOFILE, &before);
        const rlimit few{100, before.rlim_max};
        REQUIRE(::setrlimit(RLIMIT_NOFILE, &few) == 0);
    }
    ~FewDescriptors() { ::setrlimit(RLIMIT_NOFILE, &before); }
    rlimit before{};
};

}  // namespace

TEST_CASE("a directory is taken as it is, and GNU tar and our own reader make the same of it") {
    const Site site;
    fill(site / "in");
    const Seed seed = seed_of(site / "in");
    Tree wanted = tree_of(site / "in");
    for (auto& [name, line] : wanted) {  // the bits that do not travel
        if (line.starts_with("104755"))
            line.replace(0, 6, "100755");
        if (line.starts_with("43777"))
            line.replace(0, 5, "41777");
    }
    CHECK(tree_of(untarred(site, seed.stream)) == wanted);
    unpack(source_of(seed.stream, 777), site / "out");
    CHECK(tree_of(site / "out") == wanted);
    CHECK(seed.packed.kind == SourceKind::directory);
    CHECK(seed.packed.files == 10);
    CHECK(seed.packed.directories == 3);
    CHECK(seed.packed.symlinks == 2);
    CHECK(seed.packed.skipped_count == 0);
    CHECK(seed.packed.stream_bytes == seed.stream.size());
    CHECK(seed.packed.key == Digest::of(seed.stream));
    CHECK(site.nothing_left());
    SECTION("owners and names of owners are not in it") {
        const std::string listed = output({"tar", "-tvf", site / "untarred.tar"}, site.path);
        for (std::size_t at = 0; at < listed.size(); at = listed.find('\n', at) + 1)
            CHECK(listed.substr(at + 10, 5) == " 0/0 ");
    }
    SECTION("equal trees are equal bytes, however they came to be; the order is that of bytes, directory by directory") {
        std::filesystem::create_directory(site / "other");
        REQUIRE(run({"cp", "-a", "--no-preserve=links", site / "in/.", site / "other"}, site.path) == 0);
        std::filesystem::remove(site / "other/a-b");  // made last: it comes elsewhere in the directory
        REQUIRE(run({"cp", "-a", site / "in/a-b", site / "other/a-b"}, site.path) == 0);
        const Seed other = seed_of(site / "other");
        CHECK(other.packed.key == seed.packed.key);
        CHECK(other.stream == seed.stream);
        const std::string names = output({"tar", "--quoting-style=literal", "-tf", site / "untarred.tar"}, site.path);
        CHECK(names.starts_with("-rf\na/\na/link\na/none\na/run\na/same\na-b\n"));
        put(site / "other/a/none", "more");
        CHECK(seed_of(site / "other").packed.key != seed.packed.key);
    }
    SECTION("a real tar of it, of any dialect and compression, gives the same key") {
        for (const char* format : {"gnu", "posix"}) {
            const std::string tar = site / (std::string(format) + ".tar");
            REQUIRE(run({"tar", std::string("--format=") + format, "--hard-dereference", "-cf", tar, "-C", site / "in", "."}, site.path) == 0);
            const Seed again = seed_of(tar);
            CHECK(again.packed.kind == SourceKind::archive);
            CHECK(again.packed.files == seed.packed.files);
            if (std::string(format) == "posix")  // the other has no fractions of seconds
                CHECK(again.packed.key == seed.packed.key);
        }
        REQUIRE(run({"gzip", "-k", site / "posix.tar"}, site.path) == 0);
        REQUIRE(run({"zstd", "-q", "-k", site / "posix.tar"}, site.path) == 0);
        std::filesystem::rename(site / "posix.tar.gz", site / "liar.tar.zst");
        std::filesystem::rename(site / "posix.tar.zst", site / "noname");
        CHECK(seed_of(site / "liar.tar.zst").packed.key == seed.packed.key);
        CHECK(seed_of(site / "noname").packed.key == seed.packed.key);
        REQUIRE(run({"tar", "--format=posix", "-cf", site / "links.tar", "-C", site / "in", "."}, site.path) == 0);
        CHECK(seed_of(site / "links.tar").packed.key == seed.packed.key);  // hard links are files of their own
        CHECK(site.nothing_left());
    }
}

TEST_CASE("a tree may be as deep as it likes, and deeper than descriptors go") {
    const Site site;
    constexpr int depth = 1000;
    std::filesystem::create_directory(site / "in");
    UniqueFd at = open_file(site / "in", O_RDONLY | O_DIRECTORY);
    for (int i = 0; i < depth; ++i) {
        REQUIRE(::mkdirat(at.get(), "directory", 0755) == 0);
        if (i % 100 == 0)
            REQUIRE(UniqueFd(::openat(at.get(), "z", O_CREAT | O_WRONLY | O_CLOEXEC, 0644)));
        at = UniqueFd(::openat(at.get(), "directory", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        REQUIRE(at);
    }
    {
        const FewDescriptors limited;
        const Seed seed = seed_of(site / "in");
        CHECK(seed.packed.directories == depth);
        CHECK(seed.packed.files == depth / 100);
        put(site / "deep.tar", seed.stream);
        CHECK(seed_of(site / "deep.tar").packed.key == seed.packed.key);
        CHECK(unpack(source_of(seed.stream), site / "out").directories == depth);
        CHECK(seed_of(site / "out").packed.files == depth / 100);
        // Refused at its last entry: all that was unpacked goes again.
        std::string twice = seed.stream.substr(0, seed.stream.size() - 1024) + seed.stream;
        CHECK(refusal([&] { unpack(source_of(twice), site / "again"); }).find("comes twice") != std::string::npos);
        CHECK_FALSE(there(site / "again"));
    }
    for (const char* name : {"in", "out"})  // std::filesystem goes down on the stack, and by path
        REQUIRE(run({"rm", "-rf", site / name}, site.path) == 0);
    CHECK(std::filesystem::is_empty(site / "tmp"));
}

TEST_CASE("sparse files cost what they hold and are sent as zeros") {
    const Site site;
    put(site / "in/sparse", "begin");
    constexpr std::uint64_t size = std::uint64_t{9} << 30;  // beyond what a plain header can say
    {
        const UniqueFd fd = open_file(site / "in/sparse", O_WRONLY);
        REQUIRE(::pwrite(fd.get(), "middle", 6, 5'000'000'000) == 6);
        REQUIRE(::ftruncate(fd.get(), static_cast<off_t>(size)) == 0);
    }
    std::uint64_t nonzero = 0, total = 0;
    std::string head;
    const Packed packed = pack(site / "in", [&](std::string_view bytes) {
        if (head.size() < 4096)
            head += bytes.substr(0, 4096);
        total += bytes.size();
        if (bytes[0] != 0 || std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) != 0)
            ++nonzero;
    });
    CHECK(packed.bytes == size);
    CHECK(total == packed.stream_bytes);
    CHECK(total >= size);
    CHECK(nonzero <= 3);  // blocks of 256 KiB
    CHECK(head.find(" size=9663676416\n") != std::string::npos);
    PackOptions options;
    options.limits.bytes = size - 1;
    CHECK(seed_refusal(site / "in", options).find("bytes of files, with sparse") != std::string::npos);

    // As an archive keeps it.
    {
        const UniqueFd fd = open_file(site / "in/sparse", O_WRONLY);
        REQUIRE(::ftruncate(fd.get(), 0) == 0);
        REQUIRE(::pwrite(fd.get(), "middle", 6, 50'000'000) == 6);
        REQUIRE(::ftruncate(fd.get(), 80'000'000) == 0);
    }
    const Digest key = seed_of(site / "in").packed.key;
    for (const char* version : {"0.0", "0.1", "1.0"}) {
        const std::string tar = site / (std::string("sparse") + version);
        REQUIRE(run({"tar", "--format=posix", "-S", std::string("--sparse-version=") + version, "-cf", tar, "-C", site / "in", "sparse"}, site.path) == 0);
        CHECK(std::filesystem::file_size(tar) < 100'000);
        CHECK(seed_of(tar).packed.key == key);
    }
}

TEST_CASE("what is no file, directory or link is refused by name") {
    const Site site;
    put(site / "in/ok", "x");
    SECTION("fifo") {
        REQUIRE(::mkfifo((site / "in/pi\npe").c_str(), 0644) == 0);
        CHECK(seed_refusal(site / "in").ends_with("/in/pi\\x0ape is a fifo"));
    }
    SECTION("socket") {
        const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::strncpy(address.sun_path, (site / "in/sock").c_str(), sizeof address.sun_path - 1);
        REQUIRE(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
        CHECK(seed_refusal(site / "in").ends_with("/in/sock is a socket"));
    }
    SECTION("device") {
        if (::geteuid() != 0)
            return;
        REQUIRE(::mknod((site / "in/null").c_str(), S_IFCHR | 0666, makedev(1, 3)) == 0);
        CHECK(seed_refusal(site / "in").ends_with("/in/null is a device"));
    }
    SECTION("as the source itself") {
        CHECK(seed_refusal("/dev/null").ends_with("is neither a directory nor a file"));
        CHECK(seed_refusal(site / "nowhere").find("No such file") != std::string::npos);
    }
}

TEST_CASE("links are taken as links: nothing behind one is read, the source's own name aside") {
    const Site site;
    put(site / "secret/key", "secret words");
    put(site / "in/ok", "x");
    std::filesystem::create_symlink(site / "secret", site / "in/directory");
    std::filesystem::create_symlink(site / "secret/key", site / "in/file");
    std::filesystem::create_symlink(site / "in", site / "name");
    const Seed seed = seed_of(site / "name");
    CHECK(seed.packed.symlinks == 2);
    CHECK(seed.packed.files == 1);
    CHECK(seed.stream.find("secret words") == std::string::npos);
}

TEST_CASE("what cannot be read is an error by name") {
    const Site site;
    put(site / "in/a", "x");
    put(site / "in/secret", "x", 0);
    CHECK(as_nobody([&] { return seed_refusal(site / "in").find("/in/secret cannot be read: Permission denied") != std::string::npos ? 0 : 1; }) == 0);
    std::filesystem::remove(site / "in/secret");
    CHECK(as_nobody([&] { return seed_refusal(site / "in") == "taken" ? 0 : 1; }) == 0);
    put(site / "in/closed/x", "x");
    REQUIRE(::chmod((site / "in/closed").c_str(), 0) == 0);
    CHECK(as_nobody([&] { return seed_refusal(site / "in").find("/in/closed cannot be read: Permission denied") != std::string::npos ? 0 : 1; }) == 0);
}

TEST_CASE("a file that changes, grows, shrinks or goes while it is read is an error by name") {
    const Site site;
    const std::string big(1 << 20, 'b');
    put(site / "in/1", big);
    put(site / "in/2", big);
    int blocks = 0;
    const auto during = [&](int at, const std::function<void()>& act) {
        return refusal([&] {
            pack(site / "in", [&](std::string_view) {
                if (++blocks == at)
                    act();
            });
        });
    };
    SECTION("shorter") { CHECK(during(2, [&] { REQUIRE(::truncate((site / "in/1").c_str(), 600'000) == 0); }).ends_with("/in/1 changed while it was read")); }
    SECTION("longer") {
        CHECK(during(2, [&] { write_all(open_file(site / "in/1", O_WRONLY | O_APPEND).get(), "more"); }).ends_with("/in/1 changed while it was read"));
    }
    SECTION("rewritten") { CHECK(during(2, [&] { set_time(site / "in/1", 5, 5); }).ends_with("/in/1 changed while it was read")); }
    SECTION("gone") { CHECK(during(2, [&] { std::filesystem::remove(site / "in/2"); }).ends_with("/in/2 vanished while it was read")); }
    SECTION("replaced by a link: not followed, but a link") {
        put(site / "secret", "secret words");
        std::string stream;
        pack(site / "in", [&](std::string_view bytes) {
            if (++blocks == 2) {
                std::filesystem::remove(site / "in/2");
                std::filesystem::create_symlink(site / "secret", site / "in/2");
            }
            stream += bytes;
        });
        CHECK(stream.find("secret words") == std::string::npos);
        CHECK(std::filesystem::is_symlink(untarred(site, stream) + "/2"));
    }
}

TEST_CASE("entries are bounded, and a stop is heard") {
    const Site site;
    for (int i = 0; i < 10; ++i)
        put(site / ("in/d/" + std::to_string(i)), std::string(300'000, 'x'));
    PackOptions options;
    options.limits.entries = 11;
    CHECK(seed_refusal(site / "in", options) == "taken");
    options.limits.entries = 10;
    CHECK(seed_refusal(site / "in", options).ends_with("has more than 10 entries"));
    std::stop_source stop;
    options = {};
    options.stop = stop.get_token();
    int blocks = 0;
    CHECK_THROWS_AS(pack(site / "in", [&](std::string_view) { if (++blocks == 2) stop.request_stop(); }, options), Cancelled);
    CHECK(blocks == 2);
}
