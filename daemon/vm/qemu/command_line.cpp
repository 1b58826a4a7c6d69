#include "daemon/vm/qemu/command_line.hpp"

#include <nlohmann/json.hpp>

#include <sched.h>
#include <sys/resource.h>

namespace pyro::vm::qemu {
namespace {

constexpr std::uint64_t mib = 1 << 20;
constexpr std::uint64_t code_buffer_mib = 64;

// A descriptor QEMU duplicates for itself: no path is ever opened for a disk, and no lock is taken on a shared one.
nlohmann::ordered_json by_fd(const char* node, const char* format, int set, bool read_only) {
    return {{"node-name", node},
            {"driver", format},
            {"read-only", read_only},
            {"discard", read_only ? "ignore" : "unmap"},
            {"file",
             {{"driver", "file"},
              {"filename", "/dev/fdset/" + std::to_string(set)},
              {"read-only", read_only},
              {"discard", read_only ? "ignore" : "unmap"},
              {"locking", "off"},
              {"cache", {{"no-flush", true}}}}}};
}

}  // namespace

std::uint64_t memory_limit(const MachineSpec& spec, Accelerator accelerator) {
    const std::uint64_t emulation = accelerator == Accelerator::tcg ? code_buffer_mib : 0;
    return (static_cast<std::uint64_t>(spec.mem_mib) + emulation + 256) * mib;
}

supervise::Command command_line(const Programs& programs, const Launch& launch, Descriptors descriptors) {
    const bool kvm = launch.accelerator == Accelerator::kvm;
    supervise::Command command;
    command.path = programs.qemu;
    int next = 3;
    const auto pass = [&](UniqueFd fd) {
        command.fds.push_back({std::move(fd), next});
        return std::to_string(next++);
    };
    auto& argv = command.argv;
    const auto add = [&argv](std::initializer_list<std::string> words) { argv.insert(argv.end(), words); };

    std::string append = "console=ttyS0 reboot=t panic=-1";
    append += launch.verbose_kernel ? " earlyprintk=ttyS0" : " quiet";
    // The emulated clocks are exact: a guest that measures them under load loses its timer (guest/README.md).
    if (!kvm) append += " tsc=reliable lapic_timer_khz=1000000";
    if (launch.tsc_khz > 0) append += " tsc_early_khz=" + std::to_string(launch.tsc_khz);

    add({"qemu-system-x86_64",
         "-accel", kvm ? "kvm" : "tcg,tb-size=" + std::to_string(code_buffer_mib),
         // 5-level paging only costs an emulator, and with ERMS its guest copies byte by byte (with FSRM alone, which QEMU 10
         // emulates too, Linux 6.1 hangs); nested hosts cannot set what ARCH_CAPABILITIES asks for.
         "-cpu", kvm ? "host,-arch-capabilities" : "max,la57=off,erms=off,fsrm=off",
         "-machine", descriptors.memory ? "microvm,acpi=off,memory-backend=ram" : "microvm,acpi=off",
         "-m", std::to_string(launch.spec.mem_mib),
         "-smp", std::to_string(launch.spec.vcpu_count),
         "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
         "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
         "-kernel", "/proc/self/fd/" + pass(std::move(descriptors.kernel)),
         "-initrd", "/proc/self/fd/" + pass(std::move(descriptors.initramfs)),
         "-append", append});
    if (descriptors.memory) {
        // To go on from an image is to map it privately: what this guest changes is its own.
        add({"-object", "memory-backend-file,id=ram,size=" + std::to_string(launch.spec.mem_mib) + "M,share=" + (descriptors.devices ? "off" : "on") +
                            ",mem-path=/proc/self/fd/" + pass(std::move(descriptors.memory))});
    }
    if (descriptors.devices) {
        add({"-incoming", "defer"});
        command.fds.push_back({std::move(descriptors.devices), devices_fd});
    }
    if (descriptors.overlay) {
        std::string below;
        int sets = 0;
        const auto layer = [&](const char* name, const char* format, UniqueFd fd, bool read_only) {
            const int set = ++sets;
            add({"-add-fd", "set=" + std::to_string(set) + ",fd=" + pass(std::move(fd))});
            auto node = by_fd(name, format, set, read_only);
            if (!below.empty()) node["backing"] = below;
            add({"-blockdev", node.dump()});
            below = name;
        };
        if (descriptors.root) layer("root", "raw", std::move(descriptors.root), true);
        if (descriptors.base) layer("base", "qcow2", std::move(descriptors.base), true);
        layer("disk", "qcow2", std::move(descriptors.overlay), false);
        add({"-device", "virtio-blk-device,drive=disk"});
    }
    add({"-chardev", "socket,id=console,fd=" + pass(std::move(descriptors.console)), "-serial", "chardev:console",
         "-chardev", "socket,id=agent,server=on,wait=off,fd=" + pass(std::move(descriptors.agent)),
         "-device", "virtio-serial-device", "-device", "virtserialport,chardev=agent,name=pyro.agent",
         "-chardev", "socket,id=qmp,server=on,wait=off,fd=" + pass(std::move(descriptors.qmp)),
         "-mon", "chardev=qmp,mode=control"});

    UniqueFd again = descriptors.messages.duplicate();
    command.fds.push_back({std::move(descriptors.messages), 1});
    command.fds.push_back({std::move(again), 2});
    command.as = supervise::Credentials{launch.uid, static_cast<gid_t>(launch.uid), launch.groups};
    command.unshare_flags = CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
    command.dies_with_daemon = launch.dies_with_daemon;
    command.limits = {
        {RLIMIT_CORE, 0},
        {RLIMIT_NOFILE, 256},
        {RLIMIT_NPROC, 128 + static_cast<std::uint64_t>(launch.spec.vcpu_count)},
        {RLIMIT_MEMLOCK, 0},
        // The overlay and its tables: a QEMU that was taken over cannot fill the host's disk.
        {RLIMIT_FSIZE, launch.disk_bytes / 1000 * 1001 + 64 * mib},
    };
    return command;
}

}  // namespace pyro::vm::qemu
