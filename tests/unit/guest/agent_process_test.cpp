// The real agent as an ordinary process on a socket, behind a relay that cuts the connection wherever it is told to.
#include "daemon/agent/channel.hpp"
#include "daemon/io/event.hpp"
#include "daemon/io/task_group.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/run_coro.hpp"

#include <csignal>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <limits>
#include <netinet/in.h>
#include <set>
#include <sys/socket.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

using namespace pyro;
using namespace std::chrono_literals;
using agent::Channel;
using agent::ExecSession;
using proto::agent::Output;
namespace wire = proto::agent;

namespace {

constexpr std::size_t no_cut = std::numeric_limits<std::size_t>::max();
constexpr std::size_t whole_piece = 65536;  // of what is carried at once
const std::stop_token never;

class AgentProcess {
public:
    AgentProcess() {
        char name[] = "/tmp/pyro-agent-XXXXXX";
        REQUIRE(::mkdtemp(name));
        folder_ = name;
        run(io::listen_unix(socket(), 0600));
    }
    explicit AgentProcess(UniqueFd listener) { run(std::move(listener)); }
    ~AgentProcess() {
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
        if (!folder_.empty()) std::filesystem::remove_all(folder_);
    }
    std::string socket() const { return folder_ + "/agent"; }
    pid_t pid() const { return pid_; }

private:
    void run(UniqueFd listener) {
        pid_ = ::fork();
        if (pid_ == 0) {
            ::fcntl(listener.get(), F_SETFD, 0);
            const std::string fd = std::to_string(listener.get());
            ::execl(PYRO_GUEST_PROGRAM, "pyro-guest", "--listen", fd.c_str(), nullptr);
            ::_exit(127);
        }
    }

    std::string folder_;
    pid_t pid_ = -1;
};

// Carries bytes both ways until one direction has carried its share; then both ends see the end of the connection.
class Relay {
public:
    Relay(io::Executor executor, io::Stream host, io::Stream guest, std::size_t to_guest, std::size_t to_host, std::size_t piece)
        : host_(std::move(host)), guest_(std::move(guest)), group_(executor) {
        group_.spawn(carry(host_, guest_, to_guest, piece));
        group_.spawn(carry(guest_, host_, to_host, whole_piece));
    }
    io::Task<void> close() {
        group_.stop();
        host_.close(), guest_.close();
        co_await group_.join();
    }

private:
    io::Task<void> carry(io::Stream& from, io::Stream& to, std::size_t share, std::size_t piece) {
        std::vector<char> buffer(piece);
        try {
            while (share > 0) {
                const std::span<char> space(buffer.data(), std::min(buffer.size(), share));
                const std::size_t count = co_await from.read_some(space, group_.token());
                if (count == 0) break;
                share -= count;
                std::string bytes(buffer.data(), count);
                co_await to.write_all(std::move(bytes), group_.token());
            }
        } catch (const Error&) {
            // The other direction ended it.
        }
        host_.close(), guest_.close();
    }

