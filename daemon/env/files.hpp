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

// A file that a worker wrote, named by its digest: hashed again here, made root's and read-only, synced. Throws environment_invalid
// when the content is not what its name says.
void take_blob(const std::string& directory, const Digest& digest, std::uint64_t size, std::stop_token stop);
// Moves what was taken into the blob store; sync_directory() is the caller's.
void keep_blob(const std::string& from_directory, const std::string& blob_directory, const Digest& digest);
// Both.
void adopt_blob(const std::string& from_directory, const std::string& blob_directory, const Digest& digest, std::uint64_t size, std::stop_token stop);

// The blobs that the installed environments of those digests are made of, as hex digests, as far as their manifests can be read.
std::vector<std::string> blobs_of(const std::string& environments, const std::vector<Digest>& digests);
// Disk space of what lies directly in a directory and one level below.
std::uint64_t bytes_in(const std::string& directory);
std::uint64_t free_bytes(const std::string& directory);  // for others than root: of its file system

// Makes `from` visible as `to`, replacing what was there; both directories of the state file system.
void install_directory(const std::string& from, const std::string& to);

// A new file like that one, holes and all; shares its blocks where the file system can. Throws Cancelled when stopped.
void copy_sparse(const std::string& from, const std::string& to, std::stop_token stop);

std::int64_t unix_now();

// Halves of downloads: those older than `max_age_seconds` go, then the oldest until at most `max_bytes` stay.
inline constexpr std::int64_t half_download_age = 7 * 24 * 3600;
void trim_downloads(const std::string& directory, std::int64_t now, std::int64_t max_age_seconds, std::uint64_t max_bytes);

}  // namespace pyro::env
