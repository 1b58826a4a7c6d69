// Completion scripts for bash, zsh and fish, from the tables; names of environments, VMs and so on come from `pyro __complete`.
#include "client/cli/commands.hpp"
#include "client/cli/render.hpp"
#include "client/cli/terminal.hpp"
#include "proto/env.hpp"
#include "proto/exec.hpp"

#include <algorithm>
#include <csignal>
#include <sys/time.h>
#include <unistd.h>

namespace pyro::client {

using proto::Cli;
using proto::FieldInfo;
using proto::Kind;

namespace {

struct CompletionOption {
    char letter;
    std::string flag, doc, placeholder;  // no placeholder: takes no value
    std::string offers;                  // "environment", "vm", "workspace", "exec", "file", "=a b c", "" nothing
    bool again;
};
struct CompletionPlace { std::string name, offers; };
struct CompletionVerb {
    std::string words, doc;
    std::vector<CompletionOption> options;
    std::vector<CompletionPlace> places;
    bool rest = false;
};

std::string offers_of(const FieldInfo& field) {
    if (!field.options.completes.empty()) return std::string(field.options.completes);
    if (field.type().kind != Kind::enumeration) return {};
    std::string words = "=";
    for (const std::string_view name : field.type().names) words += (words.size() > 1 ? " " : "") + std::string(name);
    return words;
}

const std::vector<CompletionOption>& completion_globals() {
    static const std::vector<CompletionOption> options{{0, "--json", "Print one JSON document", "", "", false},
                                                       {0, "--socket", "Socket of the daemon", "PATH", "file", false},
                                                       {'h', "--help", "Show help", "", "", false}};
    return options;
}

std::vector<CompletionVerb> completion_verbs() {
    std::vector<CompletionVerb> out;
    for (const Verb& verb : verbs()) {
        CompletionVerb& to = out.emplace_back(CompletionVerb{std::string(verb.words), std::string(verb.doc), {}, {}, false});
        to.rest = command_of(verb.params()) != nullptr;
        for (const FieldInfo* each : verb.fields()) {
            const FieldInfo& field = *each;
            if (field.options.cli == Cli::positional) to.places.push_back({placeholder_of(field), offers_of(field)});
            if (field.options.cli != Cli::option) continue;
            const Kind kind = field.type().kind;
            to.options.push_back({field.options.short_flag, flag_of(field), std::string(field.doc), takes_value(field) ? placeholder_of(field) : "", offers_of(field),
                                  kind == Kind::list || kind == Kind::map});
        }
        if (has_id_only(verb)) to.options.push_back({0, "--id-only", "Print just the id", "", "", false});
        to.options.insert(to.options.end(), completion_globals().begin(), completion_globals().end());
    }
    return out;
}

// What may follow `prefix` ("" or a group), with its help.
std::vector<std::pair<std::string, std::string>> next_words(const std::string& prefix) {
    std::vector<std::pair<std::string, std::string>> out;
    const auto add = [&](std::string_view words, std::string_view doc) {
        if (const auto [before, last] = split_last(words); before == prefix) out.emplace_back(std::string(last), std::string(doc));
    };
    for (const Group& group : groups()) add(group.name, group.doc);
    for (const Verb& verb : verbs()) add(verb.words, verb.doc);
    return out;
}

std::string replaced(std::string text, std::string_view what, std::string_view by) {
    for (std::size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += by.size()) text.replace(at, what.size(), by);
    return text;
}

std::string bash_script() {
    std::string commands, flags, values, places;
    const auto level = [&](const std::string& prefix) {
        std::string words;
        for (const auto& [word, doc] : next_words(prefix)) words += (words.empty() ? "" : " ") + word;
        commands += "        '" + prefix + "') echo '" + words + "' ;;\n";
    };
    level("");
    for (const Group& group : groups()) level(std::string(group.name));
    const auto offer = [](const std::string& offers) { return offers.empty() ? std::string("none") : offers.starts_with("=") ? "'" + offers + "'" : offers; };
    for (const CompletionVerb& verb : completion_verbs()) {
        std::string list;
        for (const CompletionOption& option : verb.options) {
            list += (list.empty() ? "" : " ") + option.flag;
            if (option.placeholder.empty() || option.flag == "--socket") continue;
            values += "        '" + verb.words + " " + option.flag + "'" + (option.letter ? "|'" + verb.words + " -" + option.letter + "'" : "") + ") echo " + offer(option.offers) + " ;;\n";
        }
        flags += "        '" + verb.words + "') echo '" + list + "' ;;\n";
        for (std::size_t i = 0; i < verb.places.size(); ++i) places += "        '" + verb.words + " " + std::to_string(i) + "') echo " + offer(verb.places[i].offers) + " ;;\n";
        if (verb.rest) places += "        '" + verb.words + " '*) echo file ;;\n";
    }
    return R"sh(# bash completion for pyro, made by `pyro completion bash`. Use: source <(pyro completion bash)

_pyro_commands() {
    case $1 in
)sh" + commands + R"sh(    esac
}

_pyro_flags() {
    case $1 in
)sh" + flags + R"sh(        *) echo '--json --socket --help --version' ;;
    esac
}

# What the value of a flag is; fails for flags without one.
_pyro_value() {
    case "$1 $2" in
        *' --socket') echo file ;;
)sh" + values + R"sh(        *) return 1 ;;
    esac
}

