// The daemon itself: how it is, and what is wrong with the host.
#pragma once
#include "proto/method.hpp"
#include "proto/vm.hpp"

namespace pyro::proto {

struct SystemStatusParams {
    static constexpr std::string_view doc = "Show the daemon's version, load and limits.";
    static constexpr auto fields() { return std::array<FieldInfo, 0>{}; }
};
struct SystemStatusResult {
    static constexpr std::string_view doc = "The daemon at a glance.";
    std::string version;
    std::string instance;
    std::int64_t uptime_seconds = 0;
    std::int64_t vms = 0;
    std::int64_t vms_max = 0;
    std::int64_t mem_mib = 0;
    std::int64_t mem_mib_max = 0;
    std::int64_t boots = 0;
    std::int64_t boots_retried = 0;
    std::int64_t boots_failed = 0;
    std::int64_t starts_restored = 0;
    std::int64_t starts_spare = 0;
    std::int64_t templates = 0;
    std::int64_t template_mem_mib = 0;
    std::int64_t spares = 0;
    static constexpr auto fields() {
        return std::array{
            field<&SystemStatusResult::version>("version", "Version of the daemon"),
            field<&SystemStatusResult::instance>("instance", "Identity of this daemon's state directory"),
            field<&SystemStatusResult::uptime_seconds>("uptime_seconds", "Seconds since it started"),
            field<&SystemStatusResult::vms>("vms", "VMs of all users"),
            field<&SystemStatusResult::vms_max>("vms_max", "How many there may be"),
            field<&SystemStatusResult::mem_mib>("mem_mib", "Guest memory given out, in MiB"),
            field<&SystemStatusResult::mem_mib_max>("mem_mib_max", "How much may be given out, in MiB"),
            field<&SystemStatusResult::boots>("boots", "Guests booted since the daemon started"),
            field<&SystemStatusResult::boots_retried>("boots_retried", "Boots that needed another attempt"),
            field<&SystemStatusResult::boots_failed>("boots_failed", "Boots that failed for good"),
            field<&SystemStatusResult::starts_restored>("starts_restored", "Of the guests booted, those that went on from a memory image"),
            field<&SystemStatusResult::starts_spare>("starts_spare", "Of the guests booted, those that had been waiting"),
            field<&SystemStatusResult::templates>("templates", "Memory images there are"),
            field<&SystemStatusResult::template_mem_mib>("template_mem_mib", "Memory that images take, in MiB"),
            field<&SystemStatusResult::spares>("spares", "VMs that wait for somebody")};
    }
};
struct SystemStatus {
    static constexpr std::string_view name = "system.status";
    using Params = SystemStatusParams;
    using Result = SystemStatusResult;
    static constexpr Traits traits{.read_only = true};
};

enum class CheckStatus { pass, warn, fail };
constexpr auto enum_names(CheckStatus) { return std::array<std::string_view, 3>{"pass", "warn", "fail"}; }

struct Check {
    static constexpr std::string_view doc = "One finding about the host.";
    std::string name;
    CheckStatus status = CheckStatus::pass;
    std::string detail;
    std::optional<std::string> fix;
    static constexpr auto fields() {
        return std::array{field<&Check::name>("name", "What was checked"),
                          field<&Check::status>("status", "pass, warn: works with a restriction, or fail"),
                          field<&Check::detail>("detail", "What was found"),
                          field<&Check::fix>("fix", "The command that mends it")};
    }
};
struct SystemDoctorParams {
    static constexpr std::string_view doc = "Check the host: can it boot a guest, and is everything pyro needs in place?";
    std::optional<std::string> environment;
    static constexpr auto fields() {
        return std::array{field<&SystemDoctorParams::environment>("environment", "Also check that this environment is installed and complete", {.value = "ENV", .min = 1, .max = 512, .completes = "environment"})};
    }
};
struct SystemDoctorResult {
    static constexpr std::string_view doc = "The findings.";
    bool ok = false;
    std::optional<ExecutionMode> execution_mode;
    std::vector<Check> checks;
    static constexpr auto fields() {
        return std::array{field<&SystemDoctorResult::ok>("ok", "Whether nothing failed"),
                          field<&SystemDoctorResult::execution_mode>("execution_mode", "How VMs run here, as a probe boot showed"),
                          field<&SystemDoctorResult::checks>("checks", "All findings")};
    }
};
struct SystemDoctor {
    static constexpr std::string_view name = "system.doctor";
    using Params = SystemDoctorParams;
    using Result = SystemDoctorResult;
    static constexpr Traits traits{.cli = "doctor", .read_only = true};
};

}  // namespace pyro::proto
