// The environments pyro knows by name.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/image_ref.hpp"

namespace pyro::env {

struct CatalogEntry {
    std::string_view name;         // what users write
    std::string_view reference;    // the Docker official image behind it
    std::string_view description;
    std::string_view suite;        // the second source: of the Debian archive
    std::vector<std::string> packages;  // besides those of a minimal system
};

std::span<const CatalogEntry> catalog();
const CatalogEntry* find_in_catalog(std::string_view name);

// What a user named. "@name" is a name he gave, which no reference can be; a catalog name is looked up next; every other OCI reference
// is taken as it is.
struct ResolvedName {
    std::string name;                     // the given name, the catalog name, else the canonical reference
    ImageRef reference;                   // empty for a given name
    const CatalogEntry* entry = nullptr;  // of the catalog
    bool given = false;
    std::string origin() const { return given ? std::string() : reference.registry + "/" + reference.repository; }
};
ResolvedName resolve_name(std::string_view name);  // throws invalid_argument
// The catalog's environment that is called what a short form of this reference would be, and is another image; or null.
const CatalogEntry* look_alike(const ImageRef& reference);

// "base" or "@base" as "@base": lower-case letters, digits, '.', '_', '-' and ':', the first a letter or digit, at most 128. Throws
// invalid_argument.
std::string given_name(std::string_view text);

}  // namespace pyro::env
