#include "daemon/supervise/cgroup.hpp"

#include "common/error.hpp"
#include "common/unique_fd.hpp"

#include <algorithm>
#include <charconv>
#include <csignal>
#include <filesystem>
#include <set>
#include <sstream>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

namespace pyro::supervise {
namespace {

namespace fs = std::filesystem;

void write_control(const std::string& path, const std::string& value) {
    const UniqueFd fd = open_file(path, O_WRONLY);
    try {
        write_all(fd.get(), value);
    } catch (Error& e) {
        e.add_context(path);
        throw;
    }
}

bool try_write_control(const std::string& path, const std::string& value) noexcept {
    const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    return fd && ::write(fd.get(), value.data(), value.size()) == static_cast<ssize_t>(value.size());
}

bool make_directory(const std::string& path) { return ::mkdir(path.c_str(), 0755) == 0 || errno == EEXIST; }

std::vector<std::string> split(const std::string& text, char separator) {
    std::vector<std::string> out;
    std::istringstream in(text);
    for (std::string part; std::getline(in, part, separator);) out.push_back(part);
    return out;
}

bool has_word(const std::string& text, std::string_view word) {
    std::istringstream in(text);
    for (std::string part; in >> part;) if (part == word) return true;
    return false;
}

// A v1 hierarchy without a controller, by which systemd knows whose a process is where it does not use v2 for that.
constexpr std::string_view managers = "name=systemd";

// Mount points of the cgroup file systems: v2 under the empty name, v1 under each controller.
std::vector<std::pair<std::string, std::string>> mounted_hierarchies() {
    std::vector<std::pair<std::string, std::string>> out;
    std::istringstream in(read_file("/proc/self/mounts", 1 << 20));
    for (std::string line; std::getline(in, line);) {
        std::istringstream fields(line);
        std::string source, target, type, options;
        fields >> source >> target >> type >> options;
        if (type == "cgroup2") out.emplace_back("", target);
        if (type != "cgroup") continue;
        for (const std::string& option : split(options, ','))
            if (option == "memory" || option == "pids" || option == "cpu" || option == "blkio" || option == "freezer" || option == managers) out.emplace_back(option, target);
    }
    return out;
}

// The cgroup this process is in: of v2 under the empty name, of v1 under each controller.
std::string own_cgroup(const std::string& controller) {
    std::istringstream in(read_file("/proc/self/cgroup", 1 << 20));
    for (std::string line; std::getline(in, line);) {
        const auto first = line.find(':'), second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) continue;
        const auto controllers = split(line.substr(first + 1, second - first - 1), ',');
        const bool mine = controller.empty() ? controllers.empty() : std::ranges::find(controllers, controller) != controllers.end();
        if (mine) return line.substr(second + 1);
    }
    return "";
}

// Out of every 100 ms. Kernels without bandwidth control have the controller without these files.
void limit_cpu(const std::string& directory, bool v2, std::uint64_t percent) {
    constexpr std::uint64_t period = 100'000;  // us
    const std::string quota = std::to_string(period * percent / 100);
    if (v2) try_write_control(directory + "/cpu.max", quota + " " + std::to_string(period));
    else try_write_control(directory + "/cpu.cfs_quota_us", quota);
}

// A file system that has no disk of its own, a network's or one in memory, cannot be limited: that is no reason not to start.
void limit_io(const std::string& directory, bool v2, const Scope& scope) {
    const std::string device = std::to_string(major(scope.io_device)) + ":" + std::to_string(minor(scope.io_device));
    const std::string rate = std::to_string(scope.io_bytes_per_second);
    if (v2) {
        try_write_control(directory + "/io.max", device + " rbps=" + rate + " wbps=" + rate);
        return;
    }
    for (const char* file : {"/blkio.throttle.read_bps_device", "/blkio.throttle.write_bps_device"}) try_write_control(directory + file, device + " " + rate);
}

// On v2 only a cgroup without processes of its own hands controllers on: what keeps a delegated one alive moves into a leaf.
void move_processes_down(const std::string& delegated) {
    const std::string keeper = delegated + "/keeper";
    if (!make_directory(keeper)) return;
    std::istringstream in(read_file(delegated + "/cgroup.procs", 1 << 20));
    for (std::string pid; in >> pid;) try_write_control(keeper + "/cgroup.procs", pid);
}

// The number behind a key of a flat file; 0 where there is none.
std::uint64_t value_in(const std::string& path, std::string_view key) {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) return 0;
    std::istringstream in(read_up_to(fd.get(), 4096));
    std::uint64_t value = 0;
    for (std::string word; in >> word >> value;)
        if (word == key) return value;
    return 0;
}

}  // namespace

