// Starts in a row, each to the end of its first command, half of them while every core is busy; none may hang.
//
//   start_soak [STARTS]     (the PYRO_TEST_* files as for vm.agent; default 300)
//
// Every third start the host connects at once, every third late, and every third it sends what travels with the start late,
// when the guest has long opened its port and waits.
#include "daemon/agent/channel.hpp"
#include "daemon/io/event.hpp"
#include "daemon/io/loop.hpp"
#include "tests/vm/agent/vm.hpp"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace pyro;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

namespace {

class Load {
public:
    explicit Load(long processes) {
        for (long i = 0; i < processes; ++i) {
            const pid_t pid = ::fork();
            if (pid == 0) {
                ::prctl(PR_SET_PDEATHSIG, SIGKILL);
                for (;;) asm volatile("");
            }
            if (pid > 0) pids_.push_back(pid);
        }
    }
    ~Load() {
        for (const pid_t pid : pids_) ::kill(pid, SIGKILL), ::waitpid(pid, nullptr, 0);
    }

private:
    std::vector<pid_t> pids_;
};

struct Start {
    bool good = false;
    double seconds = 0;
    std::string why;
};

io::Task<void> first_command(std::string socket, int kind, Start& start) {
    io::Executor executor = co_await io::this_executor();
    io::Deadline deadline(executor, 60s, {});
    const auto since = Clock::now();
    if (kind == 1) co_await io::sleep_for(1200ms, deadline.token());
    io::Stream stream = co_await io::Stream::connect(socket, deadline.token());
    if (kind == 2) co_await io::sleep_for(2500ms, deadline.token());
    agent::Channel channel(executor, std::move(stream));
    try {
        agent::Identity identity;
        identity.hostname = "soak";
        identity.entropy = std::string(32, 'e');
        channel.start(identity);
        agent::ExecSpec spec;
        spec.argv = {"true"};
        spec.has_stdin = false;
        std::shared_ptr<agent::ExecSession> session = channel.exec(spec);
        agent::ExitStatus status = co_await session->exited(deadline.token());
        start.good = status.kind == agent::ExitStatus::Kind::exited && status.exit_code == 0;
        if (!start.good) start.why = "true ended otherwise: " + status.error;
    } catch (const Error& e) {
        start.why = e.message();
    } catch (const Cancelled&) {
        start.why = "no first answer within 60 s";
    }
    start.seconds = std::chrono::duration<double>(Clock::now() - since).count();
    co_await channel.close();
}

}  // namespace

int main(int argc, char** argv) {
    const int starts = argc > 1 ? std::atoi(argv[1]) : 300;
    int bad = 0;
    for (const bool loaded : {false, true}) {
        const Load load(loaded ? 2 * ::sysconf(_SC_NPROCESSORS_ONLN) : 0);
        std::vector<double> seconds[3];
        for (int i = 0; i < starts / 2; ++i) {
            Start start;
            test::Vm vm;
            io::Loop loop;
            loop.run([&]() -> io::Task<void> { co_await first_command(vm.socket(), i % 3, start); });
            if (start.good) {
                seconds[i % 3].push_back(start.seconds);
            } else {
                ++bad;
                std::printf("start %d (%s): %s\n%s\n", i, loaded ? "loaded" : "quiet", start.why.c_str(), vm.console().c_str());
            }
            std::fflush(stdout);
        }
        std::printf("%s:", loaded ? "under load" : "quiet");
        constexpr const char* kinds[] = {"host first", "host late", "words late"};
        for (int kind = 0; kind < 3; ++kind) {
            auto& s = seconds[kind];
            std::sort(s.begin(), s.end());
            if (!s.empty()) std::printf("  %s %zu, first command done after median %.2f s, longest %.2f s;", kinds[kind], s.size(), s[s.size() / 2], s.back());
        }
        std::printf("\n");
    }
    std::printf("%d starts, %d of them under load, %d hung or failed\n", starts / 2 * 2, starts / 2, bad);
    return bad != 0;
}
