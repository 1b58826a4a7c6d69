#include "daemon/workspace/root_image.hpp"

namespace pyro::workspace {

vm::RootImage root_image_of(std::shared_ptr<const env::Lease> environment) {
    vm::RootImage root;
    root.path = environment->root_image();
    root.environment_digest = environment->digest().str();
    root.content_digest = environment->manifest().root_digest.str();
    root.held = std::move(environment);
    return root;
}

}  // namespace pyro::workspace
