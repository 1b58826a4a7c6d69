// What the daemon remembers, as plain values. Every row has an owner.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <sys/types.h>

namespace pyro::state {

// Who looks: another user's object is not found, except for an administrator.
struct Viewer {
    uid_t uid;
    bool admin = false;
};

// run: a call's. vm: somebody's until it is deleted. workspace: the same, and its disk lasts longer than it does. spare: nobody's
// yet, of those that go on when the daemon ends.
enum class MachineKind { run, vm, workspace, spare };
enum class MachineState { creating, booting, running, stopping, stopped, failed };

inline constexpr std::array machine_kind_names{std::string_view{"run"}, std::string_view{"vm"}, std::string_view{"workspace"},
                                               std::string_view{"spare"}};
inline constexpr std::array machine_state_names{std::string_view{"creating"}, std::string_view{"booting"},
                                                std::string_view{"running"},  std::string_view{"stopping"},
                                                std::string_view{"stopped"},  std::string_view{"failed"}};
constexpr std::string_view to_string(MachineKind kind) { return machine_kind_names[static_cast<std::size_t>(kind)]; }
constexpr std::string_view to_string(MachineState state) { return machine_state_names[static_cast<std::size_t>(state)]; }

// The VMM process of a machine: enough not to take another that got its pid for it. pid 0: none yet.
struct ProcessRecord {
    pid_t pid = 0;
    std::uint64_t start_time = 0;
    std::string boot_id;
};

struct MachineRow {
    std::string id;
    uid_t owner_uid = 0;
    MachineKind kind = MachineKind::run;
    MachineState state = MachineState::creating;
    std::string environment;         // as the user named it
    std::string environment_digest;
    std::int64_t vcpu_count = 1;
    std::int64_t mem_mib = 1024;
    std::int64_t disk_gib = 8;
    bool network = false;
    bool allow_host_compat = false;
    std::string execution_mode;      // empty until known
    std::int64_t created_at = 0;     // unix seconds
    std::int64_t expires_at = 0;     // unix seconds; 0: never
    uid_t vm_uid = 0;                // the leased uid; 0: none yet
    ProcessRecord process;
    std::string failure;             // why it failed; empty otherwise
};

struct EnvironmentRow {
    std::string digest;              // the environment's id; primary key together with the owner
    uid_t owner_uid = 0;
    bool is_public = false;          // pulled without credentials: everybody sees it
    std::string source;              // as env::Source is spelled
    std::string manifest_digest;     // of the registry's image manifest; empty for the archive
    std::int64_t size_bytes = 0;     // disk space of the root image
    std::int64_t created_at = 0;     // unix seconds
    std::int64_t last_used_at = 0;   // unix seconds, to the hour
    std::string origin;              // of a registry: REGISTRY/REPOSITORY; else empty
};

// A name a user pulled or gave, and what it meant at the time. One that begins with '@' was given: it means something to its owner
// alone, whatever it leads to.
struct ReferenceRow {
    uid_t owner_uid = 0;
    std::string name;
    std::string digest;
    std::int64_t updated_at = 0;     // unix seconds
};

struct WorkspaceRow {
    std::string id;
    uid_t owner_uid = 0;
    std::string name;                // unique among its owner's; empty: none
    std::string labels;              // a JSON object
    std::string environment;         // as the user named it
    std::string environment_digest;
    std::int64_t vcpu_count = 1;
    std::int64_t mem_mib = 1024;
    std::int64_t disk_gib = 8;
    std::int64_t created_at = 0;     // unix seconds
    std::int64_t last_activity_at = 0;  // unix seconds, to the minute
    std::int64_t expires_at = 0;     // unix seconds; 0: never
    std::int64_t idle_seconds = 0;   // 0: never stopped for want of use
    std::int64_t reset_at = 0;       // unix seconds; of the last reset, or its creation
    std::string machine_id;          // whose disk is its own; another one after each reset
    std::string execution_mode;
    std::string seed_digest;         // of its baseline; empty: none
    std::string seed;                // what the client said of that, a JSON object; empty: none
    std::int64_t exports = 0;        // since the last reset
};

}  // namespace pyro::state
