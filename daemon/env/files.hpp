// The cache's files: blobs, and directories that become visible whole or not at all. All functions block; for a worker.
#pragma once
#include <chrono>
#include <cstdint>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include "common/digest.hpp"

namespace pyro::env {

// Removes a file or a directory with all that is below, following no link; nothing there is fine. Returns bytes given back.
// A living user may make his tree grow as fast as it goes: Error(timeout) when `until` is over, with the rest left.
std::uint64_t remove_tree(const std::string& path, std::chrono::steady_clock::time_point until = std::chrono::steady_clock::time_point::max());
// What lies in a directory, sorted; empty when it is not there.
std::vector<std::string> names_in(const std::string& directory);
// A directory of mode 0700, made if missing, with the plain files directly in it belonging to `owner`. No-op on owners
// without privileges.
void own_directory(const std::string& path, uid_t owner);
void sync_directory(const std::string& path);

// Moves a file that a worker wrote into the blob store: hashed again here, made root's and read-only, synced, renamed.
// Throws environment_invalid when the content is not what its name says.
void adopt_blob(const std::string& from_directory, const std::string& blob_directory, const Digest& digest, std::uint64_t size, std::stop_token stop);

// Makes `from` visible as `to`, replacing what was there; both directories of the state file system.
void install_directory(const std::string& from, const std::string& to);

std::int64_t unix_now();

// Halves of downloads: those older than `max_age_seconds` go, then the oldest until at most `max_bytes` stay.
inline constexpr std::int64_t half_download_age = 7 * 24 * 3600;
void trim_downloads(const std::string& directory, std::int64_t now, std::int64_t max_age_seconds, std::uint64_t max_bytes);

}  // namespace pyro::env
