// Real processes. Those that change user or make cgroups need root and say so when they cannot.
#include "common/error.hpp"
#include "daemon/io/event.hpp"
#include "daemon/io/stream.hpp"
#include "daemon/supervise/supervisor.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/run_coro.hpp"
#include "tests/unit/supervise/programs.hpp"

#include <filesystem>
#include <sstream>

#include <fcntl.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace pyro;
using supervise::Command;
using supervise::ExitStatus;
using supervise::ProcessIdentity;
using namespace supervise_test;
using test::run_coro;

namespace {

std::string field(const std::string& status, const std::string& name) {
    std::istringstream in(status);
    for (std::string line; std::getline(in, line);)
        if (line.starts_with(name + ":")) {
            std::string value = line.substr(name.size() + 1);
            value.erase(0, value.find_first_not_of("\t "));
            return value;
        }
    return "?";
}

}  // namespace

TEST_CASE("a program runs with exactly its arguments, environment, directory and descriptors") {
    run_coro([]() -> io::Task<void> {
        auto supervisor = supervise::make_plain_supervisor(instance);
        Command command = shell("pwd; env | sort; umask; ls /proc/$$/fd; cat <&9; exit 7");
        command.env = {"PATH=/usr/bin:/bin", "A=b c"};
        command.cwd = "/usr";
        auto [read_end, write_end] = make_test_pipe();
        write_all(write_end.get(), "nine\n");
        write_end.reset();
        command.fds.push_back({std::move(read_end), 9});
        const auto out = co_await output_of(*supervisor, std::move(command));
        REQUIRE(out.text == "/usr\nA=b c\nPATH=/usr/bin:/bin\nPWD=/usr\n0077\n0\n1\n2\n9\nnine\n");
        REQUIRE(out.status.code == 7);
        REQUIRE(out.status.describe() == "exit status 7");
    });
}

TEST_CASE("a delegated cgroup that is not there is said, instead of going without limits") {
    std::string message;
    try {
        supervise::make_plain_supervisor(instance, "/pyro.slice/not-there.service");
    } catch (const Error& e) {
        message = e.message();
    }
    REQUIRE(message == "there is no cgroup /pyro.slice/not-there.service");
}

TEST_CASE("descriptors may swap numbers") {
    run_coro([]() -> io::Task<void> {
        auto supervisor = supervise::make_plain_supervisor(instance);
        auto [read_a, write_a] = make_test_pipe();
        auto [read_b, write_b] = make_test_pipe();
        write_all(write_a.get(), "a");
        write_all(write_b.get(), "b");
        write_a.reset();
        write_b.reset();
        Command command = shell("cat <&3; cat <&4");
        const int a = read_a.get(), b = read_b.get();
        // Whatever numbers they have here, the child sees them exchanged.
        UniqueFd low_a(::fcntl(a, F_DUPFD_CLOEXEC, 3)), low_b(::fcntl(b, F_DUPFD_CLOEXEC, 3));
        command.fds.push_back({std::move(low_b), 3});
        command.fds.push_back({std::move(low_a), 4});
        const auto out = co_await output_of(*supervisor, std::move(command));
        REQUIRE(out.text == "ba");
    });
}

TEST_CASE("what cannot be executed is an error with the reason, and leaves nothing") {
    run_coro([]() -> io::Task<void> {
        auto supervisor = supervise::make_plain_supervisor(instance);
        for (const char* path : {"/nonexistent/program", "/etc/passwd"}) {
            Command command;
            command.path = path;
            command.argv = {"x"};
            supervise::Scope scope;
            scope.name = "bad";
            std::string message;
            try {
                co_await supervisor->spawn(std::move(command), scope, no_record);
            } catch (const Error& e) {
                REQUIRE(e.code() == ErrorCode::failed_precondition);
                message = e.message();
            }
            REQUIRE_THAT(message, Catch::Matchers::ContainsSubstring(std::string(path) + ": could not execute it"));
        }
        REQUIRE(supervisor->scopes().empty());
        REQUIRE(::waitpid(-1, nullptr, WNOHANG) == -1);  // no child is left
    });
}

