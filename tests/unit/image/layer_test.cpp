#include <archive.h>
#include <archive_entry.h>

#include <clocale>
#include <map>
#include <random>

#include "image/layer.hpp"
#include "tests/support/catch.hpp"
#include "tests/unit/image/tar_builder.hpp"

using namespace pyro;
using namespace pyro::image;
using pyro::test::Member;
using pyro::test::TarBuilder;

namespace {

// Keeps content in memory and knows what was let go.
class MemoryStore final : public ContentStore {
public:
    void begin() override { open.clear(); }
    void write(std::uint64_t offset, std::string_view bytes) override {
        open.resize(offset, '\0');
        open.append(bytes);
    }
    ContentId end() override {
        files.emplace(next, open);
        return next++;
    }
    void discard(ContentId content) override { REQUIRE(files.erase(content) == 1); }
    std::string open;
    std::map<ContentId, std::string> files;
    ContentId next = 0;
};

struct Merge {
    explicit Merge(TreeLimits limits = {}) : tree(limits, [this](ContentId content) { store.discard(content); }) { std::setlocale(LC_CTYPE, "C.UTF-8"); }
    void layer(const std::string& bytes) {
        const UniqueFd file = test::file_with(bytes);
        last = apply_layer(file.get(), tree, store, unpacked, [](std::uint64_t) {});
        unpacked += last.unpacked;
    }
    void layer(const TarBuilder& tar) { layer(tar.bytes()); }
    std::string content(const std::string& path) {
        const Inode* inode = tree.find(path);
        REQUIRE(inode);
        REQUIRE(inode->type == FileType::regular);
        return inode->content == no_content ? "" : store.files.at(inode->content).substr(0, inode->size);
    }
    bool has(const std::string& path) { return tree.find(path) != nullptr; }
    MemoryStore store;
    Tree tree;
    LayerResult last;
    std::uint64_t unpacked = 0;
};

std::string packed(const std::string& bytes, int filter) {
    std::string out(bytes.size() + (1 << 20), '\0');
    std::size_t used = 0;
    archive* a = archive_write_new();
    archive_write_add_filter(a, filter);
    archive_write_set_format_raw(a);
    archive_write_set_bytes_per_block(a, 0);
    REQUIRE(archive_write_open_memory(a, out.data(), out.size(), &used) == ARCHIVE_OK);
    archive_entry* entry = archive_entry_new();
    archive_entry_set_filetype(entry, AE_IFREG);
    REQUIRE(archive_write_header(a, entry) == ARCHIVE_OK);
    REQUIRE(archive_write_data(a, bytes.data(), bytes.size()) == static_cast<la_ssize_t>(bytes.size()));
    archive_entry_free(entry);
    REQUIRE(archive_write_close(a) == ARCHIVE_OK);
    archive_write_free(a);
    out.resize(used);
    return out;
}

std::string noise_of(std::size_t size) {
    std::mt19937 random(1);
    std::string out(size, '\0');
    for (char& c : out)
        c = static_cast<char>(random());
    return out;
}

void refused(Merge& merge, const std::string& bytes, const std::string& named) {
    INFO(named);
    try {
        merge.layer(bytes);
        FAIL("was taken");
    } catch (const Error& error) {
        INFO(error.message());
        CHECK(error.code() == ErrorCode::environment_invalid);
        CHECK(error.message().find(named) != std::string::npos);
        CHECK(error.message().find('\n') == std::string::npos);
    }
}

}  // namespace

