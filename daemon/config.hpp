// pyrod's configuration file: what it may say, and its defaults. Format: TOML 1.0; an unknown key is an error.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace pyro {

struct Config {
    std::string state_dir = "/var/lib/pyro";
    std::string run_dir = "/run/pyro";
    std::string socket = "/run/pyro/pyrod.sock";
    std::string socket_group = "pyro";  // who may connect; falls back to root's group where it does not exist

    struct Guest {
        std::string kernel = "/usr/lib/pyro/vmlinux";  // absolute paths, here and below
        std::string initramfs = "/usr/lib/pyro/initramfs";
        std::string qemu = "/usr/bin/qemu-system-x86_64";
        std::vector<std::string> qemu_files;  // what it may see of the host beside what it is known to need
        bool randomize_emulated = false;   // user-space address layout where there is no KVM
        std::int64_t uid_first = 2000000;  // every VM runs as a uid of its own from this range
        std::int64_t uid_last = 2065535;
        // Behind the range: the ids that the namespace of a bootstrap maps.
        static constexpr std::int64_t subordinate_uids = 65535;    // the 65535 ids above it serve the Debian archive's user namespace
    } guest;

    struct Workers {
        std::string image = "/usr/lib/pyro/pyro-image";
        std::string mmdebstrap = "/usr/bin/mmdebstrap";
        std::string bubblewrap = "/usr/bin/bwrap";
    } workers;

    struct Limits {
        std::int64_t vms = 256;
        std::int64_t vms_per_user = 64;
        std::int64_t workspaces_per_user = 200;
        std::int64_t mem_mib = 0;           // guest memory of all VMs; 0: 80 % of the host's
        std::int64_t vm_io_mib_per_second = 0;  // 0: as much as the disk gives
        std::int64_t mem_mib_per_user = 0;  // 0: half of the host's
        std::int64_t sessions = 1024;            // connections of all users
        std::int64_t sessions_per_user = 64;     // as many connections again may be attaching or have said nothing
        std::int64_t requests_per_session = 64;  // at once
        std::int64_t pulls = 4;                  // at once; more wait
    } limits;

    struct Environments {
        std::vector<std::string> sources = {"registry", "debian-archive"};  // in this order, where the first cannot be reached
        std::int64_t disk_mib = 0;          // of all that is installed; 0: as much as there is
        std::int64_t max_image_mib = 16384;  // layers as they come; unpacked four times that
        std::string proxy;                   // empty: as the daemon's environment says
        std::string no_proxy;                // hosts asked without it
    } environments;

    struct Registry {
        bool plain_http = false;
        bool allow_private = false;  // may resolve to loopback, private or link-local addresses
        std::string ca_file;         // PEM, trusted for this host beside the system's; empty: those alone
    };
    std::map<std::string, std::string> mirror;      // registry host -> registry to ask instead, "docker.io" = "127.0.0.1:5000"
    std::map<std::string, Registry> registries;     // [registry."host:port"] or [registry."host"]

    struct Workspaces {
        std::int64_t journal_mib = 16;       // kept of each command's output, the head and the tail
        std::int64_t unused_seeds_mib = 4096;  // of images of trees that no workspace has any more
    } workspaces;

    struct Templates {
        bool enabled = true;            // false: every VM boots a kernel of its own
        bool after_pull = false;        // make one as soon as an environment was pulled; else with its first run
        std::int64_t memory_mib = 2048; // of images held in memory
        std::int64_t disk_mib = 8192;
    } templates;

    struct Spares {
        std::int64_t per_template = 1;  // waiting after a use; 0: none
        std::int64_t total = 8;
        std::int64_t keep_seconds = 600;
    } spares;

    struct HostCompat {
        bool allow = true;  // --allow-host-compat may be used
    } host_compat;

    std::map<std::string, std::string> said;  // what the file says, by key
};

// Throws Error(invalid_argument) with the file, the place and what is allowed there.
Config load_config(const std::string& path);

// The keys of which the two files say different things; whether such a change takes effect while the daemon runs.
std::vector<std::string> changed_keys(const Config& before, const Config& after);
bool applies_at_once(const std::string& key);

}  // namespace pyro
