#include "common/error.hpp"
#include "daemon/vm/qemu/command_line.hpp"
#include "daemon/vm/qemu/qcow2.hpp"
#include "daemon/vm/root_image.hpp"
#include "daemon/vm/qemu/qmp.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/run_coro.hpp"

#include <nlohmann/json.hpp>

#include <cstdlib>

#include <fcntl.h>
#include <sched.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace pyro;
using namespace pyro::vm;
using nlohmann::json;
using test::run_coro;

namespace {

const std::stop_token never;
const qemu::Qmp::OnEvent no_listener;
const std::vector<qemu::Qmp::Command> nothing_first;
UniqueFd some_fd() { return open_file("/dev/null", O_RDONLY); }

qemu::Descriptors all_descriptors() {
    qemu::Descriptors fds;
    for (UniqueFd* fd : {&fds.kernel, &fds.initramfs, &fds.root, &fds.overlay, &fds.seed_frame, &fds.qmp, &fds.agent, &fds.console, &fds.messages}) *fd = some_fd();
    return fds;
}

const qemu::Programs programs{"/usr/bin/qemu-system-x86_64", "/k", "/i"};

std::string joined(const std::vector<std::string>& words) {
    std::string out;
    for (const std::string& word : words) out += word + "\n";
    return out;
}

// QEMU's end of the control connection.
struct Peer {
    io::Stream ours, theirs;
};

Peer make_peer(io::Executor executor) {
    int fds[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    return Peer{io::Stream(executor, UniqueFd(fds[0])), io::Stream(executor, UniqueFd(fds[1]))};
}

const std::string greeting = R"({"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "x"}, "capabilities": ["oob"]}})";

io::Task<json> request_from(io::Stream& stream) {
    auto line = co_await stream.read_line(1 << 20, never);
    REQUIRE(line);
    json out = json::parse(*line);
    co_return out;
}

io::Task<void> answer(io::Stream& stream, json id, std::string rest) {
    std::string line = "{" + rest + ", \"id\": " + id.dump() + "}\n";
    co_await stream.write_all(std::move(line), never);
}

io::Task<void> shake_hands(io::Stream& stream) {
    co_await stream.write_all(greeting + "\r\n", never);
    json request = co_await request_from(stream);
    REQUIRE(request["execute"] == "qmp_capabilities");
    co_await answer(stream, request["id"], R"("return": {})");
}

// What opening the connection fails with, when the other side says this and closes.
std::string failure_after(std::string said) {
    std::string out = "no failure";
    run_coro([&]() -> io::Task<void> {
        io::Executor executor = co_await io::this_executor();
        Peer peer = make_peer(executor);
        io::TaskGroup group(executor);
        std::function<io::Task<void>()> say = [&]() -> io::Task<void> {
            try {
                co_await peer.theirs.write_all(said, never);
                peer.theirs.shutdown_write();
            } catch (const Error&) {
                // The listener had enough: what this test is about.
            }
        };
        group.spawn(say);
        try {
            auto qmp = co_await qemu::Qmp::open(std::move(peer.ours), no_listener, nothing_first, never);
        } catch (const Error& e) {
            const bool gone = said.empty() || said.starts_with(R"({"QMP": {)");
            REQUIRE((e.code() == ErrorCode::guest_failed || (gone && e.code() == ErrorCode::unavailable)));
            out = e.message();
        }
        co_await group.join();
    });
    return out;
}

}  // namespace

TEST_CASE("QEMU's command line, emulated") {
    qemu::Launch launch;
    launch.uid = 2000007;
    launch.tsc_khz = 2900000;
    launch.dies_with_daemon = true;
    const auto command = qemu::command_line(programs, launch, all_descriptors());
    REQUIRE(command.path == "/usr/bin/qemu-system-x86_64");
    REQUIRE(joined(command.argv) == R"(qemu-system-x86_64
-accel
tcg,tb-size=64
-cpu
max,la57=off,erms=off,fsrm=off
-machine
microvm,acpi=off
-m
1024
-smp
1
-nodefaults
-no-user-config
-display
none
-no-reboot
-sandbox
on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-kernel
/proc/self/fd/3
-initrd
/proc/self/fd/4
-append
console=ttyS0 reboot=t panic=-1 quiet tsc=reliable lapic_timer_khz=1000000 norandmaps tsc_early_khz=2900000
-add-fd
set=1,fd=5
-blockdev
{"node-name":"root","driver":"raw","read-only":true,"discard":"ignore","file":{"driver":"file","filename":"/dev/fdset/1","read-only":true,"discard":"ignore","locking":"off","cache":{"no-flush":true}}}
-add-fd
set=2,fd=6
-blockdev
{"node-name":"disk","driver":"qcow2","read-only":false,"discard":"unmap","file":{"driver":"file","filename":"/dev/fdset/2","read-only":false,"discard":"unmap","locking":"off","cache":{"no-flush":true}},"backing":"root"}
-device
virtio-blk-device,drive=disk
-add-fd
set=3,fd=7
-blockdev
{"node-name":"seed","driver":"qcow2","read-only":true,"discard":"ignore","file":{"driver":"file","filename":"/dev/fdset/3","read-only":true,"discard":"ignore","locking":"off","cache":{"no-flush":true},"node-name":"seed-frame"}}
-device
virtio-blk-device,drive=seed
-chardev
socket,id=console,fd=8
-serial
chardev:console
-chardev
socket,id=agent,server=on,wait=off,fd=9
-device
virtio-serial-device
-device
virtserialport,chardev=agent,name=pyro.agent
-chardev
socket,id=qmp,server=on,wait=off,fd=10
-mon
chardev=qmp,mode=control
)");
    REQUIRE(command.env.empty());
    REQUIRE(command.as->uid == 2000007);
    REQUIRE(command.as->gid == 2000007);
    REQUIRE(command.as->groups.empty());
    REQUIRE(command.unshare_flags == (CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWPID));
    REQUIRE(command.dies_with_daemon);
    std::vector<int> numbers;
    for (const auto& passed : command.fds) numbers.push_back(passed.number);
    REQUIRE(numbers == std::vector<int>{3, 4, 5, 6, 7, 8, 9, 10, 1, 2});
}

