#include "daemon/vm/accelerator.hpp"

#include "common/error.hpp"

#include <nlohmann/json.hpp>

#include <cstring>

#include <sys/stat.h>
#include <unistd.h>

namespace pyro::vm {

KvmAccess kvm_access(const std::string& device) {
    struct stat found{};
    KvmAccess out;
    if (::stat(device.c_str(), &found) != 0) {
        out.reason = device + " cannot be used: " + std::strerror(errno);
        out.cure = "enable virtualisation in the firmware (or nested virtualisation), then: modprobe kvm_intel || modprobe kvm_amd";
    } else if (!S_ISCHR(found.st_mode)) {
        out.reason = device + " is not a device";
    } else if ((found.st_mode & 0006) == 0006) {
        out.usable = true;
    } else if ((found.st_mode & 0060) == 0060 && found.st_gid != 0) {
        out.usable = true;
        out.groups = {found.st_gid};
    } else {
        out.reason = device + " is for root alone, and no VM runs as root";
        out.cure = "chgrp kvm " + device + " && chmod 660 " + device;
    }
    return out;
}

AcceleratorProbe::AcceleratorProbe(std::string memory_file, std::string key, std::string device, Boot boot)
    : memory_file_(std::move(memory_file)), key_(supervise::boot_id() + " " + std::move(key)), device_(std::move(device)),
      boot_(std::move(boot)) {}

std::optional<HostCapabilities> AcceleratorProbe::recall() const {
    if (::access(memory_file_.c_str(), F_OK) != 0) return std::nullopt;
    const auto stored = nlohmann::json::parse(read_file(memory_file_, 64 << 10), nullptr, false);
    // Anything but what remember() wrote, for just this key, is as good as nothing.
    if (!stored.is_object()) return std::nullopt;
    for (const char* name : {"key", "mode", "reason", "cure"})
        if (!stored.contains(name) || !stored[name].is_string()) return std::nullopt;
    if (stored["key"] != key_) return std::nullopt;
    HostCapabilities out;
    out.accelerator = stored["mode"] == execution_mode(Accelerator::kvm) ? Accelerator::kvm : Accelerator::tcg;
    out.reason = stored["reason"];
    out.cure = stored["cure"];
    return out;
}

void AcceleratorProbe::remember(const HostCapabilities& found) const {
    nlohmann::json stored;
    stored["key"] = key_;
    stored["mode"] = execution_mode(found.accelerator);
    stored["reason"] = found.reason;
    stored["cure"] = found.cure;
    replace_file(memory_file_, stored.dump());
}

io::Task<HostCapabilities> AcceleratorProbe::run(std::stop_token stop) {
    const KvmAccess access = kvm_access(device_);
    HostCapabilities out;
    if (!access.usable) {  // looked at anew each time: it is quick, and the user may have followed the cure
        out.reason = access.reason + ". Guests are emulated.";
        out.cure = access.cure;
        co_return out;
    }
    if (auto known = recall()) co_return *known;
    const TrialBoot trial = co_await boot_(access.groups, stop);
    if (trial.booted) {
        out.accelerator = Accelerator::kvm;
        out.reason = "A trial guest booted with KVM: " + trial.what + ".";
    } else {
        out.reason = "A trial guest did not boot with KVM: " + trial.what + ". Guests are emulated.";
        out.cure = "use a host, or an instance type, with (nested) hardware virtualisation for ordinary guests";
    }
    remember(out);
    co_return out;
}

}  // namespace pyro::vm
