#include "guest/agent/machine.hpp"

#include "common/error.hpp"
#include "guest/agent/workspace.hpp"

#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/netlink.h>
#include <linux/random.h>
#include <net/if.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

namespace pyro::guest {
namespace {

constexpr char root_disk[] = "/dev/vda";
constexpr char new_root[] = "/root-disk";
// From the kernel's fs/ext4/ext4.h; not in its user headers.
#define EXT4_IOC_RESIZE_FS _IOW('f', 16, std::uint64_t)

void mount_on(const char* type, const char* target, unsigned long flags, const char* options) {
    ::mkdir(target, 0755);
    if (::mount(type, target, type, flags, options) != 0) throw Error::from_errno(std::string("mount ") + target);
}

// For files that need not work: what cannot be written is reported, once, and left.
void write_file(const std::string& path, std::string_view content, int flags = O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, unsigned mode = 0644) {
    try {
        const UniqueFd fd = open_file(path, flags | O_NONBLOCK, mode);
        write_all(fd.get(), content);
    } catch (const Error& e) {
        log(e.message());
    }
}

bool is_missing_or_empty(const char* path) {
    struct stat s{};
    return ::lstat(path, &s) != 0 || (S_ISREG(s.st_mode) && s.st_size == 0);
}

void bring_up_loopback() {
    const UniqueFd s(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq request{};
    std::strcpy(request.ifr_name, "lo");
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    if (::ioctl(s.get(), SIOCSIFFLAGS, &request) != 0) log("loopback: " + std::string(std::strerror(errno)));
}

// What a program expects under /dev beside the device nodes.
void complete_dev() {
    mount_on("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=620,ptmxmode=666,gid=5");
    mount_on("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777");
    mount_on("mqueue", "/dev/mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr);
    for (const auto& [target, link] : {std::pair{"/proc/self/fd", "/dev/fd"}, {"/proc/self/fd/0", "/dev/stdin"},
                                       {"/proc/self/fd/1", "/dev/stdout"}, {"/proc/self/fd/2", "/dev/stderr"}})
        if (::symlink(target, link) != 0 && errno != EEXIST) log(std::string(link) + ": " + std::strerror(errno));
}

void prepare_cgroups() {
    write_file("/sys/fs/cgroup/cgroup.subtree_control", "+memory +pids", O_WRONLY);
    if (::mkdir(exec_cgroups, 0755) != 0 && errno != EEXIST) throw Error::from_errno(std::string("create ") + exec_cgroups);
    write_file(std::string(exec_cgroups) + "/cgroup.subtree_control", "+memory +pids", O_WRONLY);
    // A fork bomb leaves room for what the agent and the kernel have to start.
    const long threads = std::strtol(read_small_file("/proc/sys/kernel/threads-max").c_str(), nullptr, 10);
    if (threads > 0) write_file(std::string(exec_cgroups) + "/pids.max", std::to_string(threads / 4 * 3), O_WRONLY);
}

// A text in memory, bound over a file: what is a guest's own is not on its disk, and is another's without a write to the disk.
class StandIn {
public:
    StandIn(const char* file, const char* over) : file_(file), over_(over) {}

    // Throws Error when it does not stand there.
    void show(const std::string& text) {
        struct stat found{};
        if (page_ && text.size() == size_ && ::fstat(fd_.get(), &found) == 0 && found.st_size == static_cast<off_t>(size_)) {
            std::memcpy(page_, text.data(), size_);  // an emulated start consists of such calls into the kernel as this one saves
            return;
        }
        if (!fd_) fd_ = open_file(file_, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0444);
        if (::ftruncate(fd_.get(), 0) != 0 || ::lseek(fd_.get(), 0, SEEK_SET) != 0) throw Error::from_errno(std::string("cut ") + file_);
        write_all(fd_.get(), text);
        if (!bound_) bind();
        bound_ = true;
        if (page_) ::munmap(page_, size_);
        size_ = text.size();
        void* const mapped = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
        page_ = mapped == MAP_FAILED ? nullptr : mapped;
        if (page_) std::memcpy(page_, text.data(), size_);  // from now on it is there, and ours to write
    }

    // For what an image may not let us: one in which that is a directory, say.
    void try_to_show(const std::string& text) {
        try {
            show(text);
        } catch (const Error& e) {
            log(e.message());
        }
    }

private:
    void bind() {
        struct stat found{};
        if (::lstat(over_, &found) == 0 && S_ISLNK(found.st_mode)) ::unlink(over_);
        const UniqueFd target(::open(over_, O_CREAT | O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0444));
        if (!target || ::mount(file_, over_, nullptr, MS_BIND, nullptr) != 0) throw Error::from_errno(std::string("put something in place of ") + over_);
    }

    const char* file_;
    const char* over_;
    UniqueFd fd_;
    bool bound_ = false;
    void* page_ = nullptr;
    std::size_t size_ = 0;
};

// Of the same length for every name.
std::string hosts_text(const std::string& name) {
    const std::string own = name.empty() ? "" : "127.0.1.1\t" + name + "\n";
    return "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" + std::string(own.size() < 80 ? 80 - own.size() : 0, ' ') + "\n" + own;
}

}  // namespace

void log(const std::string& line) noexcept {
    const UniqueFd fd(::open("/dev/kmsg", O_WRONLY | O_CLOEXEC));
    if (!fd) return;  // no /dev yet: nobody could read it
    const std::string whole = "<3>pyro-guest: " + line + "\n";
    if (::write(fd.get(), whole.data(), whole.size()) < 0) return;
}

std::string read_small_file(const std::string& path) noexcept {
    try {
        const UniqueFd fd = open_file(path, O_RDONLY | O_NONBLOCK);
        struct stat s{};
        if (::fstat(fd.get(), &s) != 0 || !S_ISREG(s.st_mode)) return {};
        return read_up_to(fd.get(), 1 << 20);
    } catch (const std::exception&) {
        return {};
    }
}

void mount_early() {
    mount_on("devtmpfs", "/dev", MS_NOSUID, "mode=755");
    mount_on("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr);
    mount_on("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr);
    mount_on("cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, "nsdelegate");
    mount_on("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=755");
    prepare_cgroups();
    complete_dev();
    bring_up_loopback();
}

UniqueFd open_port(const std::string& name) {
    // Subscribed before the first look: nothing announced in between is missed.
    const UniqueFd events(::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT));
    sockaddr_nl address{};
    address.nl_family = AF_NETLINK;
    address.nl_groups = 1;
    if (::bind(events.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) throw Error::from_errno("listen for device events");
    const std::string ports = "/sys/class/virtio-ports/";
    while (true) {
        std::string device;
        if (DIR* directory = ::opendir(ports.c_str())) {
            while (const dirent* entry = ::readdir(directory))
                if (entry->d_name[0] != '.' && read_small_file(ports + entry->d_name + "/name") == name + "\n") device = entry->d_name;
            ::closedir(directory);
        }
        if (!device.empty()) return open_file("/dev/" + device, O_RDWR | O_NONBLOCK);
        char event[8192];
        if (::recv(events.get(), event, sizeof event, 0) < 0 && errno != EINTR && errno != ENOBUFS) throw Error::from_errno("wait for the port");
    }
}

// A disk that is larger than the image's file system: the file system grows into it, mounted.
// Superblock fields: https://www.kernel.org/doc/html/latest/filesystems/ext4/globals.html#super-block
void grow_to_disk() {
    const UniqueFd disk = open_file(root_disk, O_RDONLY);
    std::uint64_t bytes = 0;
    std::array<unsigned char, 1024> super{};
    if (::ioctl(disk.get(), BLKGETSIZE64, &bytes) != 0 || ::pread(disk.get(), super.data(), super.size(), 1024) != static_cast<ssize_t>(super.size()))
        throw Error::from_errno("look at the root disk");
    const auto field = [&](std::size_t at) {
        return std::uint64_t{super[at]} | std::uint64_t{super[at + 1]} << 8 | std::uint64_t{super[at + 2]} << 16 | std::uint64_t{super[at + 3]} << 24;
    };
    const std::uint64_t block_size = 1024ull << (field(0x18) & 7);
    const bool wide = field(0x60) & 0x80;  // INCOMPAT_64BIT: the block count has a high half
    const std::uint64_t blocks = field(0x4) | (wide ? field(0x150) << 32 : 0);
    std::uint64_t wanted = bytes / block_size;
    if (wanted <= blocks) return;
    const UniqueFd root = open_file(new_root, O_RDONLY | O_DIRECTORY);
    if (::ioctl(root.get(), EXT4_IOC_RESIZE_FS, &wanted) != 0) throw Error::from_errno("grow the root file system to its disk");
}

void enter_root() {
    ::mkdir(new_root, 0755);
    if (::mount(root_disk, new_root, "ext4", MS_NOATIME, nullptr) != 0) throw Error::from_errno("mount the root disk");
    grow_to_disk();
    for (const char* tree : {"/dev", "/proc", "/sys", "/run"}) {
        const std::string target = new_root + std::string(tree);
        if (::mkdir(target.c_str(), 0755) != 0 && errno != EEXIST) throw Error::from_errno("create " + target);
        if (::mount(tree, target.c_str(), nullptr, MS_MOVE, nullptr) != 0) throw Error::from_errno("move " + std::string(tree));
    }
    if (::chdir(new_root) != 0 || ::mount(".", "/", nullptr, MS_MOVE, nullptr) != 0 || ::chroot(".") != 0 || ::chdir("/") != 0)
        throw Error::from_errno("enter the root disk");
    // As mount(8) of an init system leaves it: containers started in here see later mounts.
    if (::mount(nullptr, "/", nullptr, MS_REC | MS_SHARED, nullptr) != 0) log("make the root shared: " + std::string(std::strerror(errno)));
    if (::mkdir("/tmp", 01777) == 0) ::chmod("/tmp", 01777);
    ::mkdir("/etc", 0755);
}

void apply(const proto::agent::Identity& identity) {
    if (identity.wall_clock_ns != 0) {
        timespec now{};
        now.tv_sec = static_cast<time_t>(identity.wall_clock_ns / 1'000'000'000u);
        now.tv_nsec = static_cast<long>(identity.wall_clock_ns % 1'000'000'000u);
        if (::clock_settime(CLOCK_REALTIME, &now) != 0) throw Error::from_errno("set the clock");
    }
    if (!identity.entropy.empty()) {
        // Two guests restored from one image must not share a random number: stir, credit, and reseed at once.
        static const UniqueFd random = open_file("/dev/urandom", O_WRONLY);
        std::vector<char> raw(sizeof(rand_pool_info) + identity.entropy.size());
        auto* pool = reinterpret_cast<rand_pool_info*>(raw.data());
        pool->entropy_count = static_cast<int>(identity.entropy.size() * 8);
        pool->buf_size = static_cast<int>(identity.entropy.size());
        std::memcpy(pool->buf, identity.entropy.data(), identity.entropy.size());
        if (::ioctl(random.get(), RNDADDENTROPY, pool) != 0) throw Error::from_errno("add entropy");
        if (::ioctl(random.get(), RNDRESEEDCRNG, nullptr) != 0) throw Error::from_errno("reseed the random generator");
    }
    if (!identity.hostname.empty() && ::sethostname(identity.hostname.data(), identity.hostname.size()) != 0) throw Error::from_errno("set the host name");
    static StandIn hosts("/run/hosts", "/etc/hosts"), machine_id("/run/machine-id", "/etc/machine-id"),
        boot_id("/run/boot-id", "/proc/sys/kernel/random/boot_id");
    static const bool own_hosts = is_missing_or_empty("/etc/hosts");
    if (own_hosts) hosts.try_to_show(hosts_text(identity.hostname));
    if (!identity.resolv_conf.empty()) {
        ::unlink("/etc/resolv.conf");  // often a link into a manager's directory that nobody runs here
        write_file("/etc/resolv.conf", identity.resolv_conf);
    } else if (is_missing_or_empty("/etc/resolv.conf")) {
        write_file("/etc/resolv.conf", "# no network\n");
    }
    // A committed disk or a fork never carries another machine's id; and the kernel draws its own boot id once, which every
    // guest restored from one image has in its memory.
    if (!identity.machine_id.empty()) machine_id.try_to_show(identity.machine_id + "\n");
    if (!identity.boot_id.empty()) boot_id.show(identity.boot_id + "\n");
    if (identity.workspace) mount_workspace(*identity.workspace);
}

void freeze_root(bool frozen) {
    const UniqueFd root = open_file("/", O_RDONLY | O_DIRECTORY);
    if (::ioctl(root.get(), frozen ? FIFREEZE : FITHAW, 0) != 0) throw Error::from_errno(frozen ? "freeze the disk" : "thaw the disk");
}

void power_off() {
    ::kill(-1, SIGKILL);
    while (::waitpid(-1, nullptr, 0) > 0) {}
    unmount_workspace();
    ::sync();
    if (::mount(nullptr, "/", nullptr, MS_REMOUNT | MS_RDONLY, nullptr) != 0) log("the disk stays writable: " + std::string(std::strerror(errno)));
    ::reboot(RB_AUTOBOOT);
    while (true) ::pause();
}

}  // namespace pyro::guest
