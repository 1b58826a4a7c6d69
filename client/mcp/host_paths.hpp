// Paths of this host that a model names: below the roots, wherever links and races would lead.
#pragma once
#include "common/unique_fd.hpp"

#include <functional>
#include <string>
#include <vector>

namespace pyro::shim {

class HostPaths {
public:
    // `roots`: absolute paths of directories, asked for each path anew. Relative paths are below the first of them.
    explicit HostPaths(std::function<std::vector<std::string>()> roots) : roots_(std::move(roots)) {}

    // What was found stays what it is, however it is called meanwhile: open it by `path`.
    struct Found {
        UniqueFd fd;        // the file or directory itself; of a destination the directory it is to be in
        std::string path;   // leads to it through fd
        std::string shown;  // what it is called
    };
    // To be read.
    Found source(const std::string& path) const;
    // To be written. Refuses roots and what is above one, links, what is in a .git, and dot files at a root's top.
    Found destination(const std::string& path) const;

private:
    std::function<std::vector<std::string>()> roots_;
};

// ".git" as any file system may spell it.
bool is_git_name(std::string_view name);
// Whether a relative path has such a component.
bool leads_into_git(std::string_view path);

}  // namespace pyro::shim
