#include "daemon/env/pulls.hpp"

#include <unistd.h>

#include <algorithm>
#include <optional>
#include <set>

#include "common/error.hpp"

namespace pyro::env {
namespace {

// Waiters of one pull get an error of their own each: they add to it while it unwinds.
[[noreturn]] void rethrow_own(const std::exception_ptr& failure) {
    try {
        std::rethrow_exception(failure);
    } catch (const Error& error) {
        throw Error(error);
    }
}

}  // namespace

struct Pulls::Job {
    explicit Job(io::Executor executor) : done(executor), may_start(executor) {}
    std::string id;
    io::Event done;
    std::stop_source stop;
    bool abandoned = false;
    std::set<uid_t> queued_by;
    std::stop_source queueing;
    io::Semaphore::Permit place;
    io::Event may_start;
    std::uint64_t next_listener = 0;
    std::map<std::uint64_t, ProgressSink> listeners;
    std::optional<Progress> last;
    std::shared_ptr<const Installation> result;
    std::exception_ptr failure;

    void tell(const Progress& progress) {
        last = progress;
        const std::map<std::uint64_t, ProgressSink> now = listeners;  // a listener may go while it is told
        for (const auto& [id_, sink] : now)
            if (sink)
                sink(progress);
    }
};

// One who waits for a job. When the last goes early, the job is stopped.
class Pulls::Waiter {
public:
    Waiter(Pulls& pulls, std::shared_ptr<Job> job, ProgressSink sink) : pulls_(pulls), job_(std::move(job)), id_(job_->next_listener++) {
        ++pulls_.waiting_;
        if (sink && job_->last)
            sink(*job_->last);
        job_->listeners.emplace(id_, std::move(sink));
    }
    ~Waiter() {
        --pulls_.waiting_;
        job_->listeners.erase(id_);
        if (job_->listeners.empty() && !job_->done.is_set()) {
            job_->abandoned = true;
            job_->stop.request_stop();
        }
    }
    Waiter(const Waiter&) = delete;
    Waiter& operator=(const Waiter&) = delete;

private:
    Pulls& pulls_;
    std::shared_ptr<Job> job_;
    std::uint64_t id_;
};

Pulls::Pulls(io::Executor executor, Installer& installer, std::size_t at_once)
    : executor_(executor), installer_(installer), places_(executor, at_once, std::max<std::size_t>(1, at_once / 2)), resumed_(executor),
      group_(executor) {}

Pulls::~Pulls() = default;

io::Task<void> Pulls::close() {
    for (const auto& [name, job] : jobs_)
        job->stop.request_stop();
    group_.stop();
    co_await group_.join();
}

io::Task<std::shared_ptr<const Installation>> Pulls::install(PullRequest request, ProgressSink progress, std::stop_token stop) {
    const std::string key = request.key();
    const uid_t user = request.user;
    std::shared_ptr<Job> job;
    while (!job) {
        const auto running = jobs_.find(key);
        if (running == jobs_.end()) {
            job = std::make_shared<Job>(executor_);
            job->id = std::to_string(::getpid()) + "-" + std::to_string(++next_job_);
            jobs_.emplace(key, job);
            group_.spawn(run(job, std::move(request)));
        } else if (running->second->abandoned) {
            const std::shared_ptr<Job> ending = running->second;
            co_await ending->done.wait(stop);
        } else {
            job = running->second;
        }
    }
    {
        const Waiter waiter(*this, job, std::move(progress));
        if (job->queued_by.insert(user).second)
            group_.spawn(queue_up(job, user));
        co_await job->done.wait(stop);
    }
    if (job->failure)
        rethrow_own(job->failure);
    co_return job->result;
}

io::Task<std::shared_ptr<void>> Pulls::work(uid_t user, std::stop_token stop) {
    io::Semaphore::Permit place = co_await places_.acquire(user, stop);
    while (pauses_ > 0)
        co_await resumed_.wait(stop);
    const auto held = std::make_shared<io::Semaphore::Permit>(std::move(place));
    ++waiting_;
    co_return std::shared_ptr<void>(held.get(), [this, held](void*) { --waiting_; });
}

std::shared_ptr<void> Pulls::pause_if_idle() {
    if (!jobs_.empty() || waiting_ > 0)
        return nullptr;
    ++pauses_;
    resumed_.reset();
    return std::shared_ptr<void>(this, [this](void*) {
        if (--pauses_ == 0)
            resumed_.set();
    });
}

io::Task<void> Pulls::queue_up(std::shared_ptr<Job> job, uid_t user) {
    io::Semaphore::Permit place = co_await places_.acquire(user, job->queueing.get_token());
    if (job->may_start.is_set())
        co_return;
    job->place = std::move(place);
    job->may_start.set();
    job->queueing.request_stop();
}

io::Task<void> Pulls::run(std::shared_ptr<Job> job, PullRequest request) {
    const std::string key = request.key();
    try {
        co_await job->may_start.wait(job->stop.get_token());
        while (pauses_ > 0)
            co_await resumed_.wait(job->stop.get_token());
        const std::weak_ptr<Job> weak = job;
        ProgressSink tell = [weak](const Progress& progress) {
            if (const std::shared_ptr<Job> alive = weak.lock())
                alive->tell(progress);
        };
        Installation done = co_await installer_.install(job->id, std::move(request), std::move(tell), job->stop.get_token());
        job->result = std::make_shared<Installation>(std::move(done));
    } catch (...) {
        job->failure = std::current_exception();
    }
    job->may_start.set();  // nobody gives it a place any more
    job->queueing.request_stop();
    job->place.release();
    jobs_.erase(key);
    job->done.set();
}

}  // namespace pyro::env