_pyro_place() {
    case "$1 $2" in
)sh" + places + R"sh(        *) echo none ;;
    esac
}

_pyro() {
    local line=${COMP_LINE:0:COMP_POINT} words=() command= kind= places=0 first= i word
    COMPREPLY=()
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    local last=$((${#words[@]} - 1))
    local cur=${words[last]}
    for ((i = 1; i < last; i++)); do
        word=${words[i]}
        if [[ -n $kind ]]; then
            kind=
        elif [[ $word == -- ]]; then
            return
        elif [[ $word == -* ]]; then
            kind=$(_pyro_value "$command" "$word")
        elif [[ " $(_pyro_commands "$command") " == *" $word "* ]]; then
            command=${command:+$command }$word
        else
            [[ $places -gt 0 ]] || first=$word
            places=$((places + 1))
        fi
    done

    if [[ -z $kind ]]; then
        if [[ $cur == -* ]]; then
            kind="=$(_pyro_flags "$command")"
        elif [[ -n $(_pyro_commands "$command") ]]; then
            kind="=$(_pyro_commands "$command")"
        else
            kind=$(_pyro_place "$command" "$places")
        fi
    fi
    case $kind in
        =*) for word in ${kind#=}; do [[ $word == "$cur"* ]] && COMPREPLY+=("$word"); done ;;
        environment|vm|workspace|exec)
            while IFS=$'\t' read -r word _; do
                [[ $word == "$cur"* ]] && COMPREPLY+=("$word")
            done < <(pyro __complete "$kind" "$first" 2>/dev/null)
            ;;
        none) compopt +o default +o bashdefault 2>/dev/null ;;
    esac
    # Bash takes a colon for the end of a word; only what follows it is replaced.
    if [[ $cur == *:* && $COMP_WORDBREAKS == *:* ]]; then
        local prefix=${cur%"${cur##*:}"}
        COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
    fi
}
complete -o bashdefault -o default -F _pyro pyro
)sh";
}

std::string zsh_text(std::string text) {
    for (const std::string_view special : {"[", "]", ":"}) text = replaced(std::move(text), special, "\\" + std::string(special));
    return replaced(std::move(text), "'", "'\\''");
}

std::string zsh_offer(const std::string& offers) {
    if (offers.starts_with("=")) return "(" + offers.substr(1) + ")";
    if (offers == "environment") return "_pyro_environments";
    if (offers == "vm") return "_pyro_vms";
    if (offers == "workspace") return "_pyro_workspaces";
    if (offers == "exec") return "_pyro_execs";
    if (offers == "file") return "_files";
    return " ";
}

std::string zsh_option(const CompletionOption& option) {
    const std::string doc = "'[" + zsh_text(option.doc) + "]" + (option.placeholder.empty() ? "" : ":" + zsh_text(option.placeholder) + ":" + zsh_offer(option.offers)) + "'";
    const std::string star = option.again ? "'*'" : "";
    const std::string value = option.placeholder.empty() ? "" : "=";
    if (!option.letter) return star + option.flag + value + doc;
    const std::string letter = std::string("-") + option.letter;
    const std::string pair = "{" + letter + (option.placeholder.empty() ? "" : "+") + "," + option.flag + value + "}" + doc;
    return (option.again ? star : "'(" + letter + " " + option.flag + ")'") + pair;
}

