#include "client/seed/fingerprint.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/support/catch.hpp"
#include "tests/unit/seed/seed_site.hpp"

using namespace pyro;
using namespace pyro::test;
namespace fs = std::filesystem;

namespace {

constexpr auto directory = SourceKind::directory;

Packed packed_as(const std::string& content) {
    Packed packed;
    packed.key = Digest::of(content);
    packed.root = "/root";
    packed.files = 1, packed.directories = 2, packed.symlinks = 3, packed.bytes = 4, packed.stream_bytes = 5, packed.skipped_count = 600;
    packed.commit = std::string(40, 'a');
    packed.branch = "main\xff";
    packed.skipped = {{"a\nb", "deleted"}, {"", ""}};
    return packed;
}

// Long after whatever was made by now.
timespec later() {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    now.tv_sec += 60;
    return now;
}

}  // namespace

TEST_CASE("a fingerprint changes with everything that a stream depends on") {
    Site site;
    const std::string root = site / "tree";
    fs::create_directories(root + "/sub");
    std::ofstream(root + "/a") << "one";
    std::ofstream(root + "/sub/b") << "two";
    const auto print = [&] { return fingerprint(root, directory)->key; };
    Digest last = print();
    CHECK(print() == last);
    const auto changed = [&](const char* what) {
        INFO(what);
        const Digest now = print();
        CHECK(now != last);
        last = now;
    };
    std::ofstream(root + "/a", std::ios::app) << "x";
    changed("size");
    struct stat info {};
    REQUIRE(::stat((root + "/a").c_str(), &info) == 0);
    { std::fstream file(root + "/a", std::ios::in | std::ios::out); file << "X"; }
    const timespec times[2] = {info.st_atim, info.st_mtim};
    REQUIRE(::utimensat(AT_FDCWD, (root + "/a").c_str(), times, 0) == 0);
    changed("content, with the time put back");
    fs::permissions(root + "/sub/b", fs::perms::owner_all);
    changed("mode");
    fs::rename(root + "/sub/b", root + "/sub/c");
    changed("name");
    fs::create_directory(root + "/empty");
    changed("an empty directory");
    fs::create_symlink("x", root + "/link");
    changed("a link");
    fs::copy_file(root + "/a", root + "/new");
    fs::rename(root + "/new", root + "/a");
    changed("another file in its place");
    fs::remove(root + "/a");
    changed("one less");
}

TEST_CASE("there is no fingerprint of what cannot be looked into") {
    Site site;
    CHECK_FALSE(fingerprint((site / "none"), directory));
    CHECK_FALSE(fingerprint("/proc/self", directory));  // nobody's times
    fs::create_directories((site / "tree/a/b"));
    CHECK(fingerprint(site / "tree", directory, 3));
    CHECK_FALSE(fingerprint(site / "tree", directory, 2));
    std::string deep = (site / "deep");
    for (int i = 0; i < 250; ++i) deep += "/d";
    fs::create_directories(deep);
    CHECK_FALSE(fingerprint((site / "deep"), directory));
    CHECK_FALSE(fingerprint(site / "tree", SourceKind::checkout));
    if (::geteuid() != 0) {
        fs::permissions((site / "tree/a"), fs::perms::owner_exec);
        CHECK_FALSE(fingerprint(site / "tree", directory));
    }
}

TEST_CASE("of a checkout the commit and the index count, and not what git does beside them") {
    Site site;
    const std::string root = (site / "repo");
    fs::create_directories(root);
    const auto git = [&](std::vector<std::string> words) {
        words.insert(words.begin(), "git");
        output(words, root);
    };
    git({"init", "-q", "-b", "main"});
    std::ofstream(root + "/a") << "one";
    git({"add", "a"});
    git({"commit", "-q", "-m", "m"});
    const auto print = [&] { return fingerprint(root, SourceKind::checkout)->key; };
    Digest last = print();
    std::ofstream(root + "/.git/COMMIT_EDITMSG") << "scratch";
    CHECK(print() == last);
    const auto changed = [&](const char* what) {
        INFO(what);
        const Digest now = print();
        CHECK(now != last);
        last = now;
    };
    git({"commit", "-q", "--allow-empty", "-m", "n"});
    changed("a commit");
    git({"checkout", "-q", "-b", "other"});
    changed("a branch");
    std::ofstream(root + "/b") << "two";
    changed("a file");
    git({"add", "b"});
    changed("the index");
    git({"pack-refs", "--all"});
    changed("packed refs");
    git({"worktree", "add", "-q", "../tree"});
    const auto tree = [&] { return fingerprint(site / "tree", SourceKind::checkout)->key; };
    last = tree();
    CHECK(tree() == last);
    output({"git", "commit", "-q", "--allow-empty", "-m", "o"}, site / "tree");
    CHECK(tree() != last);
}

