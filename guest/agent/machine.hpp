// The guest as a machine: what PID 1 sets up once, what a host tells it about itself, how it ends.
#pragma once
#include "common/unique_fd.hpp"
#include "proto/agent.hpp"

#include <string>

namespace pyro::guest {

// /proc, /sys, /dev and the loopback, in the initramfs. Nothing of the disk is touched.
void mount_early();

// The port's device, opened non-blocking. Waits for its announcement by the kernel, however late it comes.
UniqueFd open_port(const std::string& name);

// Mounts the root disk and makes it the root of this process and all it starts. Throws Error.
void enter_root();

// Clock, entropy, host name, machine id, boot id, resolver. Throws Error when the guest would be left without one of them.
void apply(const proto::agent::Identity& identity);

// The root disk's file system: everything is written, its journal is empty, and who writes waits. Throws Error.
void freeze_root(bool frozen);

// Ends every other process, syncs, makes the disk read-only and resets the machine (QEMU runs with -no-reboot).
[[noreturn]] void power_off();

// One line in the kernel's log, for whoever reads the console.
void log(const std::string& line) noexcept;

std::string read_small_file(const std::string& path) noexcept;  // empty when there is none; at most 1 MiB; regular files only

inline constexpr char exec_cgroups[] = "/sys/fs/cgroup/pyro";

}  // namespace pyro::guest
