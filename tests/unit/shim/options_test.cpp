#include "client/mcp/project.hpp"
#include "client/mcp/tool_table.hpp"
#include "tests/support/catch.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <unistd.h>

namespace fs = std::filesystem;
using namespace pyro::shim;
using pyro::Error;
using pyro::ErrorCode;

namespace {

std::string refusal(const std::vector<std::string>& args) {
    try {
        parse_command_line(args);
    } catch (const Error& e) {
        return e.message();
    }
    FAIL("it was not refused");
    return {};
}

}  // namespace

TEST_CASE("the command line") {
    const auto line = parse_command_line({"serve", "--profile", "vm-run", "--environment=debian:12", "--repo-url", "https://x/y", "--repo-ref", "v1", "--allow-path", "/a/../b", "--allow-path", "c",
                                          "--allow-host-compat", "--socket", "/s"});
    CHECK(line.options.profile == Profile::vm_run);
    CHECK(line.options.environment == "debian:12");
    CHECK(line.options.project == ProjectKind::url);
    CHECK(line.options.repo_ref == "v1");
    CHECK(line.options.allowed_paths == std::vector{std::string("/b"), (fs::current_path() / "c").string()});
    CHECK(line.options.allow_host_compat);
    CHECK(line.options.socket == "/s");
    CHECK(parse_command_line({"serve"}).options.project == ProjectKind::here);
    CHECK(parse_command_line({"serve", "--help"}).what == CommandLine::What::help);
    CHECK(refusal({}) == "say what to do: pyro mcp serve");
    CHECK(refusal({"serve", "--profile", "x"}) == "there is no profile x");
    CHECK(refusal({"serve", "--profile", "vm-run", "--mode", "inspect"}).find("exclude") != std::string::npos);
    CHECK(refusal({"serve", "--mode", "cold-start"}).find("services") != std::string::npos);
    CHECK(refusal({"serve", "--mode", "review-eval"}).find("snapshots") != std::string::npos);
    CHECK(refusal({"serve", "--no-project-source", "--project-path", "/x"}).find("exclude") != std::string::npos);
    CHECK(refusal({"serve", "--repo-ref", "x"}) == "--repo-ref is of --repo-url");
    CHECK(refusal({"serve", "--socket"}) == "--socket needs a value");
    CHECK(refusal({"serve", "--nonsense"}) == "there is no option --nonsense");
    CHECK(refusal({"serve", "--no-project-source=1"}) == "--no-project-source takes no value");
}

TEST_CASE("which checkout is the project") {
    std::string name = "/tmp/pyro-project-XXXXXX";
    const fs::path top = fs::canonical(::mkdtemp(name.data()));
    fs::create_directories(top / "repo" / ".git");
    fs::create_directories(top / "repo" / "sub");
    fs::create_directories(top / "plain");
    const char* before = std::getenv("HOME");
    const std::string home = before ? before : "";
    const auto take = [](const ServeOptions& options, std::string& why) { return ProjectSource(options).take(why, [](std::string) {}, {}); };
    ServeOptions options;
    std::string why;
    options.directory = (top / "repo" / "sub").string();
    CHECK(take(options, why)->path == (top / "repo").string());
    CHECK(ProjectSource(options).root() == (top / "repo").string());
    // A home directory that is a checkout is nobody's project, unless it is named.
    ::setenv("HOME", (top / "repo").c_str(), 1);
    CHECK_FALSE(take(options, why));
    CHECK(why.find("holds a home directory") != std::string::npos);
    CHECK_FALSE(ProjectSource(options).root());
    ::setenv("HOME", home.c_str(), 1);
    options.directory = (top / "plain").string();
    CHECK_FALSE(take(options, why));
    CHECK(why.find("in no Git checkout") != std::string::npos);
    CHECK_FALSE(ProjectSource(options).root());
    options.project = ProjectKind::path;
    options.project_path = (top / "plain").string();
    CHECK(take(options, why)->kind == pyro::client::seed::SourceKind::directory);
    CHECK(ProjectSource(options).root() == (top / "plain").string());
    options.project_path = (top / "gone").string();
    CHECK_THROWS_AS(take(options, why), Error);
    CHECK_FALSE(ProjectSource(options).root());
    fs::remove_all(top);
}

TEST_CASE("every tool of every selection says all it must") {
    ServeOptions options;
    for (const Profile profile : {Profile::vm_run, Profile::workspace_core, Profile::workspace_full}) {
        options.profile = profile;
        for (const std::string_view name : tools_of(options)) {
            INFO(name);
            const auto tool = definition(name, options);
            CHECK_FALSE(tool.title.empty());
            CHECK(tool.description.size() > 10);
            CHECK(tool.description.size() < 2048);
            CHECK(tool.input_schema["additionalProperties"] == false);
            for (const auto& [field, schema] : tool.input_schema["properties"].items()) {
                INFO(field);
                CHECK_FALSE(schema.value("description", "").empty());
                CHECK(schema["type"].is_string());
            }
            for (const auto& field : tool.input_schema.value("required", pyro::mcp::ordered_json::array())) CHECK(tool.input_schema["properties"].contains(field.get<std::string>()));
            CHECK(tool.output_schema["type"] == "object");
            // A change of a field that is not there says nothing.
            const ToolSpec& spec = spec_of(name);
            const auto fields = method_of(name).params().fields;
            const auto is_field = [&](std::string_view wanted) { return std::any_of(fields.begin(), fields.end(), [&](const auto& field) { return field.name == wanted; }); };
            for (const auto& change : spec.changes) CHECK(is_field(change.name));
            for (const auto& left_out : spec.left_out) CHECK(is_field(left_out));
            for (const auto& full : spec.full_only) CHECK(is_field(full));
        }
    }
}
