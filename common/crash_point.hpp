// Named places where the daemon can be made to die, so that tests see what a crash there leaves behind.
#pragma once

namespace pyro {

// Ends the process at once, without any clean-up, if PYRO_CRASH_AT names this point. The names in use:
// machine_recorded overlay_written process_recorded process_started machine_running machine_stopping
// template_booting template_warm template_saved template_installed
// environment_fetched environment_built environment_blobs_kept environment_installed environment_recorded environment_disk_copied
// environment_swept workspace_frozen
void crash_point(const char* name) noexcept;

}  // namespace pyro
