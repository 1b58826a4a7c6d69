// What can be known of a root image without booting it.
#pragma once
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

}  // namespace pyro::vm
