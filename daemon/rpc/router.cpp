#include "daemon/rpc/router.hpp"

#include "proto/errors.hpp"
#include "proto/rpc.hpp"

#include <algorithm>
#include <numeric>

namespace pyro::rpc {
namespace {

constexpr std::size_t longest_name = 64;

std::size_t edit_distance(std::string_view a, std::string_view b) {
    std::vector<std::size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), 0u);
    for (std::size_t i = 1; i <= a.size(); ++i) {
        std::size_t diagonal = row[0];
        row[0] = i;
        for (std::size_t j = 1; j <= b.size(); ++j) {
            const std::size_t changed = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
            diagonal = row[j];
            row[j] = std::min({row[j] + 1, row[j - 1] + 1, changed});
        }
    }
    return row[b.size()];
}

}  // namespace

std::vector<std::string> nearest_names(std::string_view name, const std::vector<std::string>& names) {
    name = name.substr(0, longest_name);
    std::vector<std::pair<std::size_t, std::string>> near;
    for (const std::string& candidate : names) {
        const std::size_t distance = edit_distance(name, candidate);
        if (distance <= std::max<std::size_t>(2, candidate.size() / 3)) near.emplace_back(distance, candidate);
    }
    std::sort(near.begin(), near.end());
    std::vector<std::string> found;
    for (std::size_t i = 0; i < near.size() && i < 3; ++i) found.push_back(near[i].second);
    return found;
}

void Router::add(std::string_view name, proto::Traits traits, Handler handler) {
    const bool added = methods_.emplace(std::string(name), Entry{traits, std::move(handler)}).second;
    PYRO_CHECK(added);
}

io::Task<nlohmann::json> Router::dispatch(const std::string& method, const nlohmann::json& params, Call& call) const {
    const auto found = methods_.find(method);
    if (found == methods_.end()) {
        std::vector<std::string> names{std::string(proto::HelloParams::method), std::string(proto::cancel_method), std::string(proto::discover_method)};
        for (const auto& [name, entry] : methods_) names.push_back(name);
        std::string hint;
        for (const std::string& name : nearest_names(method, names)) hint += (hint.empty() ? "did you mean " : ", ") + name;
        if (hint.empty()) hint = "rpc.discover lists the methods";
        const std::string shown = method.size() <= longest_name ? method : method.substr(0, longest_name) + "...";
        throw proto::MessageError(proto::method_not_found, Error(ErrorCode::not_found, "no method " + shown, hint), call.id());
    }
    if (found->second.traits.who == proto::Trust::admin && call.peer().trust != proto::Trust::admin)
        throw Error(ErrorCode::failed_precondition, method + " is for administrators", "call it as root");
    return found->second.handler(params, call);
}

bool Router::only_reads(const std::string& method) const {
    const auto found = methods_.find(method);
    return found == methods_.end() || found->second.traits.read_only;
}

}  // namespace pyro::rpc
