// QEMU's machine protocol. The other side may have been taken over by its guest: it is believed nothing it was not asked,
// every message is bounded, and whatever it says wrong ends the connection.
#pragma once
#include "common/error.hpp"
#include "common/unique_fd.hpp"
#include "daemon/io/event.hpp"
#include "daemon/io/stream.hpp"
#include "daemon/io/task_group.hpp"

#include <nlohmann/json.hpp>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace pyro::vm::qemu {

class Qmp {
public:
    using OnEvent = std::function<void(const std::string& name, const nlohmann::json& data)>;

    struct Command {
        std::string name;
        nlohmann::json arguments;
    };
    // Awaits the greeting, negotiates and executes `first`: all of it is sent before QEMU even listens, so it costs no round
    // trips. `on_event` is called on the domain thread until the last close.
    static io::Task<std::unique_ptr<Qmp>> open(io::Stream stream, OnEvent on_event, std::vector<Command> first, std::stop_token stop);
    ~Qmp();  // close() first

    // The "return" of the answer; Error(internal) with QEMU's description when it refuses, failure() when the connection
    // ended before an answer.
    io::Task<nlohmann::json> execute(std::string command, nlohmann::json arguments, std::stop_token stop);
    // Short commands, one after the other, in one round trip; the first takes the descriptor.
    io::Task<void> execute_with_fd(std::vector<Command> commands, UniqueFd fd, std::stop_token stop);
    io::Task<void> closed(std::stop_token stop);  // the connection ended; failure() says why
    const Error& failure() const noexcept;        // guest_failed: it broke the protocol; unavailable: it is gone
    const std::string& version() const noexcept;  // "7.2.22"
    io::Task<void> close();

    struct State;

private:
    explicit Qmp(std::shared_ptr<State> state);
    std::shared_ptr<State> state_;
};

}  // namespace pyro::vm::qemu
