// A configuration file of another program, which may be at work on it too: read, changed, replaced whole.
#pragma once
#include "common/unique_fd.hpp"

#include <functional>
#include <string>

namespace pyro::host {

struct ConfigFile {
    std::string path;       // as it is named; links are followed
    unsigned new_mode = 0600;
    bool lock_beside = false;  // its program holds "PATH.lock", a directory, while it writes
};

// Its text; empty where there is none. Throws for what is no regular file and for a link to nothing.
std::string read_config(const ConfigFile& file);

struct Rewritten {
    std::string before, after;

    bool changed() const { return before != after; }
    // The lines that went and came, without those around them: who looks on need not see what else is configured. A comma that
    // a neighbour got or lost is no change.
    std::string lines() const;
};
// Gives `edit` the text and puts what that makes of it in its place: at once, with the mode and owner of what was there, links left as
// they are. Folders that are missing are made. What `edit` throws leaves everything as it was. With `dry_run` nothing is written.
Rewritten rewrite_config(const ConfigFile& file, bool dry_run, const std::function<std::string(const std::string&)>& edit);

}  // namespace pyro::host
