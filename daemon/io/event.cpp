#include "daemon/io/event.hpp"

#include "common/error.hpp"
#include "daemon/io/cancel.hpp"

#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>

#include <deque>
#include <map>

namespace pyro::io {

Task<Executor> this_executor() {
    Executor executor = co_await asio::this_coro::executor;
    co_return executor;
}

Task<void> sleep_for(std::chrono::nanoseconds duration, std::stop_token stop) {
    Executor executor = co_await asio::this_coro::executor;
    asio::steady_timer timer(executor, std::chrono::duration_cast<std::chrono::steady_clock::duration>(duration));
    CancelOn cancel(stop);
    boost::system::error_code ec;
    auto token = cancel.token(ec);
    co_await timer.async_wait(token);
    if (ec) throw Cancelled();
}

struct Event::State {
    explicit State(Executor executor) : timer(executor, asio::steady_timer::time_point::max()) {}
    asio::steady_timer timer;
    bool set = false;
    bool gone = false;
};

Event::Event(Executor executor) : state_(std::make_shared<State>(std::move(executor))) {}
Event::Event(Event&&) noexcept = default;
Event& Event::operator=(Event&&) noexcept = default;

Event::~Event() {
    if (!state_) return;
    state_->gone = true;
    state_->timer.cancel();
}

void Event::set() noexcept {
    state_->set = true;
    state_->timer.cancel();
}

void Event::reset() noexcept { state_->set = false; }
bool Event::is_set() const noexcept { return state_->set; }

namespace {
Task<void> wait_on(std::shared_ptr<Event::State> state, std::stop_token stop) {
    while (!state->set) {
        if (state->gone) throw Cancelled();
        CancelOn cancel(stop);
        boost::system::error_code ec;
        auto token = cancel.token(ec);
        co_await state->timer.async_wait(token);
    }
}
}  // namespace

Task<void> Event::wait(std::stop_token stop) { return wait_on(state_, std::move(stop)); }

struct Semaphore::State {
    State(Executor e, std::size_t n, std::size_t share) : executor(std::move(e)), permits(n), per_key(share) {}
    struct User {
        std::size_t held = 0;
        std::deque<std::shared_ptr<Event>> queue;  // a set event owns the permit it was given
    };
    Executor executor;
    std::size_t permits, per_key;
    std::map<std::uint64_t, User> users;
    std::uint64_t last = 0;

    void give_back(std::uint64_t key) {
        ++permits;
        --users[key].held;
        grant();
        forget(key);
    }

    void forget(std::uint64_t key) {
        const auto user = users.find(key);
        if (user != users.end() && user->second.held == 0 && user->second.queue.empty()) users.erase(user);
    }

    // To the next key after the one served last, around the circle.
    void grant() {
        auto at = users.upper_bound(last);
        for (std::size_t left = users.size(); left > 0 && permits > 0; --left, ++at) {
            if (at == users.end()) at = users.begin();
            User& user = at->second;
            if (user.queue.empty() || user.held >= per_key) continue;
            --permits;
            ++user.held;
            last = at->first;
            const auto next = std::move(user.queue.front());
            user.queue.pop_front();
            next->set();
            left = users.size() + 1;
        }
    }
};

Semaphore::Semaphore(Executor executor, std::size_t permits, std::size_t per_key)
    : state_(std::make_shared<State>(std::move(executor), permits, per_key)) {}

void Semaphore::Permit::release() noexcept {
    if (auto state = std::move(state_)) state->give_back(key_);
}

Task<Semaphore::Permit> Semaphore::acquire(std::uint64_t key, std::stop_token stop) {
    auto state = state_;
    auto turn = std::make_shared<Event>(state->executor);
    state->users[key].queue.push_back(turn);
    state->grant();
    bool stopped = false;
    try {
        co_await turn->wait(stop);
    } catch (const Cancelled&) {
        stopped = true;
    }
    if (stopped) {
        if (turn->is_set()) {
            state->give_back(key);  // given a permit and cancelled in the same turn
        } else {
            std::erase(state->users[key].queue, turn);
            state->forget(key);
        }
        throw Cancelled();
    }
    co_return Permit(state, key);
}

struct Deadline::State : std::enable_shared_from_this<Deadline::State> {
    State(Executor executor, std::stop_token parent)
        : timer(executor), on_parent(std::move(parent), [this] { source.request_stop(); }) {}
    asio::steady_timer timer;
    std::stop_source source;
    bool expired = false;
    std::stop_callback<std::function<void()>> on_parent;

    void arm(std::chrono::nanoseconds after) {
        timer.expires_after(std::chrono::duration_cast<std::chrono::steady_clock::duration>(after));
        timer.async_wait([self = shared_from_this()](boost::system::error_code ec) {
            // A wait whose handler was already queued cannot be cancelled: the time decides.
            if (ec || self->timer.expiry() > std::chrono::steady_clock::now() || self->source.stop_requested()) return;
            self->expired = true;
            self->source.request_stop();
        });
    }
};

Deadline::Deadline(Executor executor, std::chrono::nanoseconds after, std::stop_token parent)
    : state_(std::make_shared<State>(std::move(executor), std::move(parent))) {
    state_->arm(after);
}

Deadline::~Deadline() { state_->timer.expires_at(asio::steady_timer::time_point::max()); }
std::stop_token Deadline::token() const noexcept { return state_->source.get_token(); }
bool Deadline::expired() const noexcept { return state_->expired; }
void Deadline::extend(std::chrono::nanoseconds after) { if (!state_->expired) state_->arm(after); }

}  // namespace pyro::io
