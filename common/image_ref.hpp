// OCI image references in docker's grammar: [registry/]repository[:tag][@sha256:...].
#pragma once
#include <string>
#include <string_view>

#include "common/digest.hpp"

namespace pyro {

// A normalised reference. Invariants: `registry` and `repository` are never empty and hold only the grammar's characters
// (safe in a URL path, never "." or ".." components); at least one of `tag` and `digest` is set.
struct ImageRef {
    std::string registry;    // "docker.io", "localhost:5000", "[::1]:5000"
    std::string repository;  // "library/debian"
    std::string tag;         // empty only when there is a digest
    Digest digest;           // empty unless pinned; wins over the tag

    // "debian:12" is docker.io/library/debian:12. Throws invalid_argument saying what is wrong with which part.
    static ImageRef parse(std::string_view text);

    std::string str() const;        // canonical: registry/repository[:tag][@digest]
    std::string selector() const;   // what a manifest is asked for by: the digest, else the tag
    bool operator==(const ImageRef&) const = default;
};

// What a user names an image by: a reference, or files of his own in one of the forms that container tools write.
struct ImageSource {
    enum class Kind { reference, oci_layout, oci_archive, docker_archive };
    Kind kind = Kind::reference;
    ImageRef reference;  // of a reference
    std::string path;    // of the others: as it was written
    std::string name;    // of the others: which image of those in there; empty: the only one

    // "oci:DIRECTORY[:TAG]", "oci-archive:FILE[:TAG]", "docker-archive:FILE[:REFERENCE]", else a reference: an image that is
    // called oci is docker.io/library/oci. Throws invalid_argument.
    static ImageSource parse(std::string_view text);
};

}  // namespace pyro
