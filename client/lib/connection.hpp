// A client's connection to pyrod: blocking, one call at a time, everything bounded. The C++ SDK begins here.
//
//   client::Connection daemon;
//   auto vms = daemon.call<proto::VmList>({});
#pragma once
#include "client/lib/capture.hpp"
#include "client/lib/signals.hpp"
#include "common/error.hpp"
#include "common/unique_fd.hpp"
#include "proto/codec.hpp"
#include "proto/events.hpp"

#include <nlohmann/json.hpp>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace pyro::client {

inline constexpr std::string_view default_socket = "/run/pyro/pyrod.sock";

// What was asked for, else PYRO_SOCKET, else the default.
std::string socket_path(const std::string& asked = {});
// The command that starts the daemon that would listen there.
std::string how_to_start(const std::string& socket);

struct ConnectOptions {
    std::string socket;                                   // empty: as socket_path() says
    std::chrono::milliseconds patience{10'000};           // for the connection and the daemon's greeting
};

// The user ended the call. `signal` says how.
class Interrupted : public Cancelled {
public:
    explicit Interrupted(int signal_number) noexcept : signal(signal_number) {}
    int signal;
};

// The user left what was attached to, and it goes on.
class Left : public std::exception {
public:
    const char* what() const noexcept override { return "left"; }
};

// Whoever read our output has gone; the command was cancelled.
class OutputClosed : public std::exception {
public:
    const char* what() const noexcept override { return "the reader of the output has gone"; }
};

// Ends a call from another thread, before it begins or while it runs. What was asked for once holds for every call it is given to.
class CallStop {
public:
    enum class What { nothing, cancel, leave };
    CallStop();
    void cancel() noexcept { ask(What::cancel); }  // the daemon ends what it does; the call throws Cancelled
    void leave() noexcept { ask(What::leave); }    // the connection is closed, what it was attached to goes on; the call throws Left
    What what() const noexcept { return what_; }
    int fd() const noexcept { return fd_.get(); }  // readable once something was asked for

private:
    void ask(What what) noexcept;
    UniqueFd fd_;
    std::atomic<What> what_ = What::nothing;
};

// Where a stream of the command goes: a file descriptor, memory, or whoever takes it.
struct Output {
    int fd = -1;
    Capture* capture = nullptr;
    std::string* whole = nullptr;  // all of it, for what the request itself bounds
    std::function<void(std::string_view)> take = {};
};
inline constexpr std::size_t max_whole = (std::size_t{1} << 30) + (64u << 10);

struct WindowSize {
    std::uint16_t cols;
    std::uint16_t rows;
};

// The near end of a command's streams, or of the bytes that a call carries up (on `in`) or down (on `out`).
struct Streams {
    int in = -1;  // read and passed on, its end too; -1: nothing is
    Output out, err;
    // `in` is an upload. Its end says that it is whole: so what cannot be read, and what `input_ended` throws, cancels the call
    // without one, and is thrown by it.
    bool upload = false;
    std::function<void()> input_ended;                    // asked before the end is passed on
    bool terminal = false;                                // `in` is a raw one: Ctrl-C is a byte, until the first output it cancels
    bool leave_keys = false;                              // Ctrl-P Ctrl-Q on `in` throw Left
    std::function<void(const proto::ExecStarted&)> started;  // which command this is
    std::function<void()> attached;                       // the streams are connected; the command may still have to start
    std::function<void()> before_output;                  // once, before the first byte is written
    std::function<std::optional<WindowSize>()> window;    // asked on SIGWINCH
    std::function<void()> continued;                      // on SIGCONT
    std::uint64_t out_written = 0, err_written = 0;       // what came and was written so far, kept up to date
};

struct CallOptions {
    std::function<void(const proto::Progress&)> on_progress;
    Signals* signals = nullptr;  // INT, TERM, HUP and QUIT cancel the call (the second one leaves at once); WINCH resizes
    bool signals_leave = false;  // those four close the connection instead: what it was attached to goes on
    CallStop* stop = nullptr;
    Streams* streams = nullptr;  // for methods that stream
};

class Connection {
public:
    // Connects and exchanges versions. Throws Error(unavailable | failed_precondition) whose hint is the cure.
    explicit Connection(ConnectOptions options = {});

    const std::string& socket() const { return options_.socket; }
    const std::string& daemon_version() const { return daemon_version_; }

    // Throws the daemon's Error, or Interrupted, OutputClosed.
    template <class M>
    typename M::Result call(const typename M::Params& params, const CallOptions& options = {}) {
        return proto::from_wire<typename M::Result>(call(M::name, proto::to_wire(params), options), proto::Unknown::ignore);
    }
    // Where a registry refuses an environment to who gives no credentials, the user's own are looked for, the environment is
    // pulled with them, and the call made again.
    nlohmann::json call(std::string_view method, const nlohmann::json& params, const CallOptions& options = {});

private:
    friend class CallLoop;
    Error explain(Error error) const;  // adds which side to upgrade, where versions differ

    ConnectOptions options_;
    UniqueFd fd_;
    std::string unread_;
    std::string daemon_version_;
    std::int64_t last_id_ = 0;
};

}  // namespace pyro::client
