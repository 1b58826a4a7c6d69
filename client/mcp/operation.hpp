// Work for a client that outlasts the call which began it: no call blocks for long, and none starts its work twice.
#pragma once
#include "client/lib/connection.hpp"
#include "client/mcp/protocol/call.hpp"

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace pyro::shim {

using Clock = std::chrono::steady_clock;
inline constexpr std::chrono::seconds longest_call{45};

// One thread that works. Its public methods are for any thread.
class Operation {
public:
    using Work = std::function<mcp::ToolResult(Operation&)>;
    explicit Operation(Work work);
    ~Operation();  // takes the work back and waits for its end
    Operation(const Operation&) = delete;
    Operation& operator=(const Operation&) = delete;

    void cancel() noexcept;  // the daemon is told to end what it does
    void leave() noexcept;   // what was begun goes on without us

    // Until it is done, `until` has come or `enough` holds, or the client takes the call back: then until the work has heard of it.
    // Tells the client how far it is, once a second. True: it is done.
    bool wait(mcp::Call& call, Clock::time_point until, const std::function<bool()>& enough = {});
    // The same for somebody whose work it is not: a call that is taken back ends the wait alone, by Cancelled.
    bool watch(mcp::Call& call, Clock::time_point until);
    bool done() const;
    mcp::ToolResult result();  // when it is done; throws what the work threw
    std::string phase() const;

    // For the work.
    void enter(const proto::Progress& progress);
    void enter(std::string phase);
    std::stop_token stopped() const { return stop_.get_token(); }
    client::CallStop& call_stop() { return call_stop_; }
    // One call of the daemon on a connection of its own.
    nlohmann::json call(const std::string& socket, std::string_view method, const nlohmann::json& params, client::Streams* streams = nullptr);

    // What the work and those who wait for it share is changed under this, and told.
    template <class Change>
    void change(Change change) {
        {
            const std::lock_guard lock(mutex_);
            change();
        }
        changed_.notify_all();
    }

private:
    bool wait_telling(mcp::Call& call, Clock::time_point until, const std::function<bool()>& enough);

    mutable std::mutex mutex_;
    std::condition_variable changed_;
    client::CallStop call_stop_;
    std::stop_source stop_;
    std::string phase_ = "start";
    bool done_ = false;
    std::optional<mcp::ToolResult> result_;
    std::exception_ptr failure_;
    std::jthread thread_;  // last: it uses the others
};

// Those whose answers have not been fetched yet.
class Operations {
public:
    Operations() = default;
    ~Operations();  // commands go on, the rest ends with its connection
    Operations(const Operations&) = delete;
    Operations& operator=(const Operations&) = delete;

    struct Kept {
        std::string tool;
        std::shared_ptr<Operation> operation;
        std::function<mcp::ToolResult(const std::string& id)> running;  // what to answer while it is not done
        Clock::time_point since;
        std::string called = {};  // the name of what it makes, if it was given one
    };

    // Does the work, or says after longest_call that it goes on.
    mcp::ToolResult run(mcp::Call& call, const std::string& tool, const std::shared_ptr<Operation>& operation, std::function<mcp::ToolResult(const std::string& id)> running, std::string called = {});
    // One of the tool that is kept under this id, or that is not done and makes what is called so; with its id. It stays kept.
    std::optional<std::pair<std::string, Kept>> find(const std::string& tool, const std::string& id_or_name);
    // Waits for what an earlier call of the tool began. Throws not_found.
    mcp::ToolResult resume(mcp::Call& call, const std::string& tool, const std::string& id);
    // Keeps it until it ends by itself.
    void let_go(std::shared_ptr<Operation> operation);

private:
    mcp::ToolResult answer(mcp::Call& call, const std::string& id, const Kept& kept);
    void forget_old();  // with mutex_ held

    std::mutex mutex_;
    std::map<std::string, Kept> kept_;
    std::vector<std::shared_ptr<Operation>> let_go_;
};

}  // namespace pyro::shim
