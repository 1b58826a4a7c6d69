// A fresh qcow2 (version 3) image without starting a program for it.
#pragma once
#include <cstdint>
#include <string>

namespace pyro::vm::qemu {

// The metadata of an empty image of `virtual_size` bytes, to be written to an empty file. It names no backing file: whoever
// opens it says what is behind it, so an image can never make QEMU open a path.
std::string empty_qcow2(std::uint64_t virtual_size);

}  // namespace pyro::vm::qemu