TEST_CASE("the record is written while the program still waits, and a failing record stops it") {
    run_coro([]() -> io::Task<void> {
        auto supervisor = supervise::make_plain_supervisor(instance);
        auto [read_end, write_end] = make_test_pipe();
        Command command = shell("echo ran");
        command.fds.push_back({std::move(write_end), 1});
        supervise::Scope scope;
        scope.name = "gated";
        ProcessIdentity seen;
        std::function<void(const ProcessIdentity&)> refuse = [&](const ProcessIdentity& identity) {
            seen = identity;
            REQUIRE(supervise::identify(identity.pid) == identity);
            throw Error(ErrorCode::internal, "no record");
        };
        bool refused = false;
        try {
            co_await supervisor->spawn(std::move(command), scope, refuse);
        } catch (const Error& e) {
            refused = e.message() == "no record";
        }
        REQUIRE(refused);
        const std::string text = co_await read_all(std::move(read_end));
        REQUIRE(text.empty());
        REQUIRE_FALSE(supervise::identify(seen.pid).has_value());
        REQUIRE(supervisor->scopes().empty());
    });
}

TEST_CASE("a program with credentials has no privilege left, of any kind") {
    if (!is_root()) return;
    run_coro([]() -> io::Task<void> {
        auto supervisor = supervise::make_plain_supervisor(instance);
        Command command = shell("cat /proc/self/status; readlink /proc/self/ns/net; ulimit -n");
        command.as = supervise::Credentials{54321, 54322, {54323}};
        command.unshare_flags = CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
        command.limits = {{RLIMIT_NOFILE, 77}};
        char here[64] = {};
        REQUIRE(::readlink("/proc/self/ns/net", here, sizeof here - 1) > 0);
        const auto out = co_await output_of(*supervisor, std::move(command));
        REQUIRE(field(out.text, "Uid") == "54321\t54321\t54321\t54321");
        REQUIRE(field(out.text, "Gid") == "54322\t54322\t54322\t54322");
        REQUIRE(field(out.text, "Groups") == "54323 ");
        for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}) REQUIRE(field(out.text, set) == "0000000000000000");
        REQUIRE(field(out.text, "NoNewPrivs") == "1");
        REQUIRE(field(out.text, "SigIgn") == "0000000000000000");
        REQUIRE(field(out.text, "SigBlk") == "0000000000000000");
        REQUIRE_THAT(out.text, !Catch::Matchers::ContainsSubstring(here));
        REQUIRE_THAT(out.text, Catch::Matchers::EndsWith("\n77\n"));
    });
}

TEST_CASE("every waiter gets the status, and asks again in vain for another") {
    run_coro([]() -> io::Task<void> {
        io::Executor executor = co_await io::this_executor();
        auto supervisor = supervise::make_plain_supervisor(instance);
        supervise::Scope scope;
        scope.name = "waited";
        auto [read_end, write_end] = make_test_pipe();
        Command command = shell("cat");
        command.fds.push_back({std::move(read_end), 0});
        auto process = co_await supervisor->spawn(std::move(command), scope, no_record);
        std::stop_source impatient;
        impatient.request_stop();
        bool cancelled = false;
        try { co_await process->wait(impatient.get_token()); } catch (const Cancelled&) { cancelled = true; }
        REQUIRE(cancelled);
        process->signal(SIGTERM);
        for (int i = 0; i < 2; ++i) {
            const ExitStatus status = co_await process->wait(never);
            REQUIRE(status.signal == SIGTERM);
            REQUIRE(status.describe() == "killed by signal 15");
        }
        co_await supervisor->remove("waited", never);
    });
}

