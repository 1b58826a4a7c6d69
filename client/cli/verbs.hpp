// The commands of `pyro`: those of the method table, and a few of the client's own described in the same way.
#pragma once
#include "proto/method.hpp"

#include <nlohmann/json_fwd.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace pyro::client {

struct Verb {
    std::string_view words;   // "env pull"
    std::string_view doc;
    const proto::TypeInfo& (*params)();
    const proto::MethodInfo* method = nullptr;  // null: the client's own
    // Decodes strictly and drops the value: what the daemon would say of these parameters, without it.
    void (*check)(const nlohmann::json& params) = nullptr;
    // The same for what the client alone takes beside the method's fields; null: nothing. No field of the two has one name.
    const proto::TypeInfo& (*own)() = nullptr;
    void (*check_own)(const nlohmann::json& own) = nullptr;

    // Those of both; positionals in this order.
    std::vector<const proto::FieldInfo*> fields() const;
};

// In the order of help.
const std::vector<Verb>& verbs();
const Verb* find_verb(std::string_view words);

// Whether --id-only is one of its options.
inline bool has_id_only(const Verb& verb) {
    return verb.method && !verb.method->traits.id_field.empty() && verb.method->traits.carries != proto::Carries::streams;
}

struct Group {
    std::string_view name;      // "workspace file"; the groups it is in come before it
    std::string_view doc;
    std::string_view path = {};  // its commands from zero, where the general ones do not lead to it
};
std::span<const Group> groups();  // words that begin commands and are none themselves
// `words` without the last one, and that one.
std::pair<std::string_view, std::string_view> split_last(std::string_view words);

// How a field is written on the command line.
std::string flag_of(const proto::FieldInfo& field);         // "--mem-mib"
std::string placeholder_of(const proto::FieldInfo& field);  // "N", "K=V", "ENVIRONMENT"
bool takes_value(const proto::FieldInfo& field);            // flags do not
const proto::FieldInfo* rest_of(const proto::TypeInfo& params);     // the field that takes all words that are left, if any
const proto::FieldInfo* command_of(const proto::TypeInfo& params);  // the same, where they are a command: options behind it are its own

enum class Shell { bash, zsh, fish };
constexpr auto enum_names(Shell) { return std::array<std::string_view, 3>{"bash", "zsh", "fish"}; }

struct CompletionParams {
    static constexpr std::string_view doc = "Print a completion script for a shell.";
    Shell shell = Shell::bash;
    static constexpr auto fields() {
        return std::array{proto::field<&CompletionParams::shell>("shell", "bash: source <(pyro completion bash); zsh: the same; fish: pyro completion fish | source", {.cli = proto::Cli::positional})};
    }
};

struct DemoParams {
    static constexpr std::string_view doc = "Prove the life cycle of a VM: create, start, exec `git --version`, delete; say what each step took.";
    std::string environment = "debian:12";
    static constexpr auto fields() {
        return std::array{proto::field<&DemoParams::environment>("environment", "Catalog name or OCI reference", {.cli = proto::Cli::positional, .min = 1, .max = 512, .defaulted = true, .completes = "environment"})};
    }
};

struct BenchParams {
    static constexpr std::string_view doc = "Measure what VMs take on this host, beside other container runtimes that are installed.";
    std::string environment = "debian:12";
    std::int64_t runs = 20;
    std::string rows = "run,restored,cold,create,exec,reset,podman,docker,runsc";
    std::int64_t density = 0;
    std::string command = "git --version";
    static constexpr auto fields() {
        return std::array{
            proto::field<&BenchParams::environment>("environment", "Catalog name or OCI reference", {.cli = proto::Cli::positional, .min = 1, .max = 512, .defaulted = true, .completes = "environment"}),
            proto::field<&BenchParams::runs>("runs", "Runs of each kind, in turn; of cold ones a quarter", {.short_flag = 'n', .min = 1, .max = 100000, .defaulted = true}),
            proto::field<&BenchParams::rows>("rows", "What to measure, separated by commas", {.value = "ROW,ROW", .min = 1, .max = 512, .defaulted = true}),
            proto::field<&BenchParams::density>("density", "Also start that many VMs and say how much memory each has to itself", {.min = 0, .max = 1000, .defaulted = true}),
            proto::field<&BenchParams::command>("command", "The command of all runs, its words separated by blanks", {.value = "CMD", .min = 1, .max = 4096, .defaulted = true})};
    }
};

}  // namespace pyro::client
