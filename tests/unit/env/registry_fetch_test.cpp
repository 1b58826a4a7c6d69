#include <nlohmann/json.hpp>

#include "common/error.hpp"
#include "daemon/env/registry_fetch.hpp"
#include "tests/support/catch.hpp"

using namespace pyro;
using namespace pyro::env;
using nlohmann::json;

namespace {

PullRequest asking_for(const std::string& name, std::optional<proto::RegistryCredentials> credentials = std::nullopt) {
    PullRequest out;
    out.resolved = resolve_name(name);
    out.user = 1000;
    out.options.credentials = std::move(credentials);
    return out;
}

proto::RegistryCredentials login(const std::string& registry) { return {registry, "me", "s3cr3t", std::nullopt}; }

}  // namespace

TEST_CASE("where an image is asked for") {
    CacheOptions options;
    const auto words = [&](const PullRequest& request) { return fetch_request(options, request).words; };
    CHECK(words(asking_for("debian:12"))["endpoint"] == "https://registry-1.docker.io");
    CHECK(words(asking_for("debian:12"))["repository"] == "library/buildpack-deps");
    CHECK(words(asking_for("docker.io/library/debian:12"))["repository"] == "library/debian");
    CHECK(words(asking_for("[::1]:5000/a"))["endpoint"] == "https://[::1]:5000");
    options.registries["Reg.Example:5000"].plain_http = true;
    CHECK(words(asking_for("Reg.Example:5000/a"))["endpoint"] == "http://reg.example:5000");
    CHECK(words(asking_for("reg.example/a"))["endpoint"] == "https://reg.example");
    options.mirrors["docker.io"] = "http://mirror:5000/";
    CHECK(words(asking_for("debian:12"))["endpoint"] == "http://mirror:5000");
    CHECK(words(asking_for("debian:12"))["hosts"]["mirror:5000"] == json({{"plain_http", true}, {"allow_private", true}}));
    options.mirrors["docker.io"] = "http://mirror/path";
    CHECK_THROWS_AS(words(asking_for("debian:12")), Error);
}

TEST_CASE("credentials are for the registry that was named, and never for its mirror") {
    CacheOptions options;
    options.mirrors["docker.io"] = "http://mirror:5000";
    const json words = fetch_request(options, asking_for("user/app", login("docker.io"))).words;
    CHECK(words["endpoint"] == "https://registry-1.docker.io");
    CHECK(words["credentials"] == json({{"username", "me"}, {"password", "s3cr3t"}}));
    CHECK_FALSE(fetch_request(options, asking_for("user/app")).words.contains("credentials"));
    proto::RegistryCredentials token;
    token.registry = "ghcr.io";
    token.identity_token = "t";
    CHECK(fetch_request(options, asking_for("ghcr.io/a", token)).words["credentials"] == json({{"identity_token", "t"}}));

    auto colon = login("docker.io"), line = login("docker.io"), both = login("docker.io"), half = login("docker.io"), none = login("docker.io");
    colon.username = "a:b";
    line.password = "a\r\nX-Evil: 1";
    both.identity_token = "t";
    half.password.reset();
    none.username.reset();
    none.password.reset();
    for (const auto& bad : {login("ghcr.io"), login("registry-1.docker.io"), colon, line, both, half, none}) {
        try {
            fetch_request(options, asking_for("user/app", bad));
            FAIL("was taken");
        } catch (const Error& error) {
            CHECK(error.code() == ErrorCode::invalid_argument);
            CHECK(error.message().find("s3cr3t") == std::string::npos);
        }
    }
    // Nobody else's pull is joined, and none without credentials.
    CHECK(asking_for("user/app").key() != asking_for("user/app", login("docker.io")).key());
    PullRequest other = asking_for("user/app", login("docker.io"));
    other.user = 1001;
    CHECK(other.key() != asking_for("user/app", login("docker.io")).key());
}

TEST_CASE("proxies are as the environment names them") {
    std::map<std::string, std::string> variables;
    const auto read = [&] {
        return Proxies::of_environment([&](const char* name) {
            const auto found = variables.find(name);
            return found == variables.end() ? nullptr : found->second.c_str();
        });
    };
    CHECK(read().https.empty());
    variables = {{"ALL_PROXY", "all:1"}, {"HTTPS_PROXY", "capital:1"}, {"NO_PROXY", "a,b"}};
    CHECK(read().https == "capital:1");
    CHECK(read().http == "all:1");
    CHECK(read().none_for == "a,b");
    variables["https_proxy"] = "small:1";
    CHECK(read().https == "small:1");
}

TEST_CASE("names that look alike are told apart") {
    CHECK(resolve_name("debian:12").reference.str() == "docker.io/library/buildpack-deps:bookworm-scm");
    for (const char* official : {"docker.io/library/debian:12", "docker.io/debian:12", "library/debian:12", "index.docker.io/library/debian:12"}) {
        INFO(official);
        const ResolvedName resolved = resolve_name(official);
        CHECK(resolved.entry == nullptr);
        CHECK(resolved.name == "docker.io/library/debian:12");
        const CatalogEntry* other = look_alike(resolved.reference);
        REQUIRE(other);
        CHECK(other->name == "debian:12");
    }
    CHECK(look_alike(ImageRef::parse("debian:11")) == nullptr);
    CHECK(look_alike(ImageRef::parse("ghcr.io/library/debian:12")) == nullptr);
    for (const char* files : {"oci:dir", "oci-archive:a.tar", "docker-archive:a.tar:x"})
        CHECK_THROWS_AS(resolve_name(files), Error);
}
