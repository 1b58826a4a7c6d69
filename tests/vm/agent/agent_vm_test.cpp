// The agent on real guests: everything the daemon relies on, through the daemon's own end of the channel.
#include "daemon/agent/channel.hpp"
#include "daemon/io/event.hpp"
#include "daemon/io/task_group.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/run_coro.hpp"
#include "tests/vm/agent/vm.hpp"

#include <csignal>
#include <ctime>

using namespace pyro;
using namespace std::chrono_literals;
using agent::Channel;
using agent::ExecSession;
using agent::ExecSpec;
using agent::ExitStatus;
using agent::Identity;
using proto::agent::Output;
namespace wire = proto::agent;
using test::Vm;

namespace {

struct Result {
    std::string out, err;
    ExitStatus status;
};

Identity an_identity() {
    Identity identity;
    identity.hostname = "fire";
    identity.machine_id = "0123456789abcdef0123456789abcdef";
    identity.entropy = std::string(64, 'e');
    identity.wall_clock_ns = static_cast<std::uint64_t>(std::time(nullptr)) * 1'000'000'000u;
    identity.env = {"FROM_IMAGE=1", "PATH=/usr/bin:/bin"};
    return identity;
}

template <class... Words>
ExecSpec command(Words... words) {
    ExecSpec spec;
    spec.argv = {std::string(words)...};
    spec.has_stdin = false;
    return spec;
}
ExecSpec shell(std::string script) { return command("/bin/sh", "-c", std::move(script)); }

io::Task<Result> finish(std::shared_ptr<ExecSession> session, std::stop_token stop) {
    Result result;
    while (std::optional<agent::Chunk> chunk = co_await session->read(stop)) {
        std::string& to = chunk->stream == Output::out ? result.out : result.err;
        to += chunk->bytes;
    }
    result.status = co_await session->exited(stop);
    co_return std::move(result);
}

using Body = std::function<io::Task<void>(Channel&, std::stop_token)>;

// Boots, identifies, runs the body; a guest that makes no progress for two minutes fails the test.
void with_guest(Body body, int mem_mib = 512, std::optional<wire::Workspace> workspace = std::nullopt) {
    Vm vm(mem_mib, workspace && workspace->seeded);
    std::string failure;
    test::run_coro([&]() -> io::Task<void> {
        io::Executor executor = co_await io::this_executor();
        io::Deadline deadline(executor, 120s, {});
        io::Stream stream = co_await io::Stream::connect(vm.socket(), deadline.token());
        Channel channel(executor, std::move(stream));
        Identity identity = an_identity();
        identity.workspace = std::move(workspace);
        channel.start(identity);
        try {
            co_await body(channel, deadline.token());
        } catch (const Error& e) {
            failure = e.message();
        } catch (const Cancelled&) {
            failure = "no end within two minutes";
        }
        co_await channel.close();
    });
    INFO(vm.console());
    REQUIRE(failure == "");
}

Result run(ExecSpec spec, int mem_mib = 512, std::optional<wire::Workspace> workspace = std::nullopt) {
    Result result;
    with_guest([&](Channel& channel, std::stop_token stop) -> io::Task<void> {
        std::shared_ptr<ExecSession> session = channel.exec(spec);
        result = co_await finish(session, stop);
    }, mem_mib, std::move(workspace));
    return result;
}

}  // namespace

TEST_CASE("the first command travels with the start and sees an ordinary system") {
    const Result r = run(shell("echo $$ > /tmp/x; hostname; cat /etc/machine-id; id -u; pwd; echo $HOME $FROM_IMAGE; test -e /dev/fd/0 && test -d /dev/shm && test -c /dev/pts/ptmx && "
                               "grep -q ' / ext4 rw' /proc/mounts && test -d /sys/class && grep -q 127.0.0.1 /etc/hosts && ping -c1 -W1 127.0.0.1 >/dev/null && echo fine; "
                               "echo oops >&2; date +%s; exit 7"));
    INFO(r.out << r.err);
    REQUIRE(r.out.starts_with("fire\n0123456789abcdef0123456789abcdef\n0\n/root\n/root 1\nfine\n"));
    REQUIRE(std::abs(std::atol(r.out.substr(r.out.rfind("fine\n") + 5).c_str()) - std::time(nullptr)) < 120);
    REQUIRE(r.err == "oops\n");
    REQUIRE(r.status.kind == ExitStatus::Kind::exited);
    REQUIRE(r.status.exit_code == 7);
    REQUIRE(r.status.duration_ns > 0);
}

