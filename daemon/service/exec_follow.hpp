// A command of a workspace and a client that follows it.
#pragma once
#include "daemon/rpc/attachment.hpp"
#include "daemon/rpc/call.hpp"
#include "daemon/workspace/exec.hpp"

#include <chrono>
#include <cstdint>
#include <memory>

namespace pyro::service {

struct FollowRequest {
    std::uint64_t out = 0, err = 0;   // the first bytes wanted
    bool to_end = true;               // of the command; else of what is there
    std::chrono::seconds wait{0};     // for something to be there, without to_end
    bool input = false;               // what the client sends is the command's input
    std::shared_ptr<workspace::Exec::Pace> pace;  // miss nothing
};

struct Followed {
    std::uint64_t stdout_bytes = 0, stderr_bytes = 0;  // sent
};

// Until the command has ended and what it wrote was sent, or there is no more of it. When the client leaves, its connection's error;
// the command goes on.
io::Task<Followed> follow_exec(rpc::Call& call, std::shared_ptr<rpc::Attachment> attachment, std::shared_ptr<workspace::Exec> exec, FollowRequest request);

}  // namespace pyro::service
