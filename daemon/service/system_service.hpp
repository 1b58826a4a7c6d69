// system.*: the daemon at a glance, and what is wrong with the host.
#pragma once
#include "daemon/env/cache.hpp"
#include "daemon/rpc/call.hpp"
#include "daemon/state/store.hpp"
#include "daemon/supervise/supervisor.hpp"
#include "daemon/vm/registry.hpp"
#include "proto/system.hpp"

#include <ctime>

namespace pyro::service {

// Where the things are that doctor looks at.
struct HostPaths {
    std::string state_directory;
    std::string qemu, kernel, initramfs;
    std::string image_worker, mmdebstrap, bubblewrap;
};

class SystemService {
public:
    SystemService(env::EnvironmentCache& environments, vm::MachineRegistry& machines, vm::Hypervisor& hypervisor,
                  const supervise::Supervisor& supervisor, const state::Store& store, std::string instance, HostPaths paths)
        : environments_(environments), machines_(machines), hypervisor_(hypervisor), supervisor_(supervisor), store_(store),
          instance_(std::move(instance)), paths_(std::move(paths)), started_(std::time(nullptr)) {}

    io::Task<proto::SystemStatusResult> serve(proto::SystemStatus, proto::SystemStatusParams, rpc::Call&);
    io::Task<proto::SystemDoctorResult> serve(proto::SystemDoctor, proto::SystemDoctorParams, rpc::Call&);

private:
    void check_programs(std::vector<proto::Check>& checks) const;
    void check_state_directory(std::vector<proto::Check>& checks) const;
    void check_limits(std::vector<proto::Check>& checks) const;
    void check_boots(std::vector<proto::Check>& checks) const;
    io::Task<proto::Check> check_warmth(std::string environment, std::string digest, std::stop_token stop);

    env::EnvironmentCache& environments_;
    vm::MachineRegistry& machines_;
    vm::Hypervisor& hypervisor_;
    const supervise::Supervisor& supervisor_;
    const state::Store& store_;
    std::string instance_;
    HostPaths paths_;
    std::time_t started_;
};

}  // namespace pyro::service
