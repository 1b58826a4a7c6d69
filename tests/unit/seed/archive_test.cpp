#include <locale.h>

#include "tests/unit/image/tar_builder.hpp"
#include "tests/unit/seed/seed_site.hpp"

using namespace pyro;
using namespace pyro::test;

namespace {

struct Tars {
    std::string put_tar(const std::string& bytes) {
        const std::string path = site / ("made" + std::to_string(++made) + ".tar");
        put(path, bytes);
        return path;
    }
    // What it is refused for, without the name of the archive itself.
    std::string refused(const TarBuilder& tar, const PackOptions& options = {}) {
        const std::string path = put_tar(tar.bytes());
        const std::string why = seed_refusal(path, options);
        CHECK(site.nothing_left());
        return why.starts_with(path + ": ") ? why.substr(path.size() + 2) : why;
    }
    Tree taken(const TarBuilder& tar) {
        Tree tree = tree_of(untarred(site, seed_of(put_tar(tar.bytes())).stream, "out" + std::to_string(++made)));
        for (auto& [name, line] : tree)  // the kind, and the target of links
            line = line.starts_with("12") ? line.substr(line.rfind(' ') + 1) : line.starts_with("4") ? "directory" : line.substr(0, 6);
        return tree;
    }
    Site site;
    int made = 0;
};

TarBuilder tar() { return {}; }
TarBuilder special(const std::string& name, char type) {
    Member member;
    member.path = name, member.type = type, member.major = 1, member.minor = 3;
    return tar().add(member);
}

}  // namespace

TEST_CASE("hostile entries are refused by name") {
    Tars t;
    CHECK(t.refused(tar().file("/etc/cron.d/x", "x")) == "/etc/cron.d/x is an absolute name");
    CHECK(t.refused(tar().file("../x", "x")) == "../x leads out of the tree by ..");
    CHECK(t.refused(tar().file("a/../../x", "x")) == "a/../../x leads out of the tree by ..");
    CHECK(t.refused(tar().directory("a/..")) == "a/.. leads out of the tree by ..");
    CHECK(t.refused(tar().file("a/" + std::string(256, 'n'), "x")).ends_with("has a component that is longer than 255 bytes"));
    std::string deep;
    while (deep.size() <= max_path)
        deep += "dir/";
    CHECK(t.refused(tar().file(deep + "x", "x")).ends_with("is longer than 65536 bytes"));
    CHECK(t.refused(special("dev/null", '3')) == "dev/null is a device");
    CHECK(t.refused(special("dev/sda", '4')) == "dev/sda is a device");
    CHECK(t.refused(special("pipe\x1b[2J", '6')) == "pipe\\x1b[2J is a fifo");
    CHECK(t.refused(tar().file(".", "x")) == ". stands in the place of the tree itself");
}

TEST_CASE("links of an archive stay in it") {
    Tars t;
    CHECK(t.refused(tar().symlink("a", "/etc/passwd")) == "a is a link out of the tree: /etc/passwd");
    CHECK(t.refused(tar().symlink("a", "..")) == "a is a link out of the tree: ..");
    CHECK(t.refused(tar().symlink("d/a", "../../x")) == "d/a is a link out of the tree: ../../x");
    CHECK(t.refused(tar().symlink("a", "no/such/../../../x")) == "a is a link out of the tree: no/such/../../../x");
    CHECK(t.refused(tar().symlink("a", "")) == "a is a link with no target");
    // Only through another link: x/up/.. is x by its letters, and the outside in truth; in either order.
    CHECK(t.refused(tar().symlink("x/up", "..").symlink("z", "x/up/../out")) == "z is a link out of the tree: x/up/../out");
    CHECK(t.refused(tar().symlink("z", "x/up/../out").symlink("x/up", "..")) == "z is a link out of the tree: x/up/../out");
    CHECK(t.refused(tar().hard_link("a", "/etc/passwd")) == "a is a hard link out of the tree: /etc/passwd");
    CHECK(t.refused(tar().hard_link("a", "../x")) == "a is a hard link out of the tree: ../x");
    CHECK(t.refused(tar().hard_link("a", "b").file("b", "x")) == "a is a hard link to b, which is not in the archive before it");
    CHECK(t.refused(tar().directory("d").hard_link("a", "d")) == "a is a hard link to a directory: d");
    CHECK(t.refused(tar().symlink("l", "d").directory("d").file("d/f", "x").hard_link("a", "l/f")) == "a is a hard link to l/f, which is not in the archive before it");
    // The same link is in the tree in one place and out of it in another.
    CHECK(t.refused(tar().symlink("d/a", "../x").hard_link("b", "d/a")) == "b is a link out of the tree: ../x");
    CHECK(t.refused(tar().symlink("l", "d").file("l/f", "x")) == "l/f lies under l, which is a link");
    CHECK(t.refused(tar().file("f", "x").file("f/g", "x")) == "f/g lies under f, which is a file");
    CHECK(t.refused(tar().file("d/f", "x").symlink("d", "/etc")) == "d stands in the place of a directory with entries");

    CHECK(t.taken(tar().directory("d/e").symlink("d/e/up", "../..").symlink("d/e/f", "up/d/no/such").symlink("loop", "loop").hard_link("again", "loop")) ==
          Tree{{"d", "directory"}, {"d/e", "directory"}, {"d/e/up", "../.."}, {"d/e/f", "up/d/no/such"}, {"loop", "loop"}, {"again", "loop"}});
}

