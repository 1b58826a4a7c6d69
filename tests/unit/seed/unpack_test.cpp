#include "tests/unit/image/tar_builder.hpp"
#include "tests/unit/seed/seed_site.hpp"

using namespace pyro;
using namespace pyro::test;

namespace {

TarBuilder tar() { return {}; }

Unpacked unpacked(const std::string& stream, const std::string& to, bool force = false, Shape shape = Shape::tree) {
    UnpackOptions options;
    options.shape = shape;
    options.force = force;
    return unpack(source_of(stream), to, options);
}
std::string unpack_refusal(const std::string& stream, const std::string& to, bool force = false, Shape shape = Shape::tree) {
    return refusal([&] { unpacked(stream, to, force, shape); });
}
bool said(const std::string& why, const std::string& part) {
    INFO(why);
    return why.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("an export is made whole, in a new directory or into one that is there") {
    const Site site;
    put(site / "in/a/f", "f");
    put(site / "in/a/run", "x", 0755);
    put(site / "in/closed/in", "x", 0400);
    std::filesystem::create_symlink("/etc/passwd", site / "in/link");
    ::chmod((site / "in/closed").c_str(), 0500);
    set_time(site / "in/a", 1500000000, 7);
    const std::string stream = seed_of(site / "in").stream;
    const auto as_user = [&](const std::string& to, bool force) {
        return as_nobody([&] { return unpack_refusal(stream, site / ("tmp/" + to), force) == "taken" ? 0 : 1; }) == 0;
    };
    CHECK(as_user("out", false));  // a directory that its owner may not write to is moved all the same
    CHECK(tree_of(site / "tmp/out") == tree_of(site / "in"));
    CHECK(unpack_refusal(stream, site / "no/such") != "taken");

    CHECK(said(unpack_refusal(stream, site / "tmp/out"), "/tmp/out/link exists"));
    put(site / "there/own", "own");
    put(site / "there/a/other", "other");
    ::chmod((site / "there/a").c_str(), 0711);
    set_time(site / "there", 1400000000, 0);
    const Unpacked count = unpacked(stream, site / "there/");
    CHECK(count.files == 3);
    CHECK(count.directories == 2);
    CHECK(count.symlinks == 1);
    CHECK(count.bytes == 3);
    CHECK(text_of(site / "there/own") == "own");
    CHECK(text_of(site / "there/a/other") == "other");
    CHECK(tree_of(site / "there")["a"].starts_with("40711 "));
    CHECK(tree_of(site / "there")["a/f"] == tree_of(site / "in")["a/f"]);
    CHECK(tree_of(site / "there")["closed"] == tree_of(site / "in")["closed"]);

    put(site / "there/a/f", "mine");
    const Tree before = tree_of(site / "there");
    CHECK(said(unpack_refusal(stream, site / "there"), " exists"));
    CHECK(tree_of(site / "there") == before);
    ::chmod((site / "there/closed").c_str(), 0700);
    CHECK(unpack_refusal(stream, site / "there", true) == "taken");
    CHECK(text_of(site / "there/a/f") == "f");
    CHECK(text_of(site / "there/own") == "own");
    std::filesystem::create_symlink(site / "in", site / "name");
    CHECK(said(unpack_refusal(stream, site / "name"), "/name/link exists"));  // the destination's own name is followed
}

TEST_CASE("no link is followed out of the destination, whoever made it") {
    const Site site;
    put(site / "outside/f", "outside");
    const Tree outside = tree_of(site / "outside");
    const auto refused = [&](const TarBuilder& stream, const std::string& part) {
        CHECK(said(unpack_refusal(stream.bytes(), site / "out"), part));
        CHECK_FALSE(there(site / "out"));
    };
    refused(tar().symlink("l", site / "outside").file("l/f", "x"), "l/f lies in no directory of the tree");
    refused(tar().symlink("l", site / "outside").directory("l").file("l/f", "x"), "l comes twice");
    refused(tar().directory("l").symlink("l", site / "outside").file("l/f", "x"), "l comes twice");
    refused(tar().symlink("f", site / "outside/f").file("f", "x"), "f comes twice");
    refused(tar().file("../f", "x"), "../f leads out of the tree by ..");
    refused(tar().file("/f", "x"), "/f is an absolute name");
    refused(tar().file("a/b/f", "x"), "a/b/f lies in no directory of the tree");
    refused(tar().file("f", "x").hard_link("g", "f"), "g is a hard link");
    refused(tar().hard_link("g", "/etc/passwd"), "g is a hard link");

    std::filesystem::create_directory(site / "there");
    std::filesystem::create_symlink(site / "outside", site / "there/l");
    std::filesystem::create_symlink(site / "outside/f", site / "there/g");
    const std::string through = tar().file("g", "x").directory("l").file("l/f", "x").bytes();
    CHECK(said(unpack_refusal(through, site / "there"), "/there/g exists"));
    CHECK(unpack_refusal(through, site / "there", true) == "taken");
    CHECK(std::filesystem::is_regular_file(std::filesystem::symlink_status(site / "there/g")));
    CHECK(std::filesystem::is_directory(std::filesystem::symlink_status(site / "there/l")));
    CHECK(tree_of(site / "outside") == outside);
}

TEST_CASE("no setuid, no setgid, no devices, no end missing") {
    const Site site;
    unpacked(tar().directory("d", 07777).file("f", "x", 06755).bytes(), site / "out");
    CHECK(tree_of(site / "out")["f"].starts_with("100755 "));
    CHECK(tree_of(site / "out")["d"].starts_with("41777 "));
    Member device;
    device.path = "null", device.type = '3', device.major = 1, device.minor = 3;
    CHECK(said(unpack_refusal(tar().add(device).bytes(), site / "no"), "null is a device"));
    device.type = '6';
    CHECK(said(unpack_refusal(tar().add(device).bytes(), site / "no"), "null is a fifo"));
    const TarBuilder two = tar().file("a", std::string(2000, 'x')).file("b", "x");
    CHECK(said(unpack_refusal(two.unfinished(), site / "no"), "the stream is cut short"));
    CHECK(said(unpack_refusal(two.bytes().substr(0, 1000), site / "no"), "cut short or damaged inside a"));
    CHECK(unpack_refusal("", site / "no") != "taken");
    put(site / "plain.tar", two.bytes());
    CHECK(unpack_refusal(output({"gzip", "-c", site / "plain.tar"}, site.path), site / "no") != "taken");  // a stream is never packed
    UnpackOptions options;
    options.limits.entries = 1;
    CHECK(said(refusal([&] { unpack(source_of(two.bytes()), site / "no", options); }), "more than the limit of 1 entries"));
    options.limits = {};
    options.limits.bytes = 2000;
    CHECK(said(refusal([&] { unpack(source_of(two.bytes()), site / "no", options); }), "with b it has more than the limit of 2000 bytes"));
    std::stop_source stop;
    options = {};
    options.stop = stop.get_token();
    stop.request_stop();
    CHECK_THROWS_AS(unpack(source_of(two.bytes()), site / "no", options), Cancelled);
    CHECK_FALSE(there(site / "no"));
    CHECK(tree_of(site.path, false).size() == 5);  // plain.tar, tmp, out, out/f, out/d: no staging is left
}

TEST_CASE("a directory is never replaced by something else, not even with force") {
    const Site site;
    put(site / "there/d/own", "own");
    CHECK(said(unpack_refusal(tar().file("d", "x").bytes(), site / "there", true), "/there/d exists and is a directory"));
    CHECK(said(unpack_refusal(tar().file("d", "x").bytes(), site / "there/d", true, Shape::file), "exists and is a directory"));
    CHECK(said(unpack_refusal(tar().file("d", "x").bytes(), site / "there/d", true, Shape::tar_zst), "exists and is a directory"));
    put(site / "file", "x");
    CHECK(said(unpack_refusal(tar().file("f", "x").bytes(), site / "file"), "/file exists"));
    CHECK(unpack_refusal(tar().file("f", "x").bytes(), site / "file", true) == "taken");
    CHECK(text_of(site / "file/f") == "x");
    CHECK(text_of(site / "there/d/own") == "own");
}

TEST_CASE("a single file comes whole or not at all") {
    const Site site;
    const std::string one = tar().file("name/does/not/matter", "new", 0640).bytes();
    CHECK(unpacked(one, site / "f", false, Shape::file).bytes == 3);
    CHECK(tree_of(site.path)["f"].starts_with("100640 1700000000."));
    put(site / "f", "old");
    CHECK(said(unpack_refusal(one, site / "f", false, Shape::file), "/f exists"));
    for (const std::string& bad : {tar().file("a", "x").file("b", "x").bytes(), tar().directory("a").bytes(), tar().symlink("a", "b").bytes(), one.substr(0, 600)})
        CHECK(unpack_refusal(bad, site / "f", true, Shape::file) != "taken");
    CHECK(text_of(site / "f") == "old");
    put(site / "target", "target");
    std::filesystem::create_symlink("target", site / "link");
    CHECK(unpack_refusal(one, site / "link", true, Shape::file) == "taken");
    CHECK(text_of(site / "link") == "new");
    CHECK(text_of(site / "target") == "target");
    std::string seen;
    unpack([&, at = source_of(one, 700)]() mutable { seen = text_of(site / "f"); return at(); }, site / "f",
           [] { UnpackOptions options; options.shape = Shape::file; options.force = true; return options; }());
    CHECK(seen == "old");  // until the last byte has come
    CHECK(text_of(site / "f") == "new");
}

TEST_CASE("a part of what the guest was asked for becomes the destination") {
    const Site site;
    UnpackOptions options;
    options.prefix = "src/lib";
    const std::string stream = tar().directory("src").directory("src/lib").file("src/lib/f", "x").bytes();
    unpack(source_of(stream), site / "out", options);
    CHECK(text_of(site / "out/f") == "x");
    CHECK(tree_of(site / "out").size() == 1);
    CHECK(said(refusal([&] { unpack(source_of(tar().file("src/library", "x").bytes()), site / "no", options); }), "src/library is not in src/lib"));
    CHECK(said(refusal([&] { unpack(source_of(tar().symlink("src", "/").bytes()), site / "no", options); }), "src is not in src/lib"));
    CHECK_FALSE(there(site / "no"));
    options.shape = Shape::file;
    options.prefix = "src/f";
    unpack(source_of(tar().file("src/f", "y").bytes()), site / "f", options);
    CHECK(text_of(site / "f") == "y");
}

TEST_CASE("an archive is written anew, and canonical") {
    const Site site;
    put(site / "in/a/f", std::string(300'000, 'f'));
    std::filesystem::create_symlink("a", site / "in/l");
    const Seed seed = seed_of(site / "in");
    CHECK(unpacked(seed.stream, site / "out.tar.zst", false, Shape::tar_zst).files == 1);
    CHECK(output({"zstd", "-dcq", site / "out.tar.zst"}, site.path) == seed.stream);
    CHECK(seed_of(site / "out.tar.zst").packed.key == seed.packed.key);
    CHECK(std::filesystem::file_size(site / "out.tar.zst") < 2000);
    CHECK(said(unpack_refusal(seed.stream, site / "out.tar.zst", false, Shape::tar_zst), "exists"));
    CHECK(unpacked(tar().file("f", "x", 06755).bytes(), site / "out.tar.zst", true, Shape::tar_zst).files == 1);
    CHECK(output({"tar", "-tvf", site / "out.tar.zst"}, site.path).starts_with("-rwxr-xr-x 0/0 "));
    for (const std::string& bad : {seed.stream.substr(0, 2000), tar().file("../x", "x").bytes(), tar().hard_link("a", "b").bytes()})
        CHECK(unpack_refusal(bad, site / "bad", false, Shape::tar_zst) != "taken");
    CHECK_FALSE(there(site / "bad"));
}
