// Waiting for something that another coroutine of the same thread does.
#pragma once
#include "daemon/io/task.hpp"

#include <cstdint>
#include <memory>

namespace pyro::io {

// A flag that can be awaited by any number of coroutines. Safe to destroy while somebody waits (the waiter gets Cancelled).
class Event {
public:
    explicit Event(Executor executor);
    ~Event();
    Event(Event&&) noexcept;
    Event& operator=(Event&&) noexcept;

    void set() noexcept;    // wakes all waiters; stays set
    void reset() noexcept;
    bool is_set() const noexcept;
    Task<void> wait(std::stop_token stop = {});

    struct State;

private:
    std::shared_ptr<State> state_;
};

// A counting semaphore between users: no key holds more than its share, and keys that wait are served in turn, whatever
// the number of waiters behind each. Within a key, in order of arrival. Without keys all are one user's; with one permit,
// that is a mutex across suspensions.
class Semaphore {
    struct State;

public:
    class Permit {  // gives its place back when destroyed
    public:
        Permit() = default;
        Permit(Permit&&) noexcept = default;
        Permit& operator=(Permit&& other) noexcept { release(); state_ = std::move(other.state_); key_ = other.key_; return *this; }
        ~Permit() { release(); }
        void release() noexcept;

    private:
        friend class Semaphore;
        Permit(std::shared_ptr<State> state, std::uint64_t key) : state_(std::move(state)), key_(key) {}
        std::shared_ptr<State> state_;
        std::uint64_t key_ = 0;
    };

    Semaphore(Executor executor, std::size_t permits) : Semaphore(std::move(executor), permits, permits) {}
    Semaphore(Executor executor, std::size_t permits, std::size_t per_key);
    Task<Permit> acquire(std::stop_token stop = {}) { return acquire(0, std::move(stop)); }
    Task<Permit> acquire(std::uint64_t key, std::stop_token stop = {});

private:
    std::shared_ptr<State> state_;
};

// A stop token that also fires when time is up. `expired()` tells the two apart.
class Deadline {
public:
    Deadline(Executor executor, std::chrono::nanoseconds after, std::stop_token parent);
    ~Deadline();
    Deadline(const Deadline&) = delete;
    Deadline& operator=(const Deadline&) = delete;
    std::stop_token token() const noexcept;
    bool expired() const noexcept;
    void extend(std::chrono::nanoseconds after);  // counts anew from now; no effect once expired

private:
    struct State;
    std::shared_ptr<State> state_;
};

}  // namespace pyro::io
