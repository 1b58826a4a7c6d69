// The host's end of a guest's channel, and the commands that run through it.
#pragma once
#include "common/error.hpp"
#include "daemon/io/stream.hpp"
#include "daemon/io/task.hpp"
#include "proto/agent.hpp"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace pyro::agent {

namespace wire = proto::agent;
using wire::ExecSpec;
using wire::ExitStatus;
using wire::Hello;
using wire::Identity;
using wire::Workspace;

struct Chunk {
    wire::Output stream = wire::Output::out;
    std::string bytes;
    std::uint64_t offset = 0;  // of the first byte, absolute in its stream
};

struct ChannelState;
struct SessionState;

// One command in the guest. Belongs to whoever runs it; the channel must outlive its use. When the last owner goes, a command
// that still runs is killed and the guest forgets it, unless the channel was closed before: then it runs on for the next one.
// Everything that waits throws Error(guest_failed) once the guest is gone or broke the protocol.
class ExecSession {
public:
    ExecSession(std::shared_ptr<ChannelState> channel, std::shared_ptr<SessionState> state);
    ~ExecSession();
    ExecSession(const ExecSession&) = delete;
    ExecSession& operator=(const ExecSession&) = delete;

    std::uint32_t id() const noexcept;

    // The next bytes of either stream, in the order they came. To ask for the next is to have taken the last: only then are
    // its bytes acknowledged, so who stops reading stops the command. Nothing when both streams ended, or when the command ended
    // and what it wrote was read: processes it left behind do not hold it open. One reader at a time.
    io::Task<std::optional<Chunk>> read(std::stop_token stop);

    // Returns when all bytes are on their way or within the stream's window; waits while it is full. Bytes for a command that
    // reads no more are dropped. One writer at a time.
    io::Task<void> write_stdin(std::string bytes, std::stop_token stop);
    void close_stdin();

    void resize(std::uint16_t cols, std::uint16_t rows);
    void signal(int number);  // to the foreground process group of the terminal, else to the command's process group
    void kill();              // all processes of the command, also those that left its process group

    // The command runs, or will never: then exited() says why.
    io::Task<void> started(std::stop_token stop);
    io::Task<ExitStatus> exited(std::stop_token stop);

private:
    std::shared_ptr<ChannelState> channel_;
    std::shared_ptr<SessionState> state_;
};

// What the host still has of an earlier connection to the same guest.
struct Resumption {
    std::vector<wire::Attach::Resume> execs;  // which, and the offsets up to which their output was taken
};

// Owns one connected stream to the guest's port and speaks the protocol on it, from construction to close(). Frames may be
// queued before the guest runs: they travel with its start. What the guest says is bounded: at most output_window bytes are
// held for each output stream, and a guest that exceeds that or breaks the protocol in any way fails the channel.
class Channel {
public:
    // `resumption` is for a guest that was talked to before (a daemon that was restarted, not an image just restored).
    Channel(io::Executor executor, io::Stream connected, std::optional<Resumption> resumption = std::nullopt);
    ~Channel();  // close() comes before
    Channel(const Channel&) = delete;
    Channel& operator=(const Channel&) = delete;

    // May come again for a guest that goes on from an image.
    void start(const Identity& identity);
    // May be called at once, or after hello() where there is a resumption.
    // Error(invalid_argument) over max_spec, (quota_exceeded) over max_execs.
    std::shared_ptr<ExecSession> exec(const ExecSpec& spec);
    // Of an exec named in the resumption, or in the guest's hello. Once each; null when there is none.
    std::shared_ptr<ExecSession> adopt(std::uint32_t id);

    io::Task<Hello> hello(std::stop_token stop);
    // The last identity was applied and the root disk is there; Error(guest_failed) with the guest's reason otherwise.
    io::Task<void> ready(std::stop_token stop);
    // All that was written in the guest is on its disk.
    io::Task<void> sync(std::stop_token stop);
    // The root disk is written whole and stands still until thaw(), or so long; Error(guest_failed) where the guest cannot do that.
    io::Task<void> freeze(std::chrono::seconds most, std::stop_token stop);
    void thaw();
    // How many processes run that commands left behind whose sessions are gone.
    io::Task<std::uint32_t> count_left(std::stop_token stop);
    // Asks the guest to end everything, unmount and power off; returns when its end of the channel is gone.
    io::Task<void> shutdown(std::stop_token stop);
    io::Task<void> gone(std::stop_token stop);  // the connection ended, for whatever reason
    io::Task<void> close();                     // says nothing to the guest

    // Grows with every sound frame from the guest: what does not grow for long is stuck.
    std::uint64_t progress() const noexcept;
    // Why it failed, if it did.
    const std::optional<Error>& failure() const noexcept;

private:
    std::shared_ptr<ChannelState> state_;
};

}  // namespace pyro::agent
