// Threads for handlers: as many as are needed at once, up to a limit, behind which jobs wait.
#pragma once
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace pyro::mcp {

class Workers {
public:
    Workers(std::size_t max_running, std::size_t max_waiting) : max_running_(max_running), max_waiting_(max_waiting) {}
    ~Workers();  // joins: after finish(), and after it returned true
    Workers(const Workers&) = delete;
    Workers& operator=(const Workers&) = delete;

    // From one thread. False: too many wait. Jobs throw nothing.
    bool start(std::function<void()> job);
    // No more jobs; those that wait are dropped. False: some still run when the limit is over.
    bool finish(std::chrono::milliseconds limit);

private:
    void work();

    const std::size_t max_running_;
    const std::size_t max_waiting_;
    std::mutex mutex_;
    std::condition_variable job_came_;
    std::condition_variable thread_ended_;
    std::deque<std::function<void()>> waiting_;
    std::vector<std::thread> threads_;
    std::size_t busy_ = 0;
    std::size_t alive_ = 0;
    bool finished_ = false;
};

}  // namespace pyro::mcp
