// Help texts, from the tables.
#pragma once
#include <string>
#include <string_view>

namespace pyro::client {

// Of the whole (empty words), a group or a verb.
std::string help_text(std::string_view words);

}  // namespace pyro::client
