// Sources of seeds and syncs: a directory, a tar (plain, gzip, zstd) or a Git checkout becomes one canonical tar stream. Runs as the
// calling user, with no more rights than theirs, follows no link inside the source, and starts no program but the host's git, on a
// repository of its own making (see git.hpp).
//
// Memory is bounded: by the longest chain of directories' listings for a directory, by the entries (Limits::entries) for the other
// two, whose contents go through an unlinked temporary file (archives) or are read file by file (checkouts).
#pragma once
#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "client/seed/tar_stream.hpp"

namespace pyro::client::seed {

enum class SourceKind { directory, archive, checkout };

struct PackOptions {
    // Unset: what source_kind() says. `checkout` also finds the checkout that a directory is somewhere in, and takes the
    // whole of it; `directory` takes a checkout as the files it is made of, its `.git` among them.
    std::optional<SourceKind> kind;
    Limits limits;
    std::size_t listed_skips = 100;  // names kept in Packed::skipped
    std::stop_token stop;
};

struct Skipped {
    std::string path;    // as it is, not printable()
    std::string reason;  // "a submodule", "deleted", "cannot be read: Permission denied"
};

struct Packed {
    SourceKind kind = SourceKind::directory;
    std::string root;     // what was taken; of a checkout its top directory
    std::uint64_t files = 0, directories = 0, symlinks = 0;
    std::uint64_t bytes = 0;         // of files
    std::uint64_t stream_bytes = 0;  // of the stream
    Digest key;                      // of the stream: equal trees have equal keys
    std::uint64_t skipped_count = 0;
    std::vector<Skipped> skipped;    // the first of them
    // Of a checkout; the three counts above include its new .git.
    std::string commit;              // HEAD; empty before the first commit
    std::string branch;              // empty when HEAD is detached
};

// A directory with a `.git` right in it is a checkout, and so is the `.git` itself when it is named; another directory is a
// directory (also somewhere in a checkout: pushing what a build made must not push the project), a file an archive. Throws
// not_found, and invalid_argument for anything else.
SourceKind source_kind(const std::string& path);

// Writes the whole stream to `sink`, or throws: then what the sink has got is to be thrown away. invalid_argument for what a
// rule refuses, failed_precondition for what cannot be read or changes meanwhile, always with the name; Cancelled when stopped.
Packed pack(const std::string& path, const Sink& sink, const PackOptions& options = {});

}  // namespace pyro::client::seed