TEST_CASE("what was packed is remembered as it was, for as long as it is as it was") {
    Site site;
    fs::create_directories(site / "tree");
    std::ofstream((site / "tree/a")) << "one";
    const std::string tree = site / "tree", store = (site / "cache/pyro/seeds");
    const PackedCache cache(store);
    const Fingerprint now = *fingerprint(tree, directory);
    const Packed packed = packed_as("x");
    CHECK_FALSE(cache.find(tree, directory, now));
    cache.remember(tree, packed, now, later(), now);
    const auto found = cache.find(tree, directory, now);
    REQUIRE(found);
    CHECK(found->key == packed.key);
    CHECK(found->root == packed.root);
    CHECK((found->files == 1 && found->directories == 2 && found->symlinks == 3 && found->bytes == 4 && found->stream_bytes == 5 && found->skipped_count == 600));
    CHECK((found->commit == packed.commit && found->branch == packed.branch));
    REQUIRE(found->skipped.size() == 2);
    CHECK((found->skipped[0].path == "a\nb" && found->skipped[0].reason == "deleted" && found->skipped[1].path.empty()));
    CHECK_FALSE(cache.find(tree, SourceKind::checkout, now));
    CHECK_FALSE(cache.find((site / "cache"), directory, now));
    std::ofstream((site / "tree/a"), std::ios::app) << "x";
    CHECK_FALSE(cache.find(tree, directory, *fingerprint(tree, directory)));
    cache.forget(tree, directory);
    CHECK_FALSE(cache.find(tree, directory, now));
    CHECK((fs::status(store).permissions() & fs::perms::mask) == fs::perms::owner_all);
}

TEST_CASE("what may have changed while it was packed, or just before, is not remembered") {
    Site site;
    fs::create_directories(site / "tree");
    const std::string tree = site / "tree";
    const PackedCache cache((site / "cache"));
    const Fingerprint now = *fingerprint(tree, directory);
    const auto remembered = [&](const timespec& began, const Fingerprint& after) {
        cache.forget(tree, directory);
        cache.remember(tree, packed_as("x"), now, began, after);
        return cache.find(tree, directory, now).has_value();
    };
    const auto after_change = [&](std::time_t seconds, long nanoseconds) {
        timespec began{now.newest.tv_sec + seconds, now.newest.tv_nsec + nanoseconds};
        return remembered(began, now);
    };
    CHECK_FALSE(after_change(0, 0));
    CHECK_FALSE(after_change(1, 0));
    CHECK_FALSE(after_change(2, 0));
    CHECK(after_change(2, 1));
    CHECK_FALSE(after_change(-10, 0));  // a clock that was set back
    CHECK_FALSE(remembered(later(), Fingerprint{Digest::of("other"), now.newest}));
    CHECK(remembered(later(), now));
}

TEST_CASE("damage, and a directory of others, mean that nothing is known") {
    Site site;
    fs::create_directories(site / "tree");
    const std::string tree = site / "tree", store = (site / "cache");
    const PackedCache cache(store);
    const Fingerprint now = *fingerprint(tree, directory);
    cache.remember(tree, packed_as("x"), now, later(), now);
    const std::string file = fs::directory_iterator(store)->path();
    const std::string whole = read_file(file);
    for (std::size_t at = 0; at < whole.size(); ++at) {
        std::string damaged = whole;
        damaged[at] = static_cast<char>(damaged[at] ^ 1);
        std::ofstream(file, std::ios::trunc) << damaged;
        CHECK_FALSE(cache.find(tree, directory, now));
        std::ofstream(file, std::ios::trunc) << whole.substr(0, at);
        CHECK_FALSE(cache.find(tree, directory, now));
    }
    std::ofstream(file, std::ios::trunc) << whole;
    REQUIRE(cache.find(tree, directory, now));
    fs::permissions(store, fs::perms::group_write, fs::perm_options::add);
    CHECK_FALSE(cache.find(tree, directory, now));
    cache.remember(tree, packed_as("y"), now, later(), now);
    fs::permissions(store, fs::perms::owner_all);
    CHECK(cache.find(tree, directory, now)->key == packed_as("x").key);
    fs::rename(store, (site / "moved"));
    fs::create_directory_symlink((site / "moved"), store);
    CHECK_FALSE(cache.find(tree, directory, now));
    PackedCache({}).remember(tree, packed_as("x"), now, later(), now);
    CHECK_FALSE(PackedCache({}).find(tree, directory, now));
    PackedCache("/proc/none").remember(tree, packed_as("x"), now, later(), now);
    if (::geteuid() != 0)
        return;
    // Somebody else's HOME.
    const std::string home = site / "home";
    fs::create_directory(home);
    REQUIRE(::chown(home.c_str(), 65534, 65534) == 0);
    PackedCache(home + "/.cache/pyro/seeds").remember(tree, packed_as("x"), now, later(), now);
    CHECK(fs::is_empty(home));
}

TEST_CASE("a cache is bounded, and what is used stays") {
    Site site;
    const std::string store = (site / "cache");
    const PackedCache cache(store);
    const auto tree = [&](std::size_t i) { return site / ("tree" + std::to_string(i)); };
    std::optional<Fingerprint> first;
    for (std::size_t i = 0; i < PackedCache::most_entries + 5; ++i) {
        fs::create_directory(tree(i));
        const Fingerprint now = *fingerprint(tree(i), directory);
        if (i == 0) first = now;
        cache.remember(tree(i), packed_as("x"), now, later(), now);
        // Clocks are coarse: the order of use is made plain.
        for (const auto& entry : fs::directory_iterator(store)) fs::last_write_time(entry, fs::last_write_time(entry) - std::chrono::seconds(10));
        CHECK(cache.find(tree(0), directory, *first));
    }
    const auto files = std::distance(fs::directory_iterator(store), fs::directory_iterator());
    CHECK(files == static_cast<std::ptrdiff_t>(PackedCache::most_entries));
    CHECK_FALSE(cache.find(tree(1), directory, *fingerprint(tree(1), directory)));
}