TEST_CASE("layers merge in order, plain, gzip and zstd alike") {
    for (const int filter : {ARCHIVE_FILTER_NONE, ARCHIVE_FILTER_GZIP, ARCHIVE_FILTER_ZSTD}) {
        Merge merge;
        const std::string lower = TarBuilder().directory("./").directory("a/").file("a/one", "1").file("a/two", "2").file("b", "b").bytes();
        merge.layer(filter == ARCHIVE_FILTER_NONE ? lower : packed(lower, filter));
        REQUIRE(merge.last.diff_id == Digest::of(lower));
        merge.layer(TarBuilder().file("a/one", "new").file("a/three", "3").file("a/.wh.two", "").file(".wh.b", ""));
        CHECK(merge.content("a/one") == "new");
        CHECK(merge.content("a/three") == "3");
        CHECK_FALSE(merge.has("a/two"));
        CHECK_FALSE(merge.has("b"));
        CHECK_FALSE(merge.has("a/.wh.two"));
        CHECK(merge.store.files.size() == 2);  // what was hidden or replaced was let go
    }
}

TEST_CASE("a whiteout hides lower layers only, wherever it stands in its own") {
    for (const bool first : {true, false}) {
        Merge merge;
        merge.layer(TarBuilder().directory("d").file("d/old", "old").directory("d/sub").file("d/sub/deep", "deep").file("e", "e"));
        TarBuilder upper;
        if (first)
            upper.file("d/.wh..wh..opq", "").file(".wh.e", "");
        upper.directory("d").file("d/new", "new").directory("d/sub").file("d/sub/fresh", "fresh").file("e", "again");
        if (!first)
            upper.file("d/.wh..wh..opq", "").file(".wh.e", "");
        merge.layer(upper);
        CHECK_FALSE(merge.has("d/old"));
        CHECK_FALSE(merge.has("d/sub/deep"));
        CHECK(merge.content("d/new") == "new");
        CHECK(merge.content("d/sub/fresh") == "fresh");
        CHECK(merge.content("e") == "again");
    }
}

TEST_CASE("whiteouts of what is not there, and aufs's own files, mean nothing") {
    Merge merge;
    merge.layer(TarBuilder().file(".wh.nothing", "").file("no/such/.wh.dir", "").file("no/such/.wh..wh..opq", "").file(".wh..wh.aufs", "").directory(".wh..wh.plnk"));
    CHECK(merge.tree.root().children.empty());
    refused(merge, TarBuilder().file(".wh.", "").bytes(), "whiteout of nothing");
    refused(merge, TarBuilder().file("a/.wh...", "").bytes(), "whiteout of nothing");
}

TEST_CASE("a type may change between layers") {
    Merge merge;
    merge.layer(TarBuilder().directory("x").file("x/in", "in").file("y", "y").symlink("z", "x"));
    merge.layer(TarBuilder().file("x", "file").directory("y").file("y/in", "in").directory("z"));
    CHECK(merge.content("x") == "file");
    CHECK(merge.content("y/in") == "in");
    CHECK(merge.tree.find("z")->type == FileType::directory);
    CHECK(merge.store.files.size() == 2);
}

TEST_CASE("an entry below a symlink lands where the link leads, inside the tree") {
    Merge merge;
    merge.layer(TarBuilder().directory("usr").directory("usr/lib").symlink("lib", "usr/lib").symlink("abs", "/usr/lib").symlink("up", "../../../usr").symlink("self", "self").symlink("gone", "nowhere").file("plain", "p"));
    merge.layer(TarBuilder().file("lib/one", "1").file("abs/two", "2").file("up/lib/three", "3").file("lib/new/four", "4"));
    CHECK(merge.content("usr/lib/new/four") == "4");
    CHECK(merge.content("usr/lib/one") == "1");
    CHECK(merge.content("usr/lib/two") == "2");
    CHECK(merge.content("usr/lib/three") == "3");
    CHECK(merge.tree.find("lib")->type == FileType::symlink);
    refused(merge, TarBuilder().file("self/x", "").bytes(), "\"self/x\" lies below a loop");
    refused(merge, TarBuilder().file("gone/x", "").bytes(), "\"gone/x\" lies below a symlink that leads nowhere");
    refused(merge, TarBuilder().file("plain/x", "").bytes(), "\"plain/x\" lies below");
}

