#include "guest/agent/ring.hpp"
#include "guest/agent/users.hpp"
#include "tests/support/catch.hpp"

#include <random>

using namespace pyro::guest;

namespace {
constexpr char passwd[] =
    "root:x:0:0:root:/root:/bin/bash\n"
    "broken line\n"
    "negative:x:-1:0::/:/bin/sh\n"
    "alice:x:1000:1001:Alice,,,:/home/alice:/bin/zsh\n"
    "bare:x:7:8:::\n"
    "1234:x:55:55::/named-like-a-number:/bin/sh\n"
    "last:x:9:9::/last:/bin/sh";
constexpr char group[] = "root:x:0:\nwheel:x:10:bob,alice\nalice:x:1001:\nvideo:x:44:alice\nfour:x:4:malice,alicex\n55:x:66:\n";

std::optional<User> user(std::string_view wanted) {
    std::string error;
    auto found = find_user(wanted, passwd, group, error);
    REQUIRE(found.has_value() == error.empty());
    return found;
}
}  // namespace

TEST_CASE("a user is found by name or number, with home, shell and supplementary groups") {
    REQUIRE(user("")->uid == 0);
    REQUIRE(user("")->home == "/root");
    for (const char* alice : {"alice", "1000"}) {
        const auto u = user(alice);
        REQUIRE((u->uid == 1000 && u->gid == 1001 && u->name == "alice" && u->home == "/home/alice" && u->shell == "/bin/zsh"));
        REQUIRE(u->groups == std::vector<gid_t>{10, 44});
    }
    REQUIRE((user("bare")->home == "/" && user("bare")->shell == "/bin/sh"));
    REQUIRE(user("last")->uid == 9);
    REQUIRE(user("1234")->uid == 55);  // an entry's name comes before its number
}

TEST_CASE("a number needs no entry, a name does; an explicit group stands alone") {
    const auto nobody = user("4242");
    REQUIRE((nobody->uid == 4242 && nobody->gid == 0 && nobody->name.empty() && nobody->groups.empty()));
    const auto both = user("alice:44");
    REQUIRE((both->gid == 44 && both->groups.empty()));
    REQUIRE(user("77:wheel")->gid == 10);
    REQUIRE(user(":video")->gid == 44);
    REQUIRE(user("alice:55")->gid == 66);
    for (const char* wrong : {"carol", "alice:nogroup", "negative", "-1", "4294967295", "99999999999", "alice:", "0x10", "al ice"}) REQUIRE_FALSE(user(wrong));
    std::string error;
    REQUIRE_FALSE(find_user("root:wheel", "", "", error));
    REQUIRE(find_user("root", "", "", error).has_value() == false);
    REQUIRE(find_user("", "", "", error)->home == "/root");
}

TEST_CASE("a ring keeps the bytes of every offset it holds, whatever the order of growing and forgetting") {
    std::mt19937 random(7);
    const auto byte_at = [](std::uint64_t offset) { return static_cast<char>(offset * 31 + offset / 4093); };
    for (int round = 0; round < 20; ++round) {
        const std::size_t capacity = std::size_t{4096} << (random() % 5);
        Ring ring(capacity);
        for (int step = 0; step < 400; ++step) {
            switch (random() % 4) {
                case 0: {
                    std::string bytes(std::min<std::size_t>(random() % 9000, ring.room()), '\0');
                    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = byte_at(ring.end() + i);
                    ring.append(bytes);
                    break;
                }
                case 1: {
                    const auto space = ring.prepare(random() % 9000);
                    REQUIRE(space.size() <= ring.room());
                    for (std::size_t i = 0; i < space.size(); ++i) space[i] = byte_at(ring.end() + i);
                    ring.commit(space.size());
                    break;
                }
                case 2: ring.drop_before(ring.begin() + random() % 12000); break;
                default:
                    if (ring.size() == 0) ring.skip(random() % 5000);
            }
            REQUIRE(ring.size() <= capacity);
            for (std::uint64_t at = ring.begin(); at < ring.end();) {
                const auto piece = ring.at(at, 1 + random() % 5000);
                REQUIRE_FALSE(piece.empty());
                bool same = true;
                for (std::size_t i = 0; i < piece.size(); ++i) same = same && piece[i] == byte_at(at + i);
                REQUIRE(same);
                const std::string head(random() % Ring::margin + 1, '<'), tail(random() % Ring::margin + 1, '>');
                std::string lent;
                ring.with_ends(piece, head, tail, [&lent](std::string_view whole) { lent = whole; });
                REQUIRE((lent == head + std::string(piece) + tail));
                at += piece.size();
            }
            REQUIRE(ring.at(ring.end(), 10).empty());
            REQUIRE((ring.begin() == 0 || ring.at(ring.begin() - 1, 10).empty()));
        }
    }
}
