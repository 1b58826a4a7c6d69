#include "client/cli/args.hpp"
#include "client/cli/commands.hpp"
#include "proto/api.hpp"
#include "proto/codec.hpp"
#include "tests/support/catch.hpp"

#include <cstring>

using namespace pyro;
using namespace pyro::client;
using nlohmann::json;
using Words = std::vector<std::string>;

namespace {
const char* fake_environment(const char* name) {
    if (std::strcmp(name, "HERE") == 0) return "value";
    if (std::strcmp(name, "LATIN") == 0) return "\xe9";
    return nullptr;
}

Invocation parsed(const Words& words) { return parse_args(words, fake_environment); }
json argv_of(const Words& words) { return parsed(words).params.value("argv", json()); }

std::string refused(const Words& words) {
    try {
        parsed(words);
    } catch (const UsageError& e) {
        return e.message();
    }
    return "taken";
}
}  // namespace

TEST_CASE("the command of run begins behind the environment and keeps its borders") {
    const json ls{"ls", "-la"};
    CHECK(argv_of({"run", "debian:12", "ls", "-la"}) == ls);
    CHECK(argv_of({"run", "debian:12", "--", "ls", "-la"}) == ls);
    CHECK(argv_of({"run", "--mem-mib", "512", "debian:12", "ls", "-la"}) == ls);
    CHECK(argv_of({"run", "debian:12", "--mem-mib", "512", "ls", "-la"}) == ls);
    CHECK(argv_of({"run", "debian:12", "--mem-mib=512", "-e", "A=B", "-eC=D", "ls", "-la"}) == ls);
    CHECK(argv_of({"run", "-it", "-w", "/x", "debian:12", "ls", "-la"}) == ls);
    CHECK(argv_of({"run", "-ie", "A=1", "debian:12", "ls", "-la"}) == ls);
    CHECK(argv_of({"run", "--", "debian:12", "ls", "-la"}) == ls);
    CHECK(argv_of({"--json", "--socket", "/s", "run", "debian:12", "ls", "-la"}) == ls);
    CHECK(argv_of({"run", "debian:12", "--", "--help"}) == json{"--help"});
    CHECK(argv_of({"run", "debian:12", "ls", "--", "--json", "--help"}) == json{"ls", "--", "--json", "--help"});
    CHECK(argv_of({"run", "debian:12", "sh", "-c", "echo 'a  b' $X", "", "\n"}) == json{"sh", "-c", "echo 'a  b' $X", "", "\n"});
    CHECK(argv_of({"run", "debian:12", "--", "--"}) == json{"--"});
    CHECK(argv_of({"run", "debian:12", "-"}) == json{"-"});
    CHECK(argv_of({"vm", "exec", "vm-1", "--timeout-seconds", "5", "run", "env", "list"}) == json{"run", "env", "list"});
    CHECK(argv_of({"run", "debian:12"}).is_null());
    CHECK(argv_of({"run", "debian:12", "--"}).is_null());
    CHECK(argv_of({"run", "--", "debian:12"}) == json::array());
    CHECK_FALSE(parsed({"run", "debian:12", "ls", "--json"}).globals.json);
}

TEST_CASE("options become fields") {
    const auto call = parsed({"run", "-it", "-e", "A=1", "--env", "B=x=y", "-e", "HERE", "-e", "NOT_SET", "-e", "E=", "-u", "root", "--vcpu-count=2", "--network", "debian:12"});
    CHECK(call.verb->words == "run");
    CHECK(call.params == json{{"environment", "debian:12"}, {"interactive", true}, {"tty", true}, {"env", {{"A", "1"}, {"B", "x=y"}, {"HERE", "value"}, {"E", ""}}},
                              {"user", "root"}, {"vcpu_count", 2}, {"network", true}});
    CHECK(call.given.contains("vcpu_count"));
    CHECK_FALSE(call.given.contains("timeout_seconds"));
    CHECK(parsed({"run", "--mem-mib", "256", "--mem-mib", "512", "x"}).params["mem_mib"] == 512);
    CHECK(parsed({"run", "-e", "A=1", "-e", "A=2", "x"}).params["env"]["A"] == "2");
    CHECK(parsed({"env", "pull", "--force", "[a,b]"}).params == json{{"environment", "[a,b]"}, {"force", true}});
    CHECK(parsed({"env", "pull", "--", "-x"}).params["environment"] == "-x");
    CHECK(parsed({"env", "list", "--json"}).globals.json);
    CHECK(parsed({"env", "--socket", "/a", "list"}).globals.socket == "/a");
    CHECK(parsed({"env", "list", "--socket=/b"}).globals.socket == "/b");
    CHECK(parsed({"doctor", "--environment", "x"}).params == json{{"environment", "x"}});
    CHECK(parsed({"demo"}).params == json::object());
    CHECK(parsed({"bench", "-n", "3", "--rows", "run,cold", "x"}).params == json{{"environment", "x"}, {"runs", 3}, {"rows", "run,cold"}});
    CHECK(parsed({"completion", "zsh"}).params["shell"] == "zsh");
    CHECK(parsed({"env", "prune", "--older-than", "7d", "--dry-run"}).params == json{{"older_than_seconds", 604800}, {"dry_run", true}});
    CHECK(parsed({"env", "prune", "--older-than", "90"}).params["older_than_seconds"] == 90);
    const Invocation import = parsed({"env", "import", "base", "-", "--user", "1", "--entrypoint", "a", "--entrypoint", "b"});
    CHECK(import.params == json{{"name", "base"}, {"user", "1"}, {"entrypoint", {"a", "b"}}});
    CHECK(import.own == json{{"path", "-"}});
}

