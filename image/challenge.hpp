// What HTTP answers say in headers that need more than comparing: who may ask, and when to ask again.
#pragma once
#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pyro::image {

// One way to log in, of a WWW-Authenticate header (RFC 9110). Names are lower-case.
struct Challenge {
    std::string scheme;
    std::map<std::string, std::string> parameters;
};
// Takes any bytes; what does not fit the grammar is skipped. At most 16 challenges with 16 parameters each.
std::vector<Challenge> parse_challenges(std::string_view header);

// A Retry-After header: seconds or a date, from `now` on. Nothing for one that is neither, nor for a date that is over.
std::optional<std::chrono::seconds> parse_retry_after(const std::string& header, std::int64_t now);

std::string base64(std::string_view bytes);
std::string percent_encoded(std::string_view text);  // all but the unreserved characters

}  // namespace pyro::image
