// The agent's own program, run in a workspace: what is done to its files is done there, by it.
#pragma once
#include "daemon/workspace/workspace.hpp"
#include "proto/files.hpp"

#include <functional>
#include <string>
#include <vector>

namespace pyro::workspace {

using DownloadSink = std::function<io::Task<void>(std::string, std::stop_token)>;

struct GuestProgram {
    std::vector<std::string> words;  // "files", "read", ...
    UploadSource input;              // its standard input; empty: it has none
    DownloadSink output;             // takes its standard output; empty: it is kept for the answer
    bool may_fail = false;           // its failure is part of the answer
};

struct GuestAnswer {
    std::string out;                 // at most max_guest_answer bytes
    std::string err;
    std::optional<Error> failure;
};
inline constexpr std::size_t max_guest_answer = 64u << 20;

// Starts the workspace if it sleeps. When the program fails, its failure is thrown; when the source, the sink or the caller stops
// first, the program is killed. What comes from the guest is not to be believed: whoever decodes it checks it.
io::Task<GuestAnswer> run_guest_program(std::shared_ptr<Workspace> workspace, GuestProgram program, std::stop_token stop);

// The records in what a program said, in order; Error(guest_failed) when they are not what they should be.
std::vector<proto::files::Record> records_of(std::string_view said, proto::files::Decoder::Stream stream = proto::files::Decoder::Stream::entries);
// The last of them.
const proto::files::Done& done_of(const std::vector<proto::files::Record>& records);

}  // namespace pyro::workspace
