#include "image/protocol.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/unique_fd.hpp"

namespace pyro::image {

nlohmann::json read_request(int fd) {
    constexpr std::size_t limit = 4u << 20;
    const std::string text = read_up_to(fd, limit + 1);
    if (text.size() > limit)
        throw Error(ErrorCode::invalid_argument, "the request is larger than 4 MiB");
    nlohmann::json request = nlohmann::json::parse(text, nullptr, false);
    if (!request.is_object())
        throw Error(ErrorCode::invalid_argument, "the request is not a JSON object");
    return request;
}

void Events::line(const nlohmann::json& message) {
    write_all(fd_, message.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

void Events::progress(std::string_view phase, std::string_view digest, std::uint64_t done, std::uint64_t total) {
    const std::uint64_t step = std::max<std::uint64_t>(1u << 20, total / 100);
    if (phase != last_phase_) {
        last_phase_ = phase;
        told_.clear();
    }
    // Layers come at once: each is told of when it begins, and then what they have got together. That may be less again.
    const bool begins = told_.insert(std::string(digest)).second;
    const std::uint64_t change = done > last_done_ ? done - last_done_ : last_done_ - done;
    if (!begins && (change == 0 || (done != total && change < step)))
        return;
    last_done_ = done;
    line({{"event", "progress"}, {"phase", phase}, {"digest", digest}, {"done", done}, {"total", total}});
}

void Events::step(std::string_view phase, std::string_view message) {
    line({{"event", "progress"}, {"phase", phase}, {"digest", ""}, {"done", 0}, {"total", 0}, {"message", message}});
}

void Events::result(nlohmann::json result) {
    result["event"] = "result";
    line(result);
}

void Events::error(const Error& error) {
    line({{"event", "error"}, {"code", to_string(error.code())}, {"message", error.message()}, {"hint", error.hint()},
          {"retryable", error.retryable()}, {"details", error.details()}});
}

}  // namespace pyro::image
