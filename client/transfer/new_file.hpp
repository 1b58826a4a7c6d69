// A file of this host that is seen when it is whole.
#pragma once
#include "common/error.hpp"
#include "common/unique_fd.hpp"

#include <string>

namespace pyro::client {

// Written beside its place, and moved there; no link in that place is followed.
class NewFile {
public:
    // `force`: replace what is there. `how`: what a hint calls that. `shown`: what messages call the file, where that is not its path.
    NewFile(std::string path, bool force, const std::string& how, std::string shown = {});
    ~NewFile();
    NewFile(const NewFile&) = delete;
    NewFile& operator=(const NewFile&) = delete;

    int fd() const { return fd_.get(); }
    void place();

    static Error exists_already(const std::string& shown, const std::string& how);

private:
    std::string path_, shown_, how_, temporary_;
    bool force_;
    UniqueFd fd_;
};

// The error with `to` for `from` in its message: what a file is opened by may be no name for people.
Error renamed(const Error& error, const std::string& from, const std::string& to);

}  // namespace pyro::client