TEST_CASE("usage errors name the flag and the bound") {
    CHECK(refused({"run", "--mem-mib", "1", "x"}) == "--mem-mib: must be at least 128 and at most 262144");
    CHECK(refused({"run", "--mem-mib", "1e3", "x"}) == "--mem-mib: expected an integer, got \"1e3\"");
    CHECK(refused({"env", "prune", "--older-than", "7y"}) == "--older-than: expected a time such as 12h or 7d, got \"7y\"");
    CHECK(refused({"env", "prune", "--older-than", "d"}) == "--older-than: expected a time such as 12h or 7d, got \"d\"");
    CHECK(refused({"env", "prune", "--older-than", "9223372036854775807w"}) == "--older-than: is out of range: 9223372036854775807w");
    CHECK(refused({"env", "prune", "--older-than", "0s"}) == "--older-than: must be at least 1 and at most 315360000");
    CHECK(refused({"run", "--mem-mib", "7d", "x"}) == "--mem-mib: expected an integer, got \"7d\"");
    CHECK(refused({"run", "--mem-mib", "", "x"}) == "--mem-mib: expected an integer, got \"\"");
    CHECK(refused({"run", "--mem-mib", "99999999999999999999", "x"}) == "--mem-mib: is out of range: 99999999999999999999");
    CHECK(refused({"run", "--timeout-seconds", "-1", "x"}) == "--timeout-seconds: must be at least 0 and at most 86400");
    CHECK(refused({"run", ""}) == "ENVIRONMENT: must not be empty");
    CHECK(refused({"run", std::string(513, 'x')}) == "ENVIRONMENT: at most 512 bytes");
    CHECK(refused({"run"}) == "ENVIRONMENT: is missing");
    CHECK(refused({"run", "x", "a", "\xff"}) == "CMD: is not valid UTF-8");
    CHECK(refused({"run", "-e", "=1", "x"}) == "--env: expected K=V, got \"=1\"");
    CHECK(refused({"run", "-e", "LATIN", "x"}) == "--env: is not valid UTF-8");
    CHECK(refused({"run", "--memory", "1", "x"}) == "unknown option --memory");
    CHECK(refused({"vm", "status", "a", "b"}) == "unexpected argument \"b\"");
    CHECK(refused({"vm", "frob"}) == "unknown command \"vm frob\"");
    CHECK(refused({"frob", "run"}) == "unknown command \"frob\"");
    CHECK(refused({"vm", "--json"}) == "pyro vm needs a command");
    CHECK(refused({"workspace", "file", "frob"}) == "unknown command \"workspace file frob\"");
    CHECK(refused({"workspace", "file", "--json"}) == "pyro workspace file needs a command");
    CHECK(refused({"workspace", "export", "fix"}) == "--output: is missing");
    CHECK(refused({"workspace", "export", "fix", "--output", ""}) == "--output: must not be empty");
    CHECK(refused({"workspace", "sync", "push", "fix"}) == "PATH: is missing");
    CHECK(refused({"workspace", "exec", "--id-only", "fix", "ls"}) == "unknown option --id-only");
    CHECK(refused({"workspace", "diff", "fix", "a", "\xff"}) == "PATH: is not valid UTF-8");
    CHECK(refused({"workspace", "create", "x", "--name", "\xff"}) == "--name: is not valid UTF-8");
    CHECK(refused({"completion", "tcsh"}) == "SHELL: not one of bash, zsh, fish");
    CHECK(refused({"run", "--rows", "3", "x"}) == "unknown option --rows");
    CHECK(refused({"run", "--command", "ls", "x"}) == "unknown option --command");
}

