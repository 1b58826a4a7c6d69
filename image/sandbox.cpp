#include "image/sandbox.hpp"

#include <fcntl.h>
#include <linux/landlock.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <initializer_list>
#include <memory>
#include <string_view>

#include "common/error.hpp"
#include "common/unique_fd.hpp"

namespace pyro::image {
namespace {

void limit_resource(int resource, std::uint64_t value) {
    rlimit limit{};
    if (::getrlimit(static_cast<__rlimit_resource>(resource), &limit) != 0)
        throw Error::from_errno("read a resource limit");
    if (limit.rlim_max != RLIM_INFINITY && limit.rlim_max < value)
        value = limit.rlim_max;
    limit.rlim_cur = limit.rlim_max = value;
    if (::setrlimit(static_cast<__rlimit_resource>(resource), &limit) != 0)
        throw Error::from_errno("set a resource limit");
}

// The soft limit asks, and is answered by an event and the end; the hard one kills.
void limit_time(std::uint64_t seconds) {
    std::signal(SIGXCPU, [](int) {
        static constexpr std::string_view last_word =
            "{\"event\":\"error\",\"code\":\"environment_invalid\",\"message\":\"the image takes more processor time than the worker may have\","
            "\"hint\":\"the image is hostile or far too large: use another one\",\"retryable\":false,\"details\":{}}\n";
        const ssize_t written = ::write(1, last_word.data(), last_word.size());
        ::_exit(written > 0 ? 1 : 2);
    });
    rlimit limit{};
    if (::getrlimit(RLIMIT_CPU, &limit) != 0)
        throw Error::from_errno("read a resource limit");
    limit.rlim_cur = std::min<rlim_t>(limit.rlim_cur, seconds);
    limit.rlim_max = std::min<rlim_t>(limit.rlim_max, limit.rlim_cur + 10);
    if (::setrlimit(RLIMIT_CPU, &limit) != 0)
        throw Error::from_errno("set a resource limit");
}

constexpr std::uint64_t read_rights = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
constexpr std::uint64_t file_rights = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_FILE;
constexpr std::uint64_t all_rights_v1 = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;

void allow_below(int ruleset, int directory, std::uint64_t rights) {
    landlock_path_beneath_attr rule{};
    rule.allowed_access = rights;
    rule.parent_fd = directory;
    if (::syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) != 0)
        throw Error::from_errno("add a landlock rule");
}

void restrict_files(const Sandbox& sandbox) {
    const long abi = ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (abi < 1) {
        if (errno == ENOSYS || errno == EOPNOTSUPP)
            return;  // an older kernel: the uid and the empty descriptor table still hold
        throw Error::from_errno("ask for landlock");
    }
    constexpr std::uint64_t refer = 1ull << 13, truncate = 1ull << 14;
    const std::uint64_t handled = all_rights_v1 | (abi >= 2 ? refer : 0) | (abi >= 3 ? truncate : 0);
    landlock_ruleset_attr attributes{};
    attributes.handled_access_fs = handled;
    const UniqueFd ruleset(static_cast<int>(::syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0)));
    if (!ruleset)
        throw Error::from_errno("make a landlock ruleset");
    for (const int directory : sandbox.writable_directories)
        allow_below(ruleset.get(), directory,
                    handled & ~(LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_BLOCK |
                                LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_SOCK));
    if (sandbox.network) {  // certificates, resolver configuration and the libraries that read it
        for (const char* path : {"/etc", "/usr/lib", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/lib", "/lib64",
                                 "/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager"}) {
            const UniqueFd directory(::open(path, O_PATH | O_CLOEXEC));
            if (directory)
                allow_below(ruleset.get(), directory.get(), read_rights);
        }
        for (const char* path : {"/dev/urandom", "/dev/random", "/dev/null"}) {
            const UniqueFd file(::open(path, O_PATH | O_CLOEXEC));
            if (file)
                allow_below(ruleset.get(), file.get(), LANDLOCK_ACCESS_FS_READ_FILE);
        }
    }
    if (::syscall(SYS_landlock_restrict_self, ruleset.get(), 0) != 0)
        throw Error::from_errno("enter landlock");
}

