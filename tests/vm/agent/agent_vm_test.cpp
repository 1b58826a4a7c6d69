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

ExecSpec command(std::vector<std::string> argv) {
    ExecSpec spec;
    spec.argv = std::move(argv);
    spec.has_stdin = false;
    return spec;
}
ExecSpec shell(std::string script) { return command({"/bin/sh", "-c", std::move(script)}); }

io::Task<Result> finish(std::shared_ptr<ExecSession> session, std::stop_token stop) {
    Result result;
    while (std::optional<agent::Chunk> chunk = co_await session->read(stop))
        (chunk->stream == Output::out ? result.out : result.err) += chunk->bytes;
    result.status = co_await session->exited(stop);
    co_return std::move(result);
}

using Body = std::function<io::Task<void>(Channel&, std::stop_token)>;

// Boots, identifies, runs the body; a guest that makes no progress for two minutes fails the test.
void with_guest(Body body, int mem_mib = 512) {
    Vm vm(mem_mib);
    std::string failure;
    test::run_coro([&]() -> io::Task<void> {
        io::Executor executor = co_await io::this_executor();
        io::Deadline deadline(executor, 120s, {});
        io::Stream stream = co_await io::Stream::connect(vm.socket(), deadline.token());
        Channel channel(executor, std::move(stream));
        const Identity identity = an_identity();
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

Result run(ExecSpec spec, int mem_mib = 512) {
    Result result;
    with_guest([&](Channel& channel, std::stop_token stop) -> io::Task<void> {
        std::shared_ptr<ExecSession> session = channel.exec(spec);
        result = co_await finish(session, stop);
    }, mem_mib);
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
