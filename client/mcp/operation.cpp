#include "client/mcp/operation.hpp"

#include <sys/random.h>

#include <algorithm>

namespace pyro::shim {

using nlohmann::json;

namespace {

constexpr std::size_t most_kept = 64;
constexpr std::chrono::minutes kept_for{60};

std::string new_id() {
    unsigned char bytes[6];
    if (::getrandom(bytes, sizeof bytes, 0) != sizeof bytes) throw Error::from_errno("make an id");
    std::string id = "op-";
    for (const unsigned char byte : bytes) id += {"0123456789abcdef"[byte >> 4], "0123456789abcdef"[byte & 15]};
    return id;
}

}  // namespace

Operation::Operation(Work work)
    : thread_([this, work = std::move(work)] {
          std::optional<mcp::ToolResult> result;
          std::exception_ptr failure;
          try {
              result = work(*this);
          } catch (...) {
              failure = std::current_exception();
          }
          change([&] {
              result_ = std::move(result);
              failure_ = failure;
              done_ = true;
          });
      }) {}

Operation::~Operation() { cancel(); }

void Operation::cancel() noexcept {
    call_stop_.cancel();
    stop_.request_stop();
}

void Operation::leave() noexcept { call_stop_.leave(); }

bool Operation::wait(mcp::Call& call, Clock::time_point until, const std::function<bool()>& enough) {
    const std::stop_callback on_stop(call.stop(), [this] { cancel(); });
    return wait_telling(call, until, [&] { return !call.stop().stop_requested() && (Clock::now() >= until || (enough && enough())); });
}

bool Operation::watch(mcp::Call& call, Clock::time_point until) {
    const std::stop_callback on_stop(call.stop(), [this] { change([] {}); });
    const bool is_done = wait_telling(call, until, [&] { return call.stop().stop_requested() || Clock::now() >= until; });
    if (!is_done && call.stop().stop_requested()) throw Cancelled();
    return is_done;
}

// Until it is done, or `enough`.
bool Operation::wait_telling(mcp::Call& call, Clock::time_point until, const std::function<bool()>& enough) {
    constexpr std::chrono::seconds tick{1};
    const auto began = Clock::now();
    auto next = began + tick;
    std::unique_lock lock(mutex_);
    while (true) {
        if (done_) return true;
        if (enough()) return false;
        const auto now = Clock::now();
        if (now >= next) {
            const std::string phase = phase_;
            lock.unlock();
            call.progress(static_cast<double>((now - began) / tick), {}, phase);
            lock.lock();
            next += tick;
            continue;
        }
        changed_.wait_until(lock, until > now ? std::min(until, next) : next);
    }
}

bool Operation::done() const {
    const std::lock_guard lock(mutex_);
    return done_;
}

mcp::ToolResult Operation::result() {
    const std::lock_guard lock(mutex_);
    if (failure_) std::rethrow_exception(failure_);
    return *result_;
}

std::string Operation::phase() const {
    const std::lock_guard lock(mutex_);
    return phase_;
}

void Operation::enter(const proto::Progress& progress) {
    std::string text = progress.phase;
    if (progress.message) text += ": " + *progress.message;
    if (progress.done && progress.total && *progress.total > 0) text += " (" + std::to_string(*progress.done * 100 / *progress.total) + " %)";
    enter(std::move(text));
}

void Operation::enter(std::string phase) {
    change([&] { phase_ = std::move(phase); });
}

json Operation::call(const std::string& socket, std::string_view method, const json& params, client::Streams* streams) {
    client::CallOptions options;
    options.on_progress = [this](const proto::Progress& progress) { enter(progress); };
    options.stop = &call_stop_;
    options.streams = streams;
    client::Connection daemon({socket});
    return daemon.call(method, params, options);
}

Operations::~Operations() {
    for (const auto& [id, kept] : kept_) kept.operation->leave();
    for (const auto& operation : let_go_) operation->leave();
}

mcp::ToolResult Operations::run(mcp::Call& call, const std::string& tool, const std::shared_ptr<Operation>& operation, std::function<mcp::ToolResult(const std::string& id)> running, std::string called) {
    const auto until = Clock::now() + longest_call;
    if (operation->wait(call, until)) return operation->result();
    const std::string id = new_id();
    const Kept kept{tool, operation, std::move(running), Clock::now(), std::move(called)};
    {
        const std::lock_guard lock(mutex_);
        forget_old();
        kept_[id] = kept;
    }
    return kept.running(id);
}

std::optional<std::pair<std::string, Operations::Kept>> Operations::find(const std::string& tool, const std::string& id_or_name) {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, kept] : kept_)
        if (kept.tool == tool && (id == id_or_name || (kept.called == id_or_name && !kept.operation->done()))) return std::pair(id, kept);
    return std::nullopt;
}

mcp::ToolResult Operations::resume(mcp::Call& call, const std::string& tool, const std::string& id) {
    Kept kept;
    {
        const std::lock_guard lock(mutex_);
        const auto found = kept_.find(id);
        if (found == kept_.end() || found->second.tool != tool)
            throw Error(ErrorCode::not_found, "there is no operation " + id + " of " + tool,
                        "it was answered already, or this server was started again since: look at what is there (workspace_list, workspace_status), then call without it");
        kept = found->second;
    }
    if (!kept.operation->wait(call, Clock::now() + longest_call)) return kept.running(id);
    {
        const std::lock_guard lock(mutex_);
        kept_.erase(id);
    }
    return kept.operation->result();
}

void Operations::let_go(std::shared_ptr<Operation> operation) {
    const std::lock_guard lock(mutex_);
    std::erase_if(let_go_, [](const auto& one) { return one->done(); });
    let_go_.push_back(std::move(operation));
}

void Operations::forget_old() {
    const auto old = Clock::now() - kept_for;
    std::erase_if(kept_, [&](const auto& entry) { return entry.second.since < old && entry.second.operation->done(); });
    if (kept_.size() >= most_kept)
        throw Error(ErrorCode::quota_exceeded, std::to_string(kept_.size()) + " operations of this server wait to be asked for", "repeat the calls that answered with an operation_id");
}

}  // namespace pyro::shim
