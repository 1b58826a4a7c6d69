// Short blocking work (hashing, SQLite with sync, file reads) off the domain thread.
#pragma once
#include "daemon/io/task.hpp"

#include <functional>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

namespace pyro::io {

class WorkerPool {
public:
    explicit WorkerPool(std::size_t threads);
    ~WorkerPool();  // waits for what runs
    // Runs the job on a worker thread and resumes the caller on its own; exceptions are carried over.
    Task<void> run(std::function<void()> job);

private:
    struct State;
    std::unique_ptr<State> state_;
};

// What belongs to the domain thread must not be reachable from `work`, not even by a capture: values in, a value out.
template <class F>
Task<std::invoke_result_t<F>> offload(WorkerPool& pool, F work) {
    using Result = std::invoke_result_t<F>;
    auto shared = std::make_shared<F>(std::move(work));
    if constexpr (std::is_void_v<Result>) {
        std::function<void()> job = [shared] { (*shared)(); };
        shared.reset();
        co_await pool.run(std::move(job));
    } else {
        auto result = std::make_shared<std::optional<Result>>();
        std::function<void()> job = [shared, result] { result->emplace((*shared)()); };
        shared.reset();
        co_await pool.run(std::move(job));
        co_return std::move(**result);
    }
}

}  // namespace pyro::io
