// The owner of background coroutines: nothing in the daemon runs detached.
#pragma once
#include "daemon/io/event.hpp"

#include <exception>
#include <functional>
#include <memory>

namespace pyro::io {

// Coroutines that serve one object. The owner stops and joins the group before it goes; destroying a group that still
// runs something is a bug and aborts. A coroutine that ends in anything but Cancelled is told to `on_failure`, which by
// default ends the process: an error nobody handles must not pass in silence.
class TaskGroup {
public:
    using OnFailure = std::function<void(std::exception_ptr)>;
    explicit TaskGroup(Executor executor, OnFailure on_failure = {});
    ~TaskGroup();
    TaskGroup(const TaskGroup&) = delete;
    TaskGroup& operator=(const TaskGroup&) = delete;

    void spawn(Task<void> task);
    // Keeps the closure alive as long as the coroutine it makes.
    void spawn(std::function<Task<void>()> body);

    std::stop_token token() const noexcept;
    void stop() noexcept;    // asks; tasks that were given token() end soon
    Task<void> join();       // waits until none is left
    std::size_t size() const noexcept;

private:
    struct State;
    std::shared_ptr<State> state_;
};

}  // namespace pyro::io
