// What machines and templates need to know of an environment.
#pragma once
#include "daemon/env/cache.hpp"
#include "daemon/vm/template_build.hpp"
#include "daemon/workspace/root_image.hpp"

#include <memory>

namespace pyro::service {

using workspace::root_image_of;

// Of a machine of this size. Error(environment_invalid) when the root image cannot be right.
vm::TemplateSource template_source_of(vm::TemplateTier tier, const vm::MachineSpec& spec, std::shared_ptr<const env::Lease> environment);

}  // namespace pyro::service
