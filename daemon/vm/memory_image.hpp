// A guest at rest, in memory files that nobody can change any more.
#pragma once
#include "common/digest.hpp"
#include "common/unique_fd.hpp"

#include <cstdint>
#include <stop_token>
#include <string>

namespace pyro::vm {

// A VMM opens its memory for writing even where it maps it privately: the seals, not the mode, keep it from the image.
struct MemoryImage {
    UniqueFd memory;   // a sealed memfd, as large as the guest's memory
    UniqueFd devices;  // likewise, the VMM's account of its devices
};

// An empty memfd that can still be written to and sealed. Every uid it is handed to may open it.
UniqueFd unsealed_memfd(const char* name, std::uint64_t bytes);
// From now on nobody can write to it or resize it, whoever has it open. Throws while somebody maps it
// for writing.
void seal(const UniqueFd& memfd);
// The same file with an offset of its own.
UniqueFd reopened(const UniqueFd& memfd);

// Both block, keep holes, and give or compare sparse_digest(). Error(quota_exceeded) where there is no space.
Digest copy_out(const UniqueFd& memfd, const std::string& path, std::stop_token stop);
// A sealed memfd with the file's content; Error(failed_precondition) when that is not what the digest says.
UniqueFd copy_in(const std::string& path, const char* name, const Digest& digest, std::stop_token stop);

}  // namespace pyro::vm
