// Places in a text that people edit.
#pragma once
#include "common/error.hpp"

#include <algorithm>
#include <string>
#include <string_view>

namespace pyro::host {

// "line 3, column 9: what"; columns count bytes.
[[noreturn]] inline void throw_at(std::string_view text, std::size_t where, const std::string& what) {
    const std::string_view before = text.substr(0, where);
    const auto line = std::count(before.begin(), before.end(), '\n') + 1;
    const std::size_t newline = before.rfind('\n');
    const std::size_t column = newline == std::string_view::npos ? where + 1 : where - newline;
    throw Error(ErrorCode::invalid_argument, "line " + std::to_string(line) + ", column " + std::to_string(column) + ": " + what);
}

}  // namespace pyro::host
