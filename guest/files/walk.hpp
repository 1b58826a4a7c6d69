// Everything below a directory, in one of two orders. That of paths as bytes ("a", "a.c", "a/b") makes a path the only state there
// is: a walk can begin behind any. In that of a tree ("a", "a/b", "a.c") a directory's content comes right behind it, as programs
// that unpack tars expect, or they set a directory's time too early. Holds the names of the directories it is in, and nothing of those
// it has left.
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
    bool tree_order = false;
    std::string after;      // only paths behind this one, in the order of bytes
};

// Of the directory the trail leads to, without itself. What vanishes meanwhile was not there. False if the visitor ended it.
bool walk(Trail& trail, const WalkOptions& options, const WalkVisitor& visitor);

// As the host is told about it; the target of a link is read in `found.directory`.
proto::files::Entry entry_of(const Found& found);
proto::files::Kind kind_of(mode_t mode);

}  // namespace pyro::guest::files