TEST_CASE("QEMU's command line with KVM differs in the accelerator, the CPU and the group") {
    qemu::Launch launch;
    launch.accelerator = Accelerator::kvm;
    launch.groups = {104};
    launch.spec.vcpu_count = 4;
    launch.spec.mem_mib = 512;
    const auto command = qemu::command_line(programs, launch, all_descriptors());
    const std::string line = joined(command.argv);
    REQUIRE_THAT(line, Catch::Matchers::ContainsSubstring("-accel\nkvm\n-cpu\nhost,-arch-capabilities\n"));
    REQUIRE_THAT(line, Catch::Matchers::ContainsSubstring("-m\n512\n-smp\n4\n"));
    REQUIRE_THAT(line, !Catch::Matchers::ContainsSubstring("tsc_early_khz"));
    REQUIRE_THAT(line, !Catch::Matchers::ContainsSubstring("lapic_timer_khz"));
    REQUIRE(command.as->groups == std::vector<gid_t>{104});
    REQUIRE(qemu::memory_limit(launch.spec, Accelerator::kvm) == (512u + 256u) << 20);
    REQUIRE(qemu::memory_limit(launch.spec, Accelerator::tcg) == (512u + 64u + 256u) << 20);
}

TEST_CASE("a seed lies below a frame that is the same with and without it, from the start or later") {
    const qemu::Launch launch;
    qemu::Descriptors seeded = all_descriptors();
    seeded.seed = some_fd();
    const std::string image = R"({"node-name":"seed-image","driver":"raw","read-only":true,"discard":"ignore","file":{"driver":"file","filename":"/dev/fdset/3","read-only":true,"discard":"ignore","locking":"off","cache":{"no-flush":true}}})";
    const std::string frame = R"({"node-name":"seed","driver":"qcow2","read-only":true,"discard":"ignore","file":{"driver":"file","filename":"/dev/fdset/4","read-only":true,"discard":"ignore","locking":"off","cache":{"no-flush":true},"node-name":"seed-frame"},"backing":"seed-image"})";
    const std::string line = joined(qemu::command_line(programs, launch, std::move(seeded)).argv);
    REQUIRE_THAT(line, Catch::Matchers::ContainsSubstring("-add-fd\nset=3,fd=7\n-blockdev\n" + image + "\n-add-fd\nset=4,fd=8\n-blockdev\n" + frame +
                                                          "\n-device\nvirtio-blk-device,drive=seed\n"));
    const auto later = qemu::insert_seed();
    REQUIRE(later.size() == 3);
    REQUIRE(later[0].name == "add-fd");
    REQUIRE(later[1].name == "blockdev-add");
    json inserted = json::parse(image);
    inserted["file"]["filename"] = "/dev/fdset/64";
    REQUIRE(later[0].arguments == json{{"fdset-id", 64}});
    REQUIRE(later[1].arguments == inserted);
    REQUIRE(later[2].name == "blockdev-reopen");
    json opened = json::parse(frame);
    opened["file"] = "seed-frame";
    REQUIRE(later[2].arguments["options"] == json::array({opened}));
}

TEST_CASE("the disk is as large as asked, and never smaller than its root") {
    MachineSpec spec;
    spec.disk_gib = 1;
    REQUIRE(disk_bytes(spec, 5) == 1u << 30);
    REQUIRE(disk_bytes(spec, (1u << 30) + 1) == (1u << 30) + 512);
}

TEST_CASE("qemu-img finds nothing wrong with an empty image") {
    for (const std::uint64_t size : {std::uint64_t{512}, std::uint64_t{1} << 20, std::uint64_t{8} << 30, (std::uint64_t{5} << 40) + 512}) {
        char path[] = "/tmp/qcow2-test-XXXXXX";
        UniqueFd fd(::mkstemp(path));
        REQUIRE(fd);
        write_all(fd.get(), qemu::empty_qcow2(size));
        const char* argv[] = {"qemu-img", "check", "-q", "-f", "qcow2", path, nullptr};
        pid_t pid = 0;
        REQUIRE(::posix_spawnp(&pid, argv[0], nullptr, nullptr, const_cast<char* const*>(argv), environ) == 0);
        int status = -1;
        REQUIRE(::waitpid(pid, &status, 0) == pid);
        ::unlink(path);
        REQUIRE(status == 0);
    }
}

