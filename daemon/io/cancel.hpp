// Ties one Asio operation to a stop token. Private to daemon/io.
#pragma once
#include "common/error.hpp"
#include "daemon/io/task.hpp"

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <functional>

namespace pyro::io {

// Lives in the frame of the coroutine that runs the operation, one object per operation. Throws Cancelled when the stop
// came before: an operation not yet started has nothing to cancel.
class CancelOn {
public:
    explicit CancelOn(std::stop_token stop)
        : callback_(fail_if_stopped(std::move(stop)), [this] { signal_.emit(asio::cancellation_type::terminal); }) {}

    auto token(boost::system::error_code& ec) {
        return asio::bind_cancellation_slot(signal_.slot(), asio::redirect_error(asio::use_awaitable, ec));
    }

private:
    static std::stop_token fail_if_stopped(std::stop_token stop) {
        if (stop.stop_requested()) throw Cancelled();
        return stop;
    }
    asio::cancellation_signal signal_;
    std::stop_callback<std::function<void()>> callback_;
};

}  // namespace pyro::io