void allow_calls(scmp_filter_ctx filter, std::initializer_list<const char*> names) {
    for (const char* name : names) {
        const int number = seccomp_syscall_resolve_name(name);
        if (number == __NR_SCMP_ERROR)
            continue;  // unknown to this libseccomp, so the filter refuses it
        if (const int status = seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 0); status != 0 && status != -EDOM)
            throw Error::from_errno(std::string("allow ") + name, -status);
    }
}

void restrict_calls(const Sandbox& sandbox) {
    // ENOSYS: a newer libc then falls back to an older call instead of failing.
    const std::unique_ptr<void, void (*)(void*)> filter(seccomp_init(SCMP_ACT_ERRNO(ENOSYS)), seccomp_release);
    if (!filter)
        throw Error(ErrorCode::internal, "libseccomp cannot make a filter");
    allow_calls(filter.get(), {"read", "write", "readv", "writev", "pread64", "pwrite64", "lseek", "fstat", "newfstatat", "statx", "fcntl", "dup",
                               "close", "mmap", "munmap", "mremap", "mprotect", "madvise", "brk", "futex", "exit", "exit_group", "fallocate",
                               "ftruncate", "fsync", "fdatasync", "clock_gettime", "clock_nanosleep", "nanosleep", "gettimeofday", "time",
                               "getrandom", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall", "getpid",
                               "gettid", "tgkill", "getuid", "geteuid", "getgid", "getegid", "sched_yield", "sched_getaffinity", "set_robust_list",
                               "rseq", "prlimit64", "getrlimit", "sysinfo", "uname", "poll", "ppoll", "flock", "fadvise64", "copy_file_range"});
    if (!sandbox.writable_directories.empty() || sandbox.network)
        allow_calls(filter.get(), {"openat", "open", "access", "faccessat", "faccessat2", "stat", "lstat", "readlink", "readlinkat", "getdents64",
                                   "statfs", "fstatfs"});
    if (!sandbox.writable_directories.empty())
        allow_calls(filter.get(), {"mkdirat", "unlinkat", "renameat", "renameat2", "linkat", "symlinkat", "fchmod", "fchmodat", "utimensat"});
    if (sandbox.network) {
        allow_calls(filter.get(), {"socket", "socketpair", "connect", "bind", "sendto", "recvfrom", "sendmsg", "sendmmsg", "recvmsg", "recvmmsg",
                                   "setsockopt", "getsockopt", "getsockname", "getpeername", "shutdown", "select", "pselect6", "epoll_create1",
                                   "epoll_ctl", "epoll_wait", "epoll_pwait", "pipe", "pipe2", "eventfd2", "ioctl"});
        // Threads (the resolver's), never processes. clone3 hides its flags from filters; libc falls back to clone.
        seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, SCMP_SYS(clone), 1, SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
    }
#if defined(__SANITIZE_ADDRESS__)
    // The sanitizers' own reports and leak check.
    allow_calls(filter.get(), {"openat", "open", "readlink", "readlinkat", "getdents64", "clone", "ptrace", "wait4", "prctl", "sched_getaffinity",
                               "arch_prctl", "getppid", "process_vm_readv", "stat", "lstat", "access", "kill", "pipe", "pipe2", "ioctl"});
#endif
    if (const int status = seccomp_load(filter.get()); status != 0)
        throw Error::from_errno("enter seccomp", -status);
}

}  // namespace

void enter_sandbox(const Sandbox& sandbox) {
    limit_resource(RLIMIT_CORE, 0);
    limit_resource(RLIMIT_NOFILE, sandbox.max_files);
    limit_time(sandbox.max_cpu_seconds);
    if (sandbox.max_file_bytes > 0)
        limit_resource(RLIMIT_FSIZE, sandbox.max_file_bytes);
#if !defined(__SANITIZE_ADDRESS__)
    limit_resource(RLIMIT_AS, sandbox.max_memory);
#endif
    std::signal(SIGXFSZ, SIG_IGN);  // a write beyond the limit is an error, not a death
    std::signal(SIGPIPE, SIG_IGN);
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0)
        throw Error::from_errno("give up privileges");
    restrict_files(sandbox);
    restrict_calls(sandbox);
}

}  // namespace pyro::image
