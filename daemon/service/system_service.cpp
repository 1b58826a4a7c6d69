#include "daemon/service/system_service.hpp"

#include "daemon/service/template_source.hpp"
#include "daemon/service/viewer.hpp"

#include <linux/landlock.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace pyro::service {

namespace {

constexpr std::uint64_t mib = 1 << 20;
constexpr std::uint64_t wanted_free_mib = 4096;  // an environment and a few disks

proto::Check check(std::string name, proto::CheckStatus status, std::string detail, std::string fix = {}) {
    proto::Check out;
    out.name = std::move(name);
    out.status = status;
    out.detail = std::move(detail);
    if (!fix.empty()) out.fix = std::move(fix);
    return out;
}

}  // namespace

io::Task<proto::SystemStatusResult> SystemService::serve(proto::SystemStatus, proto::SystemStatusParams, rpc::Call&) {
    const vm::Quota::Usage usage = machines_.quota().total();
    const vm::QuotaLimits& limits = machines_.quota().limits();
    const vm::BootStatistics& boots = machines_.statistics();
    proto::SystemStatusResult result;
    result.version = PYRO_VERSION;
    result.instance = instance_;
    result.uptime_seconds = std::time(nullptr) - started_;
    result.vms = usage.machines;
    result.vms_max = limits.machines;
    result.mem_mib = usage.mem_mib;
    result.mem_mib_max = limits.mem_mib;
    result.boots = static_cast<std::int64_t>(boots.succeeded);
    result.boots_retried = static_cast<std::int64_t>(boots.retried);
    result.boots_failed = static_cast<std::int64_t>(boots.attempts - boots.succeeded - boots.retried);
    result.starts_restored = static_cast<std::int64_t>(boots.restored);
    result.starts_spare = static_cast<std::int64_t>(boots.spares);
    result.templates = static_cast<std::int64_t>(machines_.templates().count());
    result.template_mem_mib = static_cast<std::int64_t>(machines_.templates().memory_bytes() / mib);
    result.spares = static_cast<std::int64_t>(machines_.spares().waiting());
    co_return result;
}

void SystemService::check_programs(std::vector<proto::Check>& checks) const {
    using enum proto::CheckStatus;
    const auto program = [&](const char* name, const std::string& path, proto::CheckStatus otherwise, const std::string& cure) {
        const bool there = ::access(path.c_str(), X_OK) == 0;
        checks.push_back(check(name, there ? pass : otherwise, there ? path : path + " is not there", there ? "" : cure));
    };
    const auto file = [&](const char* name, const std::string& path) {
        const bool there = ::access(path.c_str(), R_OK) == 0;
        checks.push_back(check(name, there ? pass : fail, there ? path : path + " is not there", there ? "" : "scripts/build"));
    };
    program("qemu", paths_.qemu, fail, "sudo apt-get install qemu-system-x86");
    file("guest kernel", paths_.kernel);
    file("guest initramfs", paths_.initramfs);
    program("image worker", paths_.image_worker, fail, "scripts/build");
    const long landlock = ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
    checks.push_back(check("image sandbox", pass, landlock >= 1 ? "seccomp, landlock version " + std::to_string(landlock)
                                                                : std::string("seccomp; this kernel has no landlock")));
    program("debian archive", paths_.mmdebstrap, warn, "sudo apt-get install mmdebstrap");
    program("host-compat sandbox", paths_.bubblewrap, warn, "sudo apt-get install bubblewrap");
}

void SystemService::check_state_directory(std::vector<proto::Check>& checks) const {
    using enum proto::CheckStatus;
    if (store_.write_failure()) {
        checks.push_back(check("state", fail, *store_.write_failure(), "df -h " + paths_.state_directory));
        return;
    }
    struct statvfs fs{};
    if (::statvfs(paths_.state_directory.c_str(), &fs) != 0) {
        checks.push_back(check("state", fail, paths_.state_directory + " cannot be looked at", "ls -ld " + paths_.state_directory));
        return;
    }
    const std::uint64_t free_mib = std::uint64_t{fs.f_bavail} * fs.f_frsize / mib;
    const std::string detail = paths_.state_directory + ", " + std::to_string(free_mib) + " MiB free";
    if (free_mib < wanted_free_mib) checks.push_back(check("state", warn, detail, "pyro env prune --all"));
    else checks.push_back(check("state", pass, detail));
}

