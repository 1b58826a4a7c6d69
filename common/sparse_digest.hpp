// A content digest of a large, mostly empty file that costs only what the file holds.
#pragma once
#include <cstdint>
#include <stop_token>

#include "common/digest.hpp"

namespace pyro {

// SHA-256 over, for each 64 KiB piece of the file that is not all zeros, in order: its index as 64-bit little-endian number,
// then its bytes (the last piece may be shorter); closed by the file's size as 64-bit little-endian number. It depends on
// the content alone, not on where the file system keeps holes: those only make it cheap. Throws Cancelled when stopped.
Digest sparse_digest(int fd, std::stop_token stop = {});

}  // namespace pyro
