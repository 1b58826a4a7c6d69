// One-shot VMs: run, and its life cycle taken apart.
#pragma once
#include "proto/method.hpp"

namespace pyro::proto {

enum class ExecutionMode { guest_kvm, guest_tcg, host_compat };
constexpr auto enum_names(ExecutionMode) { return std::array<std::string_view, 3>{"guest_kvm", "guest_tcg", "host_compat"}; }

// How a VM got going: a boot of its own, from a memory image of one that had booted, or from a clone of that which was waiting.
enum class StartKind { cold, restored, spare };
constexpr auto enum_names(StartKind) { return std::array<std::string_view, 3>{"cold", "restored", "spare"}; }

enum class VmState { creating, booting, running, stopping, stopped, failed };
constexpr auto enum_names(VmState) {
    return std::array<std::string_view, 6>{"creating", "booting", "running", "stopping", "stopped", "failed"};
}

namespace limits {
inline constexpr FieldOptions environment{.cli = Cli::positional, .min = 1, .max = 512, .completes = "environment"};
inline constexpr FieldOptions vm_id{.cli = Cli::positional, .value = "VM", .min = 1, .max = 64, .completes = "vm"};
inline constexpr FieldOptions vcpus{.min = 1, .max = 64, .defaulted = true};
inline constexpr FieldOptions memory{.min = 128, .max = 262144, .defaulted = true};
inline constexpr FieldOptions disk{.min = 8, .max = 1024, .defaulted = true};
inline constexpr FieldOptions command_timeout{.value = "SECONDS", .min = 0, .max = 86400, .defaulted = true};
inline constexpr FieldOptions ttl{.value = "SECONDS", .min = 1, .max = 86400, .defaulted = true};
inline constexpr FieldOptions flag{.defaulted = true};
inline constexpr FieldOptions argv{.cli = Cli::rest, .value = "CMD", .max = 4096, .defaulted = true};
inline constexpr FieldOptions hidden_command{.cli = Cli::none, .min = 1, .max = 131072};
}  // namespace limits

// What several requests or answers have in common, with its fields; every record stays flat on the wire.
struct MachineSizing {
    std::int64_t vcpu_count = 1;
    std::int64_t mem_mib = 1024;
    std::int64_t disk_gib = 8;
    template <class R>
    static constexpr auto fields_in() {
        return std::array{
            field<&MachineSizing::vcpu_count, R>("vcpu_count", "Virtual CPUs", limits::vcpus),
            field<&MachineSizing::mem_mib, R>("mem_mib", "Memory in MiB", limits::memory),
            field<&MachineSizing::disk_gib, R>("disk_gib", "Disk size in GiB", limits::disk)};
    }
};
struct VmSizing : MachineSizing {
    std::int64_t ttl_seconds = 600;
    bool network = false;
    bool allow_host_compat = false;
    template <class R>
    static constexpr auto fields_in() {
        return join(MachineSizing::fields_in<R>(), std::array{
            field<&VmSizing::ttl_seconds, R>("ttl_seconds", "Time after which the VM is removed whatever it does", limits::ttl),
            field<&VmSizing::network, R>("network", "Give the VM a network, where this host's configuration allows one", limits::flag),
            field<&VmSizing::allow_host_compat, R>("allow_host_compat", "Where no guest can boot, use a sandbox on the host instead of failing", limits::flag)});
    }
};
struct VmCommand {
    std::vector<std::string> argv;
    std::optional<std::string> command;
    std::int64_t timeout_seconds = 30;
    bool interactive = false;
    bool tty = false;
    std::map<std::string, std::string> env;
    std::optional<std::string> workdir;
    std::optional<std::string> user;
    std::int64_t cols = 80;
    std::int64_t rows = 24;
    template <class R>
    static constexpr auto fields_in() {
        return std::array{
            field<&VmCommand::argv, R>("argv", "Command and its arguments, run as they are; none: the image's command", limits::argv),
            field<&VmCommand::command, R>("command", "Command line, run by /bin/sh -lc; instead of argv", limits::hidden_command),
            field<&VmCommand::timeout_seconds, R>("timeout_seconds", "Time the command may take from its start in the guest; 0: none", limits::command_timeout),
            field<&VmCommand::interactive, R>("interactive", "Pass on standard input", {.short_flag = 'i', .defaulted = true}),
            field<&VmCommand::tty, R>("tty", "Give the command a terminal", {.short_flag = 't', .defaulted = true}),
            field<&VmCommand::env, R>("env", "Set an environment variable", {.short_flag = 'e', .value = "K=V", .max = 1024, .defaulted = true}),
            field<&VmCommand::workdir, R>("workdir", "Directory to start in; default: the image's", {.short_flag = 'w', .value = "DIR", .min = 1, .max = 4096}),
            field<&VmCommand::user, R>("user", "User to run as, name or uid[:gid]; default: the image's", {.short_flag = 'u', .value = "USER", .min = 1, .max = 256}),
            field<&VmCommand::cols, R>("cols", "Width of the terminal", {.cli = Cli::none, .min = 1, .max = 1000, .defaulted = true}),
            field<&VmCommand::rows, R>("rows", "Height of the terminal", {.cli = Cli::none, .min = 1, .max = 1000, .defaulted = true})};
    }
};
struct VmOutcome {
    std::string vm_id;
    std::optional<std::int64_t> exit_code;
    std::optional<std::int64_t> signal;
    std::optional<std::string> exec_error;
    bool timed_out = false;
    bool oom = false;
    std::int64_t duration_ms = 0;
    ExecutionMode execution_mode = ExecutionMode::guest_tcg;
    std::optional<StartKind> start;
    std::string environment;
    std::string environment_digest;
    template <class R>
    static constexpr auto fields_in() {
        return std::array{
            field<&VmOutcome::vm_id, R>("vm_id", "The VM it ran in"),
            field<&VmOutcome::exit_code, R>("exit_code", "The command's exit status; absent if a signal or a time-out ended it"),
            field<&VmOutcome::signal, R>("signal", "Number of the signal that ended it"),
            field<&VmOutcome::exec_error, R>("exec_error", "Why the command could not be executed; exit_code is then 126 or 127"),
            field<&VmOutcome::timed_out, R>("timed_out", "Whether timeout_seconds ended it"),
            field<&VmOutcome::oom, R>("oom", "Whether the guest ran out of memory and killed it"),
            field<&VmOutcome::duration_ms, R>("duration_ms", "From its start to its end in the guest, in milliseconds"),
            field<&VmOutcome::execution_mode, R>("execution_mode", "guest_kvm and guest_tcg: a VM, with and without hardware virtualisation; host_compat: a sandbox on the host"),
            field<&VmOutcome::start, R>("start", "cold: the VM booted; restored: it went on from a memory image; spare: it was waiting"),
            field<&VmOutcome::environment, R>("environment", "Environment as named in the request"),
            field<&VmOutcome::environment_digest, R>("environment_digest", "Identity of the environment it ran on")};
    }
};

struct VmRunParams : VmSizing, VmCommand {
    static constexpr std::string_view doc = "Start a microVM from an environment, run one command in it, and clean it up.";
    std::string environment;
    StartKind start = StartKind::spare;
    static constexpr auto fields() {
        return join(std::array{field<&VmRunParams::environment>("environment", "Catalog name or OCI reference", limits::environment)},
                    VmSizing::fields_in<VmRunParams>(), VmCommand::fields_in<VmRunParams>(),
                    std::array{field<&VmRunParams::start>("start", "The fastest way to start that may be used; cold boots a kernel of its own", {.defaulted = true})});
    }
};

struct ExecResult : VmOutcome {
    static constexpr std::string_view doc = "How a command ended. Its output came over the attach connection; the counts say how much.";
    std::int64_t stdout_bytes = 0;
    std::int64_t stderr_bytes = 0;
    static constexpr auto fields() {
        return join(fields_in<ExecResult>(),
                    std::array{field<&ExecResult::stdout_bytes>("stdout_bytes", "Bytes sent on stream 1; read that many before closing"),
                               field<&ExecResult::stderr_bytes>("stderr_bytes", "Bytes sent on stream 2")});
    }
};

// What clients make of an ExecResult and the streams they read: `run --json`, MCP and the SDK answer with this.
struct RunReport : VmOutcome {
    static constexpr std::string_view doc = "A finished command with its output.";
    bool truncated = false;
    std::string stdout_text;
    std::string stderr_text;
    static constexpr auto fields() {
        return join(fields_in<RunReport>(),
                    std::array{field<&RunReport::truncated>("truncated", "Whether the middle of stdout or stderr was left out"),
                               field<&RunReport::stdout_text>("stdout", "Standard output; invalid UTF-8 replaced"),
                               field<&RunReport::stderr_text>("stderr", "Standard error; invalid UTF-8 replaced")});
    }
};

struct VmRun {
    static constexpr std::string_view name = "vm.run";
    using Params = VmRunParams;
    using Result = ExecResult;
    static constexpr Traits traits{.cli = "run", .mcp = "vm_run", .sdk = "run_in_vm", .carries = Carries::streams};
};

struct VmInfo {
    static constexpr std::string_view doc = "A VM.";
    std::string vm_id;
    VmState state = VmState::creating;
    std::string environment;
    std::string environment_digest;
    std::optional<ExecutionMode> execution_mode;
    std::int64_t vcpu_count = 0;
    std::int64_t mem_mib = 0;
    std::int64_t disk_gib = 0;
    bool network = false;
    std::int64_t created_at = 0;
    std::int64_t expires_at = 0;
    std::optional<std::string> failure;
    std::optional<std::int64_t> memory_private_bytes;
    std::optional<std::int64_t> memory_code_bytes;
    static constexpr auto fields() {
        return std::array{
            field<&VmInfo::vm_id>("vm_id", "Identity of the VM"),
            field<&VmInfo::state>("state", "Where it is in its life cycle"),
            field<&VmInfo::environment>("environment", "Environment as named at create"),
            field<&VmInfo::environment_digest>("environment_digest", "Identity of that environment"),
            field<&VmInfo::execution_mode>("execution_mode", "Known once it was started"),
            field<&VmInfo::vcpu_count>("vcpu_count", "Virtual CPUs"),
            field<&VmInfo::mem_mib>("mem_mib", "Memory in MiB"),
            field<&VmInfo::disk_gib>("disk_gib", "Disk size in GiB"),
            field<&VmInfo::network>("network", "Whether it has a network"),
            field<&VmInfo::created_at>("created_at", "Unix seconds"),
            field<&VmInfo::expires_at>("expires_at", "Unix seconds; it is removed then"),
            field<&VmInfo::failure>("failure", "Why it failed"),
            field<&VmInfo::memory_private_bytes>("memory_private_bytes", "In vm.status, while it runs: memory of the host that it shares with nobody"),
            field<&VmInfo::memory_code_bytes>("memory_code_bytes", "In vm.status, while it runs: beside that, the emulator's translated code")};
    }
};

struct VmCreateParams : VmSizing {
    static constexpr std::string_view doc = "Create a VM from an environment without starting it. It lives until exec, delete or its TTL.";
    std::string environment;
    static constexpr auto fields() {
        return join(std::array{field<&VmCreateParams::environment>("environment", "Catalog name or OCI reference", limits::environment)},
                    fields_in<VmCreateParams>());
    }
};
struct VmCreate {
    static constexpr std::string_view name = "vm.create";
    using Params = VmCreateParams;
    using Result = VmInfo;
    static constexpr Traits traits{.cli = "vm create", .mcp = "vm_create", .sdk = "create_vm", .id_field = "vm_id"};
};

struct VmStartParams {
    static constexpr std::string_view doc = "Start a created VM and wait until it takes commands.";
    std::string vm_id;
    static constexpr auto fields() { return std::array{field<&VmStartParams::vm_id>("vm_id", "The VM", limits::vm_id)}; }
};
struct VmStart {
    static constexpr std::string_view name = "vm.start";
    using Params = VmStartParams;
    using Result = VmInfo;
    static constexpr Traits traits{.cli = "vm start", .mcp = "vm_start", .sdk = "start_vm"};
};

struct VmExecParams : VmCommand {
    static constexpr std::string_view doc = "Run one command in a VM, starting it if needed; the VM is removed afterwards.";
    std::string vm_id;
    static constexpr auto fields() {
        return join(std::array{field<&VmExecParams::vm_id>("vm_id", "The VM", limits::vm_id)}, fields_in<VmExecParams>());
    }
};
struct VmExec {
    static constexpr std::string_view name = "vm.exec";
    using Params = VmExecParams;
    using Result = ExecResult;
    static constexpr Traits traits{.cli = "vm exec", .mcp = "vm_exec", .sdk = "exec_vm", .destructive = true, .carries = Carries::streams};
};

struct VmStopParams {
    static constexpr std::string_view doc = "Stop a running VM. Its disk stays until it is deleted or expires.";
    std::string vm_id;
    static constexpr auto fields() { return std::array{field<&VmStopParams::vm_id>("vm_id", "The VM", limits::vm_id)}; }
};
struct VmStop {
    static constexpr std::string_view name = "vm.stop";
    using Params = VmStopParams;
    using Result = VmInfo;
    static constexpr Traits traits{.cli = "vm stop", .mcp = "vm_stop", .sdk = "stop_vm"};
};

struct VmDeleteParams {
    static constexpr std::string_view doc = "Delete a VM and everything it holds, in whatever state it is.";
    std::string vm_id;
    static constexpr auto fields() { return std::array{field<&VmDeleteParams::vm_id>("vm_id", "The VM", limits::vm_id)}; }
};
struct VmDeleteResult {
    static constexpr std::string_view doc = "The VM is gone.";
    std::string vm_id;
    static constexpr auto fields() { return std::array{field<&VmDeleteResult::vm_id>("vm_id", "The VM that was deleted")}; }
};
struct VmDelete {
    static constexpr std::string_view name = "vm.delete";
    using Params = VmDeleteParams;
    using Result = VmDeleteResult;
    static constexpr Traits traits{.cli = "vm delete", .mcp = "vm_delete", .sdk = "delete_vm", .destructive = true};
};

struct VmStatusParams {
    static constexpr std::string_view doc = "Show one VM.";
    std::string vm_id;
    static constexpr auto fields() { return std::array{field<&VmStatusParams::vm_id>("vm_id", "The VM", limits::vm_id)}; }
};
struct VmStatus {
    static constexpr std::string_view name = "vm.status";
    using Params = VmStatusParams;
    using Result = VmInfo;
    static constexpr Traits traits{.cli = "vm status", .mcp = "vm_status", .sdk = "status_vm", .read_only = true};
};

struct VmNetworkInfoParams {
    static constexpr std::string_view doc = "Show the network of a VM.";
    std::string vm_id;
    static constexpr auto fields() { return std::array{field<&VmNetworkInfoParams::vm_id>("vm_id", "The VM", limits::vm_id)}; }
};
struct VmNetworkInfoResult {
    static constexpr std::string_view doc = "The network of a VM.";
    std::string vm_id;
    bool network = false;
    static constexpr auto fields() {
        return std::array{field<&VmNetworkInfoResult::vm_id>("vm_id", "The VM"),
                          field<&VmNetworkInfoResult::network>("network", "Whether it has a network interface at all")};
    }
};
struct VmNetworkInfo {
    static constexpr std::string_view name = "vm.network_info";
    using Params = VmNetworkInfoParams;
    using Result = VmNetworkInfoResult;
    static constexpr Traits traits{.cli = "vm network-info", .mcp = "vm_network_info", .sdk = "network_info_vm", .read_only = true};
};

struct VmListParams {
    static constexpr std::string_view doc = "List your VMs, newest first; root sees everybody's.";
    static constexpr auto fields() { return std::array<FieldInfo, 0>{}; }
};
struct VmListResult {
    static constexpr std::string_view doc = "VMs, newest first.";
    std::vector<VmInfo> vms;
    static constexpr auto fields() { return std::array{field<&VmListResult::vms>("vms", "The VMs")}; }
};
struct VmList {
    static constexpr std::string_view name = "vm.list";
    using Params = VmListParams;
    using Result = VmListResult;
    static constexpr Traits traits{.cli = "vm list", .sdk = "list_vms", .read_only = true};
};

struct VmReapExpiredParams {
    static constexpr std::string_view doc = "Remove your VMs whose TTL is over now, instead of a moment later.";
    static constexpr auto fields() { return std::array<FieldInfo, 0>{}; }
};
struct VmReapExpiredResult {
    static constexpr std::string_view doc = "What was removed.";
    std::vector<std::string> reaped;
    static constexpr auto fields() { return std::array{field<&VmReapExpiredResult::reaped>("reaped", "Ids of the VMs that were removed")}; }
};
struct VmReapExpired {
    static constexpr std::string_view name = "vm.reap_expired";
    using Params = VmReapExpiredParams;
    using Result = VmReapExpiredResult;
    static constexpr Traits traits{.cli = "vm reap-expired", .mcp = "vm_reap_expired", .sdk = "reap_expired", .destructive = true};
};

}  // namespace pyro::proto
