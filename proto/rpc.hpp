// The conversation itself: what a client says first, and how it takes a request back. Served by daemon/rpc, not by services.
#pragma once
#include "proto/field.hpp"

namespace pyro::proto {

// rpc.hello must be the first message; the answer need not be awaited before the next. Unknown fields are ignored here alone.
struct HelloParams {
    static constexpr std::string_view method = "rpc.hello";
    static constexpr std::string_view doc = "Exchange versions and features; the first message of a connection.";
    std::string version;
    std::vector<std::string> features;
    static constexpr auto fields() {
        return std::array{field<&HelloParams::version>("version", "Version of the client", {.max = 64}),
                          field<&HelloParams::features>("features", "What the client understands beyond the basics", {.max = 64, .defaulted = true})};
    }
};
struct HelloResult {
    static constexpr std::string_view doc = "The other side.";
    std::string version;
    std::vector<std::string> features;
    std::string server;
    static constexpr auto fields() {
        return std::array{field<&HelloResult::version>("version", "Version of the daemon"),
                          field<&HelloResult::features>("features", "What the daemon understands beyond the basics"),
                          field<&HelloResult::server>("server", "Name of the program")};
    }
};

// rpc.cancel is a notification {"id": ID}: the call with that id ends with `cancelled`, unless it was done. Closing the
// connection cancels all of its calls.
inline constexpr std::string_view cancel_method = "rpc.cancel";
// rpc.discover answers the OpenRPC document, and may come before rpc.hello.
inline constexpr std::string_view discover_method = "rpc.discover";

}  // namespace pyro::proto
