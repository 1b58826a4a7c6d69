// What environments/<digest>/ holds, and whether it is whole.
#pragma once
#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "common/digest.hpp"

namespace pyro::env {

enum class Source { registry, debian_archive, imported, committed };
std::string_view to_string(Source source);
std::optional<Source> source_from(std::string_view word);

struct LayerInfo {
    Digest digest;
    std::uint64_t size = 0;
};

// manifest.json, format 1. Written once, by the daemon; read as if anybody could have changed it.
struct EnvironmentManifest {
    Digest digest;           // the environment's id: the image manifest's digest, or one made from the archive's tar
    Source source = Source::registry;
    std::string name;        // what it was first pulled as
    std::string reference;   // of the registry, canonical
    Digest manifest_digest;  // of the image manifest; empty for the Debian archive
    Digest config_digest;    // likewise
    std::int64_t installed_at = 0;
    std::string user, working_dir;
    std::vector<std::string> env, cmd, entrypoint;
    std::vector<LayerInfo> layers;
    // root.ext4
    std::uint64_t root_size = 0, root_allocated = 0;
    Digest root_digest;      // sparse_digest()

    std::string to_json() const;
    static EnvironmentManifest parse(std::string_view text);  // throws environment_invalid
};

inline constexpr const char* manifest_file = "manifest.json";
inline constexpr const char* root_file = "root.ext4";
inline constexpr const char* packages_file = "packages.json";  // as the worker lists them; missing where nobody looked

// What can be said of an installed environment.
struct Installed {
    EnvironmentManifest manifest;  // meaningless where `problem` is about it
    std::string problem;           // empty: whole
    std::uint64_t bytes = 0;       // disk space
};

// Blocks; for a worker. Everything is read and compared; the root image's content only with `full`, or when size, inode or
// time differ from those it had when it was last compared (kept beside it, in verified.json). Nothing when there is no
// such directory.
std::optional<Installed> examine(const std::string& directory, const Digest& digest, bool full, std::stop_token stop);

// Remembers that the root image is what the manifest says: it was just written or compared.
void stamp_verified(const std::string& directory);

}  // namespace pyro::env
