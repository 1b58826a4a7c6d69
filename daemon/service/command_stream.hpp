// A running command and the client attached to it: bytes both ways, its time-out, its end.
#pragma once
#include "daemon/agent/channel.hpp"
#include "daemon/rpc/attachment.hpp"
#include "daemon/rpc/call.hpp"

#include <chrono>
#include <cstdint>
#include <memory>

namespace pyro::service {

struct StreamOutcome {
    agent::ExitStatus status;
    bool timed_out = false;  // the status is then that of the kill, or empty where even that was not answered
    std::uint64_t stdout_bytes = 0;
    std::uint64_t stderr_bytes = 0;
};

// Carries everything between the client's attach connection and the command until the command has ended and what it wrote
// was sent. The command's time counts from its start; 0 is no limit. When it is over, all of the command is killed.
// A client that stops reading stops the command. A client that leaves, or never comes, ends the call with its error.
//
// `Session` is agent::ExecSession, or what looks like one: compat::HostSandbox.
template <class Session>
io::Task<StreamOutcome> stream_command(rpc::Call& call, std::shared_ptr<rpc::Attachment> attachment, std::shared_ptr<Session> session,
                                       bool interactive, std::chrono::seconds timeout);

}  // namespace pyro::service
