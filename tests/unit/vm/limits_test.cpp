#include "common/error.hpp"
#include "daemon/vm/accelerator.hpp"
#include "daemon/vm/quota.hpp"
#include "daemon/vm/vm_uids.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/run_coro.hpp"

#include <filesystem>

#include <sys/wait.h>
#include <unistd.h>

using namespace pyro;
using namespace pyro::vm;

namespace {

const std::stop_token never;
struct TemporaryDirectory {
    TemporaryDirectory() {
        char name[] = "/tmp/pyro-vm-test-XXXXXX";
        path = ::mkdtemp(name);
        for (const char* part : {"/state", "/run"}) std::filesystem::create_directory(path + part);
    }
    ~TemporaryDirectory() { std::filesystem::remove_all(path); }
    state::Store::Paths store() const { return {path + "/state", path + "/run"}; }
    std::string path;
};

std::string quota_failure(Quota& quota, uid_t owner, std::int64_t mem_mib) {
    try {
        quota.reserve(owner, mem_mib);
    } catch (const Error& e) {
        REQUIRE(e.code() == ErrorCode::quota_exceeded);
        REQUIRE_FALSE(e.hint().empty());
        return e.message();
    }
    return "";
}

const Accounts accounts{"root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:\nbad line\nx:x:y:1:\n", "root:x:0:\nkvm:x:104:alice\n",
                        "alice:100000:65536\n", "alice:300000:10\n"};

}  // namespace

TEST_CASE("each limit refuses with its figure, and what ends gives its share back") {
    Quota quota({4, 2, 1000, 600});
    auto first = quota.reserve(1, 300);
    REQUIRE(quota_failure(quota, 1, 301) == "the memory of your VMs would be 601 MiB, the limit is 600 MiB");
    auto second = quota.reserve(1, 300);
    REQUIRE(quota_failure(quota, 1, 0) == "your VMs would be 3, the limit is 2");
    REQUIRE(quota_failure(quota, 2, 401) == "the memory of this host's VMs would be 1001 MiB, the limit is 1000 MiB");
    auto third = quota.reserve(2, 400);
    auto fourth = quota.count(3, 500);  // found running: counts, though over the limit
    REQUIRE(quota.total().mem_mib == 1500);
    REQUIRE(quota_failure(quota, 4, 0) == "the VMs of this host would be 5, the limit is 4");
    first = {};
    REQUIRE(quota.of(1).machines == 1);
    second.release();
    second.release();
    REQUIRE(quota.of(1).machines == 0);
    auto moved = std::move(third);
    REQUIRE(quota.total().machines == 2);
}

TEST_CASE("limits left open follow the host") {
    Quota quota({});
    REQUIRE(quota.limits().mem_mib > quota.limits().mem_mib_per_user);
    REQUIRE(quota.limits().mem_mib_per_user > 0);
}

TEST_CASE("a range of uids that belongs to somebody is refused") {
    REQUIRE_FALSE(overlap(2000000, 2065535, accounts));
    REQUIRE(overlap(60000, 70000, accounts) == "account nobody (65534)");
    REQUIRE(overlap(104, 104, accounts) == "group kvm (104)");
    REQUIRE(overlap(165535, 170000, accounts) == "the line alice:100000:65536 of /etc/subuid");
    REQUIRE_FALSE(overlap(165536, 170000, accounts));
    REQUIRE(overlap(299999, 300000, accounts) == "the line alice:300000:10 of /etc/subgid");
    TemporaryDirectory directory;
    state::Store store(directory.store());
    REQUIRE_THROWS_AS(VmUids(store, 60000, 70000, directory.path + "/lock", accounts), Error);
}

TEST_CASE("a uid is claimed for the host, has no process, and is used again oldest first") {
    TemporaryDirectory directory, other;
    const std::string lock = directory.path + "/lock";
    state::Store store(directory.store()), others(other.store());
    const uid_t first = 2101000, last = first + 2;
    VmUids mine(store, first, last, lock, accounts), theirs(others, first, last, lock, accounts);
    auto a = mine.claim(1, "a");
    auto b = theirs.claim(1, "b");
    REQUIRE(a.uid() == first);
    REQUIRE(b.uid() == first + 1);
    auto c = mine.claim(1, "c");
    REQUIRE(c.uid() == first + 2);
    REQUIRE_THROWS_AS(mine.claim(1, "d"), Error);
    b.release();
    c.release();
    a.release();
    REQUIRE(mine.claim(1, "e").uid() == first + 2);  // never before: first + 1, but it is below what this daemon used
    if (::geteuid() != 0) {
        WARN("not root: a uid in use is not tested");
        return;
    }
    int fds[2];
    REQUIRE(::pipe(fds) == 0);
    const pid_t child = ::fork();
    if (child == 0) {
        if (::setuid(first) != 0) ::_exit(1);
        char byte = 1;
        if (::write(fds[1], &byte, 1) != 1) ::_exit(1);
        ::pause();
    }
    char byte = 0;
    REQUIRE(::read(fds[0], &byte, 1) == 1);
    auto d = mine.claim(1, "d"), e = mine.claim(1, "e");
    REQUIRE(d.uid() != first);
    REQUIRE(e.uid() != first);
    REQUIRE_THROWS_AS(mine.claim(1, "f"), Error);
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    REQUIRE(mine.claim(1, "f").uid() == first);
    ::close(fds[0]);
    ::close(fds[1]);
}

TEST_CASE("the trial boot decides, once per boot of the host and set of programs") {
    TemporaryDirectory directory;
    const std::string memory = directory.path + "/accelerator.json";
    int boots = 0;
    bool works = false;
    AcceleratorProbe::Boot boot = [&](std::vector<gid_t>, std::stop_token) -> io::Task<TrialBoot> {
        ++boots;
        TrialBoot out;
        out.booted = works;
        out.what = works ? "it runs" : "no sign of life for 4 s";
        co_return out;
    };
    const auto probe = [&](const std::string& key) {
        HostCapabilities out;
        test::run_coro([&]() -> io::Task<void> {
            AcceleratorProbe one(memory, key, "/dev/null", boot);  // a device everybody may use
            out = co_await one.run(never);
        });
        return out;
    };
    const auto first = probe("qemu 1");
    REQUIRE(first.accelerator == Accelerator::tcg);
    REQUIRE(first.reason == "A trial guest did not boot with KVM: no sign of life for 4 s. Guests are emulated.");
    REQUIRE_FALSE(first.cure.empty());
    REQUIRE(probe("qemu 1").reason == first.reason);
    REQUIRE(boots == 1);
    works = true;
    REQUIRE(probe("qemu 2").accelerator == Accelerator::kvm);
    REQUIRE(probe("qemu 2").accelerator == Accelerator::kvm);
    REQUIRE(boots == 2);
    replace_file(memory, "{\"key\": 5");
    REQUIRE(probe("qemu 2").accelerator == Accelerator::kvm);
    REQUIRE(boots == 3);
}

TEST_CASE("a KVM device that only root may open is no use to a VM that is not root") {
    const KvmAccess missing = kvm_access("/nonexistent/kvm");
    REQUIRE_FALSE(missing.usable);
    REQUIRE_THAT(missing.reason, Catch::Matchers::ContainsSubstring("No such file"));
    REQUIRE_FALSE(kvm_access("/etc/passwd").usable);
    REQUIRE(kvm_access("/dev/null").usable);
    REQUIRE(kvm_access("/dev/null").groups.empty());
}
