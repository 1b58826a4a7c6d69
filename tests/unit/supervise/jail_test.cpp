// A jail's programs are real ones, so these need root and say so where they have it not.
#include "common/error.hpp"
#include "daemon/supervise/jail.hpp"
#include "tests/support/run_coro.hpp"
#include "tests/unit/supervise/programs.hpp"

#include <csignal>
#include <filesystem>
#include <fstream>

#include <sched.h>
#include <sys/stat.h>

using namespace pyro;
using namespace supervise_test;
using supervise::Command;
using supervise::Jail;
using test::run_coro;

namespace {

namespace fs = std::filesystem;

struct MountPoint {
    MountPoint() { REQUIRE(::mkdtemp(path.data())); }
    ~MountPoint() { fs::remove_all(path); }
    std::string path = "/tmp/pyro-jail-XXXXXX";
};

// A shell and what it needs, as directories where a list of libraries would be another of this host.
std::vector<std::string> shell_files() {
    std::vector<std::string> out{"/bin/sh", "/lib64", "/usr/bin/find", "/usr/bin/sort"};
    for (const char* libraries : {"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu"}) out.emplace_back(libraries);
    return out;
}

Command jailed(const std::shared_ptr<const Jail>& jail, const std::string& script) {
    Command command = shell(script);
    command.jail = jail;
    command.unshare_flags = CLONE_NEWPID;
    command.as = supervise::Credentials{54321, 54321, {}};
    return command;
}

std::string said(const std::shared_ptr<const Jail>& jail, const std::string& script) {
    std::string out;
    run_coro([&]() -> io::Task<void> {
        auto supervisor = supervise::make_plain_supervisor(instance);
        Command command = jailed(jail, script);
        const Output output = co_await output_of(*supervisor, std::move(command));
        out = output.text;
    });
    return out;
}

}  // namespace

TEST_CASE("a program in a jail sees its files, its processes, and nothing else") {
    if (!is_root()) return;
    const MountPoint at;
    const std::string mounts = read_file("/proc/self/mountinfo");
    const auto jail = Jail::make(shell_files(), at.path);
    REQUIRE(said(jail, "find / -maxdepth 3 -path /proc -prune -o -path '/*/*linux-gnu/*' -prune -o -path '/lib64/*' -prune -o -print | sort") ==
            "/\n/bin\n/bin/sh\n/lib\n/lib/x86_64-linux-gnu\n/lib64\n/usr\n/usr/bin\n/usr/bin/find\n/usr/bin/sort\n/usr/lib\n/usr/lib/x86_64-linux-gnu\n");
    REQUIRE(said(jail, "echo $$; cd /proc && echo [0-9]*") == "1\n1\n");
    REQUIRE(said(jail, "echo /proc/self/root/*; ls / 2>/dev/null; test -e /proc/1/ns/mnt && echo own") == "/proc/self/root/bin /proc/self/root/lib /proc/self/root/lib64 /proc/self/root/proc /proc/self/root/usr\nown\n");
    // Where it was made, nothing changed.
    REQUIRE(read_file("/proc/self/mountinfo") == mounts);
    REQUIRE(fs::is_empty(at.path));
}

TEST_CASE("nothing in a jail can be written, by root neither") {
    if (!is_root()) return;
    const MountPoint at;
    const auto jail = Jail::make(shell_files(), at.path);
    const std::string tries = "for f in /new /bin/new /bin/sh /usr/lib/x86_64-linux-gnu/new /proc/new; do (: >$f) 2>/dev/null && echo wrote $f; done; echo done";
    REQUIRE(said(jail, tries) == "done\n");
    run_coro([&]() -> io::Task<void> {
        auto supervisor = supervise::make_plain_supervisor(instance);
        Command command = jailed(jail, tries);
        command.as.reset();
        const Output output = co_await output_of(*supervisor, std::move(command));
        REQUIRE(output.text == "done\n");
    });
}

TEST_CASE("a jail goes on with the files it was made of, and devices in it are devices") {
    if (!is_root()) return;
    const MountPoint at, files;
    ::chmod(files.path.c_str(), 0755);
    const std::string file = files.path + "/program";
    std::ofstream(file) << "#!/bin/sh\necho old\n";
    ::chmod(file.c_str(), 0755);
    std::vector<std::string> paths = shell_files();
    paths.push_back(file);
    paths.push_back("/dev/null");
    const auto jail = Jail::make(paths, at.path);
    std::ofstream(file + ".new") << "#!/bin/sh\necho new\n";
    ::chmod((file + ".new").c_str(), 0755);
    fs::rename(file + ".new", file);
    REQUIRE(said(jail, file + "; echo gone >/dev/null && test -c /dev/null && echo device") == "old\ndevice\n");
}

TEST_CASE("what is not there cannot be put into a jail, and leaves nothing behind") {
    if (!is_root()) return;
    const MountPoint at;
    const std::string mounts = read_file("/proc/self/mountinfo");
    try {
        Jail::make({"/bin/sh", "/nonexistent/program"}, at.path);
        FAIL("made");
    } catch (const Error& e) {
        REQUIRE(e.code() == ErrorCode::not_found);
        REQUIRE_THAT(e.message(), Catch::Matchers::ContainsSubstring("/nonexistent/program"));
    }
    REQUIRE(read_file("/proc/self/mountinfo") == mounts);
}

TEST_CASE("the first process of a namespace takes all others with it") {
    if (!is_root()) return;
    const MountPoint at;
    std::vector<std::string> files = shell_files();
    files.push_back("/dev/null");  // a shell gives it to what runs in the background
    const auto jail = Jail::make(std::move(files), at.path);
    run_coro([&]() -> io::Task<void> {
        auto supervisor = supervise::make_plain_supervisor(instance);
        auto [alive_read, alive_write] = make_test_pipe();
        // The background ignores what it can and waits for ever; so does the shell.
        Command command = jailed(jail, "(trap '' TERM HUP; echo up; while :; do read never; done <&8) & read first <&9");
        auto [hold_read, hold_write] = make_test_pipe();
        auto [go_read, go_write] = make_test_pipe();
        command.fds.push_back({std::move(hold_read), 8});
        command.fds.push_back({std::move(go_read), 9});
        command.fds.push_back({std::move(alive_write), 1});
        supervise::Scope scope;
        scope.name = "family";
        auto process = co_await supervisor->spawn(std::move(command), scope, no_record);
        io::Executor executor = co_await io::this_executor();
        io::Stream alive(executor, std::move(alive_read));
        const auto up = co_await alive.read_line(16, never);
        REQUIRE(up == "up");
        process->signal(SIGKILL);  // to the first alone
        std::string rest(16, '\0');
        const std::size_t more = co_await alive.read_some(rest, never);
        REQUIRE(more == 0);  // the background's end of the pipe is closed too
        const auto status = co_await process->wait(never);
        REQUIRE(status.signal == SIGKILL);
        co_await supervisor->remove("family", never);
    });
}
