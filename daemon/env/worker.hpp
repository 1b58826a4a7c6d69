// Running pyro-image for one job: a request in, progress and a result out.
#pragma once
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "common/error.hpp"
#include "daemon/io/task.hpp"
#include "daemon/supervise/supervisor.hpp"

namespace pyro::env {

// Where a pull is. Sent to everybody who waits for it.
struct Progress {
    std::string phase;    // resolve, download, bootstrap, verify, build, ready
    std::string digest;   // of the layer, in download
    std::uint64_t done = 0, total = 0;  // bytes; total 0 where it is not known
    std::string message;  // what mmdebstrap says it does
};
using ProgressSink = std::function<void(const Progress&)>;

// Where the worker finds what it is passed: the directory or file it works on, and from there on layers or certificates.
inline constexpr int worker_directory_fd = 4, worker_first_extra_fd = 10;

struct WorkerJob {
    std::string program;     // pyro-image
    std::string subcommand;
    std::string scope;       // unique among what runs
    std::vector<supervise::PassedFd> fds;            // above 3
    std::optional<supervise::Credentials> as;        // nothing: the daemon's own
    bool network = false;                            // the host's; else a namespace without any
    std::uint64_t memory_max = 0;                    // bytes, where the supervisor can limit them; 0: none
};

// The worker's result, or its error as Error. What it says is bounded and parsed as hostile input: it has read a registry's
// bytes. When it is over, however it ended, no process of the job is left.
io::Task<nlohmann::json> run_worker(supervise::Supervisor& supervisor, WorkerJob job, nlohmann::json request, ProgressSink progress, std::stop_token stop);

// The bytes of a stream, piece by piece, and nothing at its end. Throws when it breaks off.
using UploadSource = std::function<io::Task<std::optional<std::string>>(std::stop_token)>;
// The same for a job that is fed a stream: the worker reads it from the descriptor `number`. When the stream breaks off, that is
// what is thrown, whatever the worker made of its beginning; but what the worker refuses comes first.
io::Task<nlohmann::json> run_fed_worker(supervise::Supervisor& supervisor, WorkerJob job, nlohmann::json request, int number, UploadSource next,
                                        ProgressSink progress, std::stop_token stop);

// For a result that is not what was asked for.
Error unfitting_answer();

}  // namespace pyro::env