TEST_CASE("hard links share one file, across layers too") {
    Merge merge;
    merge.layer(TarBuilder().file("a", "content").hard_link("b", "a").symlink("s", "a").hard_link("s2", "./s"));
    merge.layer(TarBuilder().hard_link("d/c", "b").file("a", "other"));
    CHECK(merge.content("d/c") == "content");
    CHECK(merge.tree.find("b") == merge.tree.find("d/c"));
    CHECK(merge.tree.find("b")->links == 2);
    CHECK(merge.tree.find("s2")->target == "a");
    CHECK(merge.content("a") == "other");
    merge.layer(TarBuilder().hard_link("b", "d/c"));  // already so
    CHECK(merge.tree.find("b")->links == 2);
}

TEST_CASE("hostile entries are refused by name") {
    const std::string long_name(256, 'n');
    std::string deep;
    for (int i = 0; i < 600; ++i)
        deep += "d/";
    Merge merge;
    merge.layer(TarBuilder().file("f", "f").directory("dir"));
    refused(merge, TarBuilder().file("../x", "x").bytes(), "\"../x\" leaves the tree");
    refused(merge, TarBuilder().file("a/../../x", "x").bytes(), "\"a/../../x\" leaves the tree");
    refused(merge, TarBuilder().file("dir/" + long_name, "x").bytes(), "name longer than 255");
    refused(merge, TarBuilder().file(deep + "x", "x").bytes(), "512 directories deep");
    refused(merge, TarBuilder().file(std::string(2200, 'a') + "/" + std::string(2200, 'b'), "").bytes(), "path longer than 4096");
    refused(merge, TarBuilder().hard_link("l", "../../etc/shadow").bytes(), "\"l\" leaves the tree");
    refused(merge, TarBuilder().file("/../x", "x").bytes(), "\"/../x\" leaves the tree");
    refused(merge, TarBuilder().file(".wh.d/x", "x").bytes(), "\".wh.d/x\" lies below a whiteout");
    Member list;
    list.path = "acl", list.pax = test::pax_record("SCHILY.xattr.system.posix_acl_access", std::string("\2\0\0\0\3\0\7\0\0\0\0\0", 12));
    refused(merge, TarBuilder().add(list).bytes(), "\"acl\" has an access control list that is none");
    refused(merge, TarBuilder().hard_link("l", "missing").bytes(), "\"l\" is a hard link to \"missing\", which is not there");
    refused(merge, TarBuilder().hard_link("l", "dir").bytes(), "which is a directory");
    refused(merge, TarBuilder().hard_link("l", ".").bytes(), "hard link to the root");
    refused(merge, TarBuilder().file(".", "x").bytes(), "root but not a directory");
    refused(merge, TarBuilder().file("evil\nname/..", "x").bytes(), "\"evil\\x0aname/..\"");
    refused(merge, TarBuilder().symlink("s", "").bytes(), "\"s\" is a symlink with an empty");
    Member device;
    device.path = "dev", device.type = '4', device.major = 0x1fff;
    refused(merge, TarBuilder().add(device).bytes(), "\"dev\" has an impossible device number");
    Member owner;
    owner.path = "own", owner.pax = test::pax_record("uid", "99999999999");
    refused(merge, TarBuilder().add(owner).bytes(), "\"own\" has an impossible uid");
    Member attributes;
    attributes.path = "big", attributes.pax = test::pax_record("SCHILY.xattr.user.x", std::string(5000, 'v'));
    refused(merge, TarBuilder().add(attributes).bytes(), "\"big\" has more extended attributes");
    attributes.path = "./", attributes.type = '5';
    refused(merge, TarBuilder().add(attributes).bytes(), "\"./\" has more extended attributes");
    CHECK(merge.content("f") == "f");
}

