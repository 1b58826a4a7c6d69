// bench: how much memory of the host VMs take that do nothing.
#include "client/cli/bench.hpp"
#include "proto/vm.hpp"

#include <unistd.h>

namespace pyro::client {

namespace {

// After the command the VM has to stay for a look at it, and vm.exec removes it with its command: a shell waits behind it.
constexpr const char* command_and_wait = R"("$@" >/dev/null 2>&1 || exit; echo done; read -r end)";

void add_memory(Connection& daemon, const HeldVm& vm, std::vector<double>& private_bytes, std::vector<double>& code_bytes) {
    const proto::VmInfo info = daemon.call<proto::VmStatus>({vm.id()});
    if (!info.memory_private_bytes || !info.memory_code_bytes)
        throw Error(ErrorCode::failed_precondition, "pyrod " + daemon.daemon_version() + " does not say how much memory VM " + vm.id() + " has to itself",
                    "leave --density out, or upgrade pyrod");
    private_bytes.push_back(static_cast<double>(*info.memory_private_bytes));
    code_bytes.push_back(static_cast<double>(*info.memory_code_bytes));
}

}  // namespace

HeldVm::~HeldVm() {
    if (id_.empty()) return;
    try {
        Connection({socket_}).call<proto::VmDelete>({id_});
    } catch (const std::exception&) {
        // It was removed with its command, or its TTL does it.
    }
}

Density measure_density(const std::string& socket, const std::string& environment, std::int64_t vms, const std::vector<std::string>& command,
                        Signals& signals, const std::function<void(const std::string&)>& say) {
    Connection daemon({socket});
    CallOptions interruptible;
    interruptible.signals = &signals;
    Density density;
    density.vms = vms;
    proto::VmCreateParams params;
    params.environment = environment;
    params.ttl_seconds = 600 + 20 * vms;  // should we be killed
    density.mem_mib = params.mem_mib;
    std::vector<HeldVm> held;
    for (std::int64_t i = 0; i < vms; ++i) {
        say("density: starting VM " + std::to_string(i + 1) + " of " + std::to_string(vms));
        held.emplace_back(socket, daemon.call<proto::VmCreate>(params).vm_id);  // not interrupted: it would stay
        daemon.call<proto::VmStart>({held.back().id()}, interruptible);
    }
    for (const HeldVm& vm : held) add_memory(daemon, vm, density.idle_private, density.idle_code);
    for (std::size_t i = 0; i < held.size(); ++i) {
        say("density: a command in VM " + std::to_string(i + 1) + " of " + std::to_string(vms));
        std::vector<std::string> words{"/proc/self/exe", "vm", "exec", "--socket", socket_path(socket), "--timeout-seconds", "0", "-i", held[i].id(), "--",
                                       "sh", "-c", command_and_wait, "sh"};
        words.insert(words.end(), command.begin(), command.end());
        Pipe in, out;
        Child exec(words, {in.read.get(), out.write.get(), -1});
        in.read.reset();
        out.write.reset();
        if (!exec.readable_before_end(out.read.get(), signals))
            throw Error(ErrorCode::guest_failed, "the command failed in VM " + held[i].id(), "try it: pyro run " + environment + " -- " + command.front());
        add_memory(daemon, held[i], density.used_private, density.used_code);
        in.write.reset();
        exec.wait(&signals);
        held[i].forget();
    }
    return density;
}

}  // namespace pyro::client
