// What this folder shares: lines, and which of them two texts have in common.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

namespace pyro::patch {

// Each with its newline; the last one may have none.
std::vector<std::string_view> split_lines(std::string_view text);

struct LineDiff {
    std::vector<char> deleted, added;  // one per line of the old and the new text
};

// A shortest edit, if that is found within `work` steps; else something longer that is as correct.
LineDiff diff_lines(const std::vector<std::string_view>& before, const std::vector<std::string_view>& after, std::uint64_t work);

}  // namespace pyro::patch
