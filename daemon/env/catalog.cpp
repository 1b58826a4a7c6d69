#include "daemon/env/catalog.hpp"

#include <algorithm>

namespace pyro::env {
namespace {

using Packages = std::vector<std::string>;

// What the Docker official image buildpack-deps adds in its variants curl and scm.
Packages scm_packages() {
    return {"ca-certificates", "curl", "gnupg", "netbase", "sq", "wget", "tzdata", "git", "mercurial", "openssh-client", "subversion", "procps"};
}

Packages build_packages() {
    Packages out = scm_packages();
    for (const char* package :
         {"autoconf", "automake", "bzip2", "default-libmysqlclient-dev", "dpkg-dev", "file", "g++", "gcc", "imagemagick", "libbz2-dev", "libc6-dev",
          "libcurl4-openssl-dev", "libdb-dev", "libevent-dev", "libffi-dev", "libgdbm-dev", "libglib2.0-dev", "libgmp-dev", "libjpeg-dev", "libkrb5-dev",
          "liblzma-dev", "libmagickcore-dev", "libmagickwand-dev", "libmaxminddb-dev", "libncurses5-dev", "libncursesw5-dev", "libpng-dev", "libpq-dev",
          "libreadline-dev", "libsqlite3-dev", "libssl-dev", "libtool", "libwebp-dev", "libxml2-dev", "libxslt-dev", "libyaml-dev", "make", "patch",
          "unzip", "xz-utils", "zlib1g-dev"})
        out.emplace_back(package);
    return out;
}

}  // namespace

std::span<const CatalogEntry> catalog() {
    static const std::vector<CatalogEntry> entries{
        {"debian:12", "docker.io/library/buildpack-deps:bookworm-scm", "Debian 12 with git, mercurial, subversion, curl, wget and ssh", "bookworm", scm_packages()},
        {"debian:12-base", "docker.io/library/debian:bookworm-slim", "Debian 12, minimal", "bookworm", {}},
        {"debian:12-build", "docker.io/library/buildpack-deps:bookworm", "Debian 12 with compilers and the usual development libraries", "bookworm", build_packages()},
    };
    return entries;
}

const CatalogEntry* find_in_catalog(std::string_view name) {
    const auto entries = catalog();
    const auto found = std::find_if(entries.begin(), entries.end(), [&](const CatalogEntry& entry) { return entry.name == name; });
    return found == entries.end() ? nullptr : &*found;
}

ResolvedName resolve_name(std::string_view name) {
    if (const CatalogEntry* entry = find_in_catalog(name)) {
        ResolvedName out;
        out.name = entry->name;
        out.reference = ImageRef::parse(entry->reference);
        out.entry = entry;
        return out;
    }
    ResolvedName out;
    out.reference = ImageRef::parse(name);
    out.name = out.reference.str();
    return out;
}

}  // namespace pyro::env
