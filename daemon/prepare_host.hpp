// What the daemon finds and makes on the host before it serves anybody: its directories, its limits, the socket's place, and
// what an earlier daemon left. Whatever there is not as it must be is an error that says what to do.
#pragma once
#include "common/unique_fd.hpp"
#include "daemon/config.hpp"

#include <string>

#include <sys/types.h>

namespace pyro {

void raise_descriptor_limit();
// Those of state and runtime, which nobody but root may have a say in.
void make_directories(const Config& config);
// What limits of disk traffic are set on: the whole disk below a file, or the file system's own number where it has none.
dev_t disk_below(const std::string& path);
// Of sandboxes on the host: one tree below it for each.
std::string sandbox_directory(const Config& config);
// Trees of an earlier daemon's sandboxes, none of which runs any more.
void remove_old_sandboxes(const std::string& directory);
// Refuses a place where another program listens, or where anybody could put another socket.
UniqueFd listen_for_clients(const Config& config);

}  // namespace pyro
