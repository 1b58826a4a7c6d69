// The pulls under way: one for an environment, however many wait for it, and some at once, users in turn.
#pragma once
#include <map>
#include <memory>
#include <stop_token>
#include <string>

#include "daemon/env/catalog.hpp"
#include "daemon/env/installer.hpp"
#include "daemon/env/worker.hpp"
#include "daemon/io/event.hpp"
#include "daemon/io/task_group.hpp"

namespace pyro::env {

// Called on the domain thread. Owns the coroutines of the pulls; close() before it goes.
class Pulls {
public:
    Pulls(io::Executor executor, Installer& installer, std::size_t at_once);
    ~Pulls();

    // Ends all and waits for them.
    io::Task<void> close();
    // Joins the pull of that key, or begins it. Everybody who waits for it hears its progress; when the last one stops
    // waiting, the work stops.
    io::Task<std::shared_ptr<const Installation>> install(PullRequest request, ProgressSink progress, std::stop_token stop);

    // For other work that makes an environment: a place among the pulls', in turn, and as long as it is held no pause.
    io::Task<std::shared_ptr<void>> work(uid_t user, std::stop_token stop);

    std::size_t running() const noexcept { return jobs_.size(); }
    // While what it returns is held no pull begins its work, so that what nobody uses may go. Nothing where one works already,
    // or where somebody has yet to take what one has made.
    std::shared_ptr<void> pause_if_idle();

private:
    struct Job;
    class Waiter;

    io::Task<void> run(std::shared_ptr<Job> job, PullRequest request);
    // Waits for a place in the name of one of those who want the job. The first to get one starts it.
    io::Task<void> queue_up(std::shared_ptr<Job> job, uid_t user);

    io::Executor executor_;
    Installer& installer_;
    io::Semaphore places_;  // by uid: nobody's slow registry keeps the others from theirs
    std::map<std::string, std::shared_ptr<Job>> jobs_;  // by key
    std::uint64_t next_job_ = 0;
    std::size_t waiting_ = 0, pauses_ = 0;
    io::Event resumed_;
    io::TaskGroup group_;
};

}  // namespace pyro::env
