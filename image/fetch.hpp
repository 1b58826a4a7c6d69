// The subcommand that speaks to a registry (OCI distribution protocol).
#pragma once
#include <memory>
#include <nlohmann/json_fwd.hpp>

#include "image/protocol.hpp"

namespace pyro::image {

// {"reference":"docker.io/library/debian:12" (for messages), "endpoint":"https://registry-1.docker.io",
//  "repository":"library/debian", "selector":"12"|"sha256:…", "directory_fd":4, "have":["<hex>",…] (blobs not to be loaded),
//  "have_with":{"sha256:…" (of a manifest):["<hex>",…]} (the same, once the registry has shown that manifest),
//  "max_bytes":n, "room_bytes":n (of disk; what needs more is refused before it is downloaded), "hosts":{"host[:port]":{"plain_http":bool,"allow_private":bool,"ca_fd":n}},
//  "credentials":{"username","password"}|{"identity_token"}|absent, "http_proxy","https_proxy","no_proxy", "connect_seconds",
//  "low_speed_bytes", "low_speed_seconds", "document_seconds", "attempts", "unreachable_attempts", "retry_base_ms"}
// -> {"manifest_digest","resolved_digest" (of the index or manifest the selector named),"manifest_size",
//     "authenticated" (the registry was told who asks),"config_digest","config_size",
//     "layers":[{"digest","diff_id","size"}],"config":{"user","working_dir","env","cmd","entrypoint"}}
// Files appear in the directory under the hex of their digest, only whole and verified; "<hex>.part" is what can be resumed.
// An error's details say {"cause":"unreachable"} when the registry never answered, and {"credentials":"none"} when it
// might say something else to who is known to it.
class FetchJob {
public:
    explicit FetchJob(const nlohmann::json& request);  // reads what the sandbox will shut away
    ~FetchJob();
    nlohmann::json run(Events& events);

private:
    class Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace pyro::image