TEST_CASE("links that would take for ever to follow are refused, not followed") {
    Tars t;
    TarBuilder tangle;
    // Each goes over the one before it twice: 2^39 steps for the last, but for the kernel's 40 links; long ones multiply that.
    std::string wide;
    for (int i = 0; i < 1000; ++i)
        wide += "a/";
    tangle.directory("a");
    for (int i = 0; i < 4000; ++i)
        tangle.symlink("l" + std::to_string(i), wide + std::string(i ? "../l" + std::to_string(i - 1) : "x"));
    const std::string why = t.refused(tangle);
    CHECK((why == "taken" || why == "its links are too tangled to follow"));
}

TEST_CASE("the last of several entries with one name counts, and what is only implied is there") {
    Tars t;
    CHECK(t.taken(tar().file("./a//b/./c", "1").file("a/b/c", "22")) == Tree{{"a", "directory"}, {"a/b", "directory"}, {"a/b/c", "100644"}});
    const std::string path = t.put_tar(tar().file("f", "first", 0600).file("g", "g").file("f", "second", 06755).bytes());
    const Seed seed = seed_of(path);
    CHECK(seed.packed.files == 2);
    CHECK(seed.packed.bytes == 7);
    CHECK(text_of(untarred(t.site, seed.stream) + "/f") == "second");
    CHECK(tree_of(t.site / "untarred")["f"].starts_with("100755 "));
    CHECK(t.taken(tar().symlink("d", "x").directory("d").file("d/f", "x")) == Tree{{"d", "directory"}, {"d/f", "100644"}});
    CHECK(t.taken(tar().directory("d").symlink("d", "x")) == Tree{{"d", "x"}});
    // A hard link has what its target had then.
    const Seed linked = seed_of(t.put_tar(tar().file("f", "old").hard_link("g", "f").file("f", "newer").bytes()));
    CHECK(text_of(untarred(t.site, linked.stream, "linked") + "/g") == "old");
    CHECK(t.taken(tar().directory(".").directory("./")) == Tree{});
}

