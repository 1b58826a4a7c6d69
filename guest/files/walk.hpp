// Everything below a directory in the byte order of paths, which is not the order of a walk down sorted directories: "a", "a.c",
// "a/b". A path is so the only state there is, and a walk can begin behind any of them. Holds the names of the directories it
// is in, and nothing of those it has left.
#pragma once
#include "guest/files/beneath.hpp"
#include "proto/files.hpp"

#include <functional>

namespace pyro::guest::files {

struct Found {
    int directory;          // it is in that one,
    const char* name;       // under this name
    const std::string& path;
    const struct stat& info;
};

struct WalkVisitor {
    std::function<bool(const Found&)> entry;                                  // false ends the walk
    std::function<void(proto::files::Reason, const std::string& path)> note;  // what could not be looked into
};

struct WalkOptions {
    bool recursive = true;
    std::string after;      // only paths behind this one
};

// Of the directory the trail leads to, without itself. What vanishes meanwhile was not there. False if the visitor ended it.
bool walk(Trail& trail, const WalkOptions& options, const WalkVisitor& visitor);

// As the host is told about it; the target of a link is read in `found.directory`.
proto::files::Entry entry_of(const Found& found);
proto::files::Kind kind_of(mode_t mode);

}  // namespace pyro::guest::files
