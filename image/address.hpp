// Which addresses a registry may have.
#pragma once
struct sockaddr;

namespace pyro::image {

// False for loopback, private, carrier, link-local (with the metadata services), multicast, unspecified and reserved
// ranges, also where IPv6 carries an IPv4 address. Anything but IPv4 and IPv6 is not public.
bool is_public_address(const sockaddr* address);

}  // namespace pyro::image
