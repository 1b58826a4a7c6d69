// Connected byte streams over Unix sockets and pipes, and the sockets that accept them.
#pragma once
#include "common/unique_fd.hpp"
#include "daemon/io/task.hpp"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <sys/types.h>

namespace pyro::io {

// The kernel's word on who connected (SO_PEERCRED).
struct PeerCredentials {
    pid_t pid = 0;
    uid_t uid = 0;
    gid_t gid = 0;
};

// One reader and one writer coroutine at a time. Reads share one buffer, so a connection may go from lines to frames.
class Stream {
public:
    Stream(Executor executor, UniqueFd connected);  // takes any pollable descriptor and makes it non-blocking
    ~Stream();
    Stream(Stream&&) noexcept;
    Stream& operator=(Stream&&) noexcept;

    static Task<Stream> connect(std::string path, std::stop_token stop = {});

    // Up to `into.size()` bytes, at least one; 0 at the end of the stream.
    Task<std::size_t> read_some(std::span<char> into, std::stop_token stop = {});
    // False at a clean end before the first byte; Error(unavailable) at an end in the middle.
    Task<bool> read_exactly(std::span<char> into, std::stop_token stop = {});
    // One line without its newline; nothing at the end of the stream, where a line without newline is dropped.
    // Error(invalid_argument) once `limit` bytes came without a newline.
    Task<std::optional<std::string>> read_line(std::size_t limit, std::stop_token stop = {});
    // Error(unavailable) when the other side is gone.
    Task<void> write_all(std::string bytes, std::stop_token stop = {});
    Task<void> write_from(std::string_view bytes, std::stop_token stop = {});  // the caller's, until it returns
    // The same for a short message that carries a descriptor (SCM_RIGHTS), into a socket that has room: whole, or Error(unavailable).
    void send_with_fd(std::string_view bytes, int fd);

    PeerCredentials peer() const;
    int native_handle() const noexcept;
    void shutdown_write() noexcept;
    void shutdown_read() noexcept;  // what the other side sends from now on is an error there
    // Whether, and until, the other side has closed both directions. After an end of the stream this tells a peer that is
    // gone from one that only has no more to say.
    bool hung_up() const noexcept;
    Task<void> wait_hangup(std::stop_token stop);
    void close() noexcept;  // whoever waits gets Cancelled or Error(unavailable)

private:
    struct State;
    std::shared_ptr<State> state_;
};

// A bound and listening socket at `path`, mode as given; an old socket file is replaced. Paths over 100 bytes are refused.
UniqueFd listen_unix(const std::string& path, unsigned mode);

class Listener {
public:
    Listener(Executor executor, UniqueFd listening);
    ~Listener();
    Task<Stream> accept(std::stop_token stop = {});
    void close() noexcept;

private:
    struct State;
    std::shared_ptr<State> state_;
};

// Waits until a descriptor (a pidfd, an inotify) is readable. Does not own it.
Task<void> wait_readable(int fd, std::stop_token stop = {});

}  // namespace pyro::io
