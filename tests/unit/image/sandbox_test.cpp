// The worker's own walls, each tried from inside by a child.
#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <string>

#include "common/unique_fd.hpp"
#include "image/sandbox.hpp"
#include "tests/support/catch.hpp"

using namespace pyro;
using namespace pyro::image;

namespace {

// What `act` returns, in a child inside the sandbox; 200 if it could not be entered.
int inside(const Sandbox& sandbox, const std::function<int()>& act) {
    const pid_t pid = ::fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        try {
            enter_sandbox(sandbox);
        } catch (...) {
            ::_exit(200);
        }
        ::_exit(act());
    }
    int status = 0;
    REQUIRE(::waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int error_of(long result) { return result < 0 ? errno : 0; }

bool has_landlock() { return ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION) >= 1; }

}  // namespace

#if !defined(__SANITIZE_ADDRESS__)  // the sanitizers need calls that the sandbox forbids
TEST_CASE("in the builder's sandbox no file is opened, no socket made, no program run") {
    const Sandbox builder;
    CHECK(inside(builder, [] { return error_of(::open("/etc/passwd", O_RDONLY)); }) == ENOSYS);
    CHECK(inside(builder, [] { return error_of(::socket(AF_INET, SOCK_STREAM, 0)); }) == ENOSYS);
    CHECK(inside(builder, [] { return error_of(::socket(AF_UNIX, SOCK_STREAM, 0)); }) == ENOSYS);
    CHECK(inside(builder, [] {
        char* none[] = {nullptr};
        return error_of(::execve("/bin/true", none, none));
    }) == ENOSYS);
    CHECK(inside(builder, [] { return error_of(::syscall(SYS_fork)); }) == ENOSYS);
    CHECK(inside(builder, [] { return error_of(::syscall(SYS_ptrace, 0, 0, 0, 0)); }) == ENOSYS);
    CHECK(inside(builder, [] { return error_of(::syscall(SYS_mount, "a", "b", "c", 0, nullptr)); }) == ENOSYS);
}

TEST_CASE("memory has a limit in the sandbox, and so has a file") {
    Sandbox small;
    small.max_memory = 256 << 20;
    small.max_file_bytes = 1 << 20;
    CHECK(inside(small, [] { return ::mmap(nullptr, 512 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? errno : 0; }) == ENOMEM);
    const UniqueFd file(::memfd_create("file", MFD_CLOEXEC));
    CHECK(inside(small, [&file] { return error_of(::pwrite(file.get(), "x", 1, 1 << 20)); }) == EFBIG);
}

TEST_CASE("where the kernel has landlock, a worker with a network reads nothing but what that needs") {
    if (!has_landlock()) {
        WARN("this kernel has no landlock: not tried");
        return;
    }
    Sandbox fetch;
    fetch.network = true;
    CHECK(inside(fetch, [] { return error_of(::open("/etc/passwd", O_RDONLY)); }) == 0);
    CHECK(inside(fetch, [] { return error_of(::open("/proc/self/status", O_RDONLY)); }) == EACCES);
    CHECK(inside(fetch, [] { return error_of(::open("/tmp/pyro-sandbox-test", O_WRONLY | O_CREAT, 0600)); }) == EACCES);
    CHECK(inside(fetch, [] { return error_of(::open("/etc/pyro-sandbox-test", O_WRONLY | O_CREAT, 0600)); }) == EACCES);

    char name[] = "/tmp/pyro-sandbox-XXXXXX";
    REQUIRE(::mkdtemp(name));
    const UniqueFd directory(::open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    Sandbox unpack;
    unpack.writable_directories = {directory.get()};
    CHECK(inside(unpack, [&directory] { return error_of(::openat(directory.get(), "f", O_WRONLY | O_CREAT, 0600)); }) == 0);
    CHECK(inside(unpack, [&directory] { return error_of(::openat(directory.get(), "../pyro-sandbox-test", O_WRONLY | O_CREAT, 0600)); }) == EACCES);
    CHECK(inside(unpack, [] { return error_of(::open("/etc/passwd", O_RDONLY)); }) == EACCES);
    ::unlinkat(directory.get(), "f", 0);
    ::rmdir(name);
}
#endif
