#include "client/mcp/protocol/revision.hpp"

#include <algorithm>

namespace pyro::mcp {

std::optional<Revision> revision_from(std::string_view name) noexcept {
    const auto found = std::find(revision_names.begin(), revision_names.end(), name);
    if (found == revision_names.end()) return std::nullopt;
    return static_cast<Revision>(found - revision_names.begin());
}

}  // namespace pyro::mcp
