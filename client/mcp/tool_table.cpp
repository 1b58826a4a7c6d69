#include "client/mcp/tool_table.hpp"

#include "proto/api.hpp"
#include "proto/codec.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>

namespace pyro::shim {

using mcp::json;
using mcp::ordered_json;
using proto::FieldInfo;
using proto::Kind;
using proto::TypeInfo;
using proto::type_of;

namespace {

// What models have no use for, by record. The same is left out of results and of their schemas.
struct LeftOut {
    std::string_view record;
    std::vector<std::string_view> fields;
};
const std::vector<LeftOut>& left_out_of_results() {
    static const std::vector<LeftOut> all{
        {"WorkspaceInfo", {"environment_digest", "start", "vcpu_count", "mem_mib", "disk_gib", "network_policy", "created_at", "idle_seconds", "seed_digest"}},
        {"ExecInfo", {"workspace_id", "cwd", "user", "tty", "exec_error", "cancelled", "oom", "stdout_total", "stderr_total", "stdout_elided", "stderr_elided"}},
        {"ExecReport", {"argv", "cwd", "user", "tty", "cancelled", "started_at", "stdout_total", "stderr_total", "stdout_elided", "stderr_elided"}},
        {"RunReport", {"vm_id", "start", "environment", "environment_digest"}},
        {"SeedInfo", {"files", "bytes", "skipped"}},  // the daemon has them as they were known beforehand
        {"FileEntry", {"modified_at"}},
        {"TransferResult", {"stdout_bytes"}},
        {"WorkspaceDiffResult", {"stdout_bytes"}},
        {"WorkspaceSummaryResult", {"execs_total"}},
    };
    return all;
}

bool is_left_out(const TypeInfo& record, std::string_view field) {
    for (const LeftOut& one : left_out_of_results())
        if (one.record == record.name) return std::find(one.fields.begin(), one.fields.end(), field) != one.fields.end();
    return false;
}

constexpr std::string_view handle_doc = "Id or name";

const std::vector<ToolSpec>& specs() {
    using namespace proto;
    using Fields = const TypeInfo& (*)();
    const Fields repeated = &type_of<Repeated>, goes = &type_of<Goes>, noted = &type_of<GoesNoted>;
    static const std::vector<ToolSpec> all{
        {.name = "vm_run", .title = "Run once",
         .description = "Run one command in a fresh Linux microVM without network and throw the VM away. Nothing of the project is in it and nothing is kept: to work on files use workspace_create. "
                        "A non-zero exit_code is a result, not a failure. Over 45 s it answers state running and a run_id: repeat with that.",
         .left_out = {"argv", "interactive", "tty", "cols", "rows", "start", "network", "ttl_seconds"}, .full_only = {"disk_gib", "env", "workdir", "user"},
         .changes = {{.name = "command", .doc = "Shell command line", .required = true}, {.name = "environment", .doc = "Catalog name such as debian:12, or OCI image"},
                     {.name = "timeout_seconds", .doc = "Time for the command"}, {.name = "allow_host_compat", .doc = "Sandbox on the host if no VM can boot; only where this server allows it"}},
         .own = &type_of<RunOwn>, .result = &type_of<RunReport>, .result_more = &type_of<RunGoes>, .handle = "run_id"},
        {.name = "workspace_create", .title = "Create a workspace",
         .description = "Create a workspace: a Linux machine that stays, without network, with the project's tracked files in /workspace. Its id (or name) is for the other tools and lives until workspace_delete, "
                        "its ttl or the user ends it, also over restarts of this server. Next: workspace_exec.",
         .left_out = {"network_policy", "start", "seed", "seed_digest"}, .full_only = {"idle_seconds", "disk_gib"},
         .changes = {{.name = "environment", .doc = "Catalog name such as debian:12, or OCI image"}, {.name = "name", .doc = "Name to call it by, unique"}, {.name = "labels", .doc = "For your own use"},
                     {.name = "ttl_seconds", .doc = "Delete it after so long"}},
         .own = &type_of<CreateOwn>, .result_more = noted, .handle = "operation_id"},
        {.name = "workspace_list", .title = "List workspaces", .description = "List the user's workspaces, newest activity first.",
         .changes = {{.name = "labels", .doc = "Only those with these"}}, .idempotent = true},
        {.name = "workspace_update", .title = "Rename or relabel", .description = "Change a workspace's name, labels or lifetime.", .full_only = {"idle_seconds"},
         .changes = {{.name = "ttl_seconds", .doc = "Delete it so long from now; 0: never"}, {.name = "labels", .doc = "Set these"}, {.name = "clear_labels", .doc = "Remove these"}, {.name = "clear_name", .doc = "Remove its name"}},
         .idempotent = true},
        {.name = "workspace_status", .title = "Workspace status", .description = "State of one workspace. A stopped one starts by itself when it is used.",
         .changes = {{.name = "workspace_id", .doc = "Id, name, or operation_id of workspace_create"}, {.name = "wait_seconds", .doc = "While it is creating, wait up to so long", .max = 45}},
         .result_more = &type_of<StillMade>, .idempotent = true},
        {.name = "workspace_summary", .title = "What happened so far", .description = "Commands run and files changed since the workspace was created or reset.",
         .own = repeated, .result_more = noted, .handle = "operation_id", .idempotent = true},
        {.name = "workspace_sync_push", .title = "Copy host files in", .description = "Copy a directory, tar or checkout from the host into a workspace, all or nothing. To start from the project, use workspace_create.",
         .changes = {{.name = "dest", .doc = "Directory in /workspace; made if missing"}}, .own = &type_of<PushOwn>, .result_more = goes, .handle = "operation_id", .idempotent = true, .destructive = false},
        {.name = "workspace_exec", .title = "Run a command",
         .description = "Run a shell command in /workspace and return its output and exit_code. A non-zero exit_code is a result. Over 45 s it answers state running with exec_id, the output so far and a cursor, and the command goes on: "
                        "wait with workspace_logs, stop it with workspace_exec_cancel. Long output is cut in the middle; workspace_logs has all of it.",
         .left_out = {"argv", "interactive", "tty", "detach", "cols", "rows"}, .full_only = {"user"},
         .changes = {{.name = "command", .doc = "Shell command line", .required = true}, {.name = "timeout_seconds", .doc = "Kill it after so long; 0: never", .value = 30}, {.name = "env", .doc = "Environment variables"},
                     {.name = "cwd", .doc = "Directory, relative to /workspace"}},
         .result = &type_of<ExecReport>, .result_more = &type_of<ExecMore>, .destructive = false},
        {.name = "workspace_exec_cancel", .title = "Stop a command", .description = "Kill a running command with all its processes, or send it a signal.", .changes = {{.name = "exec_id", .doc = "Of workspace_exec"}}, .idempotent = true},
        {.name = "workspace_logs", .title = "Output of a command",
         .description = "Output of a command from cursor on, and how it ended. wait_seconds is the way to wait for a running one. Answers a cursor while there is or will be more.",
         .left_out = {"follow", "stdout_offset", "stderr_offset"}, .changes = {{.name = "exec_id", .doc = "Default: the last command"}, {.name = "wait_seconds", .doc = "Wait up to so long for its end", .max = 45}},
         .own = &type_of<LogsOwn>, .result = &type_of<ExecReport>, .result_more = &type_of<ExecMore>, .idempotent = true},
        {.name = "workspace_file_list", .title = "List files", .description = "List a directory of a workspace.", .left_out = {"limit"},
         .changes = {{.name = "recursive", .doc = "Everything below it too"}, {.name = "cursor", .doc = "next_cursor of the answer before"}},
         .own = repeated, .result_more = goes, .handle = "operation_id", .idempotent = true},
        {.name = "workspace_file_read", .title = "Read a file", .description = "Read a text file of a workspace; binary content comes as base64. For big files go on at next_offset, or use workspace_export.",
         .changes = {{.name = "max_bytes", .value = 24 << 10, .max = 1 << 20}},
         .own = repeated, .result = &type_of<FileReport>, .result_more = &type_of<ReadMore>, .handle = "operation_id", .idempotent = true},
        {.name = "workspace_file_write", .title = "Write a file", .description = "Create or replace a file of a workspace with a text; missing directories are made. To change a part of a file use workspace_patch_apply.", .full_only = {"mode"},
         .own = &type_of<WriteOwn>, .result_more = goes, .handle = "operation_id", .idempotent = true, .destructive = false},
        {.name = "workspace_patch_apply", .title = "Apply a patch",
         .description = "Apply a patch to /workspace, to all of its files or to none. Exact, no fuzz: a hunk that does not fit is refused with what is there; read the file and mend the patch.",
         .own = &type_of<PatchOwn>, .result_more = goes, .handle = "operation_id", .destructive = false},
        {.name = "workspace_diff", .title = "What changed", .description = "What changed in /workspace since the workspace was created: a patch for git apply. Build output shows up too: give the paths you care for.",
         .left_out = {"max_bytes"}, .full_only = {"verify"}, .changes = {{.name = "paths", .doc = "Only these and what is below them"}},
         .own = repeated, .result_more = &type_of<DiffMore>, .handle = "operation_id", .idempotent = true},
        {.name = "workspace_export", .title = "Copy files out", .description = "Write a file or directory of a workspace to the user's host, below the project. Refuses existing files without overwrite, and never writes into .git.",
         .own = &type_of<ExportOwn>, .result = &type_of<Exported>, .handle = "operation_id", .read_only = false, .destructive = true},
        {.name = "workspace_reset", .title = "Start over", .description = "Bring a workspace back to what it was created with, whole disk. Changes, commands and logs are gone; id and name stay.",
         .own = repeated, .result_more = goes, .handle = "operation_id", .idempotent = true},
        {.name = "workspace_delete", .title = "Delete a workspace", .description = "Delete a workspace and everything in it, when its work is done.",
         .own = repeated, .result_more = goes, .handle = "operation_id", .idempotent = true},
        {.name = "workspace_start", .title = "Start a workspace", .description = "Start a stopped workspace. Other tools do so by themselves.", .own = repeated, .result_more = goes, .handle = "operation_id", .idempotent = true},
        {.name = "workspace_stop", .title = "Stop a workspace", .description = "Stop a workspace: its commands end, what is on its disk stays.", .own = repeated, .result_more = goes, .handle = "operation_id", .idempotent = true},
        {.name = "vm_list_environments", .title = "List environments", .description = "List the environments that machines can be made of.", .idempotent = true},
        {.name = "vm_create", .title = "Create a VM", .description = "Create a one-shot VM without starting it. It lives until vm_exec, vm_delete or its ttl. Most want vm_run.", .left_out = {"network"},
         .changes = {{.name = "environment", .doc = "Catalog name such as debian:12, or OCI image"}, {.name = "allow_host_compat", .doc = "Sandbox on the host if no VM can boot; only where this server allows it"}},
         .own = repeated, .result_more = goes, .handle = "operation_id"},
        {.name = "vm_start", .title = "Start a VM", .description = "Start a created VM and wait until it takes commands.", .own = repeated, .result_more = goes, .handle = "operation_id", .idempotent = true},
        {.name = "vm_exec", .title = "Run in a VM", .description = "Run one command in a created VM; the VM is removed afterwards. Over 45 s it answers state running and a run_id: repeat with that.",
         .left_out = {"argv", "interactive", "tty", "cols", "rows"}, .changes = {{.name = "command", .doc = "Shell command line", .required = true}, {.name = "timeout_seconds", .doc = "Time for the command"}},
         .own = &type_of<RunOwn>, .result = &type_of<RunReport>, .result_more = &type_of<RunGoes>, .handle = "run_id"},
        {.name = "vm_stop", .title = "Stop a VM", .description = "Stop a running VM. Its disk stays until it is deleted or expires.", .own = repeated, .result_more = goes, .handle = "operation_id", .idempotent = true},
        {.name = "vm_delete", .title = "Delete a VM", .description = "Delete a VM and everything it holds.", .own = repeated, .result_more = goes, .handle = "operation_id", .idempotent = true},
        {.name = "vm_status", .title = "VM status", .description = "Show one VM.", .idempotent = true},
        {.name = "vm_network_info", .title = "Network of a VM", .description = "Show the network of a VM.", .idempotent = true},
        {.name = "vm_reap_expired", .title = "Remove expired VMs", .description = "Delete the user's VMs that are past their time.", .idempotent = true},
    };
    return all;
}

constexpr std::string_view core[] = {"vm_run", "workspace_create", "workspace_list", "workspace_update", "workspace_status", "workspace_summary", "workspace_sync_push",
                                     "workspace_exec", "workspace_exec_cancel", "workspace_logs", "workspace_file_list", "workspace_file_read", "workspace_file_write",
                                     "workspace_patch_apply", "workspace_diff", "workspace_export", "workspace_reset", "workspace_delete"};
constexpr std::string_view inspect[] = {"workspace_create", "workspace_status", "workspace_file_list", "workspace_file_read", "workspace_exec", "workspace_exec_cancel",
                                        "workspace_logs", "workspace_export", "workspace_delete"};
constexpr std::string_view full_only[] = {"workspace_start", "workspace_stop", "vm_list_environments", "vm_create", "vm_start", "vm_exec", "vm_stop", "vm_delete", "vm_status",
                                          "vm_network_info", "vm_reap_expired"};

// A mode says what a tool is for in it.
struct ModeDescription {
    Mode mode;
    std::string_view tool, description;
};
constexpr ModeDescription mode_descriptions[] = {
    {Mode::repro_fix, "workspace_create", "Begin: a Linux machine without network, with the project's tracked files in /workspace, as they are on the host now. One for each attempt, or one that is reset. "
                                          "Its id (or name) lives until workspace_delete. Next: run the failing command with workspace_exec."},
    {Mode::repro_fix, "workspace_exec", "Reproduce the failure, and prove the fix: run a shell command in /workspace. A non-zero exit_code is a result. Over 45 s it answers state running with exec_id, the output so far and a cursor, "
                                        "and the command goes on: wait with workspace_logs, stop it with workspace_exec_cancel."},
    {Mode::repro_fix, "workspace_patch_apply", "Fix: apply a patch to /workspace, to all of its files or to none. Exact, no fuzz: a hunk that does not fit is refused with what is there."},
    {Mode::repro_fix, "workspace_diff", "Hand over: the fix as a patch for git apply, against what the workspace was created with. Give the paths that belong to it, for build output shows up too."},
    {Mode::repro_fix, "workspace_reset", "Another attempt: back to what the workspace was created with. Changes, commands and logs are gone; id and name stay."},
    {Mode::repro_fix, "workspace_export", "Write the fix to the host: output_path ending in .patch takes the diff. Refuses existing files without overwrite, and never writes into .git."},
    {Mode::inspect, "workspace_create", "Begin: a throw-away Linux machine without network, with the project's tracked files in /workspace to look at and run. Its id (or name) lives until workspace_delete. Next: workspace_file_list, workspace_exec."},
    {Mode::inspect, "workspace_exec", "Look closer: run a shell command in /workspace, such as a search or the project's own tools. What it changes stays in the workspace. Over 45 s it answers state running with exec_id and a cursor: "
                                      "wait with workspace_logs, stop it with workspace_exec_cancel."},
    {Mode::inspect, "workspace_export", "Keep a finding: write a file or directory of the workspace to the user's host, below the project. Refuses existing files without overwrite, and never writes into .git."},
};

bool contains(const std::vector<std::string_view>& names, std::string_view name) { return std::find(names.begin(), names.end(), name) != names.end(); }

// Calls `use(field, defaults)` for each field of a record.
template <class Use>
void for_each_field(const TypeInfo& record, Use use) {
    struct Walk { const TypeInfo& record; Use& use; } walk{record, use};
    record.construct_default([](const void* defaults, void* context) {
        auto& w = *static_cast<Walk*>(context);
        for (const FieldInfo& field : w.record.fields) w.use(field, defaults);
    }, &walk);
}

// Without bounds on lengths: the daemon checks them, and no model counts bytes.
ordered_json input_field(const FieldInfo& field, const void* defaults, const FieldChange* change) {
    ordered_json schema = proto::field_schema(field, defaults);
    for (const char* key : {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"}) schema.erase(key);
    if (schema.contains("default") && schema["default"].is_structured()) schema.erase("default");
    if (change && !change->doc.empty()) schema["description"] = change->doc;
    else if (field.name == "workspace_id") schema["description"] = handle_doc;
    if (change && change->value) schema["default"] = *change->value;
    if (change && change->max) schema["maximum"] = *change->max;
    return schema;
}

ordered_json output_type(const TypeInfo& type);

// Names and types: what they mean is said where a model reads it, in descriptions of tools. None is required, for a call that goes
// on answers with others than one that is done.
ordered_json output_fields(const TypeInfo& record) {
    ordered_json properties = ordered_json::object();
    for (const FieldInfo& field : record.fields) {
        if (is_left_out(record, field.name)) continue;
        properties[std::string(field.name)] = output_type(field.type());
    }
    return properties;
}

ordered_json output_type(const TypeInfo& type) {
    if (type.kind == Kind::record) return {{"type", "object"}, {"properties", output_fields(type)}};
    if (type.kind == Kind::list) return {{"type", "array"}, {"items", output_type(type.element())}};
    return proto::schema(type);
}

}  // namespace

const ToolSpec& spec_of(std::string_view tool) {
    const auto found = std::find_if(specs().begin(), specs().end(), [&](const ToolSpec& spec) { return spec.name == tool; });
    PYRO_CHECK(found != specs().end());
    return *found;
}

const proto::MethodInfo& method_of(std::string_view tool) {
    const auto methods = proto::Api::list();
    const auto found = std::find_if(methods.begin(), methods.end(), [&](const proto::MethodInfo& method) { return method.traits.mcp == tool; });
    PYRO_CHECK(found != methods.end());
    return *found;
}

std::vector<std::string_view> tools_of(const ServeOptions& options) {
    if (options.mode == Mode::inspect) return {std::begin(inspect), std::end(inspect)};
    if (options.mode == Mode::repro_fix) return {std::begin(core) + 1, std::end(core)};
    if (options.profile == Profile::vm_run) return {core[0]};
    std::vector<std::string_view> tools(std::begin(core), std::end(core));
    if (options.profile == Profile::workspace_full) tools.insert(tools.end(), std::begin(full_only), std::end(full_only));
    return tools;
}

ordered_json input_schema(const ToolSpec& spec, const ServeOptions& options) {
    const bool full = options.mode == Mode::none && options.profile == Profile::workspace_full;
    ordered_json properties = ordered_json::object(), required = ordered_json::array();
    const auto add = [&](const FieldInfo& field, const void* defaults) {
        if (contains(spec.left_out, field.name) || (!full && contains(spec.full_only, field.name))) return;
        const auto change = std::find_if(spec.changes.begin(), spec.changes.end(), [&](const FieldChange& one) { return one.name == field.name; });
        const FieldChange* changed = change == spec.changes.end() ? nullptr : &*change;
        const std::string name(field.name);
        properties[name] = input_field(field, defaults, changed);
        const bool has_default = name == "environment" && !options.environment.empty();
        if (has_default) properties[name]["default"] = options.environment;
        if ((field.required() && !has_default) || (changed && changed->required)) required.push_back(name);
    };
    for_each_field(method_of(spec.name).params(), add);
    if (spec.own) for_each_field(spec.own(), add);
    ordered_json schema{{"type", "object"}, {"properties", std::move(properties)}};
    if (!required.empty()) schema["required"] = std::move(required);
    schema["additionalProperties"] = false;
    return schema;
}

ordered_json output_schema(const ToolSpec& spec) {
    ordered_json properties = output_fields(spec.result ? spec.result() : method_of(spec.name).result());
    if (spec.result_more) properties.update(output_fields(spec.result_more()));
    return {{"type", "object"}, {"properties", std::move(properties)}};
}

mcp::Tool definition(std::string_view tool, const ServeOptions& options) {
    const ToolSpec& spec = spec_of(tool);
    const proto::MethodInfo& method = method_of(tool);
    mcp::Tool out{.name = std::string(spec.name), .title = std::string(spec.title), .description = std::string(spec.description),
                  .input_schema = input_schema(spec, options), .output_schema = output_schema(spec),
                  .annotations = {.read_only = spec.read_only.value_or(method.traits.read_only), .destructive = spec.destructive.value_or(method.traits.destructive),
                                  .idempotent = spec.idempotent, .open_world = false},
                  .run = {}};
    // A client that cuts long results is told that this one may be long because it was asked to be.
    if (tool == "workspace_file_read") out.meta = {{"anthropic/maxResultSizeChars", 500'000}};
    for (const auto& [mode, name, description] : mode_descriptions)
        if (mode == options.mode && name == tool) out.description = description;
    return out;
}

ordered_json shaped(const TypeInfo& type, const json& value) {
    if (type.kind == Kind::list && value.is_array()) {
        ordered_json out = ordered_json::array();
        for (const json& item : value) out.push_back(shaped(type.element(), item));
        return out;
    }
    if (type.kind != Kind::record || !value.is_object()) return value;
    ordered_json out = ordered_json::object();
    for (const FieldInfo& field : type.fields) {
        const auto found = value.find(std::string(field.name));
        if (found != value.end() && !is_left_out(type, field.name)) out[std::string(field.name)] = shaped(field.type(), *found);
    }
    return out;
}

}  // namespace pyro::shim
