// The one domain thread.
#pragma once
#include "daemon/io/task.hpp"

#include <functional>
#include <initializer_list>
#include <memory>

namespace pyro::io {

class Loop {
public:
    Loop();
    ~Loop();
    Executor executor() const;
    // Runs `main` and everything it started, until nothing is left; rethrows what `main` threw. A main that returned
    // while other coroutines can never end is a bug that shows as a hang: owners join their groups first.
    void run(std::function<Task<void>()> main);

private:
    struct State;
    std::unique_ptr<State> state_;
};

// The next of the given signals that arrives. One waiter at a time; signals in between are kept.
class Signals {
public:
    Signals(Executor executor, std::initializer_list<int> signals);
    ~Signals();
    Task<int> next(std::stop_token stop = {});

private:
    struct State;
    std::shared_ptr<State> state_;
};

}  // namespace pyro::io
