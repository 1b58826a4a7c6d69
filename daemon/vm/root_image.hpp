// What can be known of a root image, or of a seed's, without booting it.
#pragma once
#include "common/unique_fd.hpp"
#include "daemon/vm/hypervisor.hpp"

#include <cstdint>
#include <memory>
#include <string>

namespace pyro::vm {

// What a machine's disk starts from.
struct RootImage {
    std::string path;
    std::string environment_digest;
    std::string content_digest;        // sparse_digest() of the file
    std::shared_ptr<const void> held;  // while it is, nobody removes the file
};

// Its bytes. Error(environment_invalid) with what to do, when the file is missing, is no ext4, or is shorter than its
// superblock says.
std::uint64_t check_root_image(const std::string& path);
// Of a machine's disk, a multiple of 512: what was asked for, and never less than the root image.
std::uint64_t disk_bytes(const MachineSpec& spec, std::uint64_t root_bytes);

// The image of a second disk, for reading. Error(failed_precondition) when it cannot be one.
UniqueFd open_seed(const std::string& path);

}  // namespace pyro::vm
