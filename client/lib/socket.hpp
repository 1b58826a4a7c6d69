// A connected, non-blocking Unix stream socket with its unsent bytes.
#pragma once
#include "common/unique_fd.hpp"

#include <chrono>
#include <string>
#include <string_view>

namespace pyro::client {

// Connects; throws with the cure for what is wrong.
UniqueFd connect_to(const std::string& path, std::chrono::milliseconds patience);

// What a peer may send in one line, and what is read at once.
inline constexpr std::size_t max_line = 16u << 20;
inline constexpr std::size_t read_size = 256u << 10;

// Reads what is there, at most `read_size`, to the end of `into`. False: the peer has closed.
bool receive(int fd, std::string& into);
// Sends what fits of `bytes` and removes it from them. False: the peer has closed.
bool send_some(int fd, std::string& bytes);
// Takes the first line off `from`, without its end. Throws if it is longer than max_line.
bool take_line(std::string& from, std::size_t& scanned, std::string& line);

}  // namespace pyro::client
