#include "client/lib/registry_auth.hpp"
#include "tests/support/catch.hpp"

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <sys/stat.h>

using namespace pyro;
using namespace pyro::client;
namespace fs = std::filesystem;

namespace {

// A folder with auth files, and helpers that PATH has.
struct AuthSite {
    AuthSite() {
        char name[] = "/tmp/pyro-auth-XXXXXX";
        REQUIRE(::mkdtemp(name) != nullptr);
        folder = name;
        path = std::getenv("PATH");
        ::setenv("PATH", (folder + ":" + path).c_str(), 1);
    }
    ~AuthSite() {
        ::setenv("PATH", path.c_str(), 1);
        fs::remove_all(folder);
    }
    std::string file(const std::string& name, const std::string& text) {
        std::ofstream(folder + "/" + name) << text;
        return folder + "/" + name;
    }
    void helper(const std::string& name, const std::string& script) {
        ::chmod(file("docker-credential-" + name, "#!/bin/sh\n" + script + "\n").c_str(), 0755);
    }
    std::string folder, path;
};

std::string shown(const std::optional<proto::RegistryCredentials>& found) {
    if (!found) return "none";
    if (found->identity_token) return found->registry + " token " + *found->identity_token;
    return found->registry + " " + *found->username + " " + *found->password;
}
std::string found_in(const std::vector<std::string>& files, const std::string& reference) {
    return shown(find_registry_credentials(ImageRef::parse(reference), files));
}
std::string refused(const std::vector<std::string>& files, const std::string& reference, std::chrono::milliseconds patience = std::chrono::minutes(1)) {
    try {
        return shown(find_registry_credentials(ImageRef::parse(reference), files, {}, patience));
    } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::failed_precondition);
        CHECK_FALSE(error.hint().empty());
        return error.message();
    }
}

}  // namespace

TEST_CASE("credentials are found as podman and docker find them") {
    AuthSite site;
    // dTpw: u:p, YTpi: a:b, eDp5OnoA: x:y:z and a zero byte
    const std::string podman = site.file("auth.json", R"({"auths": {
        "quay.io": {"auth": "dTpw"}, "quay.io/team": {"auth": "YTpi"}, "quay.io/team/app": {"auth": "eDp5OnoA"},
        "ghcr.io": {"auth": "dTpw", "identitytoken": "tok"}, "reg.example:5000": {"username": "n", "password": "w"}, "empty.example": {}}})");
    CHECK(found_in({podman}, "quay.io/other/app") == "quay.io u p");
    CHECK(found_in({podman}, "quay.io/team/other") == "quay.io a b");
    CHECK(found_in({podman}, "quay.io/team/app:1") == "quay.io x y:z");
    CHECK(found_in({podman}, "quay.io/team/app/more") == "quay.io x y:z");
    CHECK(found_in({podman}, "quay.io/teams/app") == "quay.io u p");  // no prefix by characters
    CHECK(found_in({podman}, "ghcr.io/a/b") == "ghcr.io token tok");
    CHECK(found_in({podman}, "reg.example:5000/a") == "reg.example:5000 n w");
    CHECK(found_in({podman}, "reg.example/a") == "none");
    CHECK(found_in({podman}, "evil-quay.io/a") == "none");
    CHECK(found_in({podman}, "quay.io.evil.example/a") == "none");
    CHECK(found_in({podman}, "empty.example/a") == "none");
    CHECK(found_in({podman}, "debian:12") == "none");

    for (const char* hub : {"https://index.docker.io/v1/", "docker.io", "index.docker.io/v1/", "https://registry-1.docker.io"}) {
        INFO(hub);
        const std::string docker = site.file("config.json", std::string(R"({"auths": {")") + hub + R"(": {"auth": "dTpw"}}, "HttpHeaders": {}})");
        CHECK(found_in({docker}, "debian:12") == "docker.io u p");
        CHECK(found_in({docker}, "user/app") == "docker.io u p");
        CHECK(found_in({podman, docker}, "quay.io/a") == "quay.io u p");
        CHECK(found_in({podman, docker}, "debian:12") == "docker.io u p");
    }
    CHECK(found_in({site.folder + "/none.json", site.file("blank.json", "\n"), podman}, "quay.io/a") == "quay.io u p");
}

