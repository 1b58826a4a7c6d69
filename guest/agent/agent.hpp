// The agent: one thread, one epoll set, one port. Frames in, commands run, frames out.
#pragma once
#include "common/unique_fd.hpp"
#include "guest/agent/exec.hpp"
#include "proto/agent.hpp"

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace pyro::guest {

// What differs between PID 1 of a guest and the same agent as an ordinary process on a socket, as the tests run it.
struct Surroundings {
    UniqueFd port;                 // the port's device, for ever; or
    UniqueFd listener;             // a listening socket, whose connections come one after the other
    bool own_cgroups = false;
    std::function<void()> enter;   // the root disk, before the first identity
    std::function<void(const proto::agent::Identity&)> apply;
    std::function<void()> power_off;
    std::function<void(bool)> freeze;  // the root disk's file system, and thaw it; throws Error. None: that cannot be
};

class Agent : private Poll {
public:
    explicit Agent(Surroundings surroundings);
    ~Agent() override;
    void run();  // returns only when `power_off` does

private:
    void watch(int fd, bool writable, std::uint32_t exec, Source source) override;
    void forget(int fd) override;

    void run_once(bool wait);
    void on_event(std::uint64_t tag);
    void reap();
    void use_port(UniqueFd port);
    void read_port();
    void read_bytes(std::size_t limit);
    void take_frames();
    // Input of commands that is much goes from the port to them by pages, without a copy: through a pipe of ours, where a frame waits to be whole.
    std::size_t bytes_to_read(std::size_t budget);
    std::size_t stage(std::size_t budget);           // how many bytes of the frame that goes this way
    void unstage();                                  // that frame goes the other way
    void deliver_staged();
    void discard_staged(std::size_t count);
    void write_port();
    std::size_t write_some(std::string_view bytes);  // how many the port took
    bool write_in_place();                           // a frame of each output of the next exec that has much of it, while out_ is empty
    bool write_in_place(Exec& exec, proto::agent::Output which);
    void fill();                                     // the next other frames into out_
    void fill_output(Exec& exec, proto::agent::Output which);
    std::size_t out_room() const noexcept;           // for a payload
    void send(proto::agent::FrameType type, std::uint32_t stream, std::uint64_t offset, std::string_view head, std::string_view bytes = {});

    void on_frame(const proto::agent::Frame& frame);
    void on_attach(const proto::agent::Frame& frame);
    void on_start(const proto::agent::Frame& frame);
    void on_exec(const proto::agent::Frame& frame);
    void stand_by_if_idle();
    void drop_standby();
    Standby take_standby();
    std::string make_cgroup();                       // empty where there are none
    void remove_left_cgroups();
    std::uint32_t count_left() const;
    void read_boot_id();
    void on_freeze(const proto::agent::Frame& frame);
    void thaw() noexcept;

    Surroundings surroundings_;
    UniqueFd epoll_, children_, port_, wake_, thaw_;
    proto::agent::FrameDecoder decoder_{0, true};
    bool readable_ = false, writable_ = false, gone_ = false;
    struct Staged {
        UniqueFd in, out;                            // the pipe; none where it does not work
        std::uint32_t exec = 0;                      // whose input it holds
        std::size_t whole = 0;                       // bytes of whole frames, and behind them
        std::size_t begun = 0, missing = 0;          // the frame that comes
        bool in_step = false;                        // the last frame was input: the next thing that comes is a header
    } staged_;
    bool hello_pending_ = false, ready_pending_ = false, synced_pending_ = false;
    std::uint64_t count_asked_ = 0, count_answered_ = 0;
    bool frozen_ = false;
    std::optional<std::uint64_t> freeze_answer_;     // to the question of that number
    std::string freeze_failure_;
    bool entered_ = false;                           // the root disk, once
    bool started_ = false;                           // with the last identity
    std::uint64_t start_number_ = 0;                 // of the last start
    bool power_off_ = false;
    std::string failure_;                            // of the last start
    std::vector<std::string> base_env_;
    std::string boot_id_;
    std::string spec_;                               // of the exec whose frames are coming
    std::uint32_t spec_of_ = 0;
    std::uint32_t last_exec_ = 0;
    std::map<std::uint32_t, std::unique_ptr<Exec>> execs_;
    std::optional<Standby> standby_;
    bool standby_due_ = false;
    std::uint64_t cgroups_made_ = 0;
    std::vector<std::string> left_cgroups_;          // of released execs, until empty
    std::uint32_t next_turn_ = 0, next_in_place_ = 0;  // after whom output goes first
    // Whole frames on their way to the port: at most port_write bytes, so that they are one buffer of its driver.
    std::unique_ptr<char[]> out_;
    std::size_t out_at_ = 0, out_end_ = 0;
};

}  // namespace pyro::guest