TEST_CASE("killing a scope reaches what left its group and session") {
    run_coro([]() -> io::Task<void> {
        auto supervisor = supervise::make_plain_supervisor(instance);
        if (!supervisor->capabilities().kills_whole_tree) {
            WARN("no cgroup is writable: only process groups are killed");
            co_return;
        }
        supervise::Scope scope;
        scope.name = "tree";
        scope.tasks_max = 20;
        // The pipe is at its end only when the last process that holds it is gone.
        auto [read_end, write_end] = make_test_pipe();
        Command command = shell("setsid setsid -f sh -c 'echo escaped; exec tail -f /dev/null'; exec tail -f /dev/null");
        command.fds.push_back({std::move(write_end), 1});
        auto process = co_await supervisor->spawn(std::move(command), scope, no_record);
        io::Executor executor = co_await io::this_executor();
        io::Stream out(executor, std::move(read_end));
        auto line = co_await out.read_line(100, never);
        REQUIRE(line == "escaped");
        process->kill();
        line = co_await out.read_line(100, never);
        REQUIRE_FALSE(line);
        const ExitStatus status = co_await process->wait(never);
        REQUIRE(status.signal == SIGKILL);
        co_await supervisor->remove("tree", never);
        REQUIRE(supervisor->scopes().empty());
        co_await supervisor->remove("tree", never);
    });
}

TEST_CASE("what needs more memory than its scope may have is killed, and that is said") {
    if (!is_root()) return;
    run_coro([]() -> io::Task<void> {
        auto supervisor = supervise::make_plain_supervisor(instance);
        if (!supervisor->capabilities().limits_memory) {
            WARN("no memory cgroup is writable: memory is not limited");
            co_return;
        }
        supervise::Scope scope;
        scope.name = "greedy";
        scope.memory_max = 32 << 20;
        scope.cpu_percent = 200;
        Command greedy = shell("x=0123456789abcdef; while :; do x=$x$x; done");
        auto process = co_await supervisor->spawn(std::move(greedy), scope, no_record);
        ExitStatus status = co_await process->wait(never);
        REQUIRE(status.out_of_memory);
        REQUIRE(status.describe() == "killed: out of memory");
        co_await supervisor->remove("greedy", never);
        // A program that is killed by somebody else in the same scope's successor was not.
        Command innocent = shell("kill -9 $$");
        process = co_await supervisor->spawn(std::move(innocent), scope, no_record);
        status = co_await process->wait(never);
        REQUIRE_FALSE(status.out_of_memory);
        REQUIRE(status.signal == SIGKILL);
        co_await supervisor->remove("greedy", never);
    });
}

TEST_CASE("a scope's processor time is limited where the host can") {
    if (!is_root()) return;
    run_coro([]() -> io::Task<void> {
        auto supervisor = supervise::make_plain_supervisor(instance);
        if (!supervisor->capabilities().limits_cpu) {
            WARN("no cpu cgroup is writable: processor time is not limited");
            co_return;
        }
        supervise::Scope scope;
        scope.name = "busy";
        scope.cpu_percent = 150;
        auto [read_end, write_end] = make_test_pipe();
        Command command = shell("for f in $(sed -n 's/^[0-9]*:cpu:/\\/sys\\/fs\\/cgroup\\/cpu/p' /proc/self/cgroup)/cpu.cfs_quota_us "
                                "/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/cpu.max; do test -e $f && cat $f; done");
        command.fds.push_back({std::move(write_end), 1});
        auto process = co_await supervisor->spawn(std::move(command), scope, no_record);
        const std::string said = co_await read_all(std::move(read_end));
        REQUIRE(said.starts_with("150000"));
        co_await process->wait(never);
        co_await supervisor->remove("busy", never);
    });
}

TEST_CASE("a scope removed takes along what its program left behind") {
    run_coro([]() -> io::Task<void> {
        auto supervisor = supervise::make_plain_supervisor(instance);
        if (!supervisor->capabilities().kills_whole_tree) co_return;
        supervise::Scope scope;
        scope.name = "left";
        auto [read_end, write_end] = make_test_pipe();
        Command command = shell("setsid -f tail -f /dev/null");
        command.fds.push_back({std::move(write_end), 1});
        auto process = co_await supervisor->spawn(std::move(command), scope, no_record);
        co_await process->wait(never);
        co_await supervisor->remove("left", never);
        const std::string rest = co_await read_all(std::move(read_end));
        REQUIRE(rest.empty());
    });
}

