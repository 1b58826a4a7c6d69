// What is registered, in the form of a client's revision.
#pragma once
#include "client/mcp/protocol/schema.hpp"
#include "client/mcp/protocol/server.hpp"

namespace pyro::mcp {

ordered_json to_wire(const Implementation& info, Revision revision);
ordered_json to_wire(const Tool& tool, Revision revision);
ordered_json to_wire(const Prompt& prompt, Revision revision);
ordered_json template_to_wire(const ResourceInfo& info, Revision revision);
ordered_json error_data(const Error& error);  // all of an error

}  // namespace pyro::mcp
