// The surface in words: an OpenRPC document and docs/api.md, both made from the tables and nothing else.
#pragma once
#include "proto/method.hpp"

#include <nlohmann/json_fwd.hpp>

#include <string>

namespace pyro::proto {

// OpenRPC 1.3: what rpc.discover answers and `pyrod --describe` prints.
nlohmann::ordered_json openrpc(std::string_view version);
// docs/api.md.
std::string api_markdown();

}  // namespace pyro::proto
