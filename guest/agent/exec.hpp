// One command of the guest: its process, its cgroup, its streams.
#pragma once
#include "common/unique_fd.hpp"
#include "guest/agent/ring.hpp"
#include "proto/agent.hpp"

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

namespace pyro::guest {

// Which of an exec's descriptors an event is about.
enum class Source : std::uint32_t { input = 0, out = 1, err = 2, start = 3 };

// The epoll set, as an exec sees it. Registered descriptors are level-triggered; nothing to do means not registered, since a
// hang-up is reported whether asked for or not.
class Poll {
public:
    virtual ~Poll() = default;
    virtual void watch(int fd, bool writable, std::uint32_t exec, Source source) = 0;
    virtual void forget(int fd) = 0;
};

// A process made ahead of the command that it is to become: in a cgroup of its own, with its pipes, waiting to be told. Making it
// is most of what a start costs.
struct Standby {
    pid_t pid = 0;
    std::string cgroup;
    UniqueFd memory_events; // of its cgroup
    UniqueFd in, out, err;  // our ends of its streams
    UniqueFd order;         // what it is to become; without one it ends
    UniqueFd start;         // its word: that it waits, then why it did not become that, or an end when it did
    bool waits = false;     // it has said so
};
// Throws Error. The cgroup is empty where there are none.
Standby stand_by(std::string cgroup);
// What a standby says before it is told anything: false when it is of no use.
bool hear(Standby& standby);

// Lives until the host releases it. The main process's end is reported once what it wrote is on its way; processes it left
// behind live on in the cgroup until killed.
class Exec {
public:
    struct Output {
        Ring ring{proto::agent::output_window};
        UniqueFd fd;                  // until the stream ended
        std::uint64_t sent = 0;       // on this connection
        bool watched = false;
        bool end_pending = false;     // the host was not told of the end on this connection
        bool drained = false;         // since the main process ended: all it wrote is in the ring
        std::uint64_t read_since_exit = 0;
        std::size_t read_size = 64 << 10;  // grows with a stream that fills it
        bool ended() const noexcept { return !fd; }
    };

    Exec(std::uint32_t number, Poll& poll);
    ~Exec();

    // Forks, or tells the standby what to become. A command that cannot be started has a status of `not_started` at once or when
    // its exec failed.
    void start(const proto::agent::ExecSpec& spec, const std::vector<std::string>& base_env, std::string cgroup);
    void start(const proto::agent::ExecSpec& spec, const std::vector<std::string>& base_env, Standby standby);
    static bool may_use_standby(const proto::agent::ExecSpec& spec) noexcept { return !spec.tty; }
    void fail(int exit_code, int error_number, const std::string& what);

    void on_readable(Source stream);      // output
    void on_writable();                   // stdin
    void on_start();                      // exec happened, or its error came
    void on_exit(int wait_status);        // the main process was reaped

    void take_input(std::uint64_t offset, std::string_view bytes);  // which stay where they are until
    void deliver_input();                                           // gives them to the command, or keeps what it does not take
    // Whether input of this offset and length could be moved there instead, by pages, `before` bytes behind what it was given.
    bool takes_pages(std::uint64_t offset, std::size_t length, std::size_t before) const noexcept;
    void take_pages(int pipe, std::size_t count);                   // of that pipe: what the command does not take is kept
    void end_input(std::uint64_t offset);
    void resize(std::uint16_t cols, std::uint16_t rows) noexcept;
    void signal(int number) noexcept;
    void kill() noexcept;
    void acknowledge(proto::agent::Output which, std::uint64_t offset);
    // A new connection: send from here, and tell again what was told before.
    void resume(std::uint64_t out, std::uint64_t err);

    std::uint32_t number() const noexcept { return number_; }
    pid_t pid() const noexcept { return pid_; }  // 0 once reaped
    Output& output(proto::agent::Output which) { return outputs_[which == proto::agent::Output::out ? 0 : 1]; }
    std::array<Output, 2>& outputs() { return outputs_; }
    std::uint64_t input_taken() const noexcept { return input_.begin(); }
    bool input_closed() const noexcept { return input_closed_; }
    const std::optional<proto::agent::ExitStatus>& status() const noexcept { return status_; }
    const std::optional<proto::agent::Started>& started() const noexcept { return started_; }
    bool exit_deliverable() const noexcept;  // known, and all output before it was sent
    const std::string& cgroup() const noexcept { return cgroup_; }

    // What the host was not yet told on this connection.
    bool started_pending = false, exit_pending = false, input_ack_pending = false;

private:
    void start(const proto::agent::ExecSpec& spec, const std::vector<std::string>& base_env, std::optional<Standby> standby);
    void watch_output(Source source);
    void flush_input();
    void close_input();
    void acknowledge_input_if_due();

    std::uint32_t number_;
    Poll& poll_;
    pid_t pid_ = 0;
    std::string cgroup_;
    std::string program_, directory_;  // what a start that failed names
    UniqueFd memory_events_;
    bool tty_ = false;
    std::array<Output, 2> outputs_;
    Ring input_{proto::agent::input_window};
    std::vector<std::string_view> arrived_;  // what follows on input_, not yet delivered
    std::size_t arrived_size_ = 0;
    UniqueFd input_fd_;
    bool input_watched_ = false, input_closed_ = true;
    std::optional<std::uint64_t> input_end_;
    std::uint64_t input_acknowledged_ = 0;
    UniqueFd start_fd_;  // says why exec failed; closed by a successful one
    std::optional<proto::agent::Started> started_;
    std::optional<proto::agent::ExitStatus> status_;
    std::uint64_t started_at_ = 0;
};

// Once, before anything of a disk runs: opens this program for commands that are its own (ExecSpec::builtin). Throws Error.
void keep_own_program();

// The program that PATH names, as a shell would find it, in this root.
std::string find_program(const std::string& name, const std::string& path);
// Later entries override earlier ones of the same name.
std::vector<std::string> merge_env(const std::vector<const std::vector<std::string>*>& layers);

}  // namespace pyro::guest
