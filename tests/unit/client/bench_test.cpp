#include "client/cli/bench.hpp"
#include "tests/support/catch.hpp"

#include <numeric>

using namespace pyro::client;

TEST_CASE("a row's median and 95th percentile are those of its values, in whatever order they came") {
    CHECK(median({7}) == 7);
    CHECK(median({9, 1, 5}) == 5);
    CHECK(median({4, 1, 3, 2}) == 2.5);
    CHECK(percentile95({7}) == 7);
    CHECK(percentile95({2, 1}) == 2);
    std::vector<double> to_hundred(100);
    std::iota(to_hundred.rbegin(), to_hundred.rend(), 1);
    CHECK(percentile95(to_hundred) == 95);
    to_hundred.resize(20);  // 100 down to 81
    CHECK(percentile95(to_hundred) == 99);
}
