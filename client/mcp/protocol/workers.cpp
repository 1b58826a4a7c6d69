#include "client/mcp/protocol/workers.hpp"

#include <system_error>

namespace pyro::mcp {

Workers::~Workers() {
    for (std::thread& thread : threads_) thread.join();
}

bool Workers::start(std::function<void()> job) {
    const std::lock_guard lock(mutex_);
    const bool has_thread = idle_ > waiting_.size();
    const bool may_grow = threads_.size() < max_running_;
    if (!has_thread && !may_grow && waiting_.size() >= max_waiting_) return false;
    waiting_.push_back(std::move(job));
    if (!has_thread && may_grow) {
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
        ++idle_;
        job_came_.wait(lock, [this] { return finished_ || !waiting_.empty(); });
        --idle_;
        if (finished_) break;
        const std::function<void()> job = std::move(waiting_.front());
        waiting_.pop_front();
        lock.unlock();
        job();
        lock.lock();
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