TEST_CASE("an entry cannot escape the depth limit through links") {
    Merge merge;
    TarBuilder tar;
    std::string at = "d";
    for (int i = 0; i < 400; ++i)
        at += "/d";
    tar.directory(at).symlink("l", at);
    merge.layer(tar);
    std::string more = "l";
    for (int i = 0; i < 200; ++i)
        more += "/e";
    refused(merge, TarBuilder().file(more + "/x", "").bytes(), "512 directories deep");
}

TEST_CASE("a name given by a hard link is its layer's, the file is not") {
    for (const bool first : {true, false}) {
        Merge merge;
        merge.layer(TarBuilder().file("a", "content").file("d/b", "b"));
        TarBuilder upper;
        if (first)
            upper.file(".wh.a", "").file("d/.wh..wh..opq", "");
        TarBuilder linked = TarBuilder().hard_link("c", "a").hard_link("d/e", "d/b").file(".wh.a", "").file("d/.wh..wh..opq", "").file(".wh.c", "");
        if (first) {
            refused(merge, upper.hard_link("c", "a").bytes(), "which is not there");
            continue;
        }
        merge.layer(linked);
        CHECK_FALSE(merge.has("a"));
        CHECK_FALSE(merge.has("d/b"));
        CHECK(merge.content("c") == "content");
        CHECK(merge.content("d/e") == "b");
        merge.layer(TarBuilder().file(".wh.c", ""));
        CHECK_FALSE(merge.has("c"));
        CHECK(merge.store.files.size() == 1);
    }
}

TEST_CASE("what aufs kept for itself can be linked to, and is gone behind its layer") {
    Merge merge;
    merge.layer(TarBuilder().directory(".wh..wh.plnk").file(".wh..wh.plnk/12.34", "shared").hard_link("a", ".wh..wh.plnk/12.34").hard_link("b", ".wh..wh.plnk/12.34"));
    CHECK(merge.content("a") == "shared");
    CHECK(merge.tree.find("a") == merge.tree.find("b"));
    CHECK(merge.tree.find("a")->links == 2);
    CHECK_FALSE(merge.has(".wh..wh.plnk"));
}

TEST_CASE("frames and members follow each other; what is packed otherwise is named") {
    const std::string tar = TarBuilder().file("a", noise_of(3000)).file("b", "b").bytes(), skipped("\x53\x2a\x4d\x18\3\0\0\0abc", 11);
    const std::string one = tar.substr(0, 1000), other = tar.substr(1000);
    for (const std::string& stream : {packed(one, ARCHIVE_FILTER_GZIP) + packed(other, ARCHIVE_FILTER_GZIP),
                                      packed(one, ARCHIVE_FILTER_ZSTD) + skipped + packed(other, ARCHIVE_FILTER_ZSTD), skipped + packed(tar, ARCHIVE_FILTER_ZSTD) + skipped}) {
        Merge merge;
        merge.layer(stream);
        CHECK(merge.last.diff_id == Digest::of(tar));
        CHECK(merge.content("b") == "b");
    }
    Merge merge;
    refused(merge, packed(tar, ARCHIVE_FILTER_XZ), "packed by xz");
    refused(merge, packed(tar, ARCHIVE_FILTER_BZIP2), "packed by bzip2");
}

TEST_CASE("a place is written once in a layer, but a directory may be named again") {
    Merge merge;
    merge.layer(TarBuilder().file("a", "one").symlink("l", "a").directory("d", 0700).file("d/x", "x").directory("d", 0750).directory("./d/"));
    CHECK(merge.tree.find("d")->mode == 0755);
    CHECK(merge.content("d/x") == "x");
    merge.layer(TarBuilder().file("a", "two").hard_link("l", "d/x"));
    CHECK(merge.content("a") == "two");
    CHECK(merge.store.files.size() == 2);
    for (const TarBuilder& twice : {TarBuilder().file("n", "1").file("n", "2"), TarBuilder().file("n", "1").file("./n", "2"), TarBuilder().symlink("n", "a").directory("n"),
                                    TarBuilder().directory("n").file("n", ""), TarBuilder().hard_link("n", "a").hard_link("n", "a"), TarBuilder().hard_link("n", "a").file("n", ""),
                                    TarBuilder().file("m/x", "").symlink("n", "m").file("n/x", "").directory("m").file("m/x", "")}) {
        Merge other;
        other.layer(TarBuilder().file("a", "a"));
        refused(other, twice.bytes(), "is the second of its layer in that place");
    }
}

