#include "daemon/env/worker.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <nlohmann/json.hpp>

#include "daemon/io/stream.hpp"
#include "daemon/io/task_group.hpp"

namespace pyro::env {
namespace {

using nlohmann::json;

constexpr std::size_t max_event = 8u << 20;  // an image configuration may be large

UniqueFd request_file(const json& request) {
    UniqueFd file(::memfd_create("pyro-image request", MFD_CLOEXEC));
    if (!file)
        throw Error::from_errno("make a request for the image worker");
    write_all(file.get(), request.dump());
    if (::lseek(file.get(), 0, SEEK_SET) != 0)
        throw Error::from_errno("rewind a request");
    return file;
}

std::string short_text(const json& object, const char* name, std::size_t limit) {
    const auto found = object.find(name);
    if (found == object.end() || !found->is_string())
        return {};
    return found->get_ref<const std::string&>().substr(0, limit);
}

std::uint64_t count_of(const json& object, const char* name) {
    const auto found = object.find(name);
    return found != object.end() && found->is_number_unsigned() ? found->get<std::uint64_t>() : 0;
}

Error error_of(const json& event) {
    Error error(error_code_from(short_text(event, "code", 64)), short_text(event, "message", 4096), short_text(event, "hint", 4096));
    if (event.contains("retryable") && event["retryable"].is_boolean())
        error.with_retryable(event["retryable"].get<bool>());
    if (event.contains("details") && event["details"].is_object() && event["details"].size() <= 16)
        for (const auto& [key, value] : event["details"].items())
            if (value.is_string() && key.size() < 64)
                error.with_detail(key, value.get<std::string>().substr(0, 4096));
    return error;
}

struct Outcome {
    std::optional<json> result;
    std::optional<Error> error;
};

io::Task<void> follow(io::Stream& events, Outcome& outcome, const ProgressSink& progress, std::stop_token stop) {
    while (true) {
        const std::optional<std::string> line = co_await events.read_line(max_event, stop);
        if (!line)
            co_return;
        json event = json::parse(*line, nullptr, false);
        const std::string kind = event.is_object() ? short_text(event, "event", 16) : std::string();
        if (kind == "progress") {
            Progress now;
            now.phase = short_text(event, "phase", 32);
            now.digest = short_text(event, "digest", 80);
            now.done = count_of(event, "done");
            now.total = count_of(event, "total");
            now.message = short_text(event, "message", 512);
            progress(now);
        } else if (kind == "result") {
            outcome.result = std::move(event);
        } else if (kind == "error") {
            outcome.error = error_of(event);
        } else {
            throw Error(ErrorCode::internal, "the image worker does not keep to its protocol");
        }
    }
}

}  // namespace

io::Task<json> run_worker(supervise::Supervisor& supervisor, WorkerJob job, json request, ProgressSink progress, std::stop_token stop) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0)
        throw Error::from_errno("make a pipe");
    UniqueFd read_end(ends[0]), write_end(ends[1]);

    supervise::Command command;
    command.path = job.program;
    command.argv = {"pyro-image", job.subcommand};
    command.env = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"};
    command.fresh_proc = !job.as;  // the bootstrap, in whose user namespace one is mounted
    command.as = std::move(job.as);
    command.dies_with_daemon = true;
    command.unshare_flags = job.network ? 0 : CLONE_NEWNET;
    if (::geteuid() != 0)
        command.unshare_flags = 0;  // a private daemon without privileges: the worker's own sandbox holds
    command.limits.push_back(supervise::ResourceLimit{RLIMIT_CORE, 0});
    command.fds = std::move(job.fds);
    command.fds.push_back(supervise::PassedFd{request_file(request), 0});
    command.fds.push_back(supervise::PassedFd{std::move(write_end), 1});
    UniqueFd log(::fcntl(2, F_DUPFD_CLOEXEC, 3));
    if (log)
        command.fds.push_back(supervise::PassedFd{std::move(log), 2});
    supervise::Scope scope;
    scope.name = job.scope;
    scope.memory_max = supervisor.capabilities().limits_memory ? job.memory_max : 0;
    const std::string scope_name = scope.name;

    io::Executor executor = co_await io::this_executor();
    Outcome outcome;
    std::exception_ptr failure;
    supervise::ExitStatus status;
    std::shared_ptr<supervise::Process> process;
    std::function<void(const supervise::ProcessIdentity&)> unrecorded;  // it cannot outlive the daemon, so nobody looks for it
    try {
        process = co_await supervisor.spawn(std::move(command), std::move(scope), std::move(unrecorded));
        io::Stream events(executor, std::move(read_end));
        co_await follow(events, outcome, progress, stop);
        status = co_await process->wait(stop);
    } catch (...) {
        failure = std::current_exception();
    }
    std::stop_token never;
    if (failure && process) {
        process->kill();
        co_await process->wait(never);
    }
    co_await supervisor.remove(scope_name, never);
    if (failure)
        std::rethrow_exception(failure);
    if (outcome.error)
        throw *outcome.error;
    if (status.signal == SIGKILL)  // its own limits make it end with a word
        throw Error(ErrorCode::unavailable, "the image worker was killed, as happens where the host has no memory left", "free some memory and try again");
    if (!outcome.result || status.code != 0 || status.signal != 0)
        throw Error(ErrorCode::internal, "the image worker gave no answer: " + status.describe(), "see the daemon's log");
    co_return std::move(*outcome.result);
}

namespace {

io::Task<void> feed_worker(io::Stream to, UploadSource next, std::stop_token stop) {
    for (;;) {
        std::optional<std::string> bytes = co_await next(stop);
        if (!bytes)
            break;
        bool refused = false;
        try {
            co_await to.write_all(std::move(*bytes), stop);
        } catch (const Error&) {
            refused = true;  // the worker reads no more, and is about to say why
        }
        if (refused)
            break;
    }
    to.close();
}

bool is_cancelled(const std::exception_ptr& failure) {
    try {
        std::rethrow_exception(failure);
    } catch (const Cancelled&) {
        return true;
    } catch (...) {
        return false;
    }
}

}  // namespace

io::Task<json> run_fed_worker(supervise::Supervisor& supervisor, WorkerJob job, json request, int number, UploadSource next, ProgressSink progress,
                              std::stop_token stop) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0)
        throw Error::from_errno("make a pipe");
    UniqueFd read_end(ends[0]), write_end(ends[1]);
    job.fds.push_back(supervise::PassedFd{std::move(read_end), number});

    io::Executor executor = co_await io::this_executor();
    std::exception_ptr broken, failure;
    std::stop_source ending;
    const std::function<void()> end = [&ending] { ending.request_stop(); };
    const std::stop_callback<std::function<void()>> on_stop(stop, end);
    io::TaskGroup feeding(executor, [&](std::exception_ptr e) {
        broken = std::move(e);
        ending.request_stop();
    });
    json result;
    try {
        io::Stream to(executor, std::move(write_end));
        feeding.spawn(feed_worker(std::move(to), std::move(next), ending.get_token()));
        result = co_await run_worker(supervisor, std::move(job), std::move(request), std::move(progress), ending.get_token());
    } catch (...) {
        failure = std::current_exception();
    }
    if (failure)
        ending.request_stop();  // the worker reads no more
    co_await feeding.join();
    if (failure && !is_cancelled(failure))
        std::rethrow_exception(failure);
    if (broken)
        std::rethrow_exception(broken);
    if (failure)
        std::rethrow_exception(failure);
    co_return result;
}

Error unfitting_answer() { return Error(ErrorCode::environment_invalid, "the image worker's answer does not fit", "pull again; see the daemon's log"); }

}  // namespace pyro::env
