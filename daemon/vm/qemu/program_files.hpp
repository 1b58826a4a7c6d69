// Which files of the host a QEMU needs: what its jail has.
#pragma once
#include "daemon/io/task.hpp"
#include "daemon/supervise/supervisor.hpp"

#include <string>
#include <vector>

namespace pyro::vm::qemu {

// The program, the shared libraries the loader names for it and for the emulator where that is a module, and its firmware.
// `as` asks the loader. Of a script there is nothing but itself: what runs it must be told by the configuration.
io::Task<std::vector<std::string>> program_files(supervise::Supervisor& supervisor, std::string program, supervise::Credentials as);

}  // namespace pyro::vm::qemu