    io::Stream host_, guest_;
    io::TaskGroup group_;
};

struct Link {
    std::unique_ptr<Relay> relay;
    std::unique_ptr<Channel> channel;
    io::Task<void> close() {
        co_await channel->close();
        co_await relay->close();
    }
};

io::Task<Link> link(io::Stream guest, std::optional<agent::Resumption> resumption, std::size_t to_guest, std::size_t to_host, std::size_t piece = whole_piece) {
    io::Executor executor = co_await io::this_executor();
    int fds[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    Link made;
    made.relay = std::make_unique<Relay>(executor, io::Stream(executor, UniqueFd(fds[1])), std::move(guest), to_guest, to_host, piece);
    made.channel = std::make_unique<Channel>(executor, io::Stream(executor, UniqueFd(fds[0])), std::move(resumption));
    co_return std::move(made);
}

io::Task<Link> link(std::string socket, std::optional<agent::Resumption> resumption, std::size_t to_guest = no_cut, std::size_t to_host = no_cut,
                    std::size_t piece = whole_piece) {
    io::Stream guest = co_await io::Stream::connect(socket, never);
    Link made = co_await link(std::move(guest), std::move(resumption), to_guest, to_host, piece);
    co_return std::move(made);
}

agent::ExecSpec shell(std::string script) {
    agent::ExecSpec spec;
    spec.argv = {"/bin/sh", "-c", std::move(script)};
    spec.cwd = "/";
    return spec;
}

// Reads to the end, or to the end of the connection.
io::Task<bool> drain(std::shared_ptr<ExecSession> session, std::string& out, std::string& err) {
    try {
        while (std::optional<agent::Chunk> chunk = co_await session->read(never)) {
            std::string& to = chunk->stream == Output::out ? out : err;
            REQUIRE(chunk->offset == to.size());
            to += chunk->bytes;
        }
        wire::ExitStatus status = co_await session->exited(never);
        REQUIRE(status.exit_code == 4);
        co_return true;
    } catch (const Error&) {
        co_return false;
    }
}

}  // namespace

TEST_CASE("output is neither lost nor doubled wherever the connection to the host is cut") {
    bool whole = false;
    std::size_t cut = 1;  // without a byte back, the guest need not have had the command
    for (; !whole; ++cut) {
        AgentProcess process;
        test::run_coro([&]() -> io::Task<void> {
            std::string out, err;
            Link cutting = co_await link(process.socket(), std::nullopt, no_cut, cut);
            const agent::Identity identity;
            cutting.channel->start(identity);
            std::shared_ptr<ExecSession> session = cutting.channel->exec(shell("echo to-stdout; echo to-stderr >&2; echo more; exit 4"));
            whole = co_await drain(session, out, err);
            const std::uint32_t id = session->id();
            co_await cutting.close();

            agent::Resumption resumption;
            wire::Attach::Resume mine;
            mine.exec = id, mine.out = out.size(), mine.err = err.size();
            resumption.execs.push_back(mine);
            Link after = co_await link(process.socket(), resumption);
            std::shared_ptr<ExecSession> again = after.channel->adopt(id);
            const bool ended = co_await drain(again, out, err);
            INFO("cut after " << cut << " bytes");
            REQUIRE(ended);
            REQUIRE(out == "to-stdout\nmore\n");
            REQUIRE(err == "to-stderr\n");
            co_await after.close();
        });
    }
    REQUIRE(cut > 300);  // every byte of hello, start, output, ends and status was an end once
}

TEST_CASE("much output, which is sent from where it is kept, comes whole through a connection that takes frames in pieces and is cut") {
    // Sockets with less room than a frame at both ends. Only those of the Internet inherit it from their listener.
    UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int room = 8192;
    REQUIRE(::setsockopt(listener.get(), SOL_SOCKET, SO_SNDBUF, &room, sizeof room) == 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    REQUIRE(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), size) == 0);
    REQUIRE(::listen(listener.get(), 8) == 0);
    REQUIRE(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0);
    AgentProcess process(std::move(listener));

