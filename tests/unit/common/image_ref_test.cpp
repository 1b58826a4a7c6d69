#include "common/error.hpp"
#include "common/image_ref.hpp"
#include "tests/support/catch.hpp"

using namespace pyro;

TEST_CASE("references are read as docker reads them") {
    const std::string digest = Digest::of("x").str();
    const std::pair<std::string, std::string> cases[] = {
        {"debian", "docker.io/library/debian:latest"},
        {"debian:12", "docker.io/library/debian:12"},
        {"user/app", "docker.io/user/app:latest"},
        {"index.docker.io/user/app", "docker.io/user/app:latest"},
        {"docker.io/debian", "docker.io/library/debian:latest"},
        {"localhost/x", "localhost/x:latest"},
        {"localhost:5000/x", "localhost:5000/x:latest"},
        {"127.0.0.1:5000/a/b:t_1.x-y", "127.0.0.1:5000/a/b:t_1.x-y"},
        {"[::1]:5000/a", "[::1]:5000/a:latest"},
        {"MyHost/a", "MyHost/a:latest"},
        {"ghcr.io/a/b__c/d--e.f:1@" + digest, "ghcr.io/a/b__c/d--e.f:1@" + digest},
        {"debian@" + digest, "docker.io/library/debian@" + digest},
        {"x:5000", "docker.io/library/x:5000"},
        {"docker.io/library/debian", "docker.io/library/debian:latest"},
        {"index.docker.io/debian", "docker.io/library/debian:latest"},
        {"library/debian", "docker.io/library/debian:latest"},
        {"localhost", "docker.io/library/localhost:latest"},
        {"localhost/a/b", "localhost/a/b:latest"},
        {"foo.com/debian", "foo.com/debian:latest"},
        {"foo:1/debian", "foo:1/debian:latest"},
        {"oci/a", "docker.io/oci/a:latest"},
        {"a--b/c_d/e.f", "docker.io/a--b/c_d/e.f:latest"},
        {std::string(63, 'a'), "docker.io/library/" + std::string(63, 'a') + ":latest"},
    };
    for (const auto& [given, canonical] : cases) {
        INFO(given);
        CHECK(ImageRef::parse(given).str() == canonical);
        CHECK(ImageRef::parse(canonical) == ImageRef::parse(given));
    }
    REQUIRE(ImageRef::parse("debian:12@" + digest).selector() == digest);
    REQUIRE(ImageRef::parse("debian:12").selector() == "12");
}

TEST_CASE("what is no reference is refused with the reason") {
    const std::string digest = Digest::of("x").str();
    const std::string bad[] = {"", " ", "a b", "a\nb", std::string("a\0b", 3), "a\x7f", "d\xc3\xa9""bian", "../x", "a/../b", "a/./b", "a//b", "/a", "a/",
                               "Debian:12", "a:", "a:-x", "a:.x", "a:" + std::string(129, 'x'), "a@", "a@sha256:12", "a@sha512:" + digest.substr(7),
                               "a@" + digest + "0", "a___b", "a..b", "a._b", "-a", "a-", "reg.io:99999999/x", "reg.io:/x", "-reg.io/x", "reg..io/x", "reg.io:5000/",
                               "http://reg.io/x", "user:pw@reg.io/x", std::string(300, 'a'), std::string(600, 'a'), "a?b", "a#b", "a%2e", "[::1/x", "reg.io/A/b", "reg.io:0/x", "reg.io:65536/x",
                               "[::ffff:1.2.3.4]/x", "[]/x", std::string(64, 'a'), "docker://debian", "a@md5:" + std::string(32, 'a')};
    for (const std::string& text : bad) {
        INFO(text);
        try {
            ImageRef::parse(text);
            FAIL("was taken");
        } catch (const Error& error) {
            CHECK(error.code() == ErrorCode::invalid_argument);
            CHECK_FALSE(error.hint().empty());
            CHECK(error.message().find('\n') == std::string::npos);
        }
    }
}