CgroupTree::CgroupTree(const std::string& instance, const std::string& delegated) {
    for (const auto& [controller, mount] : mounted_hierarchies()) {
        if (controller == managers && delegated.empty()) continue;
        const std::string above = delegated.empty() ? own_cgroup(controller) : delegated;
        if (above.empty()) continue;
        Hierarchy h;
        h.base = mount + (above == "/" ? "" : above) + "/pyro-" + instance;
        h.v2 = controller.empty();
        // Where the service manager has not made it there is nothing for us: freezer, say.
        if (!delegated.empty() && !fs::exists(mount + delegated)) continue;
        if (h.v2 && !delegated.empty()) move_processes_down(mount + delegated);
        if (!make_directory(h.base) || ::access((h.base + "/cgroup.procs").c_str(), W_OK) != 0) continue;
        if (h.v2) {
            for (const char* wanted : {"memory", "pids", "cpu", "io"}) {
                const std::string parent = h.base.substr(0, h.base.rfind('/'));
                try_write_control(parent + "/cgroup.subtree_control", std::string("+") + wanted);
                try_write_control(h.base + "/cgroup.subtree_control", std::string("+") + wanted);
            }
            const std::string given = read_file(h.base + "/cgroup.subtree_control", 4096);
            h.memory = has_word(given, "memory");
            h.pids = has_word(given, "pids");
            h.cpu = has_word(given, "cpu");
            h.io = has_word(given, "io");
        } else {
            h.memory = controller == "memory";
            h.pids = controller == "pids";
            h.cpu = controller == "cpu";
            h.io = controller == "blkio";
        }
        capabilities_.kills_whole_tree = true;
        capabilities_.limits_memory |= h.memory;
        capabilities_.limits_tasks |= h.pids;
        capabilities_.limits_cpu |= h.cpu;
        capabilities_.limits_io |= h.io;
        capabilities_.how += (capabilities_.how.empty() ? "cgroups below " : ", ") + h.base;
        hierarchies_.push_back(std::move(h));
    }
    // The most capable killer first.
    std::ranges::stable_sort(hierarchies_, [](const Hierarchy& a, const Hierarchy& b) { return a.v2 > b.v2; });
    if (hierarchies_.empty() && !delegated.empty())
        throw Error(ErrorCode::failed_precondition, "there is no cgroup " + delegated, "systemctl start pyro-machines, or start pyrod without --cgroup");
    if (hierarchies_.empty()) capabilities_.how = "no cgroup directory is writable: process groups only";
}

CgroupTree::~CgroupTree() {
    for (const Hierarchy& h : hierarchies_) ::rmdir(h.base.c_str());  // refused while a scope lives: that is the point
}

void CgroupTree::create(const Scope& scope) const {
    for (const Hierarchy& h : hierarchies_) {
        const std::string directory = h.base + "/" + scope.name;
        if (!make_directory(directory)) throw Error::from_errno("make " + directory);
        if (h.memory && scope.memory_max > 0) {
            write_control(directory + (h.v2 ? "/memory.max" : "/memory.limit_in_bytes"), std::to_string(scope.memory_max));
            if (h.v2) try_write_control(directory + "/memory.oom.group", "1");
        }
        if (h.pids && scope.tasks_max > 0) write_control(directory + "/pids.max", std::to_string(scope.tasks_max));
        if (h.cpu && scope.cpu_percent > 0) limit_cpu(directory, h.v2, scope.cpu_percent);
        if (h.io && scope.io_bytes_per_second > 0) limit_io(directory, h.v2, scope);
    }
}

ScopeEntrance CgroupTree::entrance(const std::string& scope) const {
    ScopeEntrance out;
    for (const Hierarchy& h : hierarchies_) {
        const std::string directory = h.base + "/" + scope;
        if (h.v2) {
            out.directory = open_file(directory, O_RDONLY | O_DIRECTORY);
            out.procs = open_file(directory + "/cgroup.procs", O_WRONLY);
        } else {
            out.tasks.push_back(open_file(directory + "/tasks", O_WRONLY));
        }
    }
    return out;
}

std::vector<pid_t> CgroupTree::members(const std::string& scope) const {
    std::set<pid_t> out;
    for (const Hierarchy& h : hierarchies_) {
        const UniqueFd fd(::open((h.base + "/" + scope + "/cgroup.procs").c_str(), O_RDONLY | O_CLOEXEC));
        if (!fd) continue;
        std::istringstream in(read_up_to(fd.get(), 1 << 20));
        for (pid_t pid; in >> pid;) if (pid > 0) out.insert(pid);
    }
    return {out.begin(), out.end()};
}

void CgroupTree::kill(const std::string& scope) const noexcept {
    for (const Hierarchy& h : hierarchies_)
        if (h.v2 && try_write_control(h.base + "/" + scope + "/cgroup.kill", "1")) return;
    // Without cgroup.kill: those seen now. A process that forks meanwhile is seen by the caller's next round.
    try {
        for (const pid_t pid : members(scope)) ::kill(pid, SIGKILL);
    } catch (const std::exception&) {
        // Out of memory, or the directory went meanwhile: remove() reports what cannot be ended.
    }
}

bool CgroupTree::out_of_memory(const std::string& scope) const noexcept {
    try {
        return std::ranges::any_of(hierarchies_, [&](const Hierarchy& h) {
            return h.memory && value_in(h.base + "/" + scope + (h.v2 ? "/memory.events" : "/memory.oom_control"), "oom_kill") > 0;
        });
    } catch (const std::exception&) {
        return false;  // read while the directory goes: nobody can say any more
    }
}

void CgroupTree::remove(const std::string& scope) const {
    for (const Hierarchy& h : hierarchies_) {
        const std::string directory = h.base + "/" + scope;
        if (::rmdir(directory.c_str()) != 0 && errno != ENOENT) throw Error::from_errno("remove " + directory);
    }
}

std::vector<std::string> CgroupTree::scopes() const {
    std::set<std::string> out;
    for (const Hierarchy& h : hierarchies_)
        for (const auto& entry : fs::directory_iterator(h.base))
            if (entry.is_directory()) out.insert(entry.path().filename());
    return {out.begin(), out.end()};
}

}  // namespace pyro::supervise
