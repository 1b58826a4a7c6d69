// A server that uses all of the protocol library, with the tools, resources and prompts that the protocol's conformance suite
// asks for, and a few more for what that does not cover. Its answers stay the same, save by what a test asks for.
#include "client/mcp/protocol/server.hpp"

#include <condition_variable>
#include <csignal>
#include <map>
#include <mutex>
#include <unistd.h>

using pyro::Cancelled;
using pyro::Error;
using pyro::ErrorCode;
using namespace pyro::mcp;

namespace {

// A red pixel, and a WAV without a sample.
const std::string png = *from_base64("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==");
const std::string wav = *from_base64("UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA=");

const ordered_json no_arguments = ordered_json::parse(R"({"type":"object","properties":{},"additionalProperties":false})");

ordered_json one_string(const std::string& name, const std::string& description) {
    return {{"type", "object"}, {"properties", {{name, {{"type", "string"}, {"description", description}}}}}, {"required", ordered_json::array({name})}, {"additionalProperties", false}};
}

ToolAnnotations harmless() { return {.read_only = true, .destructive = false, .idempotent = true, .open_world = false}; }

Tool tool(std::string name, std::string description, std::function<ToolResult(Call&, const json&)> run) {
    return {.name = std::move(name), .description = std::move(description), .input_schema = no_arguments, .annotations = harmless(), .run = std::move(run)};
}

Tool tool(std::string name, std::string description, ordered_json input_schema, std::function<ToolResult(Call&, const json&)> run) {
    return {.name = std::move(name), .description = std::move(description), .input_schema = std::move(input_schema), .annotations = harmless(), .run = std::move(run)};
}

// Gates that tests open by a call: a call that waits is still under way as long as a test wants it to be.
class Gates {
public:
    void arrive(const std::string& name) {
        const std::lock_guard lock(mutex_);
        ++arrived_[name];
        changed_.notify_all();
    }
    void wait(const std::string& name, std::stop_token stop) {
        arrive(name);
        std::unique_lock lock(mutex_);
        if (!changed_.wait(lock, stop, [&] { return open_[name]; })) throw Cancelled();
    }
    void open(const std::string& name) {
        const std::lock_guard lock(mutex_);
        open_[name] = true;
        changed_.notify_all();
    }
    // Until so many have come to it.
    void await_arrivals(const std::string& name, int count, std::stop_token stop) {
        std::unique_lock lock(mutex_);
        if (!changed_.wait(lock, stop, [&] { return arrived_[name] >= count; })) throw Cancelled();
    }
    void note_stopped() {
        const std::lock_guard lock(mutex_);
        ++stopped_;
        changed_.notify_all();
    }
    void await_stopped(int count, std::stop_token stop) {
        std::unique_lock lock(mutex_);
        if (!changed_.wait(lock, stop, [&] { return stopped_ >= count; })) throw Cancelled();
    }

private:
    std::mutex mutex_;
    std::condition_variable_any changed_;
    std::map<std::string, bool> open_;
    std::map<std::string, int> arrived_;
    int stopped_ = 0;
};

Gates gates;

std::string answered(const json& answer) {
    std::string text = "action=" + answer.value("action", std::string("none"));
    if (answer.contains("content")) text += ", content=" + answer["content"].dump();
    return text;
}

void add_content_tools(Server& server) {
    server.add(tool("test_simple_text", "Returns simple text.", [](Call&, const json&) { return ToolResult::text("This is a simple text response for testing."); }));
    server.add(tool("test_image_content", "Returns an image.", [](Call&, const json&) { return ToolResult{.content = {Content::image(png, "image/png")}}; }));
    server.add(tool("test_audio_content", "Returns audio.", [](Call&, const json&) { return ToolResult{.content = {Content::audio(wav, "audio/wav")}}; }));
    server.add(tool("test_embedded_resource", "Returns an embedded resource.", [](Call&, const json&) {
        return ToolResult{.content = {Content::embedded(ResourceContents::text("test://embedded-resource", "text/plain", "This is an embedded resource content."))}};
    }));
    server.add(tool("test_resource_link", "Returns a link to a resource.", [](Call&, const json&) {
        return ToolResult{.content = {Content::link({.uri = "test://static-text", .name = "Static Text", .mime_type = "text/plain"})}};
    }));
    server.add(tool("test_multiple_content_types", "Returns text, an image and a resource.", [](Call&, const json&) {
        return ToolResult{.content = {Content::text("Multiple content types test:"), Content::image(png, "image/png"),
                                      Content::embedded(ResourceContents::text("test://mixed-content-resource", "application/json", R"({"test":"data","value":123})"))}};
    }));
    server.add(tool("test_error_handling", "Always fails.", [](Call&, const json&) -> ToolResult {
        throw Error(ErrorCode::failed_precondition, "This tool intentionally returns an error for testing", "expect it");
    }));
    server.add(tool("test_broken_handler", "Throws what is no error of ours.", [](Call&, const json&) -> ToolResult { throw std::runtime_error("a secret of the inside"); }));
    Tool structured = tool("test_structured", "Adds two integers.",
        ordered_json::parse(R"({"type":"object","properties":{"a":{"type":"integer","description":"first","minimum":-1000,"maximum":1000},
            "b":{"type":"integer","description":"second"}},"required":["a","b"],"additionalProperties":false})"),
        [](Call&, const json& arguments) { return ToolResult::data({{"sum", arguments["a"].get<int>() + arguments["b"].get<int>()}}); });
    structured.title = "Add";
    structured.output_schema = ordered_json::parse(R"({"type":"object","properties":{"sum":{"type":"integer"}},"required":["sum"],"additionalProperties":false})");
    structured.icons = ordered_json::parse(R"([{"src":"data:image/png;base64,AA==","mimeType":"image/png"}])");
    structured.meta = {{"org.example/kind", "arithmetic"}};
    server.add(std::move(structured));
    server.add(tool("json_schema_2020_12_tool", "Tool with JSON Schema 2020-12 features",
        ordered_json::parse(R"({"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object",
            "$defs":{"address":{"type":"object","properties":{"street":{"type":"string"},"city":{"type":"string"}}}},
            "properties":{"name":{"type":"string"},"address":{"$ref":"#/$defs/address"}},"additionalProperties":false})"),
        [](Call&, const json& arguments) { return ToolResult::text(arguments.dump()); }));
}

