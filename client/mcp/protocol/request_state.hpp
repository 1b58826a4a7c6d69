// What a client carries from one round of a call to the next, sealed: it is the client's to keep and not to write.
#pragma once
#include "client/mcp/protocol/content.hpp"

#include <chrono>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

namespace pyro::mcp {

// Seals with a key of this process, for one call (`binding`: its method and parameters) and a limited time.
class StateSeal {
public:
    using Clock = std::chrono::system_clock;
    static constexpr std::chrono::minutes lifetime{30};

    std::string seal(const json& state, std::string_view binding, Clock::time_point now = Clock::now());
    // None: not ours, for another call, or too old.
    std::optional<json> open(std::string_view sealed, std::string_view binding, Clock::time_point now = Clock::now());

private:
    std::string signature(std::string_view payload, std::string_view binding);

    std::once_flag made_;
    std::string key_;
};

}  // namespace pyro::mcp
