// Which tools there are and what clients are told of them: the method tables, and what this protocol changes of them.
#pragma once
#include "client/mcp/options.hpp"
#include "client/mcp/protocol/server.hpp"
#include "proto/method.hpp"

#include <span>
#include <string_view>
#include <vector>

namespace pyro::shim {

// A field that a model is told something else of than the table says.
struct FieldChange {
    std::string_view name;
    std::string_view doc = {};
    std::optional<std::int64_t> value = {};  // its default
    std::optional<std::int64_t> max = {};
    bool required = false;
};

struct ToolSpec {
    std::string_view name;
    std::string_view title;
    std::string_view description;
    std::vector<std::string_view> left_out = {};       // of the method's fields, in every profile
    std::vector<std::string_view> full_only = {};      // those that workspace-full has
    std::vector<FieldChange> changes = {};
    const proto::TypeInfo& (*own)() = nullptr;         // fields that the daemon never sees
    const proto::TypeInfo& (*result)() = nullptr;      // instead of the method's
    const proto::TypeInfo& (*result_more)() = nullptr; // beside the result
    std::string_view handle = {};                      // the field by which a call that took too long is repeated; none: it never does
    bool idempotent = false;
    std::optional<bool> read_only = {}, destructive = {};  // where what the table says is of the daemon alone
};

const ToolSpec& spec_of(std::string_view tool);
const proto::MethodInfo& method_of(std::string_view tool);
std::vector<std::string_view> tools_of(const ServeOptions& options);

mcp::ordered_json input_schema(const ToolSpec& spec, const ServeOptions& options);
mcp::ordered_json output_schema(const ToolSpec& spec);
mcp::Tool definition(std::string_view tool, const ServeOptions& options);  // all but what it does

// A result of the daemon as the schema above has it: in the tables' order, without what models have no use for.
mcp::ordered_json shaped(const proto::TypeInfo& type, const mcp::json& result);

// The fields that the daemon never sees.
struct RunOwn {
    static constexpr std::string_view doc = "vm_run, vm_exec";
    std::optional<std::string> run_id;
    static constexpr auto fields() { return std::array{proto::field<&RunOwn::run_id>("run_id", "From an answer with state running: wait on for that run")}; }
};
struct MayTakeLong {
    std::optional<std::string> operation_id;
    template <class R>
    static constexpr auto fields_in() {
        return std::array{proto::field<&MayTakeLong::operation_id, R>("operation_id", "From an answer with this: wait on")};
    }
};
struct Repeated : MayTakeLong {
    static constexpr std::string_view doc = "Tools without fields of their own";
    static constexpr auto fields() { return fields_in<Repeated>(); }
};
struct CreateOwn : MayTakeLong {
    static constexpr std::string_view doc = "workspace_create";
    std::optional<std::string> seed_path;
    static constexpr auto fields() {
        return proto::join(
            std::array{proto::field<&CreateOwn::seed_path>("seed_path", "Host directory, tar or Git checkout to fill /workspace from; default: the project; \"\": nothing")},
            fields_in<CreateOwn>());
    }
};
struct PushOwn : MayTakeLong {
    static constexpr std::string_view doc = "workspace_sync_push";
    std::string source_path;
    static constexpr auto fields() {
        return proto::join(std::array{proto::field<&PushOwn::source_path>("source_path", "Host directory, tar or Git checkout")}, fields_in<PushOwn>());
    }
};
struct ExportOwn : MayTakeLong {
    static constexpr std::string_view doc = "workspace_export";
    std::string output_path;
    bool overwrite = false;
    static constexpr auto fields() {
        return proto::join(
            std::array{proto::field<&ExportOwn::output_path>("output_path", "Host file or directory to write, below the project; *.tar.zst: an archive; *.patch: the diff"),
                       proto::field<&ExportOwn::overwrite>("overwrite", "Replace files that are there", {.defaulted = true})},
            fields_in<ExportOwn>());
    }
};
struct WriteOwn : MayTakeLong {
    static constexpr std::string_view doc = "workspace_file_write";
    std::string text;
    static constexpr auto fields() { return proto::join(std::array{proto::field<&WriteOwn::text>("text", "The whole file")}, fields_in<WriteOwn>()); }
};
struct PatchOwn : MayTakeLong {
    static constexpr std::string_view doc = "workspace_patch_apply";
    std::string patch;
    static constexpr auto fields() { return proto::join(std::array{proto::field<&PatchOwn::patch>("patch", "Unified diff in git's format")}, fields_in<PatchOwn>()); }
};
struct LogsOwn {
    static constexpr std::string_view doc = "workspace_logs";
    std::optional<std::string> cursor;
    bool keep_ansi = false;
    static constexpr auto fields() {
        return std::array{proto::field<&LogsOwn::cursor>("cursor", "From the answer before; default: the beginning"),
                          proto::field<&LogsOwn::keep_ansi>("keep_ansi", "Leave terminal escape sequences in", {.defaulted = true})};
    }
};

// What answers have beside the daemon's fields.
struct Noted {
    std::vector<std::string> notes;
    template <class R>
    static constexpr auto fields_in() {
        return std::array{proto::field<&Noted::notes, R>("notes", "What was left out or changed")};
    }
};
struct StillMade {
    static constexpr std::string_view doc = "A workspace that a create of this server is still making";
    std::optional<std::string> operation_id, phase;
    static constexpr auto fields() {
        return std::array{proto::field<&StillMade::operation_id>("operation_id", "Of that create"), proto::field<&StillMade::phase>("phase", "How far it is")};
    }
};
struct GoesOn {
    std::optional<std::string> state, operation_id, phase;
    template <class R>
    static constexpr auto fields_in() {
        return std::array{proto::field<&GoesOn::state, R>("state", "running or creating: it goes on"), proto::field<&GoesOn::operation_id, R>("operation_id", "Repeat the call with this"),
                          proto::field<&GoesOn::phase, R>("phase", "How far it is")};
    }
};
struct Goes : GoesOn {
    static constexpr std::string_view doc = "Where there is nothing to note";
    static constexpr auto fields() { return fields_in<Goes>(); }
};
struct GoesNoted : GoesOn, Noted {
    static constexpr std::string_view doc = "Where there is";
    static constexpr auto fields() { return proto::join(GoesOn::fields_in<GoesNoted>(), Noted::fields_in<GoesNoted>()); }
};
struct RunGoes : Noted {
    static constexpr std::string_view doc = "A run in a machine of its own";
    std::optional<std::string> state, run_id, cursor, phase;
    static constexpr auto fields() {
        return proto::join(std::array{proto::field<&RunGoes::state>("state", "running or exited"), proto::field<&RunGoes::run_id>("run_id", "It goes on: repeat the call with this"),
                                      proto::field<&RunGoes::cursor>("cursor", "Bytes of stdout:stderr so far"), proto::field<&RunGoes::phase>("phase", "How far it is")},
                           fields_in<RunGoes>());
    }
};
struct ExecMore : Noted {
    static constexpr std::string_view doc = "A command of a workspace";
    std::optional<std::string> cursor;
    static constexpr auto fields() {
        return proto::join(std::array{proto::field<&ExecMore::cursor>("cursor", "There is or will be more: for workspace_logs")}, fields_in<ExecMore>());
    }
};
struct ReadMore : GoesOn {
    static constexpr std::string_view doc = "A file";
    std::optional<std::int64_t> next_offset;
    static constexpr auto fields() {
        return proto::join(std::array{proto::field<&ReadMore::next_offset>("next_offset", "There is more: offset of the next call")}, fields_in<ReadMore>());
    }
};
struct DiffMore : GoesOn, Noted {
    static constexpr std::string_view doc = "A diff";
    std::optional<std::string> patch;
    static constexpr auto fields() {
        return proto::join(std::array{proto::field<&DiffMore::patch>("patch", "For git apply")}, Noted::fields_in<DiffMore>(), GoesOn::fields_in<DiffMore>());
    }
};
struct Exported : GoesOn, Noted {
    static constexpr std::string_view doc = "What was written on the host.";
    std::string workspace_id, output_path;
    std::int64_t files = 0, directories = 0, symlinks = 0, bytes = 0;
    static constexpr auto fields() {
        return proto::join(std::array{proto::field<&Exported::workspace_id>("workspace_id", "The workspace"), proto::field<&Exported::output_path>("output_path", "Where it is"),
                                      proto::field<&Exported::files>("files", "Files"), proto::field<&Exported::directories>("directories", "Directories"),
                                      proto::field<&Exported::symlinks>("symlinks", "Symbolic links"), proto::field<&Exported::bytes>("bytes", "Bytes of the files")},
                           Noted::fields_in<Exported>(), GoesOn::fields_in<Exported>());
    }
};

}  // namespace pyro::shim