void add_time_tools(Server& server) {
    server.add(tool("test_tool_with_logging", "Logs while it runs.", [](Call& call, const json&) {
        for (const char* line : {"Tool execution started", "Tool processing data", "Tool execution completed"}) call.log(LogLevel::info, line);
        call.log(LogLevel::debug, "nobody asked for this");
        return ToolResult::text("Tool with logging executed successfully");
    }));
    server.add(tool("test_tool_with_progress", "Reports progress.", [](Call& call, const json&) {
        for (const double done : {0.0, 50.0, 50.0, 100.0}) call.progress(done, 100, "step");
        return ToolResult::text("progress: " + std::string(call.wants_progress() ? "reported" : "nobody asked"));
    }));
    server.add(tool("test_wait", "Waits until its gate is opened.", one_string("gate", "the gate"), [](Call& call, const json& arguments) {
        const std::stop_callback stopped(call.stop(), [] { gates.note_stopped(); });
        call.progress(1, 2, "waiting");
        gates.wait(arguments["gate"], call.stop());
        return ToolResult::text("waited for " + arguments["gate"].get<std::string>());
    }));
    server.add(tool("test_open", "Opens a gate.", one_string("gate", "the gate"), [](Call&, const json& arguments) {
        gates.open(arguments["gate"]);
        return ToolResult::text("opened");
    }));
    server.add(tool("test_await_waiting", "Returns when so many calls have come to a gate.",
        ordered_json::parse(R"({"type":"object","properties":{"gate":{"type":"string"},"count":{"type":"integer"}},"required":["gate","count"]})"),
        [](Call& call, const json& arguments) {
            gates.await_arrivals(arguments["gate"], arguments["count"], call.stop());
            return ToolResult::text("they wait");
        }));
    server.add(tool("test_await_stopped", "Returns when so many calls were asked to stop.",
        ordered_json::parse(R"({"type":"object","properties":{"count":{"type":"integer"}},"required":["count"]})"), [](Call& call, const json& arguments) {
            gates.await_stopped(arguments["count"], call.stop());
            return ToolResult::text("they stopped");
        }));
    server.add(tool("test_deaf", "Waits and hears of nothing.", [](Call&, const json&) {
        gates.arrive("deaf");
        for (;;) ::pause();
        return ToolResult();
    }));
    server.add(tool("test_bytes", "Returns so many bytes of text.",
        ordered_json::parse(R"({"type":"object","properties":{"count":{"type":"integer","minimum":0,"maximum":20000000}},"required":["count"]})"),
        [](Call&, const json& arguments) { return ToolResult::text(std::string(arguments["count"].get<std::size_t>(), 'x')); }));
    server.add(tool("test_not_utf8", "Returns bytes that are no UTF-8.", [](Call&, const json&) { return ToolResult::text("good \xff bad"); }));
    server.add(tool("test_print", "Prints to stdout, which is not its to print to.", [](Call&, const json&) {
        [[maybe_unused]] const ssize_t n = ::write(STDOUT_FILENO, "printed\n", 8);
        return ToolResult::text("printed");
    }));
}

