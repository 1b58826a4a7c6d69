// Bytes per second through the channel: a command's stdin and stdout against the bare port, in one run.
//
//   port_throughput RAW_INITRAMFS [ROUNDS]     (the PYRO_TEST_* files as for vm.agent)
#include "daemon/agent/channel.hpp"
#include "daemon/io/loop.hpp"
#include "daemon/io/task_group.hpp"
#include "tests/vm/agent/vm.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <sys/socket.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>

using namespace pyro;
using Clock = std::chrono::steady_clock;

namespace {

constexpr std::size_t out_size = 64 << 20, in_size = 128 << 20;

struct Sample {
    double rate, cpu;  // MiB/s; microseconds of QEMU's processor time per MiB, which other work on the machine disturbs less
};

class Stopwatch {
public:
    explicit Stopwatch(pid_t qemu) : since_(Clock::now()) {
        if (::clock_getcpuclockid(qemu, &clock_) != 0) std::exit(1);
        cpu_since_ = cpu();
    }
    Sample stop(std::size_t bytes) const {
        const double size = static_cast<double>(bytes) / (1 << 20);
        return {size / std::chrono::duration<double>(Clock::now() - since_).count(), (cpu() - cpu_since_) / size};
    }

private:
    double cpu() const {
        timespec used{};
        ::clock_gettime(clock_, &used);
        return static_cast<double>(used.tv_sec) * 1e6 + static_cast<double>(used.tv_nsec) / 1e3;
    }
    Clock::time_point since_;
    clockid_t clock_{};
    double cpu_since_ = 0;
};

int connect_to(const std::string& path) {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) std::exit(1);
    return fd;
}

Sample raw_out(pid_t qemu, int fd, const char* order) {
    std::vector<char> buffer(256 << 10);
    if (::write(fd, order, 2) != 2) std::exit(1);
    ssize_t n = ::read(fd, buffer.data(), buffer.size());
    const Stopwatch watch(qemu);
    for (std::size_t left = out_size - static_cast<std::size_t>(n); left > 0; left -= static_cast<std::size_t>(n))
        if ((n = ::read(fd, buffer.data(), buffer.size())) <= 0) std::exit(1);
    return watch.stop(out_size);
}

Sample raw_in(pid_t qemu, int fd, const char* order) {
    const std::string much(in_size, 'x');
    if (::write(fd, order, 2) != 2) std::exit(1);
    const Stopwatch watch(qemu);
    write_all(fd, much);
    char done;
    if (::read(fd, &done, 1) != 1) std::exit(1);
    return watch.stop(in_size);
}

io::Task<Sample> agent_out(pid_t qemu, agent::Channel& channel, std::vector<std::string> command) {
    const std::stop_token stop;
    agent::ExecSpec spec;
    spec.argv = std::move(command);
    spec.has_stdin = false;
    const std::shared_ptr<agent::ExecSession> session = channel.exec(spec);
    co_await session->started(stop);
    const Stopwatch watch(qemu);
    std::size_t bytes = 0;
    while (std::optional<agent::Chunk> chunk = co_await session->read(stop))
        if (chunk->stream == agent::wire::Output::out) bytes += chunk->bytes.size();
    if (bytes != out_size) std::exit(1);
    co_return watch.stop(out_size);
}

io::Task<Sample> agent_in(pid_t qemu, agent::Channel& channel) {
    const std::stop_token stop;
    agent::ExecSpec spec;
    spec.argv = {"dd", "of=/dev/null", "bs=64k"};
    const std::size_t piece = 64 << 10;  // as a client's come
    const std::shared_ptr<agent::ExecSession> session = channel.exec(spec);
    co_await session->started(stop);
    const Stopwatch watch(qemu);
    for (std::size_t done = 0; done < in_size; done += piece) {
        std::string bytes(piece, 'x');
        co_await session->write_stdin(std::move(bytes), stop);
    }
    session->close_stdin();
    const agent::ExitStatus status = co_await session->exited(stop);
    if (status.exit_code != 0) std::exit(1);
    co_return watch.stop(in_size);
}

// One after the other in every round, so that what else the machine does falls on all of them.
enum Measure { port_out, port_zero, floor_out, stdout_64k, stdout_8k, port_in, port_in_1k, floor_in, stdin_64k, measures };
using Rounds = std::array<std::vector<Sample>, measures>;

