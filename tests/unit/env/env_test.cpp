#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/error.hpp"
#include "common/sparse_digest.hpp"
#include "common/unique_fd.hpp"
#include "daemon/env/catalog.hpp"
#include "daemon/env/files.hpp"
#include "daemon/env/manifest.hpp"
#include "tests/support/catch.hpp"

using namespace pyro;
using namespace pyro::env;

namespace {

struct TempDirectory {
    TempDirectory() {
        char name[] = "/tmp/pyro-env-XXXXXX";
        REQUIRE(::mkdtemp(name));
        path = name;
    }
    ~TempDirectory() { remove_tree(path); }
    std::string path;
};

void put(const std::string& path, const std::string& bytes) {
    const UniqueFd file = open_file(path, O_WRONLY | O_CREAT | O_TRUNC);
    write_all(file.get(), bytes);
}

bool exists(const std::string& path) {
    struct stat info {};
    return ::lstat(path.c_str(), &info) == 0;
}

EnvironmentManifest sample() {
    EnvironmentManifest m;
    m.digest = m.manifest_digest = Digest::of("manifest");
    m.config_digest = Digest::of("config");
    m.name = "debian:12";
    m.reference = "docker.io/library/buildpack-deps:bookworm-scm";
    m.user = "1000:1000";
    m.env = {"PATH=/bin", "ODD=\xff\xfe"};
    m.cmd = {"sh"};
    m.layers = {LayerInfo{Digest::of("layer"), 7}};
    m.root_digest = Digest::of("root");
    m.root_size = 8ull << 30;
    m.installed_at = 1700000000;
    return m;
}

// An installed environment whose root image is small.
std::string installed(const TempDirectory& state, EnvironmentManifest& manifest) {
    const std::string directory = state.path + "/environment";
    own_directory(directory, ::geteuid());
    put(directory + "/" + root_file, std::string(100000, 'r'));
    const UniqueFd root = open_file(directory + "/" + root_file, O_RDONLY);
    manifest.root_digest = sparse_digest(root.get());
    manifest.root_size = 100000;
    put(directory + "/" + manifest_file, manifest.to_json());
    return directory;
}

}  // namespace

