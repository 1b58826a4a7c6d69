#include "common/error.hpp"
#include "common/patch/patch.hpp"
#include "tests/support/catch.hpp"

using namespace pyro;
using namespace pyro::patch;

namespace {
File text(std::string bytes) { return {Mode::regular, std::move(bytes)}; }
}  // namespace

TEST_CASE("nothing changed makes nothing") {
    CHECK(make("x", text("a\n"), text("a\n")).text.empty());
}