TEST_CASE("bombs are cut off") {
    TreeLimits limits;
    limits.max_entries = 10;
    limits.max_total_bytes = 1 << 20;
    Merge merge(limits);
    TarBuilder many;
    for (int i = 0; i < 20; ++i)
        many.file("f" + std::to_string(i), "");
    refused(merge, many.bytes(), "is one too many");
    Merge large(limits);
    refused(large, packed(TarBuilder().file("zeros", std::string(2 << 20, '\0')).bytes(), ARCHIVE_FILTER_GZIP), "larger than the limit");
    Merge twice(limits);
    twice.layer(TarBuilder().file("a", std::string(600 << 10, 'a')));
    refused(twice, TarBuilder().file("b", std::string(600 << 10, 'b')).bytes(), "more than the limit");
    Merge ratio;
    refused(ratio, packed(std::string(300u << 20, '\0'), ARCHIVE_FILTER_ZSTD), "200 times its size");
}

TEST_CASE("damaged archives are errors, not short images") {
    Merge merge;
    const std::string tar = TarBuilder().file("first", std::string(100000, 'x')).file("second", std::string(100000, 'y')).bytes();
    const std::string gzip = packed(tar, ARCHIVE_FILTER_GZIP);
    refused(merge, gzip.substr(0, gzip.size() / 2), "layer");
    refused(merge, tar.substr(0, 150000), "after entry \"second\"");
    refused(merge, packed(gzip, ARCHIVE_FILTER_GZIP), "layer cannot be read");  // one layer of compression is undone, not two
    refused(merge, std::string(4096, 'z'), "layer cannot be read");
}

TEST_CASE("attributes are kept: modes, owners, times, links, devices, capabilities") {
    Merge merge;
    Member m;
    m.path = "suid", m.content = "s", m.mode = 04755, m.uid = 7, m.gid = 8;
    m.pax = test::pax_record("mtime", "1600000000.25") + test::pax_record("SCHILY.xattr.security.capability", std::string("\1\0\0\2", 4)) +
            test::pax_record("SCHILY.xattr.user.note", "hi") + test::pax_record("SCHILY.xattr.trusted.x", "kept") + test::pax_record("SCHILY.xattr.trusted.overlay.opaque", "y") +
            test::pax_record("SCHILY.xattr.user.overlay.redirect", "/x") + test::pax_record("SCHILY.xattr.security.selinux", "l") + test::pax_record("SCHILY.xattr.odd", "?") + test::pax_record("uid", "3000000");
    Member null;
    null.path = "dev/null", null.type = '3', null.mode = 0666, null.major = 1, null.minor = 3;
    merge.layer(TarBuilder().add(m).add(null).symlink("link", "a/b"));
    const Inode* suid = merge.tree.find("suid");
    CHECK(suid->mode == 04755);
    CHECK(suid->uid == 3000000);
    CHECK(suid->gid == 8);
    CHECK(suid->mtime == 1600000000);
    CHECK(suid->mtime_nsec == 250000000);
    CHECK(suid->xattrs.size() == 3);
    CHECK(suid->xattrs.at("security.capability") == std::string("\1\0\0\2", 4));
    CHECK(merge.tree.find("dev")->mode == 0755);  // made on the way
    CHECK(merge.tree.find("dev/null")->major == 1);
    CHECK(merge.tree.find("link")->target == "a/b");
}
