#include "daemon/prepare_host.hpp"

#include "common/error.hpp"
#include "common/log.hpp"
#include "daemon/env/files.hpp"
#include "daemon/io/stream.hpp"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>

#include <fcntl.h>
#include <grp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

namespace pyro {
namespace {

namespace fs = std::filesystem;

// Made if missing, with what is above it. Returns whether it was.
bool make_directory(const std::string& path, mode_t mode) {
    if (path.empty()) return false;
    int failed = ::mkdir(path.c_str(), mode) == 0 ? 0 : errno;
    if (failed == ENOENT && path != "/") {
        make_directory(fs::path(path).parent_path(), 0755);
        failed = ::mkdir(path.c_str(), mode) == 0 ? 0 : errno;
    }
    if (failed == EEXIST) return false;
    if (failed != 0)
        throw Error(ErrorCode::failed_precondition, "make " + path + ": " + std::strerror(failed), "run pyrod as root, or name another directory in its configuration");
    if (::chmod(path.c_str(), mode) != 0) throw Error::from_errno("set the mode of " + path);
    return true;
}

// The daemon's own: nobody else may have a say in what lies there.
void make_own_directory(const std::string& path, mode_t mode) {
    make_directory(path, mode);
    const UniqueFd directory = open_file(path, O_RDONLY | O_DIRECTORY);
    struct stat info{};
    if (::fstat(directory.get(), &info) != 0) throw Error::from_errno("look at " + path);
    if (info.st_uid != 0)
        throw Error(ErrorCode::failed_precondition, path + " belongs to uid " + std::to_string(info.st_uid) + ", not to root",
                    "name a directory of pyrod's own in its configuration, or: chown root: " + path);
    if (::fchmod(directory.get(), mode) != 0) throw Error::from_errno("set the mode of " + path);
}

// Somebody else's directory, /run or a user's: it stays as it is, but nobody may put another file in the socket's place.
void check_socket_directory(const std::string& path) {
    if (make_directory(path, 0755)) return;
    struct stat info{};
    if (::stat(path.c_str(), &info) != 0) throw Error::from_errno("look at " + path);
    if ((info.st_mode & S_IWOTH) != 0 && (info.st_mode & S_ISVTX) == 0)
        throw Error(ErrorCode::failed_precondition, "anybody may replace files in " + path + ", the socket too", "chmod o-w " + path + ", or name another socket");
}

bool somebody_listens(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) return false;  // refused where it is bound
    path.copy(address.sun_path, path.size());
    const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd) throw Error::from_errno("make a socket");
    return ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 || errno == EAGAIN;
}

}  // namespace

// One user's connections must not cost the others theirs: the limits that count are those of the configuration.
void raise_descriptor_limit() {
    rlimit files{};
    if (::getrlimit(RLIMIT_NOFILE, &files) != 0) throw Error::from_errno("read the limit of open files");
    files.rlim_cur = files.rlim_max;
    if (::setrlimit(RLIMIT_NOFILE, &files) != 0) throw Error::from_errno("raise the limit of open files");
}

void make_directories(const Config& config) {
    make_own_directory(config.state_dir, 0711);
    make_own_directory(config.state_dir + "/vm", 0700);
    make_own_directory(config.state_dir + "/templates", 0700);
    make_own_directory(config.state_dir + "/workspaces", 0700);
    make_own_directory(config.state_dir + "/seeds", 0700);
    make_own_directory(sandbox_directory(config), 0711);
    make_own_directory(config.run_dir, 0755);
    make_own_directory(config.run_dir + "/vm", 0700);
}

dev_t disk_below(const std::string& path) {
    struct stat info{};
    if (::stat(path.c_str(), &info) != 0) throw Error::from_errno("look at " + path);
    const std::string device = "/sys/dev/block/" + std::to_string(major(info.st_dev)) + ":" + std::to_string(minor(info.st_dev));
    if (!fs::exists(device + "/partition")) return info.st_dev;
    const std::string number = read_file(device + "/../dev", 64);
    const auto colon = number.find(':');
    if (colon == std::string::npos) return info.st_dev;
    return makedev(static_cast<unsigned>(std::stoul(number.substr(0, colon))), static_cast<unsigned>(std::stoul(number.substr(colon + 1))));
}

std::string sandbox_directory(const Config& config) { return config.state_dir + "/compat"; }

// Each is its user's, who may hinder that: it costs space, not the start.
void remove_old_sandboxes(const std::string& directory) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    for (const std::string& name : env::names_in(directory)) {
        try {
            env::remove_tree(directory + "/" + name, until);
        } catch (const Error& e) {
            log::say(log::Level::warning, "the tree of an old sandbox stays: " + e.message());
        }
    }
}

UniqueFd listen_for_clients(const Config& config) {
    check_socket_directory(fs::path(config.socket).parent_path());
    if (somebody_listens(config.socket))
        throw Error(ErrorCode::failed_precondition, "another program serves " + config.socket, "stop it first, or name another socket in the configuration");
    UniqueFd listening = io::listen_unix(config.socket, 0600);
    const group* members = ::getgrnam(config.socket_group.c_str());
    if (!members) log::say(log::Level::warning, "there is no group " + config.socket_group + ": only root may connect; make it with: groupadd --system " + config.socket_group);
    if (::lchown(config.socket.c_str(), 0, members ? members->gr_gid : 0) != 0) throw Error::from_errno("set the owner of " + config.socket);
    if (::chmod(config.socket.c_str(), 0660) != 0) throw Error::from_errno("set the mode of " + config.socket);
    return listening;
}

}  // namespace pyro
