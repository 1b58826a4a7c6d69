// Names as they are written in patches.
#pragma once
#include <optional>
#include <string>
#include <string_view>

namespace pyro::patch {

// `text` begins with a quoted name: takes it off and gives what it means. Nothing if it is not a C-style string as git writes them.
std::optional<std::string> unquote(std::string_view& text);

// For messages: in quotes, and not too long.
std::string shown(std::string_view name);

}  // namespace pyro::patch
