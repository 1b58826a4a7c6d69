#include <arpa/inet.h>
#include <netinet/in.h>

#include <cstring>

#include "common/error.hpp"
#include "image/address.hpp"
#include "image/challenge.hpp"
#include "image/http.hpp"
#include "image/manifest.hpp"
#include "tests/support/catch.hpp"

using namespace pyro;
using namespace pyro::image;

namespace {

bool is_public(const std::string& text) {
    sockaddr_storage storage{};
    auto* in = reinterpret_cast<sockaddr_in*>(&storage);
    auto* in6 = reinterpret_cast<sockaddr_in6*>(&storage);
    if (::inet_pton(AF_INET, text.c_str(), &in->sin_addr) == 1)
        storage.ss_family = AF_INET;
    else if (::inet_pton(AF_INET6, text.c_str(), &in6->sin6_addr) == 1)
        storage.ss_family = AF_INET6;
    else
        FAIL("not an address: " << text);
    return is_public_address(reinterpret_cast<const sockaddr*>(&storage));
}

const std::string digest = Digest::of("x").str();

std::string descriptor(const std::string& type, const std::string& size = "5") {
    return R"({"mediaType":")" + type + R"(","digest":")" + digest + R"(","size":)" + size + "}";
}
const std::string layer_type = "application/vnd.oci.image.layer.v1.tar+gzip";
const std::string config = descriptor("application/vnd.oci.image.config.v1+json");

ErrorCode manifest_error(const std::string& body) {
    try {
        parse_manifest(body);
    } catch (const Error& error) {
        CHECK_FALSE(error.message().empty());
        return error.code();
    }
    FAIL("was taken: " << body);
    return ErrorCode::internal;
}

}  // namespace

TEST_CASE("only public addresses are a registry's") {
    for (const char* text : {"1.1.1.1", "93.184.216.34", "172.15.0.1", "172.32.0.1", "100.63.0.1", "192.169.0.1", "2606:4700::1111", "64:ff9b::101:101", "2001:4860:4860::8888"}) {
        INFO(text);
        CHECK(is_public(text));
    }
    for (const char* text : {"127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1",
                             "224.0.0.1", "255.255.255.255", "198.18.0.1", "168.63.129.16", "::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1",
                             "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1", "::7f00:1", "2001:0:1::1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "::ffff:169.254.169.254", "2002:a9fe:a9fe::1",
                             "192.88.99.1", "100.100.100.200", "fec0::1"}) {
        INFO(text);
        CHECK_FALSE(is_public(text));
    }
}

TEST_CASE("addresses from a registry are resolved and judged") {
    const Url base = Url::parse("https://reg.example/v2/x");
    CHECK(base.port == "443");
    CHECK(Url::parse("/v2/y?z=1", &base).text == "https://reg.example/v2/y?z=1");
    CHECK(Url::parse("//other.example:444/y", &base).origin() == "https://other.example:444");
    CHECK(Url::parse("http://REG.example/y", &base).origin() == "http://reg.example:80");
    for (const char* text : {"", "file:///etc/passwd", "ftp://reg.example/", "https://user:pw@reg.example/", "gopher://x/", "https://", "unix:/run/x"})
        CHECK_THROWS_AS(Url::parse(text, &base), Error);
    CHECK_THROWS_AS(Url::parse("https://x/" + std::string(9000, 'a')), Error);
}

