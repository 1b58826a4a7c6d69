#include "client/cli/child.hpp"

#include "client/cli/render.hpp"
#include "client/lib/connection.hpp"

#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sstream>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace pyro::client {

namespace {

constexpr std::size_t kept_output = 1 << 20;

void check_spawn(int error, const std::string& what) {
    if (error != 0) throw Error::from_errno(what, error);
}

std::vector<char*> pointers(std::vector<std::string>& words) {
    std::vector<char*> out;
    for (std::string& word : words) out.push_back(word.data());
    out.push_back(nullptr);
    return out;
}

UniqueFd memory_file(const char* name) {
    UniqueFd file(::memfd_create(name, MFD_CLOEXEC));
    if (!file) throw Error::from_errno("make a file in memory");
    return file;
}

std::string content_of(const UniqueFd& file) {
    ::lseek(file.get(), 0, SEEK_SET);
    return read_up_to(file.get(), kept_output);
}

}  // namespace

Pipe::Pipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw Error::from_errno("make a pipe");
    read.reset(ends[0]);
    write.reset(ends[1]);
}

Child::Child(const std::vector<std::string>& words, Files files, const std::vector<std::string>* environment, const std::string& directory) {
    std::vector<std::string> copies(words), variables(environment ? *environment : std::vector<std::string>());
    std::vector<char*> argv = pointers(copies), envp = pointers(variables);

    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    check_spawn(::posix_spawn_file_actions_init(&actions), "prepare a process");
    check_spawn(::posix_spawnattr_init(&attributes), "prepare a process");
    const int wanted[] = {files.in, files.out, files.err};
    for (int fd = 0; fd <= 2; ++fd) {
        if (wanted[fd] < 0) ::posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
        else ::posix_spawn_file_actions_adddup2(&actions, wanted[fd], fd);
    }
    if (!directory.empty()) check_spawn(::posix_spawn_file_actions_addchdir_np(&actions, directory.c_str()), "prepare a process");
    // We ignore SIGPIPE; whoever we start does not expect to.
    sigset_t as_by_default;
    ::sigemptyset(&as_by_default);
    ::sigaddset(&as_by_default, SIGPIPE);
    ::posix_spawnattr_setsigdefault(&attributes, &as_by_default);
    ::posix_spawnattr_setpgroup(&attributes, 0);
    ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    const int error = ::posix_spawnp(&pid_, argv[0], &actions, &attributes, argv.data(), environment ? envp.data() : environ);
    ::posix_spawn_file_actions_destroy(&actions);
    ::posix_spawnattr_destroy(&attributes);
    check_spawn(error, "start " + words.front());
    handle_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
    PYRO_CHECK(handle_);
}

Child::~Child() {
    if (pid_ < 0) return;
    ::kill(pid_, SIGKILL);
    while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {}
}

void Child::pass_on(Signals& signals) {
    while (const auto number = signals.take()) {
        if (*number == SIGWINCH || *number == SIGCONT) continue;
        // A second one is meant: it need not end in order.
        ::kill(pid_, interrupted_by_ ? SIGKILL : *number);
        interrupted_by_ = *number;
    }
}

int Child::wait(Signals* signals) {
    pollfd waiting[] = {{handle_.get(), POLLIN, 0}, {signals ? signals->fd() : -1, POLLIN, 0}};
    while (!(waiting[0].revents & POLLIN)) {
        if (::poll(waiting, 2, -1) < 0 && errno != EINTR) throw Error::from_errno("wait for a process");
        if (signals) pass_on(*signals);
    }
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {}
    pid_ = -1;
    if (interrupted_by_) throw Interrupted(*interrupted_by_);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

bool Child::readable_before_end(int fd, Signals& signals) {
    pollfd waiting[] = {{fd, POLLIN, 0}, {handle_.get(), POLLIN, 0}, {signals.fd(), POLLIN, 0}};
    for (;;) {
        if (::poll(waiting, 3, -1) < 0 && errno != EINTR) throw Error::from_errno("wait for a process");
        pass_on(signals);
        if (waiting[1].revents) return false;
        if (waiting[0].revents) return true;
    }
}

bool Child::readable_until(int fd, std::chrono::steady_clock::time_point until, Signals& signals) {
    pollfd waiting[] = {{fd, POLLIN, 0}, {signals.fd(), POLLIN, 0}};
    for (;;) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
        if (left.count() <= 0) return false;
        if (::poll(waiting, 2, static_cast<int>(left.count())) < 0 && errno != EINTR) throw Error::from_errno("wait for a process");
        pass_on(signals);
        if (interrupted_by_) throw Interrupted(*interrupted_by_);
        if (waiting[0].revents) return true;
    }
}

Finished run_program(const std::vector<std::string>& words, Signals* signals, int input) {
    const UniqueFd out = memory_file("out"), err = memory_file("err");
    Finished done;
    const auto start = std::chrono::steady_clock::now();
    Child child(words, {input, out.get(), err.get()});
    done.status = child.wait(signals);
    done.wall = std::chrono::steady_clock::now() - start;
    done.out = content_of(out);
    done.err = content_of(err);
    return done;
}

std::string last_line(const std::string& text) {
    std::istringstream lines(text);
    std::string line, last;
    while (std::getline(lines, line))
        if (line.find_first_not_of(" \t\r") != std::string::npos) last = line;
    return printable(last);
}

bool is_on_path(const std::string& program) {
    const char* path = std::getenv("PATH");
    std::istringstream folders(path ? path : "/usr/bin:/bin");
    std::string folder;
    while (std::getline(folders, folder, ':'))
        if (::access((folder + "/" + program).c_str(), X_OK) == 0) return true;
    return false;
}

}  // namespace pyro::client