void add_asking_tools(Server& server) {
    server.add(tool("test_sampling", "Asks the client's model.", one_string("prompt", "The prompt to send to the LLM"), [](Call& call, const json& arguments) {
        const json answer = call.ask("completion", "sampling/createMessage",
            {{"messages", {{{"role", "user"}, {"content", {{"type", "text"}, {"text", arguments["prompt"]}}}}}}, {"maxTokens", 100}});
        return ToolResult::text("LLM response: " + answer["content"].value("text", std::string("none")));
    }));
    server.add(tool("test_elicitation", "Asks the user.", one_string("message", "The message to show the user"), [](Call& call, const json& arguments) {
        const json answer = call.elicit("user", arguments["message"].get<std::string>(), ordered_json::parse(
            R"({"type":"object","properties":{"username":{"type":"string","description":"User's response"},
                "email":{"type":"string","description":"User's email address"}},"required":["username","email"]})"));
        return ToolResult::text("User response: " + answered(answer));
    }));
    server.add(tool("test_two_questions", "Asks the user twice.", [](Call& call, const json&) {
        const ordered_json schema = ordered_json::parse(R"({"type":"object","properties":{"word":{"type":"string"}},"required":["word"]})");
        const json first = call.elicit("first", "The first word?", schema);
        const json second = call.elicit("second", "The second word?", schema);
        return ToolResult::text(first["content"].value("word", "") + " " + second["content"].value("word", ""));
    }));
    server.add(tool("test_ask_if_possible", "Asks only where that is possible.", [](Call& call, const json&) {
        return ToolResult::text(call.can_ask("elicitation/create") ? "could ask" : "could not ask");
    }));
    server.add(tool("test_elicitation_sep1034_defaults", "Asks with defaults.", [](Call& call, const json&) {
        const json answer = call.elicit("form", "Please review and update the form fields with defaults", ordered_json::parse(
            R"({"type":"object","properties":{"name":{"type":"string","description":"User name","default":"John Doe"},
                "age":{"type":"integer","description":"User age","default":30},"score":{"type":"number","description":"User score","default":95.5},
                "status":{"type":"string","description":"User status","enum":["active","inactive","pending"],"default":"active"},
                "verified":{"type":"boolean","description":"Verification status","default":true}},"required":[]})"));
        return ToolResult::text("Elicitation completed: " + answered(answer));
    }));
    server.add(tool("test_elicitation_sep1330_enums", "Asks with all forms of enums.", [](Call& call, const json&) {
        const json answer = call.elicit("form", "Please select options from the enum fields", ordered_json::parse(
            R"({"type":"object","properties":{
                "untitledSingle":{"type":"string","description":"one","enum":["option1","option2","option3"]},
                "titledSingle":{"type":"string","description":"one","oneOf":[{"const":"value1","title":"First Option"},{"const":"value2","title":"Second Option"},{"const":"value3","title":"Third Option"}]},
                "legacyEnum":{"type":"string","description":"one","enum":["opt1","opt2","opt3"],"enumNames":["Option One","Option Two","Option Three"]},
                "untitledMulti":{"type":"array","description":"some","minItems":1,"maxItems":3,"items":{"type":"string","enum":["option1","option2","option3"]}},
                "titledMulti":{"type":"array","description":"some","minItems":1,"maxItems":3,"items":{"anyOf":[{"const":"value1","title":"First Choice"},{"const":"value2","title":"Second Choice"},{"const":"value3","title":"Third Choice"}]}}},
                "required":[]})"));
        return ToolResult::text("Elicitation completed: " + answered(answer));
    }));
}