TEST_CASE("capitals are refused with what to write") {
    const std::pair<std::string, std::string> cases[] = {
        {"Debian:12", "write debian:12"}, {"ghcr.io/Team/App:Tag", "write ghcr.io/team/app:Tag"}, {"user/App", "write user/app"}};
    for (const auto& [given, hint] : cases) {
        INFO(given);
        try {
            ImageRef::parse(given);
            FAIL("was taken");
        } catch (const Error& error) {
            CHECK(error.message().find("lower-case") != std::string::npos);
            CHECK(error.hint() == hint);
        }
    }
}

TEST_CASE("files of the user are told from references by how they begin") {
    using Kind = ImageSource::Kind;
    const std::tuple<std::string, Kind, std::string, std::string> cases[] = {
        {"oci:/a/b", Kind::oci_layout, "/a/b", ""},          {"oci:dir:12", Kind::oci_layout, "dir", "12"},
        {"oci-archive:x.tar", Kind::oci_archive, "x.tar", ""}, {"oci-archive:x.tar:1", Kind::oci_archive, "x.tar", "1"},
        {"docker-archive:x.tar:debian:12", Kind::docker_archive, "x.tar", "debian:12"}, {"oci:1.0", Kind::oci_layout, "1.0", ""}};
    for (const auto& [text, kind, path, name] : cases) {
        INFO(text);
        const ImageSource source = ImageSource::parse(text);
        CHECK(source.kind == kind);
        CHECK(source.path == path);
        CHECK(source.name == name);
    }
    CHECK(ImageSource::parse("docker.io/library/oci:1.0").kind == Kind::reference);
    CHECK(ImageSource::parse("oci").reference.str() == "docker.io/library/oci:latest");
    for (const char* text : {"oci:", "oci::12", "oci:dir:", "oci-archive:", "docker-archive:", "docker-archive::x", "OCI:dir", "dir:/x", "docker-daemon:x:1"})
        CHECK_THROWS_AS(ImageSource::parse(text), Error);
}

// Made of the grammar's own pieces and of what is next to them: whatever is taken means the same when it is written in full, and
// never holds what would lead out of a path or an address.
TEST_CASE("every reference that is taken is safe and stays what it is") {
    const char* pieces[] = {"a", "b1", "debian", "localhost", "docker.io", "index.docker.io", "library", "A", "/", "/", ":", ":", ".", "..", "-", "_", "__", "@", "sha256:",
                            "5000", "99999", "[::1]", "%2e", "?", "#", "\\", "\n", " ", "\xc3\xa9", "oci:", "://",
                            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"};
    std::uint32_t state = 1;
    const auto next = [&](std::size_t bound) {
        state = state * 1664525u + 1013904223u;
        return (state >> 8) % bound;
    };
    int taken = 0;
    for (int round = 0; round < 200'000; ++round) {
        std::string text;
        for (std::size_t i = 0, count = 1 + next(7); i < count; ++i)
            text += pieces[next(std::size(pieces))];
        ImageRef ref;
        try {
            ref = ImageRef::parse(text);
        } catch (const Error& error) {
            REQUIRE(error.code() == ErrorCode::invalid_argument);
            REQUIRE_FALSE(error.hint().empty());
            continue;
        }
        ++taken;
        INFO(text);
        const std::string full = ref.str();
        REQUIRE(ImageRef::parse(full) == ref);
        REQUIRE(ImageRef::parse(full).str() == full);
        REQUIRE_FALSE(ref.registry.empty());
        REQUIRE_FALSE(ref.selector().empty());
        REQUIRE(full.find_first_of("%?#\\ \n") == std::string::npos);
        REQUIRE((ref.registry + "/" + ref.repository).find("..") == std::string::npos);
        REQUIRE((ref.tag.empty() || ref.tag[0] != '.'));
        REQUIRE(("/" + ref.repository + "/").find("//") == std::string::npos);
    }
    REQUIRE(taken > 1000);
}
