// What the worker takes from itself before it looks at anything hostile. The daemon has already taken its uid, its
// capabilities and every descriptor it does not need; this is the second wall.
#pragma once
#include <cstdint>
#include <vector>

namespace pyro::image {

struct Sandbox {
    bool network = false;                 // sockets and name resolution, with the files that needs
    std::vector<int> writable_directories;  // descriptors below which files may be made; nothing else on disk is reachable
    std::uint64_t max_file_bytes = 0;     // RLIMIT_FSIZE; 0 is no limit
    std::uint64_t max_files = 64;
    std::uint64_t max_memory = 3ull << 30;  // less than the worker's cgroup has: a failed allocation can be told, a kill cannot
    std::uint64_t max_cpu_seconds = 3600;   // beyond it the worker ends with an error event on descriptor 1
};

// Landlock where the kernel has it, a seccomp allow-list always. Throws if what must hold cannot be set.
void enter_sandbox(const Sandbox& sandbox);

}  // namespace pyro::image