    std::string out, err, expected_out, expected_err;
    for (int i = 1; i <= 300000; ++i) expected_out += std::to_string(i) + "\n";
    for (int i = 200000; i > 0; --i) expected_err += std::to_string(i) + "\n";
    test::run_coro([&]() -> io::Task<void> {
        io::Executor executor = co_await io::this_executor();
        std::optional<agent::Resumption> resumption;
        std::uint32_t id = 0;
        bool whole = false;
        int connections = 0;
        for (std::size_t share = 70'001; !whole; share = share * 2 + 4099) {
            UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
            REQUIRE(::setsockopt(socket.get(), SOL_SOCKET, SO_RCVBUF, &room, sizeof room) == 0);
            REQUIRE(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
            io::Stream guest(executor, std::move(socket));
            Link connection = co_await link(std::move(guest), resumption, no_cut, share);
            std::shared_ptr<ExecSession> session;
            if (!resumption) {
                const agent::Identity identity;
                connection.channel->start(identity);
                session = connection.channel->exec(shell("seq 300000 & seq 200000 -1 1 >&2; wait; exit 4"));
                id = session->id();
            } else {
                session = connection.channel->adopt(id);
            }
            whole = co_await drain(session, out, err);
            REQUIRE(++connections < 20);
            co_await connection.close();
            wire::Attach::Resume mine;
            mine.exec = id, mine.out = out.size(), mine.err = err.size();
            resumption.emplace().execs.push_back(mine);
        }
        REQUIRE(connections > 3);
    });
    REQUIRE((out == expected_out));
    REQUIRE((err == expected_err));
}

TEST_CASE("commands and input are neither lost nor doubled wherever the connection to the guest is cut") {
    const std::string data = "first line\nsecond line\n";
    bool whole = false;
    std::size_t cut = 1;
    for (; !whole; ++cut) {
        AgentProcess process;
        test::run_coro([&]() -> io::Task<void> {
            const agent::Identity identity;
            const agent::ExecSpec spec = shell("cat; exit 4");
            std::string out, err;
            Link cutting = co_await link(process.socket(), std::nullopt, cut, no_cut);
            cutting.channel->start(identity);
            std::shared_ptr<ExecSession> session = cutting.channel->exec(spec);
            co_await session->write_stdin(data, never);
            session->close_stdin();
            whole = co_await drain(session, out, err);
            co_await cutting.close();

            agent::Resumption resumption;
            Link after = co_await link(process.socket(), resumption);
            wire::Hello hello = co_await after.channel->hello(never);
            INFO("cut after " << cut << " bytes");
            REQUIRE(hello.execs.size() <= 1);
            if (!hello.started) after.channel->start(identity);
            std::shared_ptr<ExecSession> again;
            std::size_t taken = 0;
            if (hello.execs.empty()) {
                again = after.channel->exec(spec);
                out.clear();
            } else {
                again = after.channel->adopt(hello.execs.front().exec);
                taken = static_cast<std::size_t>(hello.execs.front().input_taken);
                REQUIRE(taken <= data.size());
                REQUIRE(hello.execs.front().out_from == 0);
                out.clear();  // nothing was acknowledged: all of it comes again to who asks from the start
            }
            std::string rest = data.substr(taken);
            co_await again->write_stdin(std::move(rest), never);
            again->close_stdin();
            const bool ended = co_await drain(again, out, err);
            REQUIRE(ended);
            REQUIRE(out == data);
            co_await after.close();
        });
    }
    REQUIRE(cut > 300);
}

namespace {

std::string numbers(std::size_t size) {
    std::string text;
    for (int i = 0; text.size() < size; ++i) text += std::to_string(i) + "\n";
    text.resize(size);
    return text;
}

// Gives a command its input over connections of which each carries `share(n)` bytes to the guest, and has what it prints.
template <class Share>
int feed(const AgentProcess& process, const std::string& script, const std::string& data, std::string& out, const Share& share, std::size_t piece = whole_piece) {
    int connections = 0;
    test::run_coro([&]() -> io::Task<void> {
        std::optional<agent::Resumption> resumption;
        std::string err;
        for (bool whole = false; !whole;) {
            Link connection = co_await link(process.socket(), resumption, share(connections), no_cut, piece);
            ++connections;
            std::shared_ptr<ExecSession> session;
            std::size_t taken = 0;
            try {
                if (!resumption) {
                    const agent::Identity identity;
                    connection.channel->start(identity);
                    co_await connection.channel->ready(never);
                    session = connection.channel->exec(shell(script));
                    co_await session->started(never);
                } else {
                    wire::Hello hello = co_await connection.channel->hello(never);
                    REQUIRE(hello.execs.size() == 1);
                    taken = static_cast<std::size_t>(hello.execs.front().input_taken);
                    session = connection.channel->adopt(hello.execs.front().exec);
                }
                std::string rest = data.substr(taken);
                co_await session->write_stdin(std::move(rest), never);
                session->close_stdin();
            } catch (const Error&) {
                // Cut: what was given is in the next hello.
            }
            if (session) whole = co_await drain(session, out, err);
            const std::uint32_t id = session->id();
            co_await connection.close();
            wire::Attach::Resume mine;
            mine.exec = id, mine.out = out.size();
            resumption.emplace().execs = {mine};
            REQUIRE(connections < 20);
        }
    });
    return connections;
}

}  // namespace

TEST_CASE("much input, which goes to the command by pages, comes whole wherever the connection to the guest is cut") {
    const std::string data = numbers(300'000);
    // Around the ends of the third frame of input: its header, the first and last bytes of its payload, its trailer.
    const std::size_t frame = wire::max_payload + wire::frame_overhead;
    for (const std::size_t within : {std::size_t{1}, wire::header_size - 1, wire::header_size, wire::header_size + 1, frame / 2, frame - 5, frame - 4, frame - 1, frame}) {
        INFO("cut " << within << " bytes into a frame");
        AgentProcess process;
        std::string out;
        std::size_t before = wire::frame_overhead * 3;  // attach, start, exec
        before += wire::encode(wire::Attach()).size() + wire::encode(agent::Identity()).size() + wire::encode(shell("cat; exit 4")).size();
        const int connections = feed(process, "cat; exit 4", data, out, [&](int n) { return n == 0 ? before + 2 * frame + within : no_cut; });
        REQUIRE(connections == 2);
        REQUIRE((out == data));
    }
}

TEST_CASE("much input comes whole to who reads late, or comes in pieces of which one frame fills a pipe") {
    const std::string data = numbers(3 << 20);
    std::string out;
    const auto uncut = [](int) { return no_cut; };
    SECTION("late") {
        AgentProcess process;
        feed(process, "sleep 0.3; cat; exit 4", data, out, uncut);
    }
    SECTION("in pieces") {
        AgentProcess process;
        feed(process, "cat; exit 4", data, out, uncut, 100);
    }
    SECTION("in pieces of many sizes, cut now and then") {
        AgentProcess process;
        REQUIRE(feed(process, "cat; exit 4", data, out, [](int n) { return (std::size_t{100'003} << n) + static_cast<std::size_t>(n); }, 3001) > 3);
    }
    REQUIRE((out == data));
}

TEST_CASE("much input for several commands at once, and for one that reads no more") {
    AgentProcess process;
    const std::string data = numbers(2 << 20);
    test::run_coro([&]() -> io::Task<void> {
        io::Executor executor = co_await io::this_executor();
        Link connection = co_await link(process.socket(), std::nullopt);
        const agent::Identity identity;
        connection.channel->start(identity);
        std::shared_ptr<ExecSession> deaf = connection.channel->exec(shell("exec <&-; sleep 0.2; exit 4"));
        std::array<std::string, 3> out, err;
        std::array<bool, 3> whole{};
        io::TaskGroup group(executor);
        const auto give = [&data](std::shared_ptr<ExecSession> session) -> io::Task<void> {
            std::string copy = data;
            co_await session->write_stdin(std::move(copy), never);
            session->close_stdin();
        };
        const auto take = [&](std::shared_ptr<ExecSession> session, std::size_t i) -> io::Task<void> {
            const bool ended = co_await drain(session, out[i], err[i]);
            whole[i] = ended;
        };
        group.spawn(give(deaf));
        for (std::size_t i = 0; i < 3; ++i) {
            const std::shared_ptr<ExecSession> session = connection.channel->exec(shell("cat; exit 4"));
            group.spawn(give(session));
            group.spawn(take(session, i));
        }
        const wire::ExitStatus status = co_await deaf->exited(never);
        REQUIRE(status.exit_code == 4);
        co_await group.join();
        for (std::size_t i = 0; i < 3; ++i) {
            REQUIRE(whole[i]);
            REQUIRE((out[i] == data));
        }
        co_await connection.close();
    });
}

TEST_CASE("a command of the agent's own is its program, whoever the command was for and whatever has its name") {
    AgentProcess process;
    test::run_coro([&]() -> io::Task<void> {
        Link connection = co_await link(process.socket(), std::nullopt);
        const agent::Identity identity;
        connection.channel->start(identity);
        agent::ExecSpec spec;
        spec.argv = {"--version"};
        spec.env = {"PATH=/nonexistent"};
        spec.user = "nobody-of-this-name";
        spec.builtin = true;
        std::shared_ptr<ExecSession> session = connection.channel->exec(spec);
        std::string out;
        while (std::optional<agent::Chunk> chunk = co_await session->read(never)) out += chunk->bytes;
        const wire::ExitStatus status = co_await session->exited(never);
        REQUIRE(status.kind == wire::ExitStatus::Kind::exited);
        REQUIRE(status.exit_code == 0);
        REQUIRE(out.starts_with("pyro-guest "));
        co_await connection.close();
    });
}

namespace {

// The processes whose parent it is, as the kernel tells it.
std::vector<pid_t> children_of(pid_t parent) {
    std::vector<pid_t> out;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
        const pid_t pid = std::atoi(entry.path().filename().c_str());
        if (pid <= 0) continue;
        std::ifstream stat(entry.path() / "stat");
        std::string line;
        std::getline(stat, line);
        const std::size_t name_end = line.rfind(") ");
        if (name_end != std::string::npos && std::atoi(line.c_str() + name_end + 4) == parent) out.push_back(pid);
    }
    return out;
}

io::Task<std::string> output_of(Channel& channel, agent::ExecSpec spec, std::string input = {}) {
    std::shared_ptr<ExecSession> session = channel.exec(spec);
    if (spec.has_stdin) {
        co_await session->write_stdin(std::move(input), never);
        session->close_stdin();
    }
    std::string out, err;
    const bool whole = co_await drain(session, out, err);
    REQUIRE(whole);
    co_return out + err;
}

}  // namespace

TEST_CASE("a process stands by for the next command, holds nothing of others, and is done without when it is gone") {
    AgentProcess process;
    test::run_coro([&]() -> io::Task<void> {
        Link made = co_await link(process.socket(), std::nullopt);
        Channel& channel = *made.channel;
        const agent::Identity identity;
        channel.start(identity);
        co_await channel.ready(never);
        agent::ExecSpec spec = shell("echo $$ $PPID; cat; ls /proc/self/fd | wc -l; exit 4");
        const std::string descriptors = "4\n";  // ls's own among them

        for (const bool with_input : {true, false}) {
            co_await channel.sync(never);  // a sync is answered when one waits
            const std::vector<pid_t> waiting = children_of(process.pid());
            REQUIRE(waiting.size() == 1);
            std::set<std::string> held;
            for (const auto& fd : std::filesystem::directory_iterator("/proc/" + std::to_string(waiting[0]) + "/fd")) {
                std::error_code ignored;
                const std::string target = std::filesystem::read_symlink(fd.path(), ignored).string();
                held.insert(target.substr(0, target.find(':')));
            }
            REQUIRE_FALSE(held.contains("socket"));
            REQUIRE_FALSE(held.contains("anon_inode"));
            spec.has_stdin = with_input;
            const std::string said = co_await output_of(channel, spec, "input\n");
            REQUIRE(said == std::to_string(waiting[0]) + " " + std::to_string(process.pid()) + "\n" + (with_input ? "input\n" : "") + descriptors);
        }

        co_await channel.sync(never);
        const pid_t doomed = children_of(process.pid()).at(0);
        ::kill(doomed, SIGKILL);
        while (!children_of(process.pid()).empty()) std::this_thread::yield();  // until the agent has collected it
        const std::string said = co_await output_of(channel, spec);
        REQUIRE(said.find(" " + std::to_string(process.pid()) + "\n") != std::string::npos);
        REQUIRE_FALSE(said.starts_with(std::to_string(doomed) + " "));

        // More than can be told at once.
        co_await channel.sync(never);
        agent::ExecSpec large = shell("echo ${#0}; exit 4");
        large.argv.push_back(std::string(100'000, 'x'));
        const std::string size = co_await output_of(channel, large);
        REQUIRE(size == "100000\n");
        // A program that is not there is said in the same way.
        co_await channel.sync(never);
        agent::ExecSpec none;
        none.argv = {"/nowhere/at/all"};
        none.cwd = "/";
        std::shared_ptr<ExecSession> session = channel.exec(none);
        wire::ExitStatus status = co_await session->exited(never);
        REQUIRE(status.kind == wire::ExitStatus::Kind::not_started);
        REQUIRE(status.exit_code == 127);
        co_await made.close();
    });
}