TEST_CASE("challenges are read as RFC 9110 writes them") {
    const auto shown = [](const std::string& header) {
        std::string out;
        for (const Challenge& one : parse_challenges(header)) {
            out += one.scheme + "(";
            for (const auto& [name, value] : one.parameters)
                out += name + "=" + value + ";";
            out += ")";
        }
        return out;
    };
    CHECK(shown(R"(Bearer realm="https://a/t",service="s",scope="repository:x:pull,push")") == "bearer(realm=https://a/t;scope=repository:x:pull,push;service=s;)");
    CHECK(shown(R"(Basic realm="a", charset="UTF-8", BEARER Realm=b)") == "basic(charset=UTF-8;realm=a;)bearer(realm=b;)");
    CHECK(shown(R"(Bearer realm="a\"b\\", error = "invalid_token")") == R"(bearer(error=invalid_token;realm=a"b\;))");
    CHECK(shown("Negotiate, Basic") == "negotiate()basic()");
    CHECK(shown("Bearer realm=\"never closed") == "bearer(realm=never closed;)");
    CHECK(shown("Bearer realm=\"a\",realm=\"b\"") == "bearer(realm=a;)");
    CHECK(shown("realm=\"of nobody\"").empty());
    CHECK(shown(" ,,;\xff(").empty());
    std::string many;
    for (int i = 0; i < 100; ++i)
        many += "Scheme" + std::to_string(i) + ", ";
    CHECK(parse_challenges(many).size() == 16);
}

TEST_CASE("when to ask again is seconds or a date") {
    const std::int64_t now = 1445412480;  // 2015-10-21 07:28:00
    CHECK(parse_retry_after("7", now) == std::chrono::seconds(7));
    CHECK(parse_retry_after("Wed, 21 Oct 2015 07:29:00 GMT", now) == std::chrono::seconds(60));
    for (const char* text : {"", "-1", "1.5", "soon", "99999999999999999999999", "Wed, 21 Oct 2015 07:27:00 GMT"})
        CHECK_FALSE(parse_retry_after(text, now));
    CHECK(parse_retry_after("99999999999", now) == std::chrono::seconds(366 * 86400));
}

TEST_CASE("hosts that no proxy is asked for") {
    const auto listed = [](const std::string& list, const std::string& url) { return is_in_no_proxy(list, Url::parse(url)); };
    for (const char* list : {"reg.example", "example", ".example", "*.example", "*", "other, reg.example:443", "REG.example"}) {
        INFO(list);
        CHECK(listed(list, "https://reg.example/"));
    }
    for (const char* list : {"", "eg.example", "reg.example:80", "reg.example.org", "a.reg.example", ",", ". ,:", "10.0.0.0/8"}) {
        INFO(list);
        CHECK_FALSE(listed(list, "https://reg.example/"));
    }
    CHECK(listed("10.0.0.0/8", "https://10.1.2.3/"));
    CHECK(listed("10.1.2.3", "https://10.1.2.3:5000/"));
    CHECK(listed("10.1.2.0/25,::1", "https://[::1]/"));
    CHECK(listed("fd00::/9", "https://[fd12::1]/"));
    CHECK_FALSE(listed("10.1.2.0/25", "https://10.1.2.128/"));
    CHECK_FALSE(listed("10.0.0.0/99, 10.0.0.0/", "https://10.1.2.3/"));
    CHECK_FALSE(listed("0.0.0.0/0", "https://[::1]/"));
}

TEST_CASE("manifests are taken strictly") {
    const Manifest good = parse_manifest(R"({"schemaVersion":2,"config":)" + config + R"(,"layers":[)" + descriptor(layer_type) + "]}");
    CHECK(good.layers.size() == 1);
    CHECK(good.layers[0].size == 5);
    for (const std::string& bad : {std::string("[]"), std::string("{"), std::string("{}"), R"({"config":)" + config + R"(,"layers":[]})",
                                   R"({"config":)" + config + R"(,"layers":{}})", R"({"config":7,"layers":[)" + descriptor(layer_type) + "]}",
                                   R"({"config":)" + config + R"(,"layers":[)" + descriptor(layer_type, "-1") + "]}",
                                   R"({"config":)" + config + R"(,"layers":[)" + descriptor(layer_type, "1e30") + "]}",
                                   R"({"config":)" + config + R"(,"layers":[)" + descriptor(layer_type, "99999999999999999") + "]}",
                                   R"({"config":)" + config + R"(,"layers":[{"mediaType":")" + layer_type + R"(","digest":"sha256:../../x","size":1}]})",
                                   std::string(100000, '[')})
        CHECK(manifest_error(bad) == ErrorCode::environment_invalid);
    CHECK(manifest_error(R"({"schemaVersion":1})") == ErrorCode::failed_precondition);
    CHECK(manifest_error(R"({"config":)" + descriptor("application/vnd.cncf.helm.config.v1+json") + R"(,"layers":[)" + descriptor(layer_type) + "]}") == ErrorCode::failed_precondition);
    CHECK(manifest_error(R"({"config":)" + config + R"(,"layers":[)" + descriptor("application/vnd.oci.image.layer.v1.tar+encrypted") + "]}") == ErrorCode::failed_precondition);
    std::string many = descriptor(layer_type);
    for (int i = 0; i < 127; ++i)
        many += "," + descriptor(layer_type);
    CHECK(manifest_error(R"({"config":)" + config + R"(,"layers":[)" + many + "]}") == ErrorCode::environment_invalid);
}

TEST_CASE("an index leads to linux/amd64, or says what it has") {
    const auto entry = [](const std::string& os, const std::string& architecture) {
        std::string text = descriptor("application/vnd.oci.image.manifest.v1+json");
        text.pop_back();
        return text + R"(,"platform":{"os":")" + os + R"(","architecture":")" + architecture + R"("}})";
    };
    CHECK(select_platform(R"({"manifests":[)" + entry("linux", "arm64") + "," + entry("linux", "amd64") + "]}").digest.str() == digest);
    try {
        select_platform(R"({"manifests":[)" + entry("linux", "arm64") + "," + entry("unknown", "unknown") + "]}");
        FAIL("found one");
    } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::failed_precondition);
        CHECK(error.message().find("linux/arm64") != std::string::npos);
        CHECK(error.message().find("unknown") == std::string::npos);
    }
    const auto variant = [&](const std::string& name, const std::string& of) {
        std::string text = entry("linux", "amd64");
        text.replace(text.find(digest), digest.size(), Digest::of(of).str());
        return text.insert(text.size() - 2, R"(,"variant":")" + name + "\"");
    };
    // What is made for newer processors need not run on this one.
    CHECK(select_platform(R"({"manifests":[)" + variant("v3", "3") + "," + variant("v1", "1") + "," + variant("v2", "2") + "]}").digest == Digest::of("1"));
    CHECK(select_platform(R"({"manifests":[)" + variant("v3", "3") + "," + variant("v2", "2") + "]}").digest == Digest::of("2"));
    const std::string bare = descriptor("application/vnd.oci.image.manifest.v1+json");
    CHECK(select_platform(R"({"manifests":[)" + bare + "]}").digest.str() == digest);  // its configuration will tell
    CHECK(select_platform(R"({"manifests":[)" + bare + "," + variant("", "x") + "]}").digest == Digest::of("x"));
    CHECK_THROWS_AS(select_platform(R"({"manifests":[)" + bare + "," + bare + "]}"), Error);
    CHECK_THROWS_AS(select_platform(R"({"manifests":[]})"), Error);
    CHECK(is_index("application/json", R"({"manifests":[]})"));
    CHECK_FALSE(is_index("application/json", R"({"layers":[]})"));
}

TEST_CASE("an image configuration must fit its manifest") {
    const std::string rootfs = R"("rootfs":{"type":"layers","diff_ids":[")" + digest + R"("]})";
    const ImageConfig config_ = parse_config(R"({"os":"linux","architecture":"amd64",)" + rootfs + R"(,"config":{"User":"1:2","Env":["A=b"],"Cmd":null,"Entrypoint":["/x"],"WorkingDir":"/w"}})", 1);
    CHECK(config_.user == "1:2");
    CHECK(config_.env == std::vector<std::string>{"A=b"});
    CHECK(config_.cmd.empty());
    CHECK(config_.working_dir == "/w");
    CHECK_THROWS_AS(parse_config(R"({"os":"linux","architecture":"amd64",)" + rootfs + "}", 2), Error);
    CHECK_THROWS_AS(parse_config(R"({"os":"linux","architecture":"arm64",)" + rootfs + "}", 1), Error);
    CHECK_THROWS_AS(parse_config(R"({"os":"linux","architecture":"amd64",)" + rootfs + R"(,"config":{"Env":["A\u0000=b"]}})", 1), Error);
    CHECK_THROWS_AS(parse_config(R"({"os":"linux","architecture":"amd64",)" + rootfs + R"(,"config":{"Env":"A"}})", 1), Error);
}
