#include "daemon/io/task_group.hpp"

#include "common/error.hpp"

#include <boost/asio/co_spawn.hpp>

#include <cstdio>

namespace pyro::io {

struct TaskGroup::State {
    State(Executor e, OnFailure f) : executor(std::move(e)), on_failure(std::move(f)), idle(executor) { idle.set(); }
    Executor executor;
    OnFailure on_failure;
    std::stop_source source;
    std::size_t running = 0;
    Event idle;
};

TaskGroup::TaskGroup(Executor executor, OnFailure on_failure)
    : state_(std::make_shared<State>(std::move(executor), std::move(on_failure))) {}

TaskGroup::~TaskGroup() { PYRO_CHECK(state_->running == 0); }

void TaskGroup::spawn(Task<void> task) {
    ++state_->running;
    state_->idle.reset();
    asio::co_spawn(state_->executor, std::move(task), [state = state_](std::exception_ptr failure) {
        if (--state->running == 0) state->idle.set();
        if (!failure) return;
        try {
            std::rethrow_exception(failure);
        } catch (const Cancelled&) {
        } catch (const std::exception& e) {
            if (state->on_failure) return state->on_failure(failure);
            std::fprintf(stderr, "pyro: bug: a background task failed: %s\n", e.what());
            std::terminate();
        }
    });
}

namespace {
Task<void> keep_alive(std::function<Task<void>()> body) {
    Task<void> task = body();
    co_await std::move(task);
}
}  // namespace

void TaskGroup::spawn(std::function<Task<void>()> body) { spawn(keep_alive(std::move(body))); }

std::stop_token TaskGroup::token() const noexcept { return state_->source.get_token(); }
void TaskGroup::stop() noexcept { state_->source.request_stop(); }
std::size_t TaskGroup::size() const noexcept { return state_->running; }

Task<void> TaskGroup::join() {
    auto state = state_;
    std::stop_token never;
    while (state->running > 0) co_await state->idle.wait(never);
}

}  // namespace pyro::io
