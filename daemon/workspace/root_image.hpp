// An environment as what a machine's disk starts from.
#pragma once
#include "daemon/env/cache.hpp"
#include "daemon/vm/root_image.hpp"

#include <memory>

namespace pyro::workspace {

// The file stays as long as somebody holds what is returned.
vm::RootImage root_image_of(std::shared_ptr<const env::Lease> environment);

}  // namespace pyro::workspace