TEST_CASE("files that are none are named") {
    AuthSite site;
    for (const char* text : {"[]", "{", "null", R"({"auths": []})", R"({"auths": {"a": 1}})", R"({"credHelpers": 7})"}) {
        INFO(text);
        CHECK(refused({site.file("bad.json", text)}, "quay.io/a").find(site.folder + "/bad.json ") == 0);
    }
    for (const char* text : {R"({"auths": {"quay.io": {"auth": "!!!"}}})", R"({"auths": {"quay.io": {"auth": 7, "identitytoken": null}}})", R"({"auths": {"": {}}})", "{}"})
        CHECK(refused({site.file("odd.json", text)}, "quay.io/a") == "none");
}

TEST_CASE("helpers are asked for the registry at hand, and what they do is told") {
    AuthSite site;
    site.helper("good", R"(read server; echo "$1 $server" >> )" + site.folder + R"(/asked; echo "{\"ServerURL\":\"$server\",\"Username\":\"me\",\"Secret\":\"s3\"}")");
    site.helper("token", R"(cat > /dev/null; echo '{"Username":"<token>","Secret":"idtok"}')");
    site.helper("nothing", "echo 'credentials not found in native keychain'; exit 1");
    site.helper("broken", "echo 'cannot open the keychain'; exit 1");
    site.helper("hangs", "cat; exec sleep 600");
    site.helper("leaves", "exec <&-; exit 3");
    site.helper("babbles", "exec cat /dev/zero");
    site.helper("garbage", "echo hello");
    const std::string one = site.file("one.json", R"({"credHelpers": {"quay.io": "good", "ghcr.io": "token", "a.example": "nothing", "b.example": "broken",
        "c.example": "hangs", "d.example": "leaves", "e.example": "babbles", "f.example": "garbage", "g.example": "absent", "h.example": "../evil"},
        "auths": {"a.example": {"auth": "dTpw"}}})");
    CHECK(found_in({one}, "quay.io/a/b") == "quay.io me s3");
    CHECK(found_in({one}, "ghcr.io/a/b") == "ghcr.io token idtok");
    CHECK(found_in({one}, "a.example/b") == "a.example u p");
    CHECK(refused({one}, "b.example/b") == "docker-credential-broken failed: cannot open the keychain");
    CHECK(refused({one}, "c.example/b", std::chrono::milliseconds(300)).find("docker-credential-hangs has not answered") == 0);
    CHECK(refused({one}, "d.example/b") == "docker-credential-leaves failed");
    CHECK(refused({one}, "e.example/b") == "docker-credential-babbles answers without end");
    CHECK(refused({one}, "f.example/b").find("holds no credentials") != std::string::npos);
    CHECK(refused({one}, "g.example/b").find("docker-credential-absent cannot be started") == 0);
    CHECK(refused({one}, "h.example/b").find("cannot be one") != std::string::npos);

    const std::string store = site.file("store.json", R"({"credsStore": "good", "auths": {"https://index.docker.io/v1/": {}}})");
    CHECK(found_in({store}, "debian:12") == "docker.io me s3");
    std::ifstream asked(site.folder + "/asked");
    std::vector<std::string> lines;
    for (std::string line; std::getline(asked, line);) lines.push_back(line);
    CHECK(lines == std::vector<std::string>{"get quay.io", "get https://index.docker.io/v1/"});
}

TEST_CASE("auth files are looked for where podman and docker keep them") {
    std::map<std::string, std::string> variables{{"HOME", "/h"}};
    const Environment environment = [&](const char* name) -> const char* {
        const auto found = variables.find(name);
        return found == variables.end() ? nullptr : found->second.c_str();
    };
    using Paths = std::vector<std::string>;
    CHECK(auth_file_paths(environment) == Paths{"/h/.config/containers/auth.json", "/h/.docker/config.json"});
    variables["XDG_RUNTIME_DIR"] = "/run/user/1";
    variables["DOCKER_CONFIG"] = "/d";
    CHECK(auth_file_paths(environment) == Paths{"/run/user/1/containers/auth.json", "/h/.config/containers/auth.json", "/d/config.json"});
    variables["REGISTRY_AUTH_FILE"] = "/only.json";
    CHECK(auth_file_paths(environment) == Paths{"/only.json"});
    variables.clear();
    CHECK(auth_file_paths(environment).empty());
}
