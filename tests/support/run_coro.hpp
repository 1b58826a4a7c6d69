// Runs a coroutine on a loop of its own and fails the test if it throws; returns only when nothing is left to run.
#pragma once
#include "daemon/io/loop.hpp"

namespace pyro::test {
inline void run_coro(std::function<io::Task<void>()> body) {
    io::Loop loop;
    loop.run(std::move(body));
}
}  // namespace pyro::test
