#include "daemon/env/catalog.hpp"

#include <algorithm>

#include "common/error.hpp"

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

const CatalogEntry* look_alike(const ImageRef& reference) {
    const std::string_view official = "library/";
    if (reference.registry != "docker.io" || !reference.repository.starts_with(official))
        return nullptr;
    const CatalogEntry* entry = find_in_catalog(reference.repository.substr(official.size()) + ":" + reference.tag);
    return entry && ImageRef::parse(entry->reference) != reference ? entry : nullptr;
}

std::string given_name(std::string_view text) {
    const std::string_view bare = text.starts_with('@') ? text.substr(1) : text;
    const auto plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
    if (bare.empty() || bare.size() > 128 || !plain(bare.front()) ||
        !std::all_of(bare.begin(), bare.end(), [&](char c) { return plain(c) || c == '.' || c == '_' || c == '-' || c == ':'; }))
        throw Error(ErrorCode::invalid_argument, "the name of an environment of yours has 1 to 128 lower-case letters, digits, '.', '_', '-' and ':', and begins with a letter or digit",
                    "for example @base or @base:2");
    return "@" + std::string(bare);
}

ResolvedName resolve_name(std::string_view name) {
    if (name.starts_with('@')) {
        ResolvedName out;
        out.name = given_name(name);
        out.given = true;
        return out;
    }
    if (const CatalogEntry* entry = find_in_catalog(name)) {
        ResolvedName out;
        out.name = entry->name;
        out.reference = ImageRef::parse(entry->reference);
        out.entry = entry;
        return out;
    }
    ImageSource source = ImageSource::parse(name);
    if (source.kind != ImageSource::Kind::reference)
        throw Error(ErrorCode::invalid_argument, "\"" + std::string(name) + "\" is for files of yours, which the daemon does not open",
                    "it is the client that reads them; an image of a registry whose name is like that is written in full: docker.io/library/oci:TAG");
    ResolvedName out;
    out.reference = std::move(source.reference);
    out.name = out.reference.str();
    return out;
}

}  // namespace pyro::env
