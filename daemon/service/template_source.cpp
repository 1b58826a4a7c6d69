#include "daemon/service/template_source.hpp"

namespace pyro::service {

vm::TemplateSource template_source_of(vm::TemplateTier tier, const vm::MachineSpec& spec, std::shared_ptr<const env::Lease> environment) {
    vm::TemplateSource source;
    source.tier = tier;
    source.spec = spec;
    source.disk_bytes = vm::disk_bytes(spec, vm::check_root_image(environment->root_image()));
    if (tier == vm::TemplateTier::pristine) source.root = root_image_of(std::move(environment));
    return source;
}

}  // namespace pyro::service
