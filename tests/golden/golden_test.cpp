#include "client/cli/commands.hpp"
#include "client/cli/help.hpp"
#include "client/cli/verbs.hpp"
#include "client/mcp/protocol/wire_forms.hpp"
#include "client/mcp/shim.hpp"
#include "common/unique_fd.hpp"
#include "proto/api.hpp"
#include "proto/describe.hpp"
#include "tests/support/catch.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <set>

using namespace pyro;

namespace {

const std::filesystem::path source_dir = PYRO_SOURCE_DIR;
const std::filesystem::path expected_dir = source_dir / "tests/golden/expected";

bool accepting() {
    const char* accept = std::getenv("PYRO_ACCEPT");
    return accept && std::string_view(accept) == "1";
}

// `file` holds exactly `now`; PYRO_ACCEPT=1 makes it so.
void golden(const std::filesystem::path& file, const std::string& now) {
    if (accepting()) {
        std::filesystem::create_directories(file.parent_path());
        replace_file(file.string(), now, 0644);
        return;
    }
    INFO(file << " is out of date: look at the difference, then PYRO_ACCEPT=1 ctest -L golden");
    REQUIRE(std::filesystem::exists(file));
    const std::string before = read_file(file.string());
    const auto [b, n] = std::mismatch(before.begin(), before.end(), now.begin(), now.end());
    INFO("differs at line " << 1 + std::count(before.begin(), b, '\n') << ", now:\n" << now.substr(static_cast<std::size_t>(n - now.begin()), 200));
    CHECK(before == now);
}

std::string file_name(std::string words) {
    std::replace(words.begin(), words.end(), ' ', '-');
    return words;
}

}  // namespace

TEST_CASE("docs/api.md") { golden(source_dir / "docs/api.md", proto::api_markdown()); }

// The version changes with every release; the surface does not.
TEST_CASE("OpenRPC") { golden(expected_dir / "openrpc.json", proto::openrpc("VERSION").dump(2) + "\n"); }

TEST_CASE("help") {
    std::set<std::string> wanted{"pyro.txt"};
    golden(expected_dir / "help/pyro.txt", client::help_text(""));
    for (const client::Group& group : client::groups()) {
        const std::string name = file_name(std::string(group.name)) + ".txt";
        wanted.insert(name);
        golden(expected_dir / "help" / name, client::help_text(group.name));
    }
    for (const client::Verb& verb : client::verbs()) {
        const std::string name = file_name(std::string(verb.words)) + ".txt";
        wanted.insert(name);
        golden(expected_dir / "help" / name, client::help_text(verb.words));
    }
    // A command that has gone takes its file along.
    for (const auto& entry : std::filesystem::directory_iterator(expected_dir / "help")) {
        if (wanted.contains(entry.path().filename().string())) continue;
        if (accepting()) std::filesystem::remove(entry.path());
        else FAIL_CHECK(entry.path() << " is the help of no command");
    }
}

TEST_CASE("completion scripts") {
    golden(expected_dir / "completion.bash", client::completion_script(client::Shell::bash));
    golden(expected_dir / "completion.zsh", client::completion_script(client::Shell::zsh));
    golden(expected_dir / "completion.fish", client::completion_script(client::Shell::fish));
}

TEST_CASE("tools of chat hosts") {
    const auto of = [](const char* name, shim::Profile profile, shim::Mode mode) {
        shim::ServeOptions options;
        options.profile = profile;
        options.mode = mode;
        mcp::ordered_json tools = mcp::ordered_json::array();
        for (const std::string_view tool : shim::tools_of(options)) tools.push_back(mcp::to_wire(shim::definition(tool, options), mcp::stateless));
        const std::string instructions = shim::instructions(options);
        CHECK(instructions.size() < 2048);
        golden(expected_dir / "mcp" / (std::string(name) + ".json"), mcp::ordered_json{{"instructions", instructions}, {"tools", tools}}.dump(2) + "\n");
    };
    of("vm-run", shim::Profile::vm_run, shim::Mode::none);
    of("workspace-core", shim::Profile::workspace_core, shim::Mode::none);
    of("workspace-full", shim::Profile::workspace_full, shim::Mode::none);
    of("repro-fix", shim::Profile::workspace_core, shim::Mode::repro_fix);
    of("inspect", shim::Profile::workspace_core, shim::Mode::inspect);
}

TEST_CASE("the OpenRPC document describes every method with valid schemas") {
    const auto document = proto::openrpc("1.2.3");
    REQUIRE(document["info"]["version"] == "1.2.3");
    REQUIRE(document["methods"].size() == proto::Api::size);
    for (const auto& method : document["methods"]) {
        INFO(method["name"]);
        CHECK_FALSE(method["summary"].get<std::string>().empty());
        CHECK(method["result"]["schema"]["type"] == "object");
        for (const auto& param : method["params"]) {
            CHECK(param["schema"].contains("type"));
            CHECK_FALSE(param["description"].get<std::string>().empty());
            const bool optional = !param["required"].get<bool>();
            CHECK((optional || !param["schema"].contains("default")));
        }
    }
}