TEST_CASE("stdin and stdout are binary-safe, and an end of input arrives") {
    std::string sent(3 << 20, '\0');
    std::uint32_t state = 1;
    for (char& c : sent) c = static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
    Result result, small, large;
    with_guest([&](Channel& channel, std::stop_token stop) -> io::Task<void> {
        ExecSpec spec = command("cat");
        spec.has_stdin = true;
        std::shared_ptr<ExecSession> session = channel.exec(spec);
        io::Executor executor = co_await io::this_executor();
        io::TaskGroup group(executor);
        std::function<io::Task<void>()> feed = [&]() -> io::Task<void> {
            co_await session->write_stdin(sent, stop);
            session->close_stdin();
        };
        group.spawn(feed);
        result = co_await finish(session, stop);
        co_await group.join();
        // Nothing in, many small writes out.
        spec = shell("cat; dd if=/bin/busybox bs=7 count=30000; cat /bin/busybox >&2");
        spec.has_stdin = true;
        session = channel.exec(spec);
        session->close_stdin();
        small = co_await finish(session, stop);
        large = co_await finish(channel.exec(shell("cat /bin/busybox")), stop);
    });
    REQUIRE(result.out.size() == sent.size());
    REQUIRE((result.out == sent));
    REQUIRE(result.status.exit_code == 0);
    REQUIRE(large.out.size() > 210'000);
    REQUIRE((small.out == large.out.substr(0, 210'000)));
    REQUIRE(small.err.ends_with(large.out));
}

TEST_CASE("a command that reads no input ends although input comes") {
    Result result;
    with_guest([&](Channel& channel, std::stop_token stop) -> io::Task<void> {
        ExecSpec spec = shell("exec <&-; echo deaf; sleep 0.2");
        spec.has_stdin = true;
        std::shared_ptr<ExecSession> session = channel.exec(spec);
        co_await session->started(stop);
        std::string much(2 << 20, 'x');
        co_await session->write_stdin(std::move(much), stop);
        result = co_await finish(session, stop);
    });
    REQUIRE(result.out == "deaf\n");
}

TEST_CASE("a terminal is one: size, job control, resize, end of input") {
    Result result;
    std::string seen;
    const struct ShowOnFailure {
        const std::string& text;
        ~ShowOnFailure() {
            if (std::uncaught_exceptions() > 0) std::fprintf(stderr, "the terminal showed: %s\n", text.c_str());
        }
    } show{seen};
    with_guest([&](Channel& channel, std::stop_token stop) -> io::Task<void> {
        ExecSpec spec = command("/bin/sh");
        spec.tty = true;
        spec.cols = 91, spec.rows = 17;
        std::shared_ptr<ExecSession> session = channel.exec(spec);
        const auto until = [&](std::string mark) -> io::Task<void> {
            while (seen.find(mark) == std::string::npos) {
                std::optional<agent::Chunk> chunk = co_await session->read(stop);
                REQUIRE(chunk);
                seen += chunk->bytes;
            }
        };
        std::string script = "stty size; tty; echo term=$TERM; sh -c 'echo in\"\"side; exec cat'\n";
        co_await session->write_stdin(std::move(script), stop);
        std::string mark = "inside";  // said by who is in the foreground
        co_await until(mark);
        session->resize(33, 44);
        std::string interrupt = "\x03";  // ends cat, the shell goes on
        co_await session->write_stdin(std::move(interrupt), stop);
        mark = "^C";
        co_await until(mark);
        const std::size_t interrupted = seen.find(mark);
        while (seen.find("# ", interrupted) == std::string::npos) {  // a shell at its prompt: what is typed before, it may throw away
            std::optional<agent::Chunk> chunk = co_await session->read(stop);
            REQUIRE(chunk);
            seen += chunk->bytes;
        }
        std::string rest = "stty size; echo after=$?; exit 5\n";
        co_await session->write_stdin(std::move(rest), stop);
        while (std::optional<agent::Chunk> chunk = co_await session->read(stop)) seen += chunk->bytes;
        result.status = co_await session->exited(stop);
    });
    INFO(seen);
    REQUIRE(seen.find("17 91\r\n/dev/pts/0\r\n") != std::string::npos);
    REQUIRE(seen.find("term=xterm\r\n") != std::string::npos);
    REQUIRE(seen.find("44 33\r\nafter=0") != std::string::npos);
    REQUIRE(result.status.exit_code == 5);

    with_guest([&](Channel& channel, std::stop_token stop) -> io::Task<void> {
        ExecSpec spec = command("cat");
        spec.tty = true;
        std::shared_ptr<ExecSession> session = channel.exec(spec);
        std::string line = "line\n";
        co_await session->write_stdin(std::move(line), stop);
        session->close_stdin();
        result = co_await finish(session, stop);
    });
    REQUIRE(result.out == "line\r\nline\r\n");
    REQUIRE(result.status.exit_code == 0);
}

TEST_CASE("signals, exit codes, and what cannot be run") {
    with_guest([&](Channel& channel, std::stop_token stop) -> io::Task<void> {
        std::shared_ptr<ExecSession> sleeping = channel.exec(shell("trap 'exit 9' INT; sleep 1000 & wait; sleep 1000"));
        co_await sleeping->started(stop);
        std::shared_ptr<ExecSession> terminated = channel.exec(command("sleep", "1000"));
        co_await terminated->started(stop);
        terminated->signal(SIGTERM);
        Result r = co_await finish(terminated, stop);
        CHECK(r.status.kind == ExitStatus::Kind::signalled);
        CHECK(r.status.signal == SIGTERM);
        CHECK_FALSE(r.status.oom);

        r = co_await finish(channel.exec(shell("kill -9 $$")), stop);
        CHECK(r.status.signal == SIGKILL);
        r = co_await finish(channel.exec(shell("exit 255")), stop);
        CHECK(r.status.exit_code == 255);

        r = co_await finish(channel.exec(command("no-such-program")), stop);
        CHECK(r.status.kind == ExitStatus::Kind::not_started);
        CHECK(r.status.exit_code == 127);
        CHECK(r.status.error_number == ENOENT);
        r = co_await finish(channel.exec(command("/bin/orphan-script")), stop);
        CHECK(r.status.exit_code == 127);
        for (const char* name : {"plain", "/bin/plain", "/bin/broken", "/etc"}) {
            r = co_await finish(channel.exec(command(name)), stop);
            INFO(name << ": " << r.status.error);
            CHECK(r.status.kind == ExitStatus::Kind::not_started);
            CHECK(r.status.exit_code == 126);
            CHECK(r.status.error_number != 0);
        }
        ExecSpec spec = command("true");
        spec.cwd = "/no/such/directory";
        r = co_await finish(channel.exec(spec), stop);
        CHECK(r.status.exit_code == 126);
        CHECK(r.status.error == "enter /no/such/directory: No such file or directory");
        spec = command("true");
        spec.user = "nobody-knows";
        r = co_await finish(channel.exec(spec), stop);
        CHECK(r.status.kind == ExitStatus::Kind::not_started);
        CHECK(r.status.error == "the image has no user nobody-knows");

        sleeping->signal(SIGINT);  // to the whole group: the sleep in the background too
        r = co_await finish(sleeping, stop);
        CHECK(r.status.exit_code == 9);
    });
}

TEST_CASE("users, groups, directory and environment are the command's own") {
    with_guest([&](Channel& channel, std::stop_token stop) -> io::Task<void> {
        ExecSpec spec = shell("id -u; id -g; id -G; echo $HOME $USER $SHELL $A $FROM_IMAGE; pwd; umask; echo direct > /dev/stdout; cat /proc/self/oom_score_adj");
        spec.user = "alice";
        spec.env = {"A=1=2", "FROM_IMAGE=overridden"};
        Result r = co_await finish(channel.exec(spec), stop);
        CHECK(r.out == "1000\n1000\n1000 29 999\n/home/alice alice /bin/ash 1=2 overridden\n/home/alice\n0022\ndirect\n0\n");
        spec = shell("id -u; id -g; id -G; pwd");
        spec.user = "1234:audio";
        spec.cwd = "/work";
        r = co_await finish(channel.exec(spec), stop);
        CHECK(r.out == "1234\n29\n29\n/work\n");
        // The agent is a batch process (3), what it starts is not (0).
        r = co_await finish(channel.exec(shell("cut -d ' ' -f 41 /proc/1/stat /proc/self/stat")), stop);
        CHECK(r.out == "3\n0\n");
        // Larger than a frame, and than any single read of the port.
        spec = command("/bin/sh", "-c", "echo ${#1}", "sh", std::string(120000, 'y'));
        spec.env = {"BIG=" + std::string(100000, 'z')};
        r = co_await finish(channel.exec(spec), stop);
        CHECK(r.out == "120000\n");
    });
}

TEST_CASE("running out of memory ends the command, says so, and spares the agent") {
    with_guest([&](Channel& channel, std::stop_token stop) -> io::Task<void> {
        Result r = co_await finish(channel.exec(command("tail", "/dev/zero")), stop);
        CHECK(r.status.kind == ExitStatus::Kind::signalled);
        CHECK(r.status.signal == SIGKILL);
        CHECK(r.status.oom);
        r = co_await finish(channel.exec(shell("echo alive")), stop);
        CHECK(r.out == "alive\n");
        CHECK_FALSE(r.status.oom);
    }, 160);
}

TEST_CASE("a kill reaches what left the process group; orphans are reaped; what is left behind holds nobody up") {
    with_guest([&](Channel& channel, std::stop_token stop) -> io::Task<void> {
        std::shared_ptr<ExecSession> family = channel.exec(shell("setsid sleep 1111 & setsid sh -c 'sleep 1111 & sleep 1111' & (setsid setsid sleep 1111 &); echo up; sleep 1111"));
        std::optional<agent::Chunk> up = co_await family->read(stop);
        CHECK(up);
        Result running = co_await finish(channel.exec(shell("until [ $(pidof sleep | wc -w) = 5 ]; do usleep 20000; done; echo five")), stop);
        CHECK(running.out == "five\n");
        family->kill();
        Result r = co_await finish(family, stop);
        CHECK(r.status.signal == SIGKILL);
        r = co_await finish(channel.exec(shell("while pidof sleep >/dev/null; do usleep 20000; done; echo none")), stop);
        CHECK(r.out == "none\n");

        r = co_await finish(channel.exec(shell("sleep 2222 & echo left")), stop);
        CHECK(r.out == "left\n");
        r = co_await finish(channel.exec(shell("pidof sleep | wc -w; for i in 1 2 3 4 5; do (sleep 0 &); done; usleep 200000; ps -o stat | grep -c Z")), stop);
        CHECK(r.out == "1\n0\n");
    });
}

TEST_CASE("who does not read stops its own command and no other") {
    with_guest([&](Channel& channel, std::stop_token stop) -> io::Task<void> {
        std::shared_ptr<ExecSession> flood = channel.exec(shell("yes 0123456789abcdef"));
        std::optional<agent::Chunk> first = co_await flood->read(stop);
        CHECK(first);
        std::vector<std::shared_ptr<ExecSession>> many;
        for (int i = 0; i < 40; ++i) many.push_back(channel.exec(shell("echo " + std::to_string(i))));
        for (int i = 0; i < 40; ++i) {
            Result r = co_await finish(many[static_cast<std::size_t>(i)], stop);
            CHECK(r.out == std::to_string(i) + "\n");
        }
        std::uint64_t next = first->bytes.size();
        bool intact = true;
        while (next < 24u << 20) {
            std::optional<agent::Chunk> chunk = co_await flood->read(stop);
            CHECK(chunk);
            intact = intact && chunk->offset == next;
            for (std::size_t i = 0; i < chunk->bytes.size(); ++i) intact = intact && chunk->bytes[i] == "0123456789abcdef\n"[(next + i) % 17];
            next += chunk->bytes.size();
        }
        CHECK(intact);
        flood->kill();
        Result r = co_await finish(flood, stop);
        CHECK(r.status.signal == SIGKILL);
    });
}

TEST_CASE("a new connection goes on where the old one ended: nothing lost, nothing twice") {
    Vm vm;
    test::run_coro([&]() -> io::Task<void> {
        io::Executor executor = co_await io::this_executor();
        io::Deadline deadline(executor, 120s, {});
        const std::stop_token stop = deadline.token();
        std::string out, expected;
        for (int i = 1; i <= 400000; ++i) expected += std::to_string(i) + "\n";
        std::string fed(1 << 20, '\0');
        for (std::size_t i = 0; i < fed.size(); ++i) fed[i] = static_cast<char>(i * 7 + i / 251);
        std::string echoed;
        std::uint32_t counting = 0, copying = 0;
        agent::Resumption resumption;
        std::string boot_id;
        for (int round = 0; round < 6; ++round) {
            io::Stream stream = co_await io::Stream::connect(vm.socket(), stop);
            std::optional<agent::Resumption> from;
            if (round > 0) from = resumption;
            Channel channel(executor, std::move(stream), from);
            std::shared_ptr<ExecSession> count, copy;
            if (round == 0) {
                const Identity identity = an_identity();
                channel.start(identity);
                count = channel.exec(command("seq", "400000"));
                ExecSpec spec = command("cat");
                spec.has_stdin = true;
                copy = channel.exec(spec);
                counting = count->id(), copying = copy->id();
            } else {
                count = channel.adopt(counting);
                copy = channel.adopt(copying);
            }
            REQUIRE(count);
            REQUIRE(copy);
            const agent::Hello hello = co_await channel.hello(stop);
            if (round == 0) boot_id = hello.boot_id;
            REQUIRE(hello.boot_id == boot_id);
            // Feed from what the guest has, and break off in the middle of both directions.
            std::uint64_t taken = 0;
            for (const auto& e : hello.execs)
                if (e.exec == copying) taken = e.input_taken;
            REQUIRE(taken <= fed.size());
            const std::size_t size = round < 5 ? std::min<std::size_t>(fed.size() - taken, 150'000u + 7777u * static_cast<unsigned>(round)) : fed.size() - taken;
            io::TaskGroup group(executor);
            std::function<io::Task<void>()> feed = [&]() -> io::Task<void> {
                std::string part = fed.substr(taken, size);
                co_await copy->write_stdin(std::move(part), stop);
                if (round == 5) copy->close_stdin();
            };
            group.spawn(feed);
            const std::size_t out_goal = round < 5 ? std::min(expected.size(), out.size() + 300'000u) : expected.size();
            while (out.size() < out_goal) {
                std::optional<agent::Chunk> chunk = co_await count->read(stop);
                REQUIRE(chunk);
                REQUIRE(chunk->offset == out.size());
                out += chunk->bytes;
            }
            const std::size_t echo_goal = round < 5 ? echoed.size() + 60'000 : fed.size();
            while (echoed.size() < echo_goal) {
                std::optional<agent::Chunk> chunk = co_await copy->read(stop);
                REQUIRE(chunk);
                REQUIRE(chunk->offset == echoed.size());
                echoed += chunk->bytes;
            }
            co_await group.join();
            if (round == 5) {
                ExitStatus status = co_await copy->exited(stop);
                REQUIRE(status.exit_code == 0);
                status = co_await count->exited(stop);
                REQUIRE(status.exit_code == 0);
            }
            co_await channel.close();
            resumption.execs.clear();
            agent::wire::Attach::Resume one;
            one.exec = counting, one.out = out.size();
            resumption.execs.push_back(one);
            one.exec = copying, one.out = echoed.size();
            resumption.execs.push_back(one);
        }
        REQUIRE((out == expected));
        REQUIRE((echoed == fed));
    });
}

TEST_CASE("garbage on the channel is survived, and so is a host that comes late or goes at once") {
    Vm vm;
    test::run_coro([&]() -> io::Task<void> {
        io::Executor executor = co_await io::this_executor();
        io::Deadline deadline(executor, 120s, {});
        const std::stop_token stop = deadline.token();
        for (int i = 0; i < 5; ++i) {
            io::Stream stream = co_await io::Stream::connect(vm.socket(), stop);
            std::string garbage(static_cast<std::size_t>(i) * 5000, static_cast<char>(i * 50));
            garbage += "PYRO\x01\x01 half a frame";
            co_await stream.write_all(std::move(garbage), stop);
            stream.close();
            co_await io::sleep_for(150ms, stop);
        }
        io::Stream stream = co_await io::Stream::connect(vm.socket(), stop);
        Channel channel(executor, std::move(stream), agent::Resumption());
        const Identity identity = an_identity();
        channel.start(identity);
        agent::Hello hello = co_await channel.hello(stop);
        Result r = co_await finish(channel.exec(shell("echo here")), stop);
        CHECK(r.out == "here\n");
        co_await channel.close();
    });
}

TEST_CASE("a workspace is an overlay over the second disk, which nobody can write to, and it belongs to its user") {
    ExecSpec spec = shell("id -un; stat -c '%U:%G %a %n' . kept sub/changed gone; cat kept link sub/deep/file; "
                          "echo new > sub/changed && cat sub/changed; stat -c '%U %a' sub/changed; rm -r gone && ls; mv sub elsewhere && cat elsewhere/deep/file; "
                          "echo made > made; stat -c %U:%G made; ls /.pyro 2>&1");
    spec.cwd = "/workspace";
    spec.user = "alice";
    ExecSpec as_root = shell("cd /.pyro/workspace; cat upper/made lower/kept lower/sub/changed; stat -c '%F %t,%T' upper/gone upper/sub; stat -c %a /.pyro; "
                             "stat -c %U:%G lower/kept; for way in 'echo x > lower/x' 'mount -o remount,rw lower' 'mount -o remount,rw,bind lower && echo x > lower/x' "
                             "'dd if=/dev/zero of=/dev/vdb count=1' 'blockdev --setrw /dev/vdb && dd if=/dev/zero of=/dev/vdb count=1 conv=fsync'; do sh -c \"$way\" 2>/dev/null && echo wrote by $way; done; "
                             "grep -c ' /.pyro/workspace/lower ext4 ro,nosuid,nodev,' /proc/mounts");
    ExecSpec own = command("files", "read", "kept");
    own.builtin = true;
    Result of_user, of_root, of_own;
    with_guest([&](Channel& channel, std::stop_token stop) -> io::Task<void> {
        of_user = co_await finish(channel.exec(spec), stop);
        of_root = co_await finish(channel.exec(as_root), stop);
        // Whatever stands at /proc and /bin: it is not looked up.
        std::shared_ptr<ExecSession> hidden = channel.exec(shell("mount -t tmpfs none /bin; mount -t tmpfs none /etc"));
        co_await finish(hidden, stop);
        of_own = co_await finish(channel.exec(own), stop);
    }, 512, wire::Workspace{true, "alice"});
    INFO(of_user.err << of_root.err);
    REQUIRE(of_user.out == "alice\nalice:alice 755 .\nalice:alice 644 kept\nalice:alice 750 sub/changed\nalice:alice 755 gone\nkept\nkept\ndeep\n"
                           "new\nalice 750\nkept\nlink\nother-name\nsub\ndeep\nalice:alice\nls: can't open '/.pyro': Permission denied\n");
    REQUIRE(of_root.out == "made\nkept\nold\ncharacter special file 0,0\ncharacter special file 0,0\n700\nalice:alice\n1\n");
    REQUIRE(of_own.out == "kept\n");
    REQUIRE(of_own.status.exit_code == 0);
}

TEST_CASE("a workspace without a seed is empty, and what cannot be mounted is why the guest does not start") {
    ExecSpec spec = shell("ls -la | wc -l; stat -c '%u:%g %a' .; echo x > file; mkdir d; cat /.pyro/workspace/upper/file");
    spec.cwd = "/workspace";
    Result r = run(spec, 512, wire::Workspace{false, ""});
    REQUIRE(r.out == "3\n0:0 755\nx\n");
    for (const auto& [workspace, expected] : {std::pair{wire::Workspace{true, "mallory"}, "the workspace: the image has no user mallory"},
                                              {wire::Workspace{false, "mallory"}, "the workspace: the image has no user mallory"}}) {
        std::string why;
        with_guest([&why](Channel& channel, std::stop_token stop) -> io::Task<void> {
            try {
                co_await channel.ready(stop);
            } catch (const Error& e) {
                why = e.message();
            }
        }, 512, workspace);
        REQUIRE(why == std::string("the guest could not start: ") + expected);
    }
}

TEST_CASE("a shutdown with a workspace leaves a clean disk, whatever is mounted in it") {
    Vm vm(512, true);
    test::run_coro([&]() -> io::Task<void> {
        io::Executor executor = co_await io::this_executor();
        io::Deadline deadline(executor, 120s, {});
        io::Stream stream = co_await io::Stream::connect(vm.socket(), deadline.token());
        Channel channel(executor, std::move(stream));
        Identity identity = an_identity();
        identity.workspace = wire::Workspace{true, "alice"};
        channel.start(identity);
        std::shared_ptr<ExecSession> busy = channel.exec(shell("cd /workspace; mkdir m; mount -t tmpfs none m; trap '' TERM INT HUP; while :; do echo x >> kept; done"));
        co_await busy->started(deadline.token());
        std::shared_ptr<ExecSession> other = channel.exec(shell("until grep -q workspace/m /proc/mounts; do :; done"));
        co_await finish(other, deadline.token());
        co_await channel.shutdown(deadline.token());
        co_await channel.close();
    });
    REQUIRE(vm.wait_exit());
    INFO(vm.console());
    REQUIRE(vm.disk_is_clean());
    REQUIRE(vm.console().find("pyro-guest:") == std::string::npos);
}

TEST_CASE("a shutdown ends everything, leaves a clean disk, and QEMU with it") {
    Vm vm;
    test::run_coro([&]() -> io::Task<void> {
        io::Executor executor = co_await io::this_executor();
        io::Deadline deadline(executor, 120s, {});
        io::Stream stream = co_await io::Stream::connect(vm.socket(), deadline.token());
        Channel channel(executor, std::move(stream));
        const Identity identity = an_identity();
        channel.start(identity);
        std::shared_ptr<ExecSession> busy = channel.exec(shell("trap '' TERM INT HUP; while :; do echo x >> /work/file; done"));
        co_await busy->started(deadline.token());
        co_await channel.shutdown(deadline.token());
        co_await channel.close();
    });
    REQUIRE(vm.wait_exit());
    REQUIRE(vm.disk_is_clean());
}
