#include "client/transfer/image_upload.hpp"
#include "common/error.hpp"
#include "tests/support/catch.hpp"

#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

using namespace pyro;
using namespace pyro::client;

namespace {

struct Layout {
    Layout() {
        char name[] = "/tmp/pyro-layout-XXXXXX";
        REQUIRE(::mkdtemp(name));
        path = name;
        std::filesystem::create_directories(path + "/blobs/sha256");
        put("oci-layout", "{}");
    }
    ~Layout() { std::filesystem::remove_all(path); }
    void put(const std::string& name, const std::string& text) const { std::ofstream(path + "/" + name) << text; }
    std::string blob(const std::string& text) const {
        const Digest digest = Digest::of(text);
        put("blobs/sha256/" + digest.hex(), text);
        return R"({"digest":")" + digest.str() + R"(","size":)" + std::to_string(text.size());
    }
    std::string path;
};

ErrorCode refusal(const std::string& path, const std::string& format = {}) {
    try {
        ImageUpload(path, format, {});
    } catch (const Error& e) {
        CHECK_FALSE(e.hint().empty());
        return e.code();
    }
    return ErrorCode::internal;
}

}  // namespace

TEST_CASE("references to files of this host are told from images of registries") {
    CHECK_FALSE(host_image("debian:12"));
    CHECK_FALSE(host_image("@oci"));
    CHECK_FALSE(host_image("oci"));
    CHECK_FALSE(host_image("docker.io/library/oci:dir"));
    const auto layout = host_image("oci:dir/x:v1");
    REQUIRE(layout);
    CHECK(layout->format == "oci");
    CHECK(layout->path == "dir/x");
    CHECK(layout->tag == "v1");
    CHECK(host_image("docker-archive:f.tar:host:5000/a:1")->tag == "host:5000/a:1");
    CHECK_THROWS_AS(host_image("oci:"), Error);
    // What they are called is the same for the same place, and another for another.
    CHECK(layout->given_name() == host_image("oci:dir/../dir/x:v1")->given_name());
    CHECK(layout->given_name() != host_image("oci:dir/x:v2")->given_name());
    CHECK(layout->given_name() != host_image("oci-archive:dir/x:v1")->given_name());
    CHECK(host_image("oci:Dir/A B!:V")->given_name().find_first_not_of("@abcdefghijklmnopqrstuvwxyz0123456789.-") == std::string::npos);
}

TEST_CASE("of a layout the digest of its one image is known before anything is sent") {
    const Layout layout;
    const std::string config = layout.blob("{}") + "}", layer = layout.blob("layer") + "}";
    const std::string manifest = R"({"config":)" + config + R"(,"layers":[)" + layer + "]}";
    const std::string first = layout.blob(manifest);
    layout.put("index.json", R"({"manifests":[)" + first + R"(,"annotations":{"org.opencontainers.image.ref.name":"1"}}]})");
    CHECK(ImageUpload(layout.path, "", "").digest() == Digest::of(manifest));
    CHECK(ImageUpload(layout.path, "oci", "1").digest() == Digest::of(manifest));
    CHECK_FALSE(ImageUpload(layout.path, "oci", "2").digest());
    // An index of platforms leads to ours.
    const std::string index = R"({"manifests":[)" + layout.blob("{}") + R"(,"platform":{"os":"linux","architecture":"arm64"}},)" + first +
                              R"(,"platform":{"os":"linux","architecture":"amd64"}}]})";
    layout.put("index.json", R"({"manifests":[)" + layout.blob(index) + "}]}");
    CHECK(ImageUpload(layout.path, "", "").digest() == Digest::of(manifest));
    // Two images: which one is not known here.
    layout.put("index.json", R"({"manifests":[)" + first + "}," + layout.blob(index) + "}]}");
    CHECK_FALSE(ImageUpload(layout.path, "", "").digest());
}

TEST_CASE("what is no layout is refused before the daemon is asked") {
    const Layout layout;
    CHECK(refusal("/nonexistent/file") == ErrorCode::not_found);
    CHECK(refusal("/tmp") == ErrorCode::invalid_argument);
    layout.put("index.json", R"({"manifests":[{"digest":"sha256:x","size":1}]})");
    CHECK(refusal(layout.path) == ErrorCode::invalid_argument);
    CHECK(refusal(layout.path, "docker-archive") == ErrorCode::invalid_argument);
    CHECK(refusal(layout.path + "/oci-layout", "oci") == ErrorCode::invalid_argument);
}