TEST_CASE("bombs are refused") {
    Tars t;
    PackOptions options;
    options.limits.entries = 3;
    CHECK(t.refused(tar().file("a", "").file("b", "").file("c", ""), options) == "taken");
    CHECK(t.refused(tar().file("a", "").file("b", "").file("c", "").file("d", ""), options) == "it has more than the limit of 3 entries");
    CHECK(t.refused(tar().file("a/b/c/d", ""), options) == "it has more than the limit of 3 entries");
    options = {};
    options.limits.bytes = 1000;
    CHECK(t.refused(tar().file("a", std::string(600, 'x')).file("b", std::string(600, 'x')), options) == "with b it unpacks to more than the limit of 1000 bytes");
    CHECK(t.refused(tar().file("a", std::string(600, 'x')).hard_link("b", "a"), options) == "with b it unpacks to more than the limit of 1000 bytes");
    CHECK(t.refused(tar().file("a", std::string(600, 'x')).file("a", std::string(600, 'x')), options) == "with a it unpacks to more than the limit of 1000 bytes");
    Member sparse;  // a hole of an exbibyte costs its maker nothing
    sparse.path = "hole";
    sparse.content = "1\n1152921504606846976\n0\n";
    sparse.content.resize(512);
    sparse.pax = pax_record("GNU.sparse.major", "1") + pax_record("GNU.sparse.minor", "0") + pax_record("GNU.sparse.name", "hole") +
                 pax_record("GNU.sparse.realsize", "1152921504606846976");
    CHECK(t.refused(tar().add(sparse)).find("hole it unpacks to more than the limit of 17179869184 bytes") != std::string::npos);

    // 100 MiB of zeros: by far more than a thousand times what zstd makes of them. Below 64 MiB nobody minds.
    put(t.site / "in/zeros", "");
    REQUIRE(::truncate((t.site / "in/zeros").c_str(), 100 << 20) == 0);
    REQUIRE(run({"tar", "--zstd", "-cf", t.site / "bomb.tar.zst", "-C", t.site / "in", "zeros"}, t.site.path) == 0);
    CHECK(seed_refusal(t.site / "bomb.tar.zst").ends_with("it unpacks to more than 1000 times its size"));
    options = {};
    options.limits.ratio = 100'000;
    CHECK(seed_refusal(t.site / "bomb.tar.zst", options) == "taken");
    REQUIRE(::truncate((t.site / "in/zeros").c_str(), 60 << 20) == 0);
    REQUIRE(run({"tar", "--zstd", "-cf", t.site / "small.tar.zst", "-C", t.site / "in", "zeros"}, t.site.path) == 0);
    CHECK(seed_refusal(t.site / "small.tar.zst") == "taken");
    CHECK(t.site.nothing_left());
}

TEST_CASE("what is no tar, or only the beginning of one, is refused") {
    Tars t;
    const auto refused = [&](const std::string& bytes) { return seed_refusal(t.put_tar(bytes)); };
    CHECK(refused("").ends_with("it is empty: no tar archive"));
    CHECK(refused("PK\x03\x04 no tar").find("no tar") != std::string::npos);
    CHECK(refused(std::string(5000, 'x')) != "taken");
    const std::string whole = tar().file("a", std::string(3000, 'x')).bytes();
    CHECK(refused(whole) == "taken");
    CHECK(refused(whole.substr(0, 2000)).find("cut short or damaged inside a") != std::string::npos);
    CHECK(refused(whole.substr(0, 300)) != "taken");
    put(t.site / "whole", whole);
    for (const char* packer : {"gzip", "zstd"}) {
        const std::string packed = output({packer, "-c", t.site / "whole"}, t.site.path);
        CHECK(refused(packed) == "taken");
        CHECK(refused(packed.substr(0, packed.size() - 9)) != "taken");
        put(t.site / "twice", packed);
        CHECK(refused(output({packer, "-c", t.site / "twice"}, t.site.path)).ends_with("it is packed more than once"));
    }
    std::string damaged = whole;
    damaged[3] ^= 1;
    CHECK(refused(damaged) != "taken");
    CHECK(t.site.nothing_left());
}

TEST_CASE("names of archives are bytes, whatever the locale") {
    Tars t;
    // Composed and decomposed: a reader that converts makes one of the two.
    const Tree wanted{{"cafe\xcc\x81", "100644"}, {"caf\xc3\xa9", "100644"}, {"\xe9\xff", "100644"}, {"n\nl", "100644"}, {"to", "caf\xc3\xa9"}};
    TarBuilder names;
    for (const auto& [name, line] : wanted) {
        Member member;
        member.path = "x";
        if (line[0] != '1')
            member.type = '2', member.target = "x", member.pax = pax_record("linkpath", line);
        member.pax += pax_record("path", name);
        names.add(member);
    }
    CHECK(t.taken(names) == wanted);
    const std::string before = ::setlocale(LC_ALL, nullptr);
    REQUIRE(::setlocale(LC_ALL, "C.UTF-8"));
    CHECK(t.taken(names) == wanted);
    ::setlocale(LC_ALL, before.c_str());
}

TEST_CASE("a stop is heard while an archive is read") {
    Tars t;
    PackOptions options;
    std::stop_source stop;
    options.stop = stop.get_token();
    stop.request_stop();
    CHECK_THROWS_AS(pack(t.put_tar(tar().file("a", "x").bytes()), [](std::string_view) {}, options), Cancelled);
    CHECK(t.site.nothing_left());
}
