#include "daemon/io/offload.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace pyro::io {

struct WorkerPool::State {
    explicit State(std::size_t threads) : pool(threads) {}
    asio::thread_pool pool;
};

WorkerPool::WorkerPool(std::size_t threads) : state_(std::make_unique<State>(threads)) {}
WorkerPool::~WorkerPool() { state_->pool.join(); }

namespace {
Task<void> on_worker(std::function<void()> job) {
    job();
    job = nullptr;  // what the job captured dies on the worker, before the caller goes on
    co_return;
}
}  // namespace

Task<void> WorkerPool::run(std::function<void()> job) {
    // post(pool, use_awaitable) would resume on the caller's executor and run the job there.
    Task<void> work = on_worker(std::move(job));
    co_await asio::co_spawn(state_->pool.get_executor(), std::move(work), asio::use_awaitable);
}

}  // namespace pyro::io
