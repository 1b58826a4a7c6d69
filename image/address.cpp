#include "image/address.hpp"

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <cstring>

namespace pyro::image {
namespace {

struct Range4 {
    std::uint32_t network;
    int bits;
};

constexpr std::uint32_t ip4(unsigned a, unsigned b, unsigned c, unsigned d) { return a << 24 | b << 16 | c << 8 | d; }

constexpr Range4 closed_ranges[] = {{ip4(0, 0, 0, 0), 8},      {ip4(10, 0, 0, 0), 8},      {ip4(100, 64, 0, 0), 10}, {ip4(127, 0, 0, 0), 8},
                                    {ip4(169, 254, 0, 0), 16}, {ip4(172, 16, 0, 0), 12},   {ip4(192, 0, 0, 0), 24},  {ip4(192, 88, 99, 0), 24}, {ip4(192, 168, 0, 0), 16},
                                    {ip4(198, 18, 0, 0), 15},  {ip4(224, 0, 0, 0), 4},     {ip4(240, 0, 0, 0), 4},   {ip4(168, 63, 129, 16), 32}};

bool public4(std::uint32_t address) {
    for (const Range4& range : closed_ranges)
        if ((address ^ range.network) >> (32 - range.bits) == 0)
            return false;
    return true;
}

std::uint32_t embedded(const unsigned char* bytes) { return ip4(bytes[0], bytes[1], bytes[2], bytes[3]); }

bool public6(const unsigned char* b) {
    static constexpr unsigned char zeros[12] = {};
    static constexpr unsigned char nat64[12] = {0, 0x64, 0xff, 0x9b};
    if (std::memcmp(b, zeros, 10) == 0 && b[10] == 0xff && b[11] == 0xff)
        return public4(embedded(b + 12));
    if (std::memcmp(b, nat64, 12) == 0)
        return public4(embedded(b + 12));
    if (b[0] == 0x20 && b[1] == 0x02)  // 6to4
        return public4(embedded(b + 2));
    if (b[0] == 0x20 && b[1] == 0x01 && b[2] < 0x02)  // 2001::/23: Teredo and other tunnels and tests
        return false;
    return (b[0] & 0xe0) == 0x20;  // of global unicast only what is assigned, 2000::/3
}

}  // namespace

bool is_public_address(const sockaddr* address) {
    if (address->sa_family == AF_INET) {
        sockaddr_in in{};
        std::memcpy(&in, address, sizeof in);
        return public4(ntohl(in.sin_addr.s_addr));
    }
    if (address->sa_family == AF_INET6) {
        sockaddr_in6 in{};
        std::memcpy(&in, address, sizeof in);
        return public6(in.sin6_addr.s6_addr);
    }
    return false;
}

}  // namespace pyro::image
