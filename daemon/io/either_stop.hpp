// Two reasons to stop, as one.
#pragma once
#include <stop_token>
#include <utility>

namespace pyro::io {

// Stops when either does.
class EitherStop {
public:
    EitherStop(std::stop_token a, std::stop_token b) : a_(std::move(a), Request{source_}), b_(std::move(b), Request{source_}) {}
    std::stop_token token() const noexcept { return source_.get_token(); }

private:
    struct Request {
        std::stop_source source;
        void operator()() noexcept { source.request_stop(); }
    };
    std::stop_source source_;
    std::stop_callback<Request> a_, b_;
};

}  // namespace pyro::io
