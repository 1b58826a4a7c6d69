// vm.*: one-shot machines. The only place that knows the order environment, machine, command, clean-up.
#pragma once
#include "daemon/compat/host_sandbox.hpp"
#include "daemon/env/cache.hpp"
#include "daemon/rpc/call.hpp"
#include "daemon/service/command_stream.hpp"
#include "daemon/service/exec_spec.hpp"
#include "daemon/vm/registry.hpp"
#include "proto/vm.hpp"

#include <map>

namespace pyro::service {


struct HostCompatSettings {
    bool allow = true;
    std::string bubblewrap;
    std::string directory;  // exists; others may pass through it but not list it
};

class VmService {
public:
    VmService(env::EnvironmentCache& environments, vm::MachineRegistry& machines, supervise::Supervisor& supervisor,
              io::WorkerPool& files, io::WorkerPool& removals, HostCompatSettings host_compat)
        : environments_(environments), machines_(machines), supervisor_(supervisor), files_(files), removals_(removals), host_compat_(std::move(host_compat)) {}

    io::Task<proto::ExecResult> serve(proto::VmRun, proto::VmRunParams, rpc::Call&);
    io::Task<proto::VmInfo> serve(proto::VmCreate, proto::VmCreateParams, rpc::Call&);
    io::Task<proto::VmInfo> serve(proto::VmStart, proto::VmStartParams, rpc::Call&);
    io::Task<proto::ExecResult> serve(proto::VmExec, proto::VmExecParams, rpc::Call&);
    io::Task<proto::VmInfo> serve(proto::VmStop, proto::VmStopParams, rpc::Call&);
    io::Task<proto::VmDeleteResult> serve(proto::VmDelete, proto::VmDeleteParams, rpc::Call&);
    io::Task<proto::VmInfo> serve(proto::VmStatus, proto::VmStatusParams, rpc::Call&);
    io::Task<proto::VmNetworkInfoResult> serve(proto::VmNetworkInfo, proto::VmNetworkInfoParams, rpc::Call&);
    io::Task<proto::VmListResult> serve(proto::VmList, proto::VmListParams, rpc::Call&);
    io::Task<proto::VmReapExpiredResult> serve(proto::VmReapExpired, proto::VmReapExpiredParams, rpc::Call&);

    void allow_host_compat(bool allow) noexcept { host_compat_.allow = allow; }

private:
    // Runs the command in the machine, starting it if needed, and removes the machine whatever happens.
    io::Task<proto::ExecResult> run_and_remove(rpc::Call& call, std::shared_ptr<vm::Machine> machine,
                                               std::shared_ptr<const env::Lease> environment, proto::VmCommand request,
                                               std::chrono::seconds timeout, vm::StartKind at_best);
    // `started`: whether the guest was there for the command; an error before that may have another way out.
    io::Task<StreamOutcome> run_in_guest(rpc::Call& call, std::shared_ptr<vm::Machine> machine, std::shared_ptr<const env::Lease> environment,
                                         const proto::VmCommand& request, std::chrono::seconds timeout,
                                         std::shared_ptr<rpc::Attachment> attachment, vm::StartKind at_best, bool& started);
    io::Task<StreamOutcome> run_on_host(rpc::Call& call, std::shared_ptr<vm::Machine> machine, const env::Lease& environment, const proto::VmCommand& request,
                                        std::chrono::seconds timeout, std::shared_ptr<rpc::Attachment> attachment);

    env::EnvironmentCache& environments_;
    vm::MachineRegistry& machines_;
    supervise::Supervisor& supervisor_;
    io::WorkerPool& files_;
    io::WorkerPool& removals_;  // of sandboxes: their users decide how long one takes
    HostCompatSettings host_compat_;
};

}  // namespace pyro::service
