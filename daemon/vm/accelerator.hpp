// Which accelerator guests can really run with. The presence of /dev/kvm says nothing: a guest has to boot.
#pragma once
#include "daemon/vm/hypervisor.hpp"

#include <functional>
#include <optional>
#include <vector>

namespace pyro::vm {

// May a program without privileges use this device, and with which supplementary group?
struct KvmAccess {
    bool usable = false;
    std::vector<gid_t> groups;
    std::string reason;     // why not
    std::string cure;
};
KvmAccess kvm_access(const std::string& device);

// What booting a guest with KVM came to.
struct TrialBoot {
    bool booted = false;
    std::string what;       // "the guest kernel started its init", "no sign of life for 4 s"
};

class AcceleratorProbe {
public:
    using Boot = std::function<io::Task<TrialBoot>(std::vector<gid_t> groups, std::stop_token stop)>;

    // `key` names everything the answer depends on besides this boot of the host; `memory_file` keeps it.
    AcceleratorProbe(std::string memory_file, std::string key, std::string device, Boot boot);
    io::Task<HostCapabilities> run(std::stop_token stop);

private:
    std::optional<HostCapabilities> recall() const;
    void remember(const HostCapabilities& found) const;

    std::string memory_file_, key_, device_;
    Boot boot_;
};

}  // namespace pyro::vm
