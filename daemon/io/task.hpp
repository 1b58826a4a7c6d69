// The coroutine vocabulary of the daemon. Only daemon/io includes Asio's I/O headers; everything else awaits these.
#pragma once
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>

#include <chrono>
#include <coroutine>
#include <stop_token>

namespace pyro::io {

namespace asio = boost::asio;
using Executor = asio::any_io_executor;
template <class T>
using Task = asio::awaitable<T>;

// Waits that take a stop token throw Cancelled when it is asked for; with one exception, said where it applies.
Task<void> sleep_for(std::chrono::nanoseconds duration, std::stop_token stop = {});

// The executor of the calling coroutine.
Task<Executor> this_executor();

}  // namespace pyro::io
