// A machine's disk as its layers lie on each other, read without QEMU: what a guest, or a QEMU it took over, wrote is input.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace pyro::image {

// Fills `size` bytes from `offset`; what was never written reads as zeros. Throws Error.
using ReadAt = std::function<void(std::uint64_t offset, char* to, std::size_t size)>;

struct DiskLayer {
    int fd = -1;         // not owned
    bool qcow2 = false;  // else raw, and the lowest
};

// The topmost comes first. qcow2 is read as pyro and QEMU write it for machines: version 3, no compression, encryption, snapshots or
// backing file of its own. Error(environment_invalid) for everything else, and for tables that lead nowhere.
ReadAt open_disk(const std::vector<DiskLayer>& layers);

}  // namespace pyro::image
