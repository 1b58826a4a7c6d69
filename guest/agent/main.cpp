// pyro-guest: PID 1 of the initramfs. As an ordinary process, `pyro-guest --listen FD` serves the same protocol on a
// listening socket without touching the machine: what tests of the host's end talk to. `pyro-guest files OP` is a command like any
// other, started to work on a workspace's files.
#include "common/error.hpp"
#include "guest/agent/agent.hpp"
#include "guest/agent/machine.hpp"
#include "guest/files/files.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <unistd.h>

namespace {

// A command's pipes must never be mistaken for the agent's own 0, 1 and 2.
void hold_standard_descriptors() {
    while (true) {
        const int fd = ::open("/dev/null", O_RDWR);
        if (fd < 0 || fd > 2) {
            if (fd > 2) ::close(fd);
            return;
        }
    }
}

int serve_socket(int fd) {
    pyro::guest::Surroundings surroundings;
    surroundings.listener = pyro::UniqueFd(fd);
    surroundings.enter = [] {};
    surroundings.apply = [](const pyro::proto::agent::Identity&) {};
    surroundings.power_off = [] {};
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    pyro::guest::Agent agent(std::move(surroundings));
    agent.run();
    return 0;
}

// A batch process, when it wakes up, does not push aside what runs: a command fills its pipe before we empty it, without a
// switch for every write. A busy command is interrupted at the next tick all the same. Commands are made ordinary processes
// again (Exec).
void let_commands_run_on() {
    const sched_param none{};
    if (::sched_setscheduler(0, SCHED_BATCH, &none) != 0) throw pyro::Error::from_errno("become a batch process");
}

void be_init() {
    let_commands_run_on();
    pyro::guest::mount_early();
    hold_standard_descriptors();
    pyro::guest::Surroundings surroundings;
    surroundings.port = pyro::guest::open_port(pyro::proto::agent::port_name);
    surroundings.own_cgroups = true;
    surroundings.enter = pyro::guest::enter_root;
    surroundings.apply = pyro::guest::apply;
    surroundings.power_off = pyro::guest::power_off;
    surroundings.freeze = pyro::guest::freeze_root;
    pyro::guest::Agent agent(std::move(surroundings));
    agent.run();
}

}  // namespace

int main(int argc, char** argv) {
    try {
        if (argc == 3 && std::strcmp(argv[1], "--listen") == 0) return serve_socket(std::atoi(argv[2]));
        if (argc >= 2 && std::strcmp(argv[1], "files") == 0) return pyro::guest::files::run(argc - 2, argv + 2);
        if (argc == 2 && std::strcmp(argv[1], "--version") == 0) return std::puts("pyro-guest " PYRO_VERSION) < 0;
        if (::getpid() != 1) {
            std::fputs("pyro-guest: runs as PID 1 of a guest, with --listen FD, or with files OP\n", stderr);
            return 2;
        }
        be_init();
    } catch (const std::exception& e) {
        if (::getpid() != 1) {
            std::fprintf(stderr, "pyro-guest: %s\n", e.what());
            return 1;
        }
        // Before there is a channel, the console is the only place to say it; then QEMU ends, which the host sees.
        pyro::guest::log(e.what());
        ::reboot(RB_AUTOBOOT);
    }
    return 1;
}