TEST_CASE("a program bound to the daemon dies with it, also under another user") {
    if (!is_root()) return;
    // A forked copy plays the daemon; its program holds a pipe whose end shows its death.
    auto [alive_read, alive_write] = make_test_pipe();
    auto [ready_read, ready_write] = make_test_pipe();
    const pid_t daemon = ::fork();
    if (daemon == 0) {
        alive_read.reset();
        ready_read.reset();
        run_coro([&]() -> io::Task<void> {
            auto supervisor = supervise::make_plain_supervisor(instance + "-d");
            Command command = shell("echo up >&4; exec tail -f /dev/null");
            command.as = supervise::Credentials{54321, 54321, {}};
            command.dies_with_daemon = true;
            command.fds.push_back({std::move(alive_write), 3});
            command.fds.push_back({std::move(ready_write), 4});
            supervise::Scope scope;
            scope.name = "bound";
            auto process = co_await supervisor->spawn(std::move(command), scope, no_record);
            co_await process->wait(never);
        });
        ::_exit(0);
    }
    alive_write.reset();
    ready_write.reset();
    char up[4] = {};
    REQUIRE(::read(ready_read.get(), up, 3) == 3);
    ::kill(daemon, SIGKILL);
    ::waitpid(daemon, nullptr, 0);
    REQUIRE(read_up_to(alive_read.get(), 1).empty());  // ends only with the program
    run_coro([]() -> io::Task<void> {
        auto supervisor = supervise::make_plain_supervisor(instance + "-d");
        if (supervisor->capabilities().kills_whole_tree) REQUIRE(supervisor->scopes() == std::vector<std::string>{"bound"});
        co_await supervisor->remove("bound", never);
    });
}

TEST_CASE("an adopted process is known by more than its pid") {
    run_coro([]() -> io::Task<void> {
        auto supervisor = supervise::make_plain_supervisor(instance);
        auto later = supervise::make_plain_supervisor(instance);
        supervise::Scope scope;
        scope.name = "adopted";
        auto process = co_await supervisor->spawn(shell("exec tail -f /dev/null"), scope, no_record);
        ProcessIdentity identity = process->identity();
        ProcessIdentity reused = identity;
        reused.start_time += 1;
        REQUIRE(later->adopt(reused, scope) == nullptr);
        ProcessIdentity other_boot = identity;
        other_boot.boot_id = "00000000-0000-0000-0000-000000000000";
        REQUIRE(later->adopt(other_boot, scope) == nullptr);
        auto adopted = later->adopt(identity, scope);
        REQUIRE(adopted);
        adopted->kill();
        const ExitStatus unknown = co_await adopted->wait(never);  // ended, though not yet collected by its parent
        REQUIRE_FALSE(unknown.known);
        REQUIRE(later->adopt(identity, scope) == nullptr);
        const ExitStatus known = co_await process->wait(never);
        REQUIRE(known.signal == SIGKILL);
        REQUIRE(unknown.describe() == "ended");
        REQUIRE(later->adopt(identity, scope) == nullptr);
        co_await later->remove("adopted", never);
    });
}

TEST_CASE("a scope name cannot leave its directory") {
    run_coro([]() -> io::Task<void> {
        auto supervisor = supervise::make_plain_supervisor(instance);
        for (const char* name : {"", "../x", "a/b", "A", "a b"}) {
            supervise::Scope scope;
            scope.name = name;
            bool refused = false;
            try { co_await supervisor->spawn(shell("true"), scope, no_record); } catch (const Error& e) { refused = e.code() == ErrorCode::invalid_argument; }
            REQUIRE(refused);
        }
    });
}

TEST_CASE("a program is executed although the way to it is closed to whom it runs as") {
    if (!is_root()) return;
    std::string closed = "/tmp/pyro-supervise-XXXXXX";
    REQUIRE(::mkdtemp(closed.data()));  // mode 0700, as a home directory
    std::filesystem::copy_file("/bin/echo", closed + "/echo");
    run_coro([closed]() -> io::Task<void> {
        auto supervisor = supervise::make_plain_supervisor(instance);
        Command command;
        command.path = closed + "/echo";
        command.argv = {"echo", "reached"};
        command.as = supervise::Credentials{54321, 54322, {}};
        const auto out = co_await output_of(*supervisor, std::move(command));
        REQUIRE(out.text == "reached\n");
    });
    std::filesystem::remove_all(closed);
}
