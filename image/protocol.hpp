// What the worker and the daemon say to each other: one JSON request on fd 0, JSON lines on fd 1.
#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <string>
#include <string_view>

#include "common/error.hpp"

namespace pyro::image {

// The request, bounded; throws invalid_argument.
nlohmann::json read_request(int fd);

// The answer. Progress is thinned: one line for each digest and one per MiB or percent, so that a reader is never flooded.
class Events {
public:
    explicit Events(int fd) : fd_(fd) {}
    void progress(std::string_view phase, std::string_view digest, std::uint64_t done, std::uint64_t total);
    void step(std::string_view phase, std::string_view message);  // for work whose size is not known
    void result(nlohmann::json result);
    void error(const Error& error);

private:
    void line(const nlohmann::json& message);
    int fd_;
    std::string last_phase_;
    std::set<std::string> told_;  // digests of this phase
    std::uint64_t last_done_ = 0;
};

}  // namespace pyro::image
