// Bytes per second through the channel: a command's stdin and stdout against the bare port, in one run.
//
//   port_throughput RAW_INITRAMFS     (the PYRO_TEST_* files as for vm.agent)
#include "daemon/agent/channel.hpp"
#include "daemon/io/loop.hpp"
#include "daemon/io/task_group.hpp"
#include "tests/vm/agent/vm.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <sys/socket.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>

using namespace pyro;
using Clock = std::chrono::steady_clock;

namespace {

constexpr std::size_t out_size = 64 << 20, in_size = 128 << 20;

double rate(std::size_t bytes, Clock::time_point since) {
    return static_cast<double>(bytes) / (1 << 20) / std::chrono::duration<double>(Clock::now() - since).count();
}

int connect_to(const std::string& path) {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) std::exit(1);
    return fd;
}

double raw_out(int fd, const char* order) {
    std::vector<char> buffer(256 << 10);
    if (::write(fd, order, 2) != 2) std::exit(1);
    ssize_t n = ::read(fd, buffer.data(), buffer.size());
    const auto since = Clock::now();
    for (std::size_t left = out_size - static_cast<std::size_t>(n); left > 0; left -= static_cast<std::size_t>(n))
        if ((n = ::read(fd, buffer.data(), buffer.size())) <= 0) std::exit(1);
    return rate(out_size, since);
}

double raw_in(int fd, char size) {
    const char order[2] = {'i', size};
    if (::write(fd, order, 2) != 2) std::exit(1);
    const auto since = Clock::now();
    write_all(fd, std::string(in_size, 'x'));
    char done;
    if (::read(fd, &done, 1) != 1) std::exit(1);
    return rate(in_size, since);
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

io::Task<void> agent_rates(std::string socket, std::vector<double>& out, std::vector<double>& in) {
    io::Executor executor = co_await io::this_executor();
    const std::stop_token stop;
    io::Stream stream = co_await io::Stream::connect(socket, stop);
    agent::Channel channel(executor, std::move(stream));
    agent::Identity identity;
    channel.start(identity);
    for (int round = 0; round < 5; ++round) {
        agent::ExecSpec spec;
        spec.argv = {"dd", "if=/dev/zero", "bs=64k", "count=" + std::to_string(out_size >> 16)};
        spec.has_stdin = false;
        std::shared_ptr<agent::ExecSession> session = channel.exec(spec);
        co_await session->started(stop);
        auto since = Clock::now();
        std::size_t bytes = 0;
        while (std::optional<agent::Chunk> chunk = co_await session->read(stop))
            if (chunk->stream == agent::wire::Output::out) bytes += chunk->bytes.size();
        if (bytes != out_size) std::exit(1);
        out.push_back(rate(out_size, since));

        spec.argv = {"dd", "of=/dev/null", "bs=64k"};
        spec.has_stdin = true;
        session = channel.exec(spec);
        co_await session->started(stop);
        since = Clock::now();
        std::string much(in_size, 'x');
        co_await session->write_stdin(std::move(much), stop);
        session->close_stdin();
        agent::ExitStatus status = co_await session->exited(stop);
        if (status.exit_code != 0) std::exit(1);
        in.push_back(rate(in_size, since));
    }
    co_await channel.close();
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) return 2;
    std::vector<double> bare_out, zero_out, bare_in, bare_in_small, out, in;
    {
        const std::string initramfs = std::getenv("PYRO_TEST_INITRAMFS");
        ::setenv("PYRO_TEST_INITRAMFS", argv[1], 1);
        test::Vm vm;
        ::setenv("PYRO_TEST_INITRAMFS", initramfs.c_str(), 1);
        const int fd = connect_to(vm.socket());
        for (int round = 0; round < 5; ++round) {
            bare_out.push_back(raw_out(fd, "o0"));
            zero_out.push_back(raw_out(fd, "z0"));
            bare_in.push_back(raw_in(fd, '6'));
            bare_in_small.push_back(raw_in(fd, '0'));
        }
        ::close(fd);
    }
    {
        test::Vm vm;
        io::Loop loop;
        loop.run([&]() -> io::Task<void> { co_await agent_rates(vm.socket(), out, in); });
    }
    std::printf("out of the guest, MiB/s: port %.0f  port from /dev/zero %.0f  stdout of dd from /dev/zero %.0f  ratios %.2f %.2f\n", median(bare_out), median(zero_out),
                median(out), median(out) / median(bare_out), median(out) / median(zero_out));
    std::printf("into the guest,  MiB/s: port, reads of 64 KiB %.1f  of 1 KiB %.1f  stdin %.1f  ratio %.2f\n", median(bare_in), median(bare_in_small),
                median(in), median(in) / median(bare_in));
    return 0;
}
