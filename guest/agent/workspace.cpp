#include "guest/agent/workspace.hpp"

#include "common/error.hpp"
#include "common/unique_fd.hpp"
#include "guest/agent/machine.hpp"
#include "guest/agent/users.hpp"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <linux/sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace pyro::guest {
namespace {

constexpr char seed_disk[] = "/dev/vdb";
constexpr char workspace_path[] = "/workspace";
constexpr char own_path[] = "/.pyro";
constexpr char layers_path[] = "/.pyro/workspace";
constexpr char lower_path[] = "/.pyro/workspace/lower";
constexpr char upper_path[] = "/.pyro/workspace/upper";
constexpr char work_path[] = "/.pyro/workspace/work";

// index=off, nfs_export=off: a disk may go on under another baseline, which an index would refuse.
// redirect_dir=nofollow, metacopy=off: the upper directory is the difference by itself, each changed file whole and each name where
// it is seen, for whoever reads it without the kernel's help. To rename a directory of the baseline is EXDEV: mv and git copy it.
// xino=on: inode numbers of both layers are different ones of one device, and a file keeps its own when it is first written to.
constexpr char overlay_options[] =
    "lowerdir=/.pyro/workspace/lower,upperdir=/.pyro/workspace/upper,workdir=/.pyro/workspace/work,"
    "index=off,nfs_export=off,redirect_dir=nofollow,metacopy=off,xino=on";

[[noreturn]] void give_up(const std::string& what) { throw Error::from_errno("the workspace: " + what); }

void make_directory(const char* path, mode_t mode) {
    if (::mkdir(path, mode) != 0 && errno != EEXIST) give_up(std::string("create ") + path);
}

// A user namespace in which root is `user`. It lives as long as its descriptor.
UniqueFd namespace_of(const User& user) {
    clone_args args{};
    args.flags = CLONE_NEWUSER | CLONE_CLEAR_SIGHAND;
    args.exit_signal = SIGCHLD;
    const pid_t holder = static_cast<pid_t>(::syscall(SYS_clone3, &args, sizeof args));
    if (holder < 0) give_up("fork");
    if (holder == 0)
        while (true) ::pause();
    const auto end = [holder] {
        ::kill(holder, SIGKILL);
        ::waitpid(holder, nullptr, 0);
    };
    try {
        const std::string process = "/proc/" + std::to_string(holder);
        for (const auto& [file, id] : {std::pair{"/uid_map", user.uid}, {"/gid_map", user.gid}}) {
            const UniqueFd map = open_file(process + file, O_WRONLY);
            write_all(map.get(), "0 " + std::to_string(id) + " 1\n");
        }
        UniqueFd made = open_file(process + "/ns/user", O_RDONLY);
        end();
        return made;
    } catch (const Error&) {
        end();
        throw;
    }
}

// The seed's files are root's: whom the workspace belongs to sees them as their own.
void mount_seed(const User& user) {
    const UniqueFd context(::fsopen("ext4", FSOPEN_CLOEXEC));
    if (!context || ::fsconfig(context.get(), FSCONFIG_SET_STRING, "source", seed_disk, 0) != 0 ||
        ::fsconfig(context.get(), FSCONFIG_SET_FLAG, "ro", nullptr, 0) != 0 || ::fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
        give_up("read the seed");
    const UniqueFd seed(::fsmount(context.get(), FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOATIME));
    if (!seed) give_up("mount the seed");
    if (user.uid != 0 || user.gid != 0) {
        const UniqueFd owner = namespace_of(user);
        mount_attr attributes{};
        attributes.attr_set = MOUNT_ATTR_IDMAP;
        attributes.userns_fd = static_cast<__u64>(owner.get());
        if (::mount_setattr(seed.get(), "", AT_EMPTY_PATH, &attributes, sizeof attributes) != 0) give_up("give the seed to its user");
    }
    if (::move_mount(seed.get(), "", AT_FDCWD, lower_path, MOVE_MOUNT_F_EMPTY_PATH) != 0) give_up("mount the seed");
}

std::optional<proto::agent::Workspace> mounted;

void unmount(const char* path) {
    if (::umount2(path, 0) != 0) give_up(std::string("unmount ") + path);
}

}  // namespace

void mount_workspace(const proto::agent::Workspace& workspace) {
    const bool same_user = mounted && mounted->user == workspace.user;
    if (same_user && mounted->seeded == workspace.seeded) return;
    // Ahead it was mounted for nobody, who had written nothing.
    if (mounted) unmount(workspace_path);
    if (mounted && mounted->seeded) unmount(lower_path);
    mounted.reset();
    std::string error;
    const std::optional<User> user = find_user(workspace.user, read_small_file("/etc/passwd"), read_small_file("/etc/group"), error);
    if (!user) throw Error(ErrorCode::failed_precondition, "the workspace: " + error);
    make_directory(own_path, 0700);
    for (const char* path : {layers_path, lower_path, upper_path, work_path}) make_directory(path, 0755);
    make_directory(workspace_path, 0755);
    if (workspace.seeded) mount_seed(*user);
    // Its root is the upper directory's.
    if (::chown(upper_path, user->uid, user->gid) != 0) give_up("hand it over");
    if (::mount("workspace", workspace_path, "overlay", MS_NOATIME, overlay_options) != 0) {
        const int why = errno;
        if (workspace.seeded) ::umount2(lower_path, MNT_DETACH);
        errno = why;
        give_up("mount it");
    }
    mounted = workspace;
}

void unmount_workspace() noexcept {
    if (!mounted) return;
    for (const char* path : {workspace_path, lower_path})
        if (::umount2(path, MNT_DETACH) != 0 && errno != EINVAL) log(std::string("unmount ") + path + ": " + std::strerror(errno));
}

}  // namespace pyro::guest
