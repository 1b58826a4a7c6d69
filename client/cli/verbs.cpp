#include "client/cli/verbs.hpp"

#include "client/cli/host_options.hpp"
#include "client/cli/workspace_options.hpp"
#include "proto/api.hpp"
#include "proto/codec.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>

namespace pyro::client {

using proto::Cli;
using proto::FieldInfo;
using proto::Kind;

namespace {

template <class Params>
void check_params(const nlohmann::json& params) { proto::from_wire<Params>(params); }

template <class M>
Verb table_verb(const proto::MethodInfo& method) {
    Verb verb{method.traits.cli, method.doc, method.params, &method, &check_params<typename M::Params>};
    using Own = typename ClientFields<M>::type;
    if constexpr (!std::is_void_v<Own>) {
        verb.own = &proto::type_of<Own>;
        verb.check_own = &check_params<Own>;
    }
    return verb;
}

template <class... M>
std::vector<Verb> table_verbs(proto::Methods<M...>) {
    std::vector<Verb> out;
    const auto list = proto::Methods<M...>::list();
    std::size_t i = 0;
    ((list[i].traits.cli.empty() ? void() : out.push_back(table_verb<M>(list[i])), ++i), ...);
    return out;
}

template <class Params>
Verb own_verb(std::string_view words) { return {words, Params::doc, &proto::type_of<Params>, nullptr, &check_params<Params>}; }

constexpr std::string_view workspace_path = R"(
  pyro workspace create debian:12 --seed-path . --name fix
  pyro workspace exec fix -- git status
  pyro workspace diff fix
  pyro workspace reset fix
  pyro workspace delete fix
)";

constexpr std::string_view host_path = R"(
  pyro doctor
  pyro host connect claude-code
  pyro host doctor claude-code
)";

constexpr std::array all_groups{
    Group{"env", "Environments: list, fetch, inspect and remove what VMs start from."},
    Group{"vm", "VMs one step at a time: create, start, exec, stop, delete."},
    Group{"workspace", "Workspaces: machines that stay, with your files in /workspace, to work in until they are deleted.", workspace_path},
    Group{"workspace file", "Files of a workspace: list, read, write.", workspace_path},
    Group{"workspace patch", "Patches to the files of a workspace.", workspace_path},
    Group{"workspace sync", "Files of this host into a workspace.", workspace_path},
    Group{"host", "Chat hosts: let Claude Code, Codex and OpenCode use pyro, by their own configuration files.", host_path},
};

}  // namespace

const std::vector<Verb>& verbs() {
    static const std::vector<Verb> all = [] {
        auto list = table_verbs(proto::Api{});
        list.push_back(own_verb<DemoParams>("demo"));
        list.push_back(own_verb<BenchParams>("bench"));
        list.push_back(own_verb<HostConnectParams>("host connect"));
        list.push_back(own_verb<HostDisconnectParams>("host disconnect"));
        list.push_back(own_verb<HostPrintParams>("host print-config"));
        list.push_back(own_verb<HostDoctorParams>("host doctor"));
        list.push_back(own_verb<HostRepairParams>("host repair"));
        list.push_back(own_verb<CompletionParams>("completion"));
        return list;
    }();
    return all;
}

const Verb* find_verb(std::string_view words) {
    const auto found = std::find_if(verbs().begin(), verbs().end(), [&](const Verb& verb) { return verb.words == words; });
    return found == verbs().end() ? nullptr : &*found;
}

std::span<const Group> groups() { return all_groups; }

std::vector<const FieldInfo*> Verb::fields() const {
    std::vector<const FieldInfo*> all;
    for (const FieldInfo& field : params().fields) all.push_back(&field);
    if (own)
        for (const FieldInfo& field : own().fields) all.push_back(&field);
    return all;
}

std::pair<std::string_view, std::string_view> split_last(std::string_view words) {
    const std::size_t space = words.rfind(' ');
    if (space == std::string_view::npos) return {{}, words};
    return {words.substr(0, space), words.substr(space + 1)};
}

std::string flag_of(const FieldInfo& field) {
    std::string name(field.options.flag.empty() ? field.name : field.options.flag);
    std::replace(name.begin(), name.end(), '_', '-');
    return "--" + name;
}

std::string placeholder_of(const FieldInfo& field) {
    if (!field.options.value.empty()) return std::string(field.options.value);
    const Kind kind = field.type().kind;
    if (field.options.cli == Cli::option && kind == Kind::integer) return "N";
    if (field.options.cli == Cli::option && kind == Kind::map) return "K=V";
    std::string name(field.name);
    for (char& c : name) c = c == '_' ? '-' : static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
    return name;
}

bool takes_value(const FieldInfo& field) { return field.type().kind != Kind::boolean; }

const FieldInfo* rest_of(const proto::TypeInfo& params) {
    for (const FieldInfo& field : params.fields)
        if (field.options.cli == Cli::rest) return &field;
    return nullptr;
}

const FieldInfo* command_of(const proto::TypeInfo& params) {
    const FieldInfo* rest = rest_of(params);
    return rest && rest->name == "argv" ? rest : nullptr;
}

}  // namespace pyro::client