io::Task<void> measure(const test::Vm& bare, int port, const test::Vm& vm, int rounds, Rounds& rates) {
    const std::stop_token stop;
    io::Executor executor = co_await io::this_executor();
    io::Stream stream = co_await io::Stream::connect(vm.socket(), stop);
    agent::Channel channel(executor, std::move(stream));
    const agent::Identity identity;
    channel.start(identity);
    co_await channel.ready(stop);
    const std::vector<std::string> large{"dd", "if=/dev/zero", "bs=64k", "count=" + std::to_string(out_size >> 16)};
    const std::vector<std::string> small{"dd", "if=/dev/zero", "bs=8k", "count=" + std::to_string(out_size >> 13)};  // as `head -c` writes
    for (int round = 0; round < rounds; ++round) {
        rates[port_out].push_back(raw_out(bare.pid(), port, "o0"));
        const Sample large_rate = co_await agent_out(vm.pid(), channel, large);
        rates[stdout_64k].push_back(large_rate);
        const Sample small_rate = co_await agent_out(vm.pid(), channel, small);
        rates[stdout_8k].push_back(small_rate);
        rates[floor_out].push_back(raw_out(bare.pid(), port, "O0"));
        rates[port_zero].push_back(raw_out(bare.pid(), port, "z0"));
        rates[port_in].push_back(raw_in(bare.pid(), port, "i6"));
        const Sample in_rate = co_await agent_in(vm.pid(), channel);
        rates[stdin_64k].push_back(in_rate);
        rates[floor_in].push_back(raw_in(bare.pid(), port, "I0"));
        rates[port_in_1k].push_back(raw_in(bare.pid(), port, "i0"));
    }
    co_await channel.close();
}

struct Summary {
    double low, median, high;
};

Summary summary(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return {values.front(), values[values.size() / 2], values.back()};
}

// The rates, the processor time, and the ratio to the bare port's rate of the same round.
void print(const char* what, const std::vector<Sample>& samples, const std::vector<Sample>* port = nullptr) {
    std::vector<double> rates, cpu, ratios;
    for (std::size_t i = 0; i < samples.size(); ++i) {
        rates.push_back(samples[i].rate), cpu.push_back(samples[i].cpu);
        if (port) ratios.push_back(samples[i].rate / (*port)[i].rate);
    }
    const Summary r = summary(rates), c = summary(cpu);
    std::printf("%-32s %5.0f  (%.0f to %.0f) MiB/s   %5.0f  (%.0f to %.0f) us/MiB", what, r.median, r.low, r.high, c.median, c.low, c.high);
    if (port) {
        const Summary of_port = summary(ratios);
        std::printf("   ratio %.2f  (%.2f to %.2f)", of_port.median, of_port.low, of_port.high);
    }
    std::printf("\n");
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2) return 2;
    const std::string initramfs = std::getenv("PYRO_TEST_INITRAMFS");
    ::setenv("PYRO_TEST_INITRAMFS", argv[1], 1);
    test::Vm bare;
    ::setenv("PYRO_TEST_INITRAMFS", initramfs.c_str(), 1);
    test::Vm vm;
    const int port = connect_to(bare.socket());
    Rounds rates;
    io::Loop loop;
    const int rounds = argc > 2 ? std::atoi(argv[2]) : 9;
    loop.run([&]() -> io::Task<void> { co_await measure(bare, port, vm, rounds, rates); });
    ::close(port);
    print("out: port", rates[port_out]);
    print("     port, fed from /dev/zero", rates[port_zero], &rates[port_out]);
    print("     port and a pipe: the floor", rates[floor_out], &rates[port_out]);
    print("     stdout, writes of 64 KiB", rates[stdout_64k], &rates[port_out]);
    print("     stdout, writes of 8 KiB", rates[stdout_8k], &rates[port_out]);
    print("in:  port, reads of 64 KiB", rates[port_in]);
    print("     port, reads of 1 KiB", rates[port_in_1k], &rates[port_in]);
    print("     port and a pipe: the floor", rates[floor_in], &rates[port_in]);
    print("     stdin", rates[stdin_64k], &rates[port_in]);
    return 0;
}
