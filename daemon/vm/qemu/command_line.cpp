#include "daemon/vm/qemu/command_line.hpp"

#include <nlohmann/json.hpp>

#include <sched.h>
#include <sys/resource.h>

namespace pyro::vm::qemu {
namespace {

constexpr std::uint64_t mib = 1 << 20;
constexpr std::uint64_t code_buffer_mib = 64;
constexpr int inserted_seed_set = 64;  // beyond those of the command line

// A descriptor QEMU duplicates for itself: no path is ever opened for a disk, and no lock is taken on a shared one.
using Node = nlohmann::ordered_json;

Node by_fd(const char* node, const char* format, int set, bool read_only) {
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

// The second disk: as large as its frame says, whatever is below that, and also when nothing is.
Node seed_frame(int set) {
    Node node = by_fd("seed", "qcow2", set, true);
    node["file"]["node-name"] = "seed-frame";
    return node;
}

}  // namespace

std::vector<Qmp::Command> insert_seed() {
    // To be opened again with all its options, except that its file stays the one it has.
    Node frame = seed_frame(0);
    frame["file"] = "seed-frame";
    frame["backing"] = "seed-image";
    std::vector<Qmp::Command> out(3);
    out[0].name = "add-fd";
    out[0].arguments["fdset-id"] = inserted_seed_set;
    out[1].name = "blockdev-add";
    out[1].arguments = by_fd("seed-image", "raw", inserted_seed_set, true);
    out[2].name = "blockdev-reopen";
    out[2].arguments["options"] = nlohmann::json::array({nlohmann::json(frame)});
    return out;
}

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
    // The emulator translates code per address: programs that lie elsewhere each time are translated each time (adr/0011).
    if (!kvm && !launch.randomize_emulated) append += " norandmaps";
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
        const auto next_set = [&](UniqueFd fd) {
            add({"-add-fd", "set=" + std::to_string(++sets) + ",fd=" + pass(std::move(fd))});
            return sets;
        };
        const auto layer = [&](Node node) {
            if (!below.empty()) node["backing"] = below;
            add({"-blockdev", node.dump()});
            below = node["node-name"].get<std::string>();
        };
        if (descriptors.root) layer(by_fd("root", "raw", next_set(std::move(descriptors.root)), true));
        if (descriptors.base) layer(by_fd("base", "qcow2", next_set(std::move(descriptors.base)), true));
        layer(by_fd("disk", "qcow2", next_set(std::move(descriptors.overlay)), false));
        add({"-device", "virtio-blk-device,drive=disk"});
        below.clear();
        if (descriptors.seed) layer(by_fd("seed-image", "raw", next_set(std::move(descriptors.seed)), true));
        layer(seed_frame(next_set(std::move(descriptors.seed_frame))));
        add({"-device", "virtio-blk-device,drive=seed"});
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
    command.unshare_flags = CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWPID;
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
