// What each error word is on the wire and on the command line: the one table.
#pragma once
#include "common/error.hpp"

#include <array>

namespace pyro::proto {

struct ErrorNumbers {
    ErrorCode code;
    int json_rpc;     // JSON-RPC's own number where it has one, else outside its reserved range (-32768 to -32000)
    int exit_status;  // of the CLI
};

inline constexpr std::array error_numbers{
    ErrorNumbers{ErrorCode::not_found, 1001, 125},
    ErrorNumbers{ErrorCode::invalid_argument, -32602, 125},
    ErrorNumbers{ErrorCode::failed_precondition, 1003, 125},
    ErrorNumbers{ErrorCode::quota_exceeded, 1004, 125},
    ErrorNumbers{ErrorCode::timeout, 1005, 124},
    ErrorNumbers{ErrorCode::cancelled, 1006, 130},
    ErrorNumbers{ErrorCode::unavailable, 1007, 125},
    ErrorNumbers{ErrorCode::guest_failed, 1008, 125},
    ErrorNumbers{ErrorCode::environment_invalid, 1009, 125},
    ErrorNumbers{ErrorCode::network_denied, 1010, 125},
    ErrorNumbers{ErrorCode::internal, -32603, 125},
};

constexpr bool error_numbers_in_order() {
    for (std::size_t i = 0; i < error_numbers.size(); ++i)
        if (static_cast<std::size_t>(error_numbers[i].code) != i) return false;
    return error_numbers.size() == error_code_names.size();
}
static_assert(error_numbers_in_order(), "one row for each ErrorCode, in its order");

constexpr const ErrorNumbers& numbers_of(ErrorCode code) { return error_numbers[static_cast<std::size_t>(code)]; }

// JSON-RPC's numbers for messages that never reach a method.
inline constexpr int parse_error = -32700;
inline constexpr int invalid_request = -32600;
inline constexpr int method_not_found = -32601;

}  // namespace pyro::proto
