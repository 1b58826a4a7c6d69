#include "daemon/io/loop.hpp"

#include "common/error.hpp"
#include "daemon/io/cancel.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>

#include <csignal>

namespace pyro::io {

struct Loop::State {
    asio::io_context context{1};
};

Loop::Loop() : state_(std::make_unique<State>()) {
    // A peer that is gone is an error code here, not a signal. Children get the default back (supervise).
    std::signal(SIGPIPE, SIG_IGN);
}
Loop::~Loop() = default;
Executor Loop::executor() const { return state_->context.get_executor(); }

namespace {
Task<void> run_main(std::function<Task<void>()> main) {
    Task<void> task = main();
    co_await std::move(task);
}
}  // namespace

void Loop::run(std::function<Task<void>()> main) {
    std::exception_ptr failure;
    asio::co_spawn(state_->context, run_main(std::move(main)), [&failure](std::exception_ptr e) { failure = e; });
    state_->context.restart();
    state_->context.run();
    if (failure) std::rethrow_exception(failure);
}

struct Signals::State {
    explicit State(Executor executor) : set(executor) {}
    asio::signal_set set;
};

Signals::Signals(Executor executor, std::initializer_list<int> signals) : state_(std::make_shared<State>(std::move(executor))) {
    for (const int signal : signals) state_->set.add(signal);
}
Signals::~Signals() = default;

Task<int> Signals::next(std::stop_token stop) {
    auto state = state_;
    CancelOn cancel(stop);
    boost::system::error_code ec;
    auto token = cancel.token(ec);
    const int signal = co_await state->set.async_wait(token);
    if (ec) throw Cancelled();
    co_return signal;
}

}  // namespace pyro::io