void SystemService::check_limits(std::vector<proto::Check>& checks) const {
    using enum proto::CheckStatus;
    const supervise::Capabilities& can = supervisor_.capabilities();
    std::string enforced = can.kills_whole_tree ? "whole trees are killed" : "only sessions are killed";
    enforced += can.limits_memory ? ", memory is limited" : ", memory is not limited";
    enforced += can.limits_tasks ? ", tasks are limited" : ", tasks are not limited";
    enforced += can.limits_cpu ? ", processor time is limited" : ", processor time is not limited";
    enforced += can.limits_io ? ", disk traffic can be limited" : ", disk traffic cannot be limited";
    checks.push_back(check("limits", can.kills_whole_tree && can.limits_memory && can.limits_tasks ? pass : warn, enforced + " (" + can.how + ")"));
    const vm::Quota::Usage usage = machines_.quota().total();
    const vm::QuotaLimits& limits = machines_.quota().limits();
    checks.push_back(check("quota", pass, std::to_string(usage.machines) + " of " + std::to_string(limits.machines) + " VMs, " +
                                              std::to_string(usage.mem_mib) + " of " + std::to_string(limits.mem_mib) + " MiB of guest memory"));
}

void SystemService::check_boots(std::vector<proto::Check>& checks) const {
    using enum proto::CheckStatus;
    const vm::BootStatistics& boots = machines_.statistics();
    const std::string detail = std::to_string(boots.succeeded) + " guests booted, " + std::to_string(boots.retried) +
                               " attempts repeated, " + std::to_string(boots.hung) + " hung";
    checks.push_back(check("boots", boots.hung == 0 ? pass : warn, detail));
}

// How the next VM of the usual size starts.
io::Task<proto::Check> SystemService::check_warmth(std::string environment, std::string digest, std::stop_token stop) {
    using enum proto::CheckStatus;
    env::Lease lease = co_await environments_.hold(std::move(digest), stop);
    const vm::MachineSpec usual;
    vm::TemplateSource source = template_source_of(vm::TemplateTier::pristine, usual, std::make_shared<const env::Lease>(std::move(lease)));
    const vm::Warmth warmth = co_await machines_.templates().warmth(std::move(source), stop);
    const std::string cure = "pyro prepare " + environment;
    const std::string name = "start of " + environment;
    if (warmth == vm::Warmth::warm) co_return check(name, pass, "warm: from a memory image");
    if (warmth == vm::Warmth::stale) co_return check(name, warn, "stale: its memory image is of another kernel, agent, QEMU or size", cure);
    co_return check(name, warn, "cold: the first run boots", cure);
}

io::Task<proto::SystemDoctorResult> SystemService::serve(proto::SystemDoctor, proto::SystemDoctorParams params, rpc::Call& call) {
    using enum proto::CheckStatus;
    proto::SystemDoctorResult result;
    std::vector<proto::Check>& checks = result.checks;
    checks.push_back(check("daemon", pass, std::string("pyrod ") + PYRO_VERSION));
    check_programs(checks);

    std::optional<Error> error;
    try {
        const vm::HostCapabilities host = co_await hypervisor_.probe(call.stop());
        const bool kvm = host.accelerator == vm::Accelerator::kvm;
        result.execution_mode = kvm ? proto::ExecutionMode::guest_kvm : proto::ExecutionMode::guest_tcg;
        checks.push_back(check("accelerator", kvm ? pass : warn, (kvm ? "KVM: " : "emulation: ") + host.reason, host.cure));
    } catch (const Error& e) {
        error = e;
    }
    if (error) checks.push_back(check("accelerator", fail, error->message(), error->hint()));
    error.reset();

    check_state_directory(checks);
    check_limits(checks);
    check_boots(checks);
    checks.push_back(check("network", pass, "VMs have no network"));

    if (params.environment) {
        const std::string name = "environment " + *params.environment;
        try {
            const env::EnvironmentSummary found = co_await environments_.inspect(*params.environment, viewer_of(call.peer()), call.stop());
            const bool installed = found.presence == env::Presence::installed;
            const std::string detail = installed ? "installed and complete" : found.presence == env::Presence::broken ? "broken: " + found.problem : "not installed";
            checks.push_back(check(name, installed ? pass : fail, detail, installed ? "" : "pyro env pull " + *params.environment));
            if (installed) checks.push_back(co_await check_warmth(*params.environment, found.manifest->digest.str(), call.stop()));
        } catch (const Error& e) {
            error = e;
        }
        if (error) checks.push_back(check(name, fail, error->message(), "pyro env pull " + *params.environment));
    }
    result.ok = true;
    for (const proto::Check& finding : checks) result.ok = result.ok && finding.status != fail;
    co_return result;
}

}  // namespace pyro::service
