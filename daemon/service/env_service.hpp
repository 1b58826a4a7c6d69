// env.*: environments for users.
#pragma once
#include "daemon/env/cache.hpp"
#include "daemon/rpc/call.hpp"
#include "proto/env.hpp"

namespace pyro::service {

class EnvService {
public:
    explicit EnvService(env::EnvironmentCache& environments) : environments_(environments) {}

    io::Task<proto::EnvListResult> serve(proto::EnvList, proto::EnvListParams, rpc::Call&);
    io::Task<proto::EnvPullResult> serve(proto::EnvPull, proto::EnvPullParams, rpc::Call&);
    io::Task<proto::EnvInspectResult> serve(proto::EnvInspect, proto::EnvInspectParams, rpc::Call&);
    io::Task<proto::EnvPruneResult> serve(proto::EnvPrune, proto::EnvPruneParams, rpc::Call&);

private:
    env::EnvironmentCache& environments_;
};

// Says a pull's progress to whoever waits for the call.
env::ProgressSink progress_of(rpc::Call& call);

}  // namespace pyro::service
