#include "daemon/supervise/jail.hpp"

#include "common/error.hpp"

#include <cerrno>
#include <exception>
#include <filesystem>
#include <set>
#include <thread>

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace pyro::supervise {
namespace {

namespace fs = std::filesystem;

constexpr unsigned long common_flags = MS_NOSUID | MS_NOEXEC | MS_NODEV;

void mount_or_throw(const char* what, const char* source, const std::string& target, const char* type, unsigned long flags, const char* options = nullptr) {
    if (::mount(source, target.c_str(), type, flags, options) != 0) throw Error::from_errno(std::string(what) + " " + target);
}

void show(const std::string& path, const std::string& root) {
    struct stat info{};
    if (::stat(path.c_str(), &info) != 0) throw Error::from_errno("put " + path + " into a jail");
    const std::string target = root + path;
    const bool is_directory = S_ISDIR(info.st_mode), is_device = S_ISCHR(info.st_mode);
    fs::create_directories(is_directory ? target : fs::path(target).parent_path().string());
    if (!is_directory) open_file(target, O_WRONLY | O_CREAT, 0444);
    mount_or_throw("put into a jail", path.c_str(), target, nullptr, MS_BIND);
    // Programs must be executable and devices must be devices: what else these flags forbid is forbidden for all.
    mount_or_throw("protect", nullptr, target, nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | (is_device ? MS_NOEXEC : MS_NODEV));
}

// Leaves its thread in a namespace of its own: for a thread that ends with it.
UniqueFd build(const std::vector<std::string>& paths, const std::string& root) {
    if (::unshare(CLONE_NEWNS) != 0) throw Error::from_errno("make a mount namespace");
    UniqueFd self = open_file("/proc/thread-self/ns/mnt", O_RDONLY);
    mount_or_throw("keep to ourselves", nullptr, "/", nullptr, MS_REC | MS_PRIVATE);
    mount_or_throw("mount", "jail", root, "tmpfs", common_flags, "mode=755,size=4m");
    ::umask(022);  // of this thread alone, since it is in a namespace of its own
    std::string shown = "\n";
    for (const std::string& path : std::set<std::string>(paths.begin(), paths.end())) {
        if (path.starts_with(shown + "/") || path == shown) continue;  // a directory that has it is there
        show(path, root);
        shown = path;
    }
    fs::create_directories(root + "/proc");
    // "." for both: the old root is mounted over the new one, and goes.
    if (::chdir(root.c_str()) != 0 || ::syscall(SYS_pivot_root, ".", ".") != 0 || ::umount2(".", MNT_DETACH) != 0)
        throw Error::from_errno("make a root directory of " + root);
    mount_or_throw("protect", nullptr, "/", nullptr, MS_REMOUNT | MS_RDONLY | common_flags, "mode=755,size=4m");
    return self;
}

}  // namespace

std::shared_ptr<const Jail> Jail::make(std::vector<std::string> paths, std::string mount_point) {
    UniqueFd made;
    std::exception_ptr failure;
    std::thread builder([&] {
        try {
            made = build(paths, mount_point);
        } catch (const std::exception&) {
            failure = std::current_exception();
        }
    });
    builder.join();
    if (failure) std::rethrow_exception(failure);
    return std::shared_ptr<const Jail>(new Jail(std::move(made)));
}

}  // namespace pyro::supervise
