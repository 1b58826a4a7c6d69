#include "proto/describe.hpp"

#include "common/error.hpp"
#include "proto/api.hpp"
#include "proto/codec.hpp"
#include "proto/events.hpp"

#include <nlohmann/json.hpp>

namespace pyro::proto {

using nlohmann::ordered_json;

namespace {

struct EventInfo {
    std::string_view method;
    const TypeInfo& (*params)();
};
constexpr std::array events{EventInfo{ExecStarted::method, &type_of<ExecStarted>}, EventInfo{StreamOpened::method, &type_of<StreamOpened>}, EventInfo{Progress::method, &type_of<Progress>}};

// Calls `use(field, defaults)` for each field of a record.
template <class Use>
void for_each_field(const TypeInfo& record, Use use) {
    struct Walk { const TypeInfo& record; Use& use; } walk{record, use};
    record.construct_default([](const void* defaults, void* context) {
        auto& w = *static_cast<Walk*>(context);
        for (const FieldInfo& field : w.record.fields) w.use(field, defaults);
    }, &walk);
}

ordered_json describe_method(const MethodInfo& method) {
    ordered_json params = ordered_json::array();
    for_each_field(method.params(), [&](const FieldInfo& field, const void* defaults) {
        params.push_back({{"name", std::string(field.name)},
                          {"description", std::string(field.doc)},
                          {"required", field.required()},
                          {"schema", field_schema(field, defaults)}});
    });
    ordered_json out{{"name", std::string(method.name)},
                     {"summary", std::string(method.doc)},
                     {"paramStructure", "by-name"},
                     {"params", std::move(params)},
                     {"result", {{"name", std::string(method.result().name)},
                                 {"description", std::string(method.result().doc)},
                                 {"schema", schema(method.result())}}}};
    const Traits& traits = method.traits;
    ordered_json& more = out["x-pyro"] = ordered_json::object();
    if (!traits.cli.empty()) more["cli"] = "pyro " + std::string(traits.cli);
    if (!traits.mcp.empty()) more["mcp"] = std::string(traits.mcp);
    if (!traits.sdk.empty()) more["sdk"] = std::string(traits.sdk);
    more["read_only"] = traits.read_only;
    more["destructive"] = traits.destructive;
    more["carries"] = enum_names(Carries{})[static_cast<std::size_t>(traits.carries)];
    more["admin"] = traits.who == Trust::admin;
    return out;
}

ordered_json error_schema() {
    ordered_json words = ordered_json::array();
    for (const std::string_view word : error_code_names) words.push_back(std::string(word));
    return {{"type", "object"},
            {"properties", {{"code", {{"type", "string"}, {"enum", words}}},
                            {"message", {{"type", "string"}, {"description", "What happened"}}},
                            {"hint", {{"type", "string"}, {"description", "What to do next; may be empty"}}},
                            {"retryable", {{"type", "boolean"}}},
                            {"details", {{"type", "object"}, {"additionalProperties", {{"type", "string"}}}}}}},
            {"required", {"code", "message", "hint", "retryable", "details"}}};
}

std::string type_word(const TypeInfo& type) {
    switch (type.kind) {
        case Kind::boolean: return "boolean";
        case Kind::integer: return "integer";
        case Kind::string: return "string";
        case Kind::map: return "map of strings";
        case Kind::list: return "list of " + type_word(type.element());
        case Kind::record: return "[" + std::string(type.name) + "](#" + std::string(type.name) + ")";
        case Kind::enumeration: {
            std::string text;
            for (const std::string_view name : type.names) text += (text.empty() ? "`" : " \\| `") + std::string(name) + "`";
            return text;
        }
    }
    return {};
}

std::string bounds_words(const FieldInfo& field) {
    const auto& [min, max] = std::pair(field.options.min, field.options.max);
    const Kind kind = field.type().kind;
    const std::string unit = kind == Kind::string ? " bytes" : kind == Kind::list || kind == Kind::map ? " entries" : "";
    if (min && max) return std::to_string(*min) + " to " + std::to_string(*max) + unit;
    if (min) return "at least " + std::to_string(*min) + unit;
    if (max) return "at most " + std::to_string(*max) + unit;
    return {};
}

std::string fields_table(const TypeInfo& record, bool request) {
    if (record.fields.empty()) return "None.\n";
    std::string out = request ? "| field | type | default | bounds | |\n| --- | --- | --- | --- | --- |\n" : "| field | type | |\n| --- | --- | --- |\n";
    for_each_field(record, [&](const FieldInfo& field, const void* defaults) {
        const TypeInfo& type = field.type();
        out += "| `" + std::string(field.name) + "` | " + type_word(type) + (type.optional && !request ? ", optional" : "") + " | ";
        if (request) {
            out += field.required() ? "**required**" : type.optional ? "absent" : "`" + encode(type, field.get(defaults)).dump() + "`";
            out += " | " + bounds_words(field) + " | ";
        }
        out += std::string(field.doc) + " |\n";
    });
    return out;
}

// Records that are used inside others, each once, in order of first use.
void collect_records(const TypeInfo& type, std::vector<const TypeInfo*>& into, bool itself) {
    if (type.kind == Kind::list) return collect_records(type.element(), into, true);
    if (type.kind != Kind::record) return;
    if (itself) {
        for (const TypeInfo* known : into)
            if (known->name == type.name) return;
        into.push_back(&type);
    }
    for (const FieldInfo& field : type.fields) collect_records(field.type(), into, true);
}

constexpr std::string_view preface = R"(# RPC reference

Made from the tables in `proto/` by the golden test; do not edit: change the table and run `PYRO_ACCEPT=1 ctest -L golden`.
`rpc.discover` and `pyrod --describe` answer with the same as an OpenRPC document.

## Connection

JSON-RPC 2.0 over the Unix socket `/run/pyro/pyrod.sock` (`--socket`, then `PYRO_SOCKET`, come first), one object per line, any number of requests in
flight, answers in any order. Who calls is the kernel's word, never a field. An unknown field of a request is an error; clients ignore unknown fields of answers.

| message | |
| --- | --- |
| `rpc.hello {"version", "features"}` | the first request; answered with `version`, `features`, `server` |
| `rpc.discover` | answered with the OpenRPC document |
| `rpc.cancel {"id"}` | notification: stop the request with this id; it is then answered with the error `cancelled`, or with its result if that was quicker |

A method that *streams* first notifies `exec.started` with a ticket. A second connection whose first line is `{"attach":"TICKET"}` is answered by the line
`{"ok":true}` (or `{"error":…}`), then both sides send frames: stream (1 byte), length (4 bytes, little-endian, at most 65536), bytes.

| stream | direction | |
| --- | --- | --- |
| 0 | to the command | standard input |
| 1, 2 | from the command | standard output, standard error |
| 3 | to the command | the terminal's new size: columns, rows (2 bytes each, little-endian) |
| 4 | to the command | end of a stream: its number (1 byte) |

The final answer says how many bytes streams 1 and 2 carry; read that many before you close. Bytes of a command never travel in messages.

## Errors

JSON-RPC's `error.data` is always `{code, message, hint, retryable, details}`. `message` says what happened, `hint` what to do next. `code` is one of:
)";

}  // namespace

