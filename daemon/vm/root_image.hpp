// What can be known of a root image without booting it.
#pragma once
#include <string>

namespace pyro::vm {

// Error(environment_invalid) with what to do, when the file is missing, is no ext4, or is shorter than its superblock says.
void check_root_image(const std::string& path);

}  // namespace pyro::vm