TEST_CASE("control: commands get their own answers, in any order, and events arrive") {
    run_coro([]() -> io::Task<void> {
        io::Executor executor = co_await io::this_executor();
        Peer peer = make_peer(executor);
        std::vector<std::string> events;
        qemu::Qmp::OnEvent on_event = [&](const std::string& name, const json& data) { events.push_back(name + data.dump()); };
        io::TaskGroup group(executor);
        group.spawn(shake_hands(peer.theirs));
        auto qmp = co_await qemu::Qmp::open(std::move(peer.ours), std::move(on_event), nothing_first, never);
        co_await group.join();
        REQUIRE(qmp->version() == "7.2.22");

        std::vector<std::string> results;
        std::function<io::Task<void>(std::string)> call = [&](std::string name) -> io::Task<void> {
            json arguments = json::object();
            arguments["a"] = 1;
            try {
                json result = co_await qmp->execute(name, arguments, never);
                results.push_back(name + result.dump());
            } catch (const Error& e) {
                results.push_back(name + " " + std::string(to_string(e.code())) + " " + e.message());
            }
        };
        group.spawn(call("one"));
        group.spawn(call("two"));
        json first = co_await request_from(peer.theirs);
        json second = co_await request_from(peer.theirs);
        REQUIRE(first["arguments"]["a"] == 1);
        co_await answer(peer.theirs, second["id"], R"("return": {"second": true})");
        co_await peer.theirs.write_all("{\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true}}\n", never);
        co_await answer(peer.theirs, first["id"], R"("error": {"class": "GenericError", "desc": "no\u0007good"})");
        co_await group.join();
        REQUIRE(results == std::vector<std::string>{R"(two{"second":true})", "one internal QEMU refused one: no?good"});
        REQUIRE(events == std::vector<std::string>{R"(SHUTDOWN{"guest":true})"});
        co_await qmp->close();
    });
}

TEST_CASE("control: whoever waits for an answer learns of the end") {
    run_coro([]() -> io::Task<void> {
        io::Executor executor = co_await io::this_executor();
        Peer peer = make_peer(executor);
        io::TaskGroup group(executor);
        group.spawn(shake_hands(peer.theirs));
        auto qmp = co_await qemu::Qmp::open(std::move(peer.ours), no_listener, nothing_first, never);
        co_await group.join();
        std::function<io::Task<void>()> cut = [&]() -> io::Task<void> {
            json empty = co_await request_from(peer.theirs);
            co_await answer(peer.theirs, empty["id"], R"("x": 1)");
            co_await request_from(peer.theirs);
            peer.theirs.close();
        };
        group.spawn(cut);
        std::string message;
        json none = json::object();
        try { co_await qmp->execute("stop", none, never); } catch (const Error& e) { message = e.message(); }
        REQUIRE(message == "QEMU answered stop with neither a result nor an error");
        try { co_await qmp->execute("quit", none, never); } catch (const Error& e) { message = e.message(); }
        REQUIRE(message == "QEMU closed its control connection");
        co_await qmp->closed(never);
        message.clear();
        try { co_await qmp->execute("again", none, never); } catch (const Error& e) { message = e.message(); }
        REQUIRE(message == "QEMU closed its control connection");
        co_await group.join();
        co_await qmp->close();
    });
}

TEST_CASE("control: a lying QEMU ends the connection, and nothing else") {
    REQUIRE(failure_after("") == "QEMU ended before it was ready");
    REQUIRE(failure_after("hello\n") == "QEMU sent what is no message");
    REQUIRE(failure_after("[1]\n") == "QEMU sent what is no message");
    REQUIRE(failure_after("{}\n") == "QEMU did not greet");
    REQUIRE(failure_after("{\"QMP\": 1}\n") == "QEMU did not greet");
    REQUIRE(failure_after(std::string(100000, '[') + "\n") == "QEMU sent a message nested too deeply");
    REQUIRE_THAT(failure_after(std::string(300 << 10, 'x')), Catch::Matchers::ContainsSubstring("QEMU sent a message that is too long"));
    REQUIRE(failure_after(greeting + "\n{\"return\": {}, \"id\": 77}\n") == "QEMU answered what it was not asked");
    REQUIRE(failure_after(greeting + "\n{\"return\": {}, \"id\": {\"a\": []}}\n") == "QEMU answered what it was not asked");
    REQUIRE(failure_after("{\"QMP\": {\"version\": {\"qemu\": 7}}}\n") == "QEMU closed its control connection");
    REQUIRE(failure_after(greeting + "\n{\"event\": 5, \"data\": 6}\n{\"id\": 7}\n")
            == "QEMU answered what it was not asked");  // before it was
}
