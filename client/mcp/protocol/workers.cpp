#include "client/mcp/protocol/workers.hpp"

#include <system_error>

namespace pyro::mcp {

Workers::~Workers() {
    for (std::thread& thread : threads_) thread.join();
}

bool Workers::start(std::function<void()> job) {
    const std::lock_guard lock(mutex_);
    const std::size_t load = busy_ + waiting_.size();
    if (load >= max_running_ + max_waiting_) return false;
    waiting_.push_back(std::move(job));
    if (load >= threads_.size() && threads_.size() < max_running_) {
        try {
            threads_.emplace_back([this] { work(); });
            ++alive_;
        } catch (const std::system_error&) {  // no more threads on this host: those there are will do
            if (threads_.empty()) {
                waiting_.pop_back();
                return false;
            }
        }
    }
    job_came_.notify_one();
    return true;
}

void Workers::work() {
    std::unique_lock lock(mutex_);
    for (;;) {
        job_came_.wait(lock, [this] { return finished_ || !waiting_.empty(); });
        if (finished_) break;
        ++busy_;
        const std::function<void()> job = std::move(waiting_.front());
        waiting_.pop_front();
        lock.unlock();
        job();
        lock.lock();
        --busy_;
    }
    --alive_;
    thread_ended_.notify_all();
}

bool Workers::finish(std::chrono::milliseconds limit) {
    std::unique_lock lock(mutex_);
    finished_ = true;
    waiting_.clear();
    job_came_.notify_all();
    return thread_ended_.wait_for(lock, limit, [this] { return alive_ == 0; });
}

}  // namespace pyro::mcp
