#include "image/bootstrap.hpp"

#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <deque>
#include <nlohmann/json.hpp>
#include <vector>

#include "common/unique_fd.hpp"
#include "image/tree.hpp"

namespace pyro::image {
namespace {

std::pair<UniqueFd, UniqueFd> bootstrap_pipe() {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) != 0)
        throw Error::from_errno("make a pipe");
    return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

void die_with_parent(pid_t parent) {
    if (::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0 || ::getppid() != parent)
        ::_exit(125);
}

[[noreturn]] void child_failed(const char* what) {
    const std::string text = std::string("E: ") + what + ": " + std::strerror(errno) + "\n";
    [[maybe_unused]] const ssize_t ignored = ::write(2, text.data(), text.size());
    ::_exit(125);
}

bool package_name(const std::string& name) {
    return name.size() > 1 && name.size() < 100 && name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789.+-") == std::string::npos;
}

void write_map(pid_t pid, const char* file, std::uint32_t outer, std::uint32_t first, std::uint32_t count) {
    const UniqueFd fd = open_file("/proc/" + std::to_string(pid) + "/" + file, O_WRONLY);
    write_all(fd.get(), "0 " + std::to_string(outer) + " 1\n1 " + std::to_string(first) + " " + std::to_string(count) + "\n");
}

}  // namespace

nlohmann::json bootstrap(const nlohmann::json& request, Events& events) {
    const std::string program = request.at("program"), suite = request.at("suite"), temp = request.at("temp");
    const auto uid = request.at("uid").get<std::uint32_t>(), gid = request.at("gid").get<std::uint32_t>();
    const auto sub_first = request.at("sub_first").get<std::uint32_t>(), sub_count = request.at("sub_count").get<std::uint32_t>();
    const int tar = request.at("tar_fd").get<int>();
    if (uid == 0 || gid == 0 || sub_first == 0)
        throw Error(ErrorCode::invalid_argument, "the Debian archive is not unpacked as root");
    std::string include;
    for (const nlohmann::json& package : request.at("packages")) {
        const std::string name = package;
        if (!package_name(name))
            throw Error(ErrorCode::invalid_argument, "no package is called " + printable(name));
        include += (include.empty() ? "" : ",") + name;
    }
    // Only its default mirror is used: none is named.
    std::vector<std::string> arguments{program, "--mode=root", "--variant=minbase", "--format=tar"};
    if (!include.empty())
        arguments.push_back("--include=" + include);
    arguments.insert(arguments.end(), {suite, "-"});
    std::vector<char*> argv;
    for (std::string& argument : arguments)
        argv.push_back(argument.data());
    argv.push_back(nullptr);
    std::string environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR=/tmp", "HOME=/nonexistent", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"};
    std::vector<char*> env;
    for (std::string& variable : environment)
        env.push_back(variable.data());
    env.push_back(nullptr);

    auto [log_read, log_write] = bootstrap_pipe();
    auto [ready_read, ready_write] = bootstrap_pipe();
    auto [mapped_read, mapped_write] = bootstrap_pipe();
    const pid_t self = ::getpid();
    const pid_t child = ::fork();
    if (child < 0)
        throw Error::from_errno("start the bootstrap");
    if (child == 0) {
        ::dup2(log_write.get(), 2);
        if (::unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS) != 0)
            child_failed("make the namespaces");
        // Now, while the way to it can still be walked; the host's /tmp is out of sight from here on.
        if (::mount(temp.c_str(), "/tmp", nullptr, MS_BIND, nullptr) != 0)
            child_failed("mount the working directory");
        char byte = 1;
        if (::write(ready_write.get(), &byte, 1) != 1)
            ::_exit(125);
        mapped_write.reset();
        if (::read(mapped_read.get(), &byte, 1) != 1)
            ::_exit(125);
        if (::setgroups(0, nullptr) != 0 || ::setresgid(0, 0, 0) != 0 || ::setresuid(0, 0, 0) != 0)
            child_failed("become the namespace's root");
        if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
            child_failed("set no_new_privs");
        die_with_parent(self);
        const pid_t init = ::fork();  // pid 1 of the new pid namespace: when it goes, all go
        if (init < 0)
            child_failed("start mmdebstrap");
        if (init == 0) {
            if (::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0)
                child_failed("tie mmdebstrap to the worker");
            if (::dup2(tar, 1) < 0 || ::dup2(::open("/dev/null", O_RDONLY), 0) < 0)
                child_failed("pass the tar");
            ::syscall(SYS_close_range, 3U, ~0U, 0U);  // its shells know only one-digit descriptors
            ::umask(022);
            if (::chdir("/") != 0)
                child_failed("change directory");
            ::execve(program.c_str(), argv.data(), env.data());
            child_failed(program.c_str());
        }
        int status = 0;
        while (::waitpid(init, &status, 0) < 0 && errno == EINTR)
            ;
        ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 124);
    }
    log_write.reset();
    ready_write.reset();
    mapped_read.reset();
    char byte = 1;
    if (::read(ready_read.get(), &byte, 1) == 1) {
        write_map(child, "uid_map", uid, sub_first, sub_count);
        write_map(child, "gid_map", gid, sub_first, sub_count);
        if (::setgroups(0, nullptr) != 0 || ::setresgid(gid, gid, gid) != 0 || ::setresuid(uid, uid, uid) != 0 ||
            ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0)
            throw Error::from_errno("give up privileges");
        if (::write(mapped_write.get(), &byte, 1) != 1)
            throw Error::from_errno("let the bootstrap go on");
    }
    mapped_write.reset();

    events.step("bootstrap", "from the Debian archive: " + suite);
    // "I: …" tells the step it is at; the last lines explain a failure.
    std::deque<std::string> last;
    std::string pending;
    char buffer[4096];
    while (true) {
        const ssize_t n = ::read(log_read.get(), buffer, sizeof buffer);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        pending.append(buffer, static_cast<std::size_t>(n));
        for (std::size_t end; (end = pending.find('\n')) != std::string::npos || pending.size() > 4096;) {
            const std::string line = pending.substr(0, std::min<std::size_t>(end, 4096));
            pending.erase(0, line.size() + (end == std::string::npos ? 0 : 1));
            if (line.starts_with("I: "))
                events.step("bootstrap", line.substr(3));
            else if (line.starts_with("E: ") || line.starts_with("W: "))
                last.push_back(line.substr(3, 300));
            if (last.size() > 4)
                last.pop_front();
        }
    }
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        std::string why;
        for (const std::string& line : last)
            why += (why.empty() ? "" : "; ") + line;
        throw Error(ErrorCode::unavailable, "mmdebstrap could not build the environment" + (why.empty() ? "" : ": " + why),
                    "check the network and the Debian archive's mirror, then pull again");
    }
    return nlohmann::json::object();
}

}  // namespace pyro::image
