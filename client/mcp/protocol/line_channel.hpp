// Lines in and out of two descriptors: the framing, and nothing of what the lines say.
#pragma once
#include "common/unique_fd.hpp"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

namespace pyro::mcp {

// One thread, that of run(), reads and writes; any thread may send. Lines leave whole and in the order they were sent.
// A reader that is slow stops no reading: lines wait, and senders other than run()'s own thread are held where too many do.
class LineChannel {
public:
    static constexpr std::size_t max_line = 10u << 20;     // either way; clients give up on longer ones
    static constexpr std::size_t max_waiting = 64u << 20;  // bytes to be written, before nothing more is read

    enum class End { closed, broken, signalled };  // end of input; nobody reads the output; SIGTERM or SIGINT

    // Borrows both. `heed_signals`: SIGTERM and SIGINT end run(), and do nothing else from here on; for one channel of a process at a time.
    LineChannel(int in, int out, bool heed_signals);
    ~LineChannel();
    LineChannel(const LineChannel&) = delete;
    LineChannel& operator=(const LineChannel&) = delete;

    // `on_line` has each line without its end; `on_long_line` is called once for each that was too long, instead.
    End run(const std::function<void(std::string_view)>& on_line, const std::function<void()>& on_long_line);
    // `line` has no end of its own. False: nobody will read it.
    bool send(std::string line);
    // After run(): nothing more is sent, and senders that are held go on.
    void close();
    // After close(): writes what still waits, for so long at most.
    void flush(std::chrono::milliseconds limit);

private:
    void read_some(const std::function<void(std::string_view)>& on_line, const std::function<void()>& on_long_line);
    bool write_some();  // false: broken

    const int in_;
    const int out_;
    const bool heed_signals_;
    UniqueFd wake_;
    std::thread::id runner_;

    std::string partial_;     // of the line that is being read
    bool skipping_ = false;   // that line is too long
    bool input_ended_ = false;

    std::mutex mutex_;
    std::condition_variable drained_;
    std::deque<std::string> waiting_;
    std::size_t waiting_bytes_ = 0;
    std::size_t written_ = 0;  // of the first that waits
    bool closed_ = false;
};

}  // namespace pyro::mcp