void add_resources(Server& server) {
    server.add(Resource{{.uri = "test://static-text", .name = "Static Text", .title = "A text", .description = "A static text resource", .mime_type = "text/plain", .size = 47,
                         .annotations = ordered_json::parse(R"({"priority":0.5,"lastModified":"2026-01-01T00:00:00Z"})")},
                        [](Call&) { return std::vector{ResourceContents::text("test://static-text", "text/plain", "This is the content of the static text resource.")}; }});
    server.add(Resource{{.uri = "test://static-binary", .name = "Static Binary", .description = "A static binary resource", .mime_type = "image/png"},
                        [](Call&) { return std::vector{ResourceContents::blob("test://static-binary", "image/png", png)}; }});
    server.add(Resource{{.uri = "test://watched-resource", .name = "Watched", .description = "Changes when test_touch is called", .mime_type = "text/plain"},
                        [](Call&) { return std::vector{ResourceContents::text("test://watched-resource", "text/plain", "Watched resource content")}; }});
    server.add(ResourceTemplate{
        .info = {.uri = "test://template/{id}/data", .name = "Template", .title = "By id", .description = "A resource template with a parameter", .mime_type = "application/json"},
        .read = [](Call&, const std::string& uri, const std::map<std::string, std::string>& variables) {
            const std::string& id = variables.at("id");
            if (id == "missing") throw Error(ErrorCode::not_found, "there is no " + uri).with_detail("uri", uri);
            return std::vector{ResourceContents::text(uri, "application/json", dump({{"id", id}, {"templateTest", true}, {"data", "Data for ID: " + id}}))};
        },
        .list = [](Call&) { return std::vector<ResourceInfo>{{.uri = "test://template/listed/data", .name = "Listed", .mime_type = "application/json"}}; },
        .complete = {{"id", [](Call&, const std::string& typed, const std::map<std::string, std::string>&) {
            std::vector<std::string> values;
            for (int i = 0; i < 150; ++i) values.push_back(typed + std::to_string(i));
            return values;
        }}},
    });
    server.add(tool("test_touch", "Says that a resource and the list of them changed.", one_string("uri", "which"), [&server](Call&, const json& arguments) {
        server.resource_updated(arguments["uri"]);
        server.resource_list_changed();
        return ToolResult::text("touched");
    }));
}

void add_prompts(Server& server) {
    server.add(Prompt{.name = "test_simple_prompt", .description = "A simple prompt without arguments", .get = [](Call&, const auto&) {
        return PromptResult{.messages = {{"user", Content::text("This is a simple prompt for testing.")}}};
    }});
    const Completer cities = [](Call&, const std::string& typed, const std::map<std::string, std::string>& context) {
        std::vector<std::string> values;
        for (const std::string city : {"paris", "park", "party"})
            if (city.starts_with(typed)) values.push_back(context.contains("arg2") ? city + " " + context.at("arg2") : city);
        return values;
    };
    server.add(Prompt{.name = "test_prompt_with_arguments", .title = "With arguments", .description = "A prompt with arguments",
                      .arguments = {{.name = "arg1", .description = "First test argument", .required = true, .complete = cities}, {.name = "arg2", .description = "Second test argument", .required = true}},
                      .get = [](Call&, const auto& arguments) {
                          return PromptResult{.messages = {{"user", Content::text("Prompt with arguments: arg1='" + arguments.at("arg1") + "', arg2='" + arguments.at("arg2") + "'")}}};
                      }});
    server.add(Prompt{.name = "test_prompt_with_embedded_resource", .description = "A prompt with an embedded resource",
                      .arguments = {{.name = "resourceUri", .description = "URI of the resource to embed", .required = true}},
                      .get = [](Call&, const auto& arguments) {
                          return PromptResult{.messages = {{"user", Content::embedded(ResourceContents::text(arguments.at("resourceUri"), "text/plain", "Embedded resource content for testing."))},
                                                           {"user", Content::text("Please process the embedded resource above.")}}};
                      }});
    server.add(Prompt{.name = "test_prompt_with_image", .description = "A prompt with an image", .get = [](Call&, const auto&) {
        return PromptResult{.messages = {{"user", Content::image(png, "image/png")}, {"user", Content::text("Please analyze the image above.")}}};
    }});
}

}  // namespace

// fixture_server [PAGE_SIZE [GRACE_MS]]: a grace that only a handler which never stops outlasts, unless told.
int main(int argc, char** argv) {
    Server server({
        .info = {.name = "fixture", .version = "1.2.3", .title = "Fixture", .description = "A server for tests", .website_url = "https://example.org/"},
        .instructions = "For tests only.",
        .logging = true,
        .resource_updates = true,
        .resource_list_changes = true,
        .page_size = argc > 1 ? std::stoul(argv[1]) : 100,
        .progress_interval = std::chrono::milliseconds(0),
        .grace = std::chrono::milliseconds(argc > 2 ? std::stol(argv[2]) : 60'000),
    });
    add_content_tools(server);
    add_time_tools(server);
    add_asking_tools(server);
    add_resources(server);
    add_prompts(server);
    return server.serve_stdio();
}
