// Paths that a model names: only below the roots, whatever links, "..", dots and races say.
#include "client/mcp/host_paths.hpp"
#include "client/seed/unpack.hpp"
#include "common/error.hpp"
#include "tests/support/catch.hpp"

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fcntl.h>
#include <fstream>
#include <thread>
#include <unistd.h>

namespace fs = std::filesystem;
using pyro::Error;
using pyro::ErrorCode;
using namespace pyro::shim;

namespace {

struct Site {
    fs::path top = [] {
        std::string name = "/tmp/pyro-host-paths-XXXXXX";
        return fs::canonical(::mkdtemp(name.data()));
    }();
    fs::path root = top / "project", secret = top / "secret";
    Site() {
        for (const fs::path& directory : {root / "src", root / ".git" / "hooks", root / "sub" / "repo" / ".GIT", secret}) fs::create_directories(directory);
        write(root / "src" / "a", "a");
        write(secret / "key", "key");
        write(root / ".env", "x");
    }
    ~Site() { fs::remove_all(top); }
    static void write(const fs::path& path, const std::string& text) { std::ofstream(path) << text; }
    HostPaths paths() const {
        return HostPaths([this] { return std::vector{root.string()}; });
    }
};

std::string content(const HostPaths::Found& found) {
    std::ifstream file(found.path);
    return {std::istreambuf_iterator<char>(file), {}};
}

ErrorCode refusal(const std::function<void()>& act) {
    try {
        act();
    } catch (const Error& e) {
        CHECK_FALSE(e.hint().empty());
        return e.code();
    }
    FAIL("it was not refused");
    return ErrorCode::internal;
}

}  // namespace

TEST_CASE("what is below a root is found, relative and absolute") {
    const Site site;
    const HostPaths paths = site.paths();
    for (const std::string& path : {std::string("src/a"), (site.root / "src/a").string(), std::string("src/../src/./a"), (site.root / "src/../src/a").string(), (site.root.string() + "//src/a")}) {
        INFO(path);
        CHECK(content(paths.source(path)) == "a");
        CHECK(paths.source(path).shown == (site.root / "src/a").string());
    }
    CHECK(paths.source(".").shown == site.root.string());
    CHECK(paths.source(".env").shown == (site.root / ".env").string());  // reading is not writing
    fs::create_symlink("src/a", site.root / "inside");
    CHECK(content(paths.source("inside")) == "a");
    fs::create_directory_symlink(site.root, site.top / "alias");
    const HostPaths by_alias([&] { return std::vector{(site.top / "alias").string()}; });
    CHECK(content(by_alias.source((site.top / "alias/src/a").string())) == "a");
    CHECK(content(by_alias.source((site.root / "src/a").string())) == "a");
}

TEST_CASE("nothing else is") {
    const Site site;
    const HostPaths paths = site.paths();
    fs::create_symlink(site.secret, site.root / "absolute");
    fs::create_symlink("../secret", site.root / "relative");
    fs::create_symlink("/proc/self/root", site.root / "magic");
    for (const std::string& path : {(site.secret / "key").string(), std::string("../secret/key"), (site.root / "../secret/key").string(), std::string("absolute/key"), std::string("relative/key"),
                                    std::string("magic") + site.secret.string() + "/key", std::string("/etc/passwd"), std::string("/"), std::string(".."), std::string("src/../../secret/key"),
                                    site.root.string() + "x", std::string("/proc/self/cwd")}) {
        INFO(path);
        const ErrorCode code = refusal([&] { paths.source(path); });
        CHECK((code == ErrorCode::failed_precondition || code == ErrorCode::not_found));
        const ErrorCode written = refusal([&] { paths.destination(path); });
        CHECK((written == ErrorCode::failed_precondition || written == ErrorCode::not_found));
    }
    CHECK(refusal([&] { paths.source(""); }) == ErrorCode::invalid_argument);
    CHECK(refusal([&] { paths.source(std::string("a\0b", 3)); }) == ErrorCode::invalid_argument);
    CHECK(refusal([&] { paths.source("src/none"); }) == ErrorCode::not_found);
    const HostPaths none([] { return std::vector<std::string>(); });
    CHECK(refusal([&] { none.source("/tmp"); }) == ErrorCode::failed_precondition);
    CHECK(refusal([&] { none.destination("x"); }) == ErrorCode::failed_precondition);
}

TEST_CASE("where nothing may be written") {
    const Site site;
    const HostPaths paths = site.paths();
    fs::create_symlink(".git", site.root / "way-in");
    fs::create_symlink("src/a", site.root / "link");
    fs::create_directories(site.root / ".config" / "deep");
    for (const std::string& path : {std::string(".git/hooks/pre-commit"), std::string(".git/config"), std::string(".git"), std::string("way-in/hooks/x"),
                                    std::string("sub/repo/.GIT/config"), std::string("sub/.git"), std::string(".bashrc"), std::string(".config/deep/x"), (site.root / ".envrc").string(),
                                    std::string("src/../.profile"), std::string("link"), std::string("."), std::string("src/.."), std::string("src/."), site.root.string(), site.root.string() + "/"}) {
        INFO(path);
        CHECK(refusal([&] { paths.destination(path); }) == ErrorCode::failed_precondition);
    }
    for (const char* path : {"out", "src/a", "src/.hidden", "src/x.git", "out.patch", "src/new/"}) {
        INFO(path);
        CHECK(fs::path(paths.destination(path).shown).parent_path().string().starts_with(site.root.string()));
    }
}

TEST_CASE("a root in a root keeps its own top") {
    const Site site;
    const HostPaths paths([&] { return std::vector{site.top.string(), site.root.string()}; });
    CHECK(paths.destination((site.top / "out").string()).shown == (site.top / "out").string());
    CHECK(refusal([&] { paths.destination((site.root / ".envrc").string()); }) == ErrorCode::failed_precondition);
    CHECK(refusal([&] { paths.destination("project/.envrc"); }) == ErrorCode::failed_precondition);
    CHECK(refusal([&] { paths.destination("project"); }) == ErrorCode::failed_precondition);
    CHECK(refusal([&] { paths.destination("project/src/.."); }) == ErrorCode::failed_precondition);
}

TEST_CASE("a path that is swapped all the time never leads out") {
    const Site site;
    const HostPaths paths = site.paths();
    fs::create_directory(site.root / "real");
    Site::write(site.root / "real" / "key", "ours");
    fs::create_symlink(site.secret, site.root / "evil");
    fs::rename(site.root / "real", site.root / "swapped");
    std::atomic<bool> end = false;
    const auto exchange = [&](const char* a, const char* b) {
        return ::renameat2(AT_FDCWD, (site.root / a).c_str(), AT_FDCWD, (site.root / b).c_str(), RENAME_EXCHANGE);
    };
    std::atomic<unsigned> swaps = 0;
    std::thread swapper([&] {
        while (!end) {
            exchange("swapped", "evil");
            ++swaps;
        }
    });
    unsigned found = 0, refused = 0;
    while (found < 200 || refused < 200) {
        try {
            const HostPaths::Found key = paths.source("swapped/key");
            if (content(key) != "ours") FAIL_CHECK("it led to " << content(key));
            ++found;
        } catch (const Error&) {
            ++refused;
        }
        try {
            const HostPaths::Found file = paths.destination("swapped/new");
            Site::write(file.path, "written");
        } catch (const Error&) {
        }
    }
    end = true;
    swapper.join();
    CHECK(swaps > 0);
    CHECK_FALSE(fs::exists(site.secret / "new"));
}
