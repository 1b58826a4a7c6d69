// An external program as a value: built by pure functions, started by a Supervisor.
#pragma once
#include "common/unique_fd.hpp"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

namespace pyro::supervise {

class Jail;

// Who a program runs as. Setting it drops every capability, of all sets, and sets no_new_privs.
struct Credentials {
    uid_t uid = 0;
    gid_t gid = 0;
    std::vector<gid_t> groups;  // supplementary; empty drops all
};

struct PassedFd {
    UniqueFd fd;
    int number;  // what the program sees; 0, 1 and 2 are /dev/null unless passed
};

struct ResourceLimit {
    int resource;  // RLIMIT_*
    std::uint64_t value;
};

struct Command {
    std::string path;               // absolute: PATH is not searched
    std::vector<std::string> argv;  // argv[0] included
    std::vector<std::string> env;   // the whole environment, "NAME=value"
    std::string cwd = "/";
    std::vector<PassedFd> fds;      // every other descriptor is closed
    std::optional<Credentials> as;
    std::vector<ResourceLimit> limits;
    int unshare_flags = 0;          // CLONE_NEWNET | CLONE_NEWIPC | ...: namespaces of its own; the first process of CLONE_NEWPID
                                    // takes all others of it with it
    std::shared_ptr<const Jail> jail;  // with CLONE_NEWPID: the whole file tree it sees, and a /proc of its own; path and cwd are in there
    bool fresh_proc = false;        // a /proc of this pid namespace over which nothing is mounted, where we may mount one: without it,
                                    // nobody may mount one in a user namespace
    bool controlling_terminal = false;  // descriptor 0 is a terminal, to be that of its session
    bool dies_with_daemon = false;  // killed by the kernel when the daemon goes, however it goes
};

}  // namespace pyro::supervise
