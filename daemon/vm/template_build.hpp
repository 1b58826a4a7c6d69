// Making a template: boot once, warm up, save.
#pragma once
#include "daemon/vm/guest.hpp"
#include "daemon/vm/root_image.hpp"
#include "daemon/vm/template.hpp"

#include <string>

namespace pyro::vm {

struct TemplateSource {
    TemplateTier tier = TemplateTier::pristine;
    MachineSpec spec;
    RootImage root;                // pristine
    std::uint64_t disk_bytes = 0;
};

struct SavedGuest {
    MemoryImage image;             // sealed
    bool has_disk = false;         // moved to the path that was asked for
};

// Nothing of any user is in it: its guest has no name and is told nothing but the time. All that
// ran in it is gone when it is saved. Its VMM has ended when this returns; `disk` names a file that does not exist yet.
io::Task<SavedGuest> save_guest(const GuestServices& services, TemplateSource source, std::string disk, std::stop_token stop);

// The time of now and nothing else: for a guest that is nobody's, so that what it writes is dated.
agent::Identity nobodys_identity();

// In a guest nobody uses yet: what every command does first is done once, so that the next one finds it in memory.
io::Task<void> warm_up(agent::Channel& channel, std::vector<std::vector<std::string>> commands, std::stop_token stop);

}  // namespace pyro::vm