ordered_json openrpc(std::string_view version) {
    ordered_json methods = ordered_json::array();
    for (const MethodInfo& method : Api::list()) methods.push_back(describe_method(method));
    ordered_json notifications = ordered_json::array();
    for (const EventInfo& event : events)
        notifications.push_back({{"name", std::string(event.method)},
                                 {"summary", std::string(event.params().doc)},
                                 {"schema", schema(event.params())}});
    return {{"openrpc", "1.3.2"},
            {"info", {{"title", "pyro"}, {"version", std::string(version)}, {"description", "Disposable microVMs for commands and coding agents."}}},
            {"methods", std::move(methods)},
            {"components", {{"schemas", {{"Error", error_schema()}}}}},
            {"x-notifications", std::move(notifications)}};
}

std::string api_markdown() {
    std::string out(preface);
    for (std::size_t i = 0; i < error_code_names.size(); ++i) out += (i ? ", `" : "`") + std::string(error_code_names[i]) + "`";
    out += ".\n\n## Notifications\n\nEach carries the request's `id` beside these fields.\n";
    for (const EventInfo& event : events)
        out += "\n### " + std::string(event.method) + "\n\n" + std::string(event.params().doc) + "\n\n" + fields_table(event.params(), false);

    out += "\n## Methods\n\n| method | command line | MCP tool | Python | |\n| --- | --- | --- | --- | --- |\n";
    const auto code = [](std::string_view prefix, std::string_view text) {
        return text.empty() ? std::string() : "`" + std::string(prefix) + std::string(text) + "`";
    };
    for (const MethodInfo& method : Api::list())
        out += "| [" + std::string(method.name) + "](#" + std::string(method.name) + ") | " + code("pyro ", method.traits.cli) + " | " +
               code("", method.traits.mcp) + " | " + code("", method.traits.sdk) + " | " + std::string(method.doc) + " |\n";

    std::vector<const TypeInfo*> records;
    for (const MethodInfo& method : Api::list()) {
        out += "\n<a id=\"" + std::string(method.name) + "\"></a>\n### " + std::string(method.name) + "\n\n" + std::string(method.doc);
        if (method.traits.read_only) out += " Changes nothing.";
        if (method.traits.destructive) out += " Removes things for good.";
        if (method.traits.carries != Carries::nothing) out += " Carries: " + std::string(enum_names(Carries{})[static_cast<std::size_t>(method.traits.carries)]) + ".";
        if (method.traits.who == Trust::admin) out += " For administrators.";
        out += "\n\nParameters:\n\n" + fields_table(method.params(), true);
        // A record that several methods answer with is described once, below.
        bool shared = false;
        for (const MethodInfo& other : Api::list()) shared = shared || (other.name != method.name && other.result().name == method.result().name);
        if (shared) {
            out += "\nResult: " + type_word(method.result()) + ".\n";
            collect_records(method.result(), records, true);
        } else {
            out += "\nResult: " + std::string(method.result().doc) + "\n\n" + fields_table(method.result(), false);
            collect_records(method.result(), records, false);
        }
        collect_records(method.params(), records, false);
    }
    out += "\n## Records\n";
    for (const TypeInfo* record : records)
        out += "\n<a id=\"" + std::string(record->name) + "\"></a>\n### " + std::string(record->name) + "\n\n" + std::string(record->doc) + "\n\n" +
               fields_table(*record, false);
    return out;
}

}  // namespace pyro::proto
