// The host's git, made to run nothing.
//
// What a hostile checkout can make git execute stands in its configuration, attributes, hooks and index extensions. So git never
// sees a checkout: it runs in a repository of our own making, with our configuration and no other, an empty work tree, an environment of
// ours, and only a copy of the index and links to plain object files of the checkout. HEAD and refs are read here, beneath the
// repository and through no link, so that a checkout cannot bring another repository of the same user along: `.git` must be a
// directory, or a file of a worktree or submodule that its repository knows of; alternates are not followed.
#pragma once
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "client/seed/tar_stream.hpp"
#include "common/unique_fd.hpp"

namespace pyro::client::seed {

// Runs git in one repository directory, which is also its working directory and its HOME.
class Git {
public:
    Git(std::string directory, std::stop_token stop) : directory_(std::move(directory)), stop_(std::move(stop)) {}
    // For a repository with a work tree, whose remote may be asked: as the user (keys, agent, proxies), without a prompt, and by
    // no protocol that runs a program of the remote's choosing.
    Git(std::string directory, std::string work_tree, std::stop_token stop)
        : directory_(std::move(directory)), work_tree_(std::move(work_tree)), stop_(std::move(stop)) {}

    // `input`: a descriptor to read from its current position, -1 for none. Throws failed_precondition with what git said when
    // it fails or is not there; what `output` throws ends git.
    void run(const std::vector<std::string>& arguments, int input, const Sink& output) const;
    std::string run(const std::vector<std::string>& arguments, int input = -1) const;  // at most 16 MiB
    // Output in pieces that end with `end`, without it.
    void records(const std::vector<std::string>& arguments, int input, char end, const std::function<void(std::string_view)>& record) const;

private:
    std::vector<std::string> environment() const;

    std::string directory_;
    std::string work_tree_;  // empty: none, and no remote
    std::stop_token stop_;
};

// A checkout's repository, opened.
struct Repository {
    std::string top;             // the checkout's top directory, absolute
    UniqueFd top_fd;
    std::string git_directory;   // its own part: HEAD, index
    UniqueFd git_fd;
    std::string common_directory;  // what worktrees share: refs, objects
    UniqueFd common_fd;

    std::string head_ref;  // "refs/heads/main", or empty when HEAD is detached
    std::string commit;    // hexadecimal; empty before the first commit
    bool sha256 = false;

    // Finds the checkout that `path` is, or is somewhere in. `git` is for reading configuration files that belong to no repository.
    static Repository find(const std::string& path, const Git& git);
};

// Fetches one commit of `url` (its HEAD, unless `ref` says otherwise) and checks it out in `directory` (existing, empty).
void clone(const std::string& url, const std::string& ref, const std::string& directory, std::stop_token stop);

// Makes `directory` (existing, empty) a repository with the objects and the index of `repository`.
void borrow(const Repository& repository, const std::string& directory);

}  // namespace pyro::client::seed