std::string zsh_function(const std::string& words) { return "_pyro_" + replaced(replaced(words, " ", "_"), "-", "_"); }

std::string zsh_describe(const std::string& prefix) {
    std::string out = "    local -a commands=(\n";
    for (const auto& [word, doc] : next_words(prefix)) out += "        '" + zsh_text(word) + ":" + zsh_text(doc) + "'\n";
    return out + "    )\n";
}

std::string zsh_script() {
    std::string out = R"sh(#compdef pyro
# zsh completion for pyro, made by `pyro completion zsh`. Use: source <(pyro completion zsh)

_pyro_dynamic() {
    local -a found
    local name about
    while IFS=$'\t' read -r name about; do
        found+=("${name//:/\\:}:$about")
    done < <(pyro __complete "$@" 2>/dev/null)
    _describe $1 found
}
_pyro_environments() { _pyro_dynamic environment }
_pyro_vms() { _pyro_dynamic vm }
_pyro_workspaces() { _pyro_dynamic workspace }
# Those of the first word behind the command that is no option.
_pyro_execs() {
    local -a plain=("${(@)words[2,CURRENT-1]:#-*}")
    _pyro_dynamic exec "$plain[1]"
}
)sh";
    for (const CompletionVerb& verb : completion_verbs()) {
        out += "\n" + zsh_function(verb.words) + "() {\n    _arguments -s -S";
        for (const CompletionOption& option : verb.options) out += " \\\n        " + zsh_option(option);
        for (std::size_t i = 0; i < verb.places.size(); ++i)
            out += " \\\n        '" + std::to_string(i + 1) + ":" + zsh_text(verb.places[i].name) + ":" + zsh_offer(verb.places[i].offers) + "'";
        if (verb.rest) out += " \\\n        '*::command:_normal'";
        out += "\n}\n";
    }
    const auto level = [&](const std::string& prefix) {
        std::string text = "\n" + (prefix.empty() ? std::string("_pyro") : zsh_function(prefix)) + "() {\n    local curcontext=\"$curcontext\" state line\n" + zsh_describe(prefix) + "    _arguments -C";
        for (const CompletionOption& option : completion_globals()) text += " \\\n        " + zsh_option(option);
        if (prefix.empty()) text += " \\\n        '(-V --version)'{-V,--version}'[Show the version]'";
        text += " \\\n        '1:command:->command' \\\n        '*::argument:->argument'\n    case $state in\n        command) _describe command commands ;;\n        argument)\n            case $words[1] in\n";
        for (const auto& [word, doc] : next_words(prefix)) text += "                " + word + ") " + zsh_function(prefix.empty() ? word : prefix + " " + word) + " ;;\n";
        return text + "            esac\n            ;;\n    esac\n}\n";
    };
    for (const Group& group : groups()) out += level(std::string(group.name));
    return out + level("") + "\nif [[ $funcstack[1] == _pyro ]]; then _pyro \"$@\"; else compdef _pyro pyro; fi\n";
}

std::string fish_text(std::string text) { return "'" + replaced(replaced(std::move(text), "\\", "\\\\"), "'", "\\'") + "'"; }