TEST_CASE("words of three levels, and options of the client's own beside the method's") {
    auto call = parsed({"workspace", "file", "write", "fix", "src/a.c", "--text", "-x\ny", "--mode", "0755"});
    CHECK(call.verb->words == "workspace file write");
    CHECK(call.params == json{{"workspace_id", "fix"}, {"path", "src/a.c"}, {"mode", "0755"}});
    CHECK(call.own == json{{"text", "-x\ny"}});
    call = parsed({"workspace", "patch", "apply", "fix", "-"});
    CHECK(call.params == json{{"workspace_id", "fix"}});
    CHECK(call.own == json{{"dash", "-"}});
    call = parsed({"workspace", "sync", "push", "--dest", "/workspace/d", "fix", "/tmp/\xff"});
    CHECK(call.params == json{{"workspace_id", "fix"}, {"dest", "/workspace/d"}});
    CHECK(call.own["path"].get<std::string>() == "/tmp/\xff");
    call = parsed({"workspace", "export", "fix", "-o", "out", "--force"});
    CHECK(call.params == json{{"workspace_id", "fix"}});
    CHECK(call.own == json{{"output", "out"}, {"force", true}});
    CHECK(parsed({"workspace", "create", "debian:12", "--seed-path", "."}).own == json{{"seed_path", "."}});
    CHECK(parsed({"workspace", "create", "debian:12", "--id-only"}).globals.id_only);
    CHECK(parsed({"workspace", "--json", "file", "--socket", "/s", "list", "fix"}).globals.socket == "/s");
    CHECK(argv_of({"workspace", "exec", "fix", "--cwd", "src", "ls", "-l", "--json"}) == json{"ls", "-l", "--json"});
    // Paths are no command: options may stand between them.
    call = parsed({"workspace", "diff", "fix", "a", "--verify", "b", "--", "-c"});
    CHECK(call.params == json{{"workspace_id", "fix"}, {"verify", true}, {"paths", {"a", "b", "-c"}}});
    CHECK(parsed({"workspace", "diff", "fix"}).params == json{{"workspace_id", "fix"}});
    for (const Verb& verb : verbs()) {
        std::set<std::string_view> names;
        for (const proto::FieldInfo* field : verb.fields()) CHECK(names.insert(field->name).second);
    }
}

TEST_CASE("help and version win over what is missing") {
    CHECK(parsed({}).what == Invocation::What::help);
    CHECK(parsed({"--version"}).what == Invocation::What::version);
    CHECK(parsed({"-V"}).what == Invocation::What::version);
    CHECK(parsed({"run", "--help"}).topic == "run");
    CHECK(parsed({"vm"}).what == Invocation::What::help);
    CHECK(parsed({"workspace"}).topic == "workspace");
    CHECK(parsed({"workspace", "file"}).topic == "workspace file");
    CHECK(parsed({"workspace", "file", "list", "-h"}).topic == "workspace file list");
    CHECK(parsed({"vm", "-h"}).topic == "vm");
    CHECK(parsed({"env", "pull", "x", "y", "--help"}).what == Invocation::What::help);
    CHECK(parsed({"run", "--help", "x", "ls"}).what == Invocation::What::help);
    CHECK(parsed({"run", "x", "ls", "--help"}).what == Invocation::What::call);
}

TEST_CASE("every method with words on the command line is a command") {
    for (const proto::MethodInfo& method : proto::Api::list()) {
        if (method.traits.cli.empty()) continue;
        const Verb* verb = find_verb(method.traits.cli);
        REQUIRE(verb);
        CHECK(verb->method == &method);
        const auto space = method.traits.cli.find(' ');
        if (space == std::string_view::npos) continue;
        const auto first = split_last(method.traits.cli).first;
        CHECK(std::any_of(groups().begin(), groups().end(), [&](const Group& group) { return group.name == first; }));
    }
}

TEST_CASE("an ended command is an exit status, a footer and a report") {
    proto::ExecResult result;
    result.environment = "debian:12";
    result.duration_ms = 5;
    result.exit_code = 7;
    CHECK(exit_status(result) == 7);
    CHECK(run_footer(result) == "[run] environment=debian:12 execution_mode=guest_tcg exit_code=7 duration_ms=5\n");
    result.exit_code.reset();
    CHECK(exit_status(result) == 125);
    result.signal = 11;
    CHECK(exit_status(result) == 139);
    result.oom = true;
    result.timed_out = true;
    CHECK(exit_status(result) == 124);
    CHECK(run_footer(result) == "[run] environment=debian:12 execution_mode=guest_tcg signal=11 timed_out=true oom=true duration_ms=5\n");
    Capture out(4), err;
    out.add("abcdef");
    const auto report = report_of(result, out, err);
    CHECK(report.truncated);
    CHECK(report.stdout_text == "ab\n[2 bytes left out]\nef");
    CHECK(report.signal == 11);
}
