// Files and patches: into workspaces, out of them, and as text.
#include "client/lib/capture.hpp"
#include "client/mcp/shim.hpp"
#include "client/mcp/text.hpp"
#include "client/transfer/export_stream.hpp"
#include "client/transfer/host_source.hpp"
#include "client/transfer/new_file.hpp"
#include "proto/codec.hpp"
#include "proto/exec.hpp"
#include "proto/file.hpp"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

namespace pyro::shim {

using client::HostSource;
using client::NewFile;
using client::seed::PackedCache;
using client::seed::SourceKind;

namespace {

constexpr std::size_t most_skips = 10;
constexpr std::string_view workspace_root = "/workspace/";
constexpr const char* overwrite = "overwrite:true";

UniqueFd in_memory(std::string_view text) {
    UniqueFd memory(::memfd_create("text", MFD_CLOEXEC));
    if (!memory) throw Error::from_errno("keep the text");
    write_all(memory.get(), text);
    ::lseek(memory.get(), 0, SEEK_SET);
    return memory;
}

// A source that a call names.
struct Named {
    HostPaths::Found found;
    std::optional<HostSource> source;

    Named(const HostPaths& paths, const std::string& path) : found(paths.source(path)) {
        // A .git by itself would bring configuration and credentials along: its checkout is meant.
        const bool git = is_git_name(std::string_view(found.shown).substr(found.shown.rfind('/') + 1));
        source.emplace(found.path, PackedCache({}), found.shown, git ? std::optional(SourceKind::checkout) : std::nullopt);
    }
};

std::vector<std::string> skips(const client::seed::Packed& taken) {
    std::vector<std::string> notes;
    for (const auto& skipped : taken.skipped) {
        if (notes.size() == most_skips) break;
        notes.push_back("left out " + client::seed::printable(skipped.path) + ": " + skipped.reason);
    }
    if (taken.skipped_count > notes.size()) notes.push_back("left out " + std::to_string(taken.skipped_count - notes.size()) + " more");
    return notes;
}

mcp::ToolResult create(Operation& operation, const Request& request) {
    const auto own = request.own_as<CreateOwn>();
    std::vector<std::string> notes;
    std::optional<Named> named;
    std::optional<ProjectSource::Taken> project;
    std::optional<HostSource> of_project;
    if (own.seed_path && !own.seed_path->empty()) {
        named.emplace(request.shim.paths, *own.seed_path);
    } else if (!own.seed_path) {
        std::string why;
        project = request.shim.project.take(why, [&](std::string phase) { operation.enter(std::move(phase)); }, operation.stopped());
        if (project) of_project.emplace(project->path, PackedCache(project->cached ? PackedCache::usual_directory() : ""), project->shown, project->kind);
        else notes.push_back("/workspace is empty: " + why);
    }
    HostSource* source = named ? &*named->source : of_project ? &*of_project : nullptr;
    Request asked = request;
    client::Streams streams;
    if (source) {
        asked.params["seed"] = proto::to_wire(source->info());
        if (const auto digest = source->digest()) asked.params["seed_digest"] = digest->str();
        source->connect(streams);
    }
    const json made = asked.call(operation, source ? &streams : nullptr);
    ordered_json result = shaped(request.method.result(), made);
    if (source) {
        notes = skips(source->taken());
        result["seed"] = proto::to_wire(source->info());  // more than was known when it was asked for
    }
    if (!notes.empty()) result["notes"] = notes;
    return mcp::ToolResult::data(std::move(result));
}

mcp::ToolResult push(Operation& operation, const Request& request) {
    Named named(request.shim.paths, request.own_as<PushOwn>().source_path);
    client::Streams streams;
    named.source->connect(streams);
    ordered_json result = shaped(request.method.result(), request.call(operation, &streams));
    for (std::string& note : skips(named.source->taken())) result["notes"].push_back(std::move(note));
    fit(result);
    return mcp::ToolResult::data(std::move(result));
}

// Text that a call brings.
mcp::ToolResult upload(Operation& operation, const Request& request, const std::string& text) {
    const UniqueFd source = in_memory(text);
    client::Streams streams;
    streams.in = source.get();
    streams.upload = true;
    ordered_json result = shaped(request.method.result(), request.call(operation, &streams));
    fit(result);
    return mcp::ToolResult::data(std::move(result));
}

mcp::ToolResult write(Operation& operation, const Request& request) { return upload(operation, request, request.own_as<WriteOwn>().text); }
mcp::ToolResult apply(Operation& operation, const Request& request) { return upload(operation, request, request.own_as<PatchOwn>().patch); }

mcp::ToolResult list(Operation& operation, const Request& request) {
    Request asked = request;
    // Names may be long: then fewer of them.
    for (int limit = 200;; limit = std::max(limit / 4, 1)) {
        asked.params["limit"] = limit;
        ordered_json result = shaped(request.method.result(), asked.call(operation));
        if (limit > 1 && result.dump(-1, ' ', false, ordered_json::error_handler_t::replace).size() > most_shown) continue;
        return mcp::ToolResult::data(std::move(result));
    }
}

mcp::ToolResult read(Operation& operation, const Request& request) {
    std::string content;
    client::Streams streams;
    streams.out.whole = &content;
    const auto info = proto::from_wire<proto::FileReadResult>(request.call(operation, &streams), proto::Unknown::ignore);
    proto::FileReport report;
    static_cast<proto::FileReadInfo&>(report) = info;
    // A character that the end went through is for the next call.
    if (const std::size_t later = info.truncated ? unfinished_character(content) : 0; later > 0 && later < content.size() &&
        client::is_valid_utf8(std::string_view(content).substr(0, content.size() - later)))
        content.resize(content.size() - later);
    const auto next = report.offset + static_cast<std::int64_t>(content.size());
    const bool text = client::is_valid_utf8(content);
    report.encoding = text ? "utf-8" : "base64";
    report.content = text ? std::move(content) : mcp::base64(content);
    ordered_json result = shaped(proto::type_of<proto::FileReport>(), proto::to_wire(report));
    if (!info.truncated) return mcp::ToolResult::data(std::move(result));
    result["next_offset"] = next;
    const std::string path = result.value("path", "");
    const std::string below = path.starts_with(workspace_root) ? path.substr(workspace_root.size()) : path;
    return linked(std::move(result), {.uri = workspace_uri(request.params["workspace_id"], "files/" + below), .name = below, .size = static_cast<std::uint64_t>(info.size)});
}

mcp::ToolResult diff(Operation& operation, const Request& request) {
    constexpr std::size_t kept = 4u << 20;
    std::string patch;
    std::uint64_t bytes = 0;
    client::Streams streams;
    streams.out.take = [&](std::string_view more) {
        bytes += more.size();
        patch += more.substr(0, kept - std::min(kept, patch.size()));
    };
    ordered_json result = shaped(request.method.result(), request.call(operation, &streams));
    std::size_t left_out = 0;
    result["patch"] = fitting_patch(client::valid_utf8(patch), most_shown * 3 / 4, left_out);
    if (left_out > 0 || bytes > patch.size())
        result["notes"].push_back("the patch has " + std::to_string(bytes) + " bytes; those of " + (bytes > patch.size() ? "many" : std::to_string(left_out)) +
                                  " files are left out: ask with paths, or workspace_export to an output_path ending in .patch");
    if (!client::is_valid_utf8(patch)) result["notes"].push_back("bytes that are no UTF-8 were replaced: this patch does not apply; workspace_export to a .patch has them");
    fit(result, {"patch"});
    if (left_out == 0 && bytes == patch.size()) return mcp::ToolResult::data(std::move(result));
    const std::string uri = workspace_uri(result.value("workspace_id", ""), "diff");
    return linked(std::move(result), {.uri = uri, .name = "diff", .title = "What changed", .mime_type = "text/x-diff", .size = bytes});
}

// workspace.diff into a file.
ordered_json export_patch(Operation& operation, const Request& request, const ExportOwn& own, const HostPaths::Found& to) {
    const auto asked = proto::from_wire<proto::WorkspaceExportParams>(request.params);
    proto::WorkspaceDiffParams params;
    params.workspace_id = asked.workspace_id;
    if (!client::export_prefix(asked.path).empty()) params.paths.push_back(asked.path);
    NewFile file(to.path, own.overwrite, overwrite, to.shown);
    client::Streams streams;
    streams.out.fd = file.fd();
    const auto result = proto::from_wire<proto::WorkspaceDiffResult>(operation.call(request.shim.options.socket, proto::WorkspaceDiff::name, proto::to_wire(params), &streams), proto::Unknown::ignore);
    file.place();
    return {{"workspace_id", result.workspace_id}, {"output_path", to.shown}, {"files", 1}, {"directories", 0}, {"symlinks", 0}, {"bytes", result.stdout_bytes}};
}

mcp::ToolResult take_out(Operation& operation, const Request& request) {
    const auto own = request.own_as<ExportOwn>();
    const HostPaths::Found to = request.shim.paths.destination(own.output_path);
    if (own.output_path.ends_with(".patch")) return linked(export_patch(operation, request, own, to), host_file(to.shown));
    const bool archive = own.output_path.ends_with(".tar.zst");
    client::seed::UnpackOptions options;
    options.force = own.overwrite;
    options.follow = false;
    options.prefix = client::export_prefix(proto::from_wire<proto::WorkspaceExportParams>(request.params).path);
    // Whoever runs git in a directory obeys what its .git says: what a guest wrote there stays in the guest, or in an archive.
    if (!archive) options.leave_out = &leads_into_git;
    struct stat info {};
    const bool there = ::lstat(to.path.c_str(), &info) == 0;
    if (there && !own.overwrite && (archive || !S_ISDIR(info.st_mode))) throw NewFile::exists_already(to.shown, overwrite);

    client::seed::Unpacked written;
    client::Connection daemon({request.shim.options.socket});
    client::CallOptions call;
    call.on_progress = [&](const proto::Progress& progress) { operation.enter(progress); };
    call.stop = &operation.call_stop();
    client::Download download([&](const client::seed::Source& source, std::stop_token stop) {
        client::ExportStream stream(source, options.prefix);
        options.stop = stop;
        options.shape = stream.shape(stop);
        if (archive && options.shape == client::seed::Shape::file) options.prefix.resize(options.prefix.rfind('/') + 1 == 0 ? 0 : options.prefix.rfind('/'));
        if (archive) options.shape = client::seed::Shape::tar_zst;
        written = client::seed::unpack([&] { return stream.next(); }, to.path, options);
    });
    json result;
    try {
        result = download.call(daemon, request.method.name, request.params, call);
    } catch (const Error& e) {
        throw client::renamed(e, to.path, to.shown);
    }
    ordered_json out{{"workspace_id", result.value("workspace_id", "")}, {"output_path", to.shown}, {"files", written.files}, {"directories", written.directories},
                     {"symlinks", written.symlinks}, {"bytes", written.bytes}};
    if (written.left_out > 0) out["notes"].push_back(".git was left out: git on the host would obey it. An output_path ending in .tar.zst has it");
    for (const json& note : result.value("notes", json::array())) out["notes"].push_back(note.get<std::string>());
    fit(out);
    return linked(std::move(out), host_file(to.shown));
}

}  // namespace

std::string fitting_patch(std::string_view patch, std::size_t budget, std::size_t& left_out) {
    constexpr std::string_view border = "\ndiff --git ";
    std::string out;
    std::size_t used = 0;
    while (!patch.empty()) {
        const std::size_t at = patch.find(border);
        const std::string_view one = patch.substr(0, at == std::string_view::npos ? patch.size() : at + 1);
        patch.remove_prefix(one.size());
        if (used + json_size(one) > budget) {
            ++left_out;
            continue;
        }
        used += json_size(one);
        out += one;
    }
    return out;
}

Body transfer_body(std::string_view tool) {
    if (tool == "workspace_create") return &create;
    if (tool == "workspace_sync_push") return &push;
    if (tool == "workspace_file_write") return &write;
    if (tool == "workspace_patch_apply") return &apply;
    if (tool == "workspace_file_list") return &list;
    if (tool == "workspace_file_read") return &read;
    if (tool == "workspace_diff") return &diff;
    if (tool == "workspace_export") return &take_out;
    return nullptr;
}

}  // namespace pyro::shim