std::string fish_script() {
    std::string out = R"sh(# fish completion for pyro, made by `pyro completion fish`. Use: pyro completion fish | source

# The words so far that are no options.
function __pyro_words
    set -l plain
    set -l words (commandline -opc)
    set -e words[1]
    for word in $words
        string match -q -- '-*' $word; or set -a plain $word
    end
    printf '%s\n' "$plain"
end
function __pyro_at
    test (__pyro_words) = "$argv"
end
function __pyro_in
    string match -q -- "$argv *" (__pyro_words)" "
end
# How many words there are behind the command's own.
function __pyro_place
    set -l plain (string split ' ' -- (__pyro_words))
    __pyro_in $argv[2..-1]; and test (count $plain) -eq (math (count $argv) - 1 + $argv[1])
end
# The n-th of all of them.
function __pyro_word
    set -l plain (string split ' ' -- (__pyro_words))
    test (count $plain) -ge $argv[1]; and echo $plain[$argv[1]]
end

complete -c pyro -f
complete -c pyro -n '__pyro_at' -s V -l version -d 'Show the version'
complete -c pyro -s h -l help -d 'Show help'
complete -c pyro -l json -d 'Print one JSON document'
complete -c pyro -l socket -r -F -d 'Socket of the daemon'
)sh";
    const auto level = [&](const std::string& prefix) {
        for (const auto& [word, doc] : next_words(prefix))
            out += "complete -c pyro -n '__pyro_at" + (prefix.empty() ? "" : " " + prefix) + "' -a " + word + " -d " + fish_text(doc) + "\n";
    };
    level("");
    for (const Group& group : groups()) level(std::string(group.name));
    const auto offer = [](const CompletionVerb& verb, const std::string& offers) {
        if (offers.starts_with("=")) return " -a '" + offers.substr(1) + "'";
        if (offers == "file") return std::string(" -F");
        const auto own_words = static_cast<std::size_t>(std::count(verb.words.begin(), verb.words.end(), ' ')) + 1;
        const std::string which = offers == "exec" ? " (__pyro_word " + std::to_string(own_words + 1) + ")" : "";
        return offers.empty() ? std::string() : " -a '(pyro __complete " + offers + which + " 2>/dev/null)'";
    };
    for (const CompletionVerb& verb : completion_verbs()) {
        out += "\n";
        for (const CompletionOption& option : verb.options) {
            if (std::any_of(completion_globals().begin(), completion_globals().end(), [&](const CompletionOption& global) { return global.flag == option.flag; })) continue;
            out += "complete -c pyro -n '__pyro_in " + verb.words + "'" + (option.letter ? std::string(" -s ") + option.letter : "") + " -l " + option.flag.substr(2) +
                   (option.placeholder.empty() ? "" : (option.offers == "file" ? " -r" : " -x") + offer(verb, option.offers)) + " -d " + fish_text(option.doc) + "\n";
        }
        for (std::size_t i = 0; i < verb.places.size(); ++i)
            if (!verb.places[i].offers.empty())
                out += "complete -c pyro -n '__pyro_place " + std::to_string(i) + " " + verb.words + "'" + offer(verb, verb.places[i].offers) + "\n";
        if (verb.rest) out += "complete -c pyro -n '__pyro_in " + verb.words + "; and not __pyro_at " + verb.words + "' -F\n";
    }
    return out;
}

// Only what a shell takes as it is.
bool plain_word(std::string_view text) {
    return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || std::string_view("._/:@-").find(c) != std::string_view::npos;
    });
}

}  // namespace

std::string completion_script(Shell shell) {
    switch (shell) {
        case Shell::bash: return bash_script();
        case Shell::zsh: return zsh_script();
        case Shell::fish: return fish_script();
    }
    return {};
}

int completion_command(const Invocation& call) {
    write_stdout(completion_script(proto::from_wire<CompletionParams>(call.params).shell));
    return status::ok;
}

int complete_command(const std::vector<std::string>& args) noexcept {
    constexpr std::chrono::milliseconds patience{150};
    // Whatever happens, the user's prompt comes back.
    ::signal(SIGALRM, [](int) { ::_exit(0); });
    const itimerval limit{{0, 0}, {0, std::chrono::microseconds(patience).count()}};
    ::setitimer(ITIMER_REAL, &limit, nullptr);
    try {
        const std::string kind = args.size() > 1 ? args[1] : "";
        std::string out;
        const auto add = [&](const std::string& name, std::string_view about) {
            if (plain_word(name)) out += name + "\t" + printable(about) + "\n";
        };
        Connection daemon({.socket = {}, .patience = patience});
        if (kind == "environment")
            for (const auto& e : daemon.call<proto::EnvList>({}).environments) add(e.name, e.description);
        if (kind == "vm")
            for (const auto& vm : daemon.call<proto::VmList>({}).vms)
                add(vm.vm_id, vm.environment + " " + std::string(name_of(vm.state)));
        if (kind == "workspace")
            for (const auto& workspace : daemon.call<proto::WorkspaceList>({}).workspaces) {
                const std::string about = std::string(name_of(workspace.state)) + " " + workspace.environment;
                if (workspace.name) add(*workspace.name, about);
                add(workspace.workspace_id, about + (workspace.name ? " " + *workspace.name : ""));
            }
        if (kind == "exec" && args.size() > 2)
            for (const auto& exec : daemon.call<proto::ExecList>({args[2], true}).execs) add(exec.exec_id, std::string(name_of(exec.state)) + " " + command_line(exec.argv));
        write_stdout(out);
    } catch (const std::exception&) {
        // Completion has nobody to tell; nothing is offered.
    }
    return status::ok;
}

}  // namespace pyro::client
