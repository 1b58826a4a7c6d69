#include "common/digest.hpp"
#include "common/error.hpp"
#include "tests/support/catch.hpp"

using namespace pyro;

TEST_CASE("a digest is that of FIPS 180-2's example") {
    REQUIRE(Digest::of("abc").str() == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST_CASE("only the exact spelling of a digest is taken") {
    const std::string good = Digest::of("").str();
    REQUIRE(Digest::parse(good).str() == good);
    for (const std::string& bad : {std::string{}, std::string{"sha256:"}, good.substr(1), good + "0", "sha512:" + good.substr(7),
                                   good.substr(0, 70) + "G", good.substr(0, 70) + "A", good.substr(0, 68) + "/../"})
        REQUIRE_THROWS_AS(Digest::parse(bad), Error);
}
