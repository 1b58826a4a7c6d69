// What was packed before need not be read again: a fingerprint of a source's stat data, and a small cache of what it packed to.
//
// As with git's index, nothing of the content is looked at: a change is seen by its ctime. The answer can be wrong only where ctimes
// are forged (a clock set back, the raw device), or where a program goes on writing into a shared mapping that it had dirtied more
// than racy_seconds before: the kernel then notes no time.
#pragma once
#include <ctime>
#include <optional>
#include <string>

#include "client/seed/pack.hpp"

namespace pyro::client::seed {

struct Fingerprint {
    Digest key;         // of path, type, mode, size, mtime, ctime and inode of everything, and of who looks
    timespec newest{};  // the latest ctime among them
};

// Of everything that pack(path) would look at, and more: of a checkout all files in it, and of its .git what says which commit and
// which files. Nothing where it could not be relied on: on network and user-space file systems, beyond `entries`, where something
// cannot be looked into, and where pack() would refuse.
std::optional<Fingerprint> fingerprint(const std::string& path, SourceKind kind, std::uint64_t entries = Limits().entries);

// A directory of files, one per source. Damage, and a directory that is not the user's alone, mean that nothing is known; what
// cannot be written is not remembered. No method throws for these.
class PackedCache {
public:
    static constexpr std::size_t most_entries = 64;   // the ones not used for longest go
    static constexpr std::time_t racy_seconds = 2;    // within these two changes can have one time

    // $XDG_CACHE_HOME/pyro/seeds, else in ~/.cache; nothing is known where neither is set.
    static std::string usual_directory();
    explicit PackedCache(std::string directory) : directory_(std::move(directory)) {}
    bool enabled() const { return !directory_.empty(); }

    std::optional<Packed> find(const std::string& path, SourceKind kind, const Fingerprint& now) const;
    // What pack() gave, with the fingerprints taken before it began, at `began`, and after it ended. Not remembered if they differ,
    // or if anything had changed too shortly before.
    void remember(const std::string& path, const Packed& packed, const Fingerprint& before, const timespec& began, const Fingerprint& after) const;
    void forget(const std::string& path, SourceKind kind) const;

private:
    std::string directory_;  // empty: none
};

}  // namespace pyro::client::seed