TEST_CASE("a tree is removed however deep it is, and nothing a link leads to") {
    const TempDirectory work;
    put(work.path + "/kept", "mine");
    const std::string top = work.path + "/tree";
    REQUIRE(::mkdir(top.c_str(), 0755) == 0);
    UniqueFd at = open_file(top, O_RDONLY | O_DIRECTORY);
    for (int depth = 0; depth < 3000; ++depth) {  // far beyond PATH_MAX, and beyond the descriptors a process has
        REQUIRE(::symlinkat(work.path.c_str(), at.get(), "link") == 0);
        REQUIRE(::mkdirat(at.get(), "d", 0755) == 0);
        REQUIRE(::mkdirat(at.get(), ".removed-1", 0700) == 0);
        UniqueFd next(::openat(at.get(), "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        REQUIRE(next);
        at = std::move(next);
    }
    at.reset();
    CHECK_THROWS_AS(remove_tree(top, std::chrono::steady_clock::now()), Error);  // out of patience
    CHECK(exists(top));
    CHECK(remove_tree(top) > 0);
    CHECK_FALSE(exists(top));
    CHECK(exists(work.path + "/kept"));
    CHECK(remove_tree(top) == 0);
}

TEST_CASE("a directory of the daemon's gets its mode back") {
    const TempDirectory work;
    const std::string loose = work.path + "/loose";
    REQUIRE(::mkdir(loose.c_str(), 0777) == 0);
    REQUIRE(::chmod(loose.c_str(), 0777) == 0);
    own_directory(loose, ::geteuid());
    struct stat info {};
    REQUIRE(::stat(loose.c_str(), &info) == 0);
    CHECK((info.st_mode & 07777) == 0700);
}

TEST_CASE("a catalog name is looked up before anything else") {
    CHECK(resolve_name("debian:12").reference.str() == "docker.io/library/buildpack-deps:bookworm-scm");
    CHECK(resolve_name("debian:12-base").reference.str() == "docker.io/library/debian:bookworm-slim");
    CHECK(resolve_name("debian:12-build").reference.str() == "docker.io/library/buildpack-deps:bookworm");
    CHECK(resolve_name("debian:12").name == "debian:12");
    CHECK(resolve_name("debian:11").name == "docker.io/library/debian:11");
    CHECK(resolve_name("debian:11").entry == nullptr);
    CHECK(resolve_name("docker.io/library/debian:12").entry == nullptr);  // the official image of that name
    CHECK_THROWS_AS(resolve_name("../x"), Error);
    for (const CatalogEntry& entry : catalog()) {
        CHECK_NOTHROW(ImageRef::parse(entry.reference));
        CHECK(entry.suite == "bookworm");
    }
}

TEST_CASE("a manifest comes back as it went, and nothing else does") {
    const EnvironmentManifest m = sample();
    const std::string text = m.to_json();
    const EnvironmentManifest back = EnvironmentManifest::parse(text);
    CHECK(back.digest == m.digest);
    CHECK(back.user == m.user);
    CHECK(back.layers.size() == 1);
    CHECK(back.root_size == m.root_size);
    CHECK(back.to_json() == EnvironmentManifest::parse(back.to_json()).to_json());
    for (std::size_t cut = 0; cut + 2 < text.size(); cut += 7)
        CHECK_THROWS_AS(EnvironmentManifest::parse(text.substr(0, cut)), Error);
    for (const char* bad : {"", "{}", "[]", "null", "7", R"({"format":2})", R"({"format":"1"})"}) {
        try {
            EnvironmentManifest::parse(bad);
            FAIL("was taken: " << bad);
        } catch (const Error& error) {
            CHECK(error.code() == ErrorCode::environment_invalid);
        }
    }
}

TEST_CASE("an environment is whole, or says what is wrong") {
    const TempDirectory state;
    EnvironmentManifest m = sample();
    const std::string directory = installed(state, m), root = directory + "/" + root_file;
    const std::stop_token never;
    CHECK_FALSE(examine(state.path + "/none", m.digest, true, never));
    CHECK(examine(directory, m.digest, false, never)->problem.empty());
    CHECK(exists(directory + "/verified.json"));
    CHECK(examine(directory, m.digest, true, never)->problem.empty());
    CHECK_FALSE(examine(directory, Digest::of("other"), false, never)->problem.empty());

    {   // same size, same time: only a full comparison tells
        struct stat before {};
        REQUIRE(::stat(root.c_str(), &before) == 0);
        const UniqueFd file = open_file(root, O_WRONLY);
        REQUIRE(::pwrite(file.get(), "X", 1, 5) == 1);
        const timespec times[2] = {before.st_atim, before.st_mtim};
        REQUIRE(::futimens(file.get(), times) == 0);
        CHECK(examine(directory, m.digest, false, never)->problem.empty());
        CHECK_FALSE(examine(directory, m.digest, true, never)->problem.empty());
        REQUIRE(::pwrite(file.get(), "r", 1, 5) == 1);  // good again, at another time
        CHECK(examine(directory, m.digest, false, never)->problem.empty());
    }
    REQUIRE(::truncate(root.c_str(), 99999) == 0);
    CHECK(examine(directory, m.digest, false, never)->problem.find("99999") != std::string::npos);
    remove_tree(root);
    CHECK(examine(directory, m.digest, false, never)->problem == "its root image is missing");
    REQUIRE(::symlink("/etc/passwd", root.c_str()) == 0);
    CHECK(examine(directory, m.digest, false, never)->problem == "its root image is missing");
    put(directory + "/" + manifest_file, "{garbage");
    CHECK_FALSE(examine(directory, m.digest, false, never)->problem.empty());
    remove_tree(directory + "/" + manifest_file);
    CHECK(examine(directory, m.digest, false, never)->problem == "its manifest is missing");
}

TEST_CASE("a comparison can be stopped") {
    const TempDirectory state;
    EnvironmentManifest m = sample();
    const std::string directory = installed(state, m);
    std::stop_source stop;
    stop.request_stop();
    CHECK_THROWS_AS(examine(directory, m.digest, true, stop.get_token()), Cancelled);
}

TEST_CASE("a blob is adopted only if it is what its name says") {
    const TempDirectory state;
    const std::string from = state.path + "/from", blobs = state.path + "/blobs";
    own_directory(from, ::geteuid());
    own_directory(blobs, ::geteuid());
    const Digest good = Digest::of("content"), bad = Digest::of("else");
    const std::stop_token never;
    put(from + "/" + good.hex(), "content");
    put(from + "/" + bad.hex(), "content");
    CHECK_THROWS_AS(adopt_blob(from, blobs, good, 8, never), Error);
    adopt_blob(from, blobs, good, 7, never);
    CHECK(exists(blobs + "/" + good.hex()));
    CHECK_FALSE(exists(from + "/" + good.hex()));
    CHECK_THROWS_AS(adopt_blob(from, blobs, bad, 7, never), Error);
    CHECK_FALSE(exists(blobs + "/" + bad.hex()));
    CHECK_FALSE(exists(from + "/" + bad.hex()));
    // A worker's link to something of the daemon's is no blob.
    put(state.path + "/secret", "content");
    REQUIRE(::symlink((state.path + "/secret").c_str(), (from + "/" + good.hex()).c_str()) == 0);
    CHECK_THROWS_AS(adopt_blob(from, blobs, good, 7, never), Error);
    remove_tree(from + "/" + good.hex());
    REQUIRE(::link((state.path + "/secret").c_str(), (from + "/" + good.hex()).c_str()) == 0);
    CHECK_THROWS_AS(adopt_blob(from, blobs, good, 7, never), Error);
}

TEST_CASE("a directory is installed whole, over what was there") {
    const TempDirectory state;
    const std::string from = state.path + "/new", to = state.path + "/installed";
    for (const char* content : {"first", "second"}) {
        own_directory(from, ::geteuid());
        put(from + "/file", content);
        install_directory(from, to);
        CHECK(read_file(to + "/file") == content);
        CHECK_FALSE(exists(from));
    }
}

TEST_CASE("removing a tree follows no link") {
    const TempDirectory state;
    own_directory(state.path + "/keep", ::geteuid());
    put(state.path + "/keep/file", "k");
    own_directory(state.path + "/go", ::geteuid());
    own_directory(state.path + "/go/below", ::geteuid());
    put(state.path + "/go/below/file", std::string(10000, 'g'));
    REQUIRE(::symlink("../keep", (state.path + "/go/link").c_str()) == 0);
    CHECK(remove_tree(state.path + "/go") >= 10000);
    CHECK(exists(state.path + "/keep/file"));
    CHECK(remove_tree(state.path + "/go") == 0);
}

TEST_CASE("half downloads are bounded in age and size") {
    const TempDirectory state;
    const std::int64_t now = 1800000000;
    const auto half = [&](const std::string& name, std::int64_t age) {
        own_directory(state.path + "/" + name, ::geteuid());
        put(state.path + "/" + name + "/x.part", std::string(100000, 'x'));
        const timespec time{now - age, 0}, both[2] = {time, time};
        REQUIRE(::utimensat(AT_FDCWD, (state.path + "/" + name + "/x.part").c_str(), both, 0) == 0);
        REQUIRE(::utimensat(AT_FDCWD, (state.path + "/" + name).c_str(), both, 0) == 0);
    };
    half("fresh", 10);
    half("older", 100);
    half("oldest", 200);
    half("ancient", 1000);
    trim_downloads(state.path, now, 500, 220000);
    CHECK(names_in(state.path) == std::vector<std::string>{"fresh", "older"});
}

TEST_CASE("a name that a user gives is no reference, no catalog name, and keeps to its letters") {
    CHECK(given_name("base") == "@base");
    CHECK(given_name("@base:2") == "@base:2");
    CHECK(given_name("debian:12") == "@debian:12");
    for (const char* bad : {"", "@", "@@a", "A", "a/b", "a b", "-a", ".a", ":a", "a\n", "\xc3\xa4", "a@b"})
        CHECK_THROWS_AS(given_name(bad), Error);
    CHECK_NOTHROW(given_name(std::string(128, 'a')));
    CHECK_THROWS_AS(given_name(std::string(129, 'a')), Error);
    const ResolvedName given = resolve_name("@debian:12");
    CHECK(given.given);
    CHECK(given.entry == nullptr);
    CHECK(given.origin().empty());
    CHECK_FALSE(resolve_name("debian:12").given);
    CHECK(resolve_name("debian:12").origin() == "docker.io/library/buildpack-deps");
    CHECK_THROWS_AS(ImageRef::parse("@base"), Error);
}

TEST_CASE("a copy of a disk has its holes, and what is asked for while it is copied is heard") {
    const TempDirectory temp;
    const std::string from = temp.path + "/from", to = temp.path + "/to";
    {
        const UniqueFd file = open_file(from, O_WRONLY | O_CREAT);
        REQUIRE(::pwrite(file.get(), "begin", 5, 0) == 5);
        REQUIRE(::pwrite(file.get(), "middle", 6, 40 << 20) == 6);
        REQUIRE(::ftruncate(file.get(), 80 << 20) == 0);
    }
    copy_sparse(from, to, {});
    struct stat info {};
    REQUIRE(::stat(to.c_str(), &info) == 0);
    CHECK(info.st_size == 80 << 20);
    CHECK(info.st_blocks * 512 < 1 << 20);
    const UniqueFd a = open_file(from, O_RDONLY), b = open_file(to, O_RDONLY);
    CHECK(sparse_digest(a.get()) == sparse_digest(b.get()));
    CHECK_THROWS_AS(copy_sparse(from, to, {}), Error);  // never over what is there
}

TEST_CASE("what environments are made of is told by those that can be read") {
    const TempDirectory temp;
    EnvironmentManifest manifest = sample();
    const std::string directory = temp.path + "/" + manifest.digest.hex();
    own_directory(directory, ::geteuid());
    put(directory + "/" + manifest_file, manifest.to_json());
    const std::vector<std::string> blobs = blobs_of(temp.path, {manifest.digest, Digest::of("another")});
    CHECK(blobs == std::vector<std::string>{Digest::of("layer").hex(), manifest.manifest_digest.hex(), manifest.config_digest.hex()});
    put(directory + "/" + manifest_file, "{");
    CHECK(blobs_of(temp.path, {manifest.digest}).empty());
    CHECK(bytes_in(temp.path) > 0);
}

TEST_CASE("every source has a word, and comes back from it") {
    for (const Source source : {Source::registry, Source::debian_archive, Source::imported, Source::committed})
        CHECK(source_from(to_string(source)) == source);
    CHECK_FALSE(source_from("elsewhere"));
}
