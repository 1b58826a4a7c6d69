// One cgroup per scope, in whatever hierarchies this host lets us write. Private to daemon/supervise.
#pragma once
#include "common/unique_fd.hpp"
#include "daemon/supervise/supervisor.hpp"

namespace pyro::supervise {

// How a process gets into its scope by itself. To be moved by another, it would wait for an RCU grace period, some 20 ms.
struct ScopeEntrance {
    UniqueFd directory;            // of v2, where there is one: the process is born in it; else it writes 0 to
    UniqueFd procs;                // its cgroup.procs
    std::vector<UniqueFd> tasks;   // of v1: it writes 0 to each
};

// Below the cgroup of this process or one that was delegated to it: .../pyro-INSTANCE/SCOPE, on cgroup v2 and on the v1
// controllers memory, pids, cpu, blkio, freezer.
class CgroupTree {
public:
    CgroupTree(const std::string& instance, const std::string& delegated);
    ~CgroupTree();  // removes the instance's directories where no scope is left
    CgroupTree(const CgroupTree&) = delete;
    CgroupTree& operator=(const CgroupTree&) = delete;

    const Capabilities& capabilities() const noexcept { return capabilities_; }
    void create(const Scope& scope) const;                     // throws where a limit asked for cannot be set
    ScopeEntrance entrance(const std::string& scope) const;    // of a scope that was created
    std::vector<pid_t> members(const std::string& scope) const;
    void kill(const std::string& scope) const noexcept;        // asks the kernel to; members may take a moment to go
    bool out_of_memory(const std::string& scope) const noexcept;  // something in it was killed for its limit
    void remove(const std::string& scope) const;               // of an empty scope; fine if it is not there
    std::vector<std::string> scopes() const;

private:
    struct Hierarchy {
        std::string base;    // the instance's directory, made
        bool v2 = false;
        bool memory = false;
        bool pids = false;
        bool cpu = false;
        bool io = false;
    };
    std::vector<Hierarchy> hierarchies_;
    Capabilities capabilities_;
};

}  // namespace pyro::supervise
