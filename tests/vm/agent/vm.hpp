// A guest under emulation with nothing of the daemon around it: QEMU, the committed kernel command line, one port.
#pragma once
#include "common/unique_fd.hpp"
#include "daemon/io/stream.hpp"

#include <string>
#include <vector>

#include <sys/types.h>

namespace pyro::test {

struct VmFiles {
    std::string kernel, initramfs, root, seed;
    static VmFiles from_environment();  // PYRO_TEST_KERNEL, PYRO_TEST_INITRAMFS, PYRO_TEST_ROOT, PYRO_TEST_SEED
};

// One QEMU process on a private copy of the root; killed and reaped at the end of its life. Counted in the file that
// PYRO_GUESTS_BOOTED names.
class Vm {
public:
    explicit Vm(int mem_mib = 512, bool seeded = false);  // with the seed as its second disk
    ~Vm();
    Vm(const Vm&) = delete;
    Vm& operator=(const Vm&) = delete;

    const std::string& socket() const { return socket_; }
    pid_t pid() const { return pid_; }
    std::string console() const;
    bool wait_exit();   // waits for QEMU's own end; true when it ended with 0
    bool disk_is_clean();  // by e2fsck, once QEMU is gone

private:
    std::string folder_, socket_;
    UniqueFd listener_;
    pid_t pid_ = -1;
};

// What a guest needs of its kernel under emulation (guest/README.md#command-line).
std::string kernel_command_line();

}  // namespace pyro::test
