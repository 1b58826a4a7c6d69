// What a library pushes or pulls, as a descriptor that the call's loop polls: a pair of sockets, and a thread at their other end.
#pragma once
#include "client/lib/connection.hpp"
#include "client/seed/tar_stream.hpp"

#include <atomic>
#include <functional>
#include <future>
#include <stop_token>
#include <thread>

namespace pyro::client {

// Bytes for a call that takes them. `produce` runs in a thread of its own, once the daemon asks for them. What it throws
// cancels the call and is thrown by it: half of it is never taken for the whole. Its destruction stops and joins it.
class Upload {
public:
    using Produce = std::function<void(const seed::Sink&, std::stop_token)>;
    // `afterwards`, if any, runs in the thread when all bytes are on their way; it throws nothing.
    explicit Upload(Produce produce, std::function<void()> afterwards = {});
    ~Upload();
    Upload(const Upload&) = delete;
    Upload& operator=(const Upload&) = delete;

    void connect(Streams& streams);
    bool started() const { return started_; }                    // the daemon asked for the bytes
    void join() { if (thread_.joinable()) thread_.join(); }      // `afterwards` too

private:
    void start();

    Produce produce_;
    std::function<void()> afterwards_;
    UniqueFd near_, far_;
    std::promise<void> produced_;
    bool started_ = false;
    std::jthread thread_;
};

// Bytes of a call that sends them. `consume` runs in a thread of its own and is told the end of the bytes only when the call has
// succeeded; before that it is Cancelled: nothing is put in place of a stream that was broken off.
class Download {
public:
    using Consume = std::function<void(const seed::Source&, std::stop_token)>;
    explicit Download(Consume consume);
    ~Download();
    Download(const Download&) = delete;
    Download& operator=(const Download&) = delete;

    // The call, with its stream connected; returns when all is consumed. Throws what either side threw first.
    nlohmann::json call(Connection& daemon, std::string_view method, const nlohmann::json& params, CallOptions options);

private:
    std::string_view next();

    UniqueFd near_, far_;
    std::string buffer_;
    std::atomic<bool> whole_ = false;
    std::promise<void> consumed_;
    std::jthread thread_;
};

}  // namespace pyro::client
