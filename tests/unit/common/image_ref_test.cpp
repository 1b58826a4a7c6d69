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
                               "http://reg.io/x", "user:pw@reg.io/x", std::string(300, 'a'), std::string(600, 'a'), "a?b", "a#b", "a%2e", "[::1/x", "reg.io/A/b"};
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
