// A file tree with nothing in it but what a program needs, for programs that meet hostile input.
#pragma once
#include "common/unique_fd.hpp"

#include <memory>
#include <string>
#include <vector>

namespace pyro::supervise {

// A mount namespace that many programs start from, each with a copy of its own (Command::jail). It lasts as long as the object
// or a program in it.
class Jail {
public:
    // `paths` are files, directories and devices of the host, absolute; each is found at the same place in the jail, and is the
    // one that had that name now, also when another takes the name later. All is read-only; only devices are devices, and no
    // program gains rights by its mode. Beside them there is an empty /proc, which each program gets its own of.
    // `mount_point` is a directory that may be mounted on; nobody sees it.
    // Throws Error(failed_precondition) where the host does not let us make it, Error(not_found) for a path that is not there.
    static std::shared_ptr<const Jail> make(std::vector<std::string> paths, std::string mount_point);

    int mount_namespace() const noexcept { return mount_namespace_.get(); }

private:
    explicit Jail(UniqueFd mount_namespace) : mount_namespace_(std::move(mount_namespace)) {}
    UniqueFd mount_namespace_;
};

}  // namespace pyro::supervise
