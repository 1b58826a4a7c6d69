// Files of a workspace: list, read, write; patches and diffs; export.
#include "client/cli/terminal.hpp"
#include "client/cli/workspace.hpp"
#include "client/transfer/export_stream.hpp"
#include "client/transfer/new_file.hpp"

#include <algorithm>
#include <cerrno>
#include <sys/stat.h>
#include <unistd.h>

namespace pyro::client {

using nlohmann::json;
using nlohmann::ordered_json;

std::string encode_base64(std::string_view bytes) {
    static constexpr char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string out;
    out.reserve((bytes.size() + 2) / 3 * 4);
    for (std::size_t at = 0; at < bytes.size(); at += 3) {
        std::uint32_t three = 0;
        const std::size_t have = std::min<std::size_t>(3, bytes.size() - at);
        for (std::size_t i = 0; i < 3; ++i) three = three << 8 | (i < have ? static_cast<unsigned char>(bytes[at + i]) : 0u);
        for (std::size_t i = 0; i < 4; ++i) out += i <= have ? digits[three >> (18 - 6 * i) & 63] : '=';
    }
    return out;
}

namespace {

// 'drwxr-xr-x' of "0755".
std::string mode_letters(proto::FileKind kind, const std::string& octal) {
    const unsigned long mode = std::strtoul(octal.c_str(), nullptr, 8);
    std::string out(1, kind == proto::FileKind::directory ? 'd' : kind == proto::FileKind::symlink ? 'l' : kind == proto::FileKind::file ? '-' : '?');
    for (int bit = 8; bit >= 0; --bit) out += mode >> bit & 1 ? "rwx"[(8 - bit) % 3] : '-';
    const auto special = [&](unsigned long flag, std::size_t at, char with, char without) {
        if (mode & flag) out[at] = out[at] == 'x' ? with : without;
    };
    special(04000, 3, 's', 'S');
    special(02000, 6, 's', 'S');
    special(01000, 9, 't', 'T');
    return out;
}

}  // namespace

std::string entry_rows(const std::vector<proto::FileEntry>& entries) {
    std::size_t width = 0;
    for (const auto& entry : entries) width = std::max(width, std::to_string(entry.size).size());
    std::string out;
    for (const auto& entry : entries) {
        const std::string size = std::to_string(entry.size);
        out += mode_letters(entry.kind, entry.mode) + "  " + std::string(width - size.size(), ' ') + size + "  " + local_time(entry.modified_at) + "  " + printable(entry.path);
        if (entry.target) out += " -> " + printable(*entry.target);
        out += "\n";
    }
    return out;
}

std::string change_lines(const std::vector<proto::FileChange>& changes, std::int64_t left_out) {
    std::string out;
    for (const auto& change : changes) {
        std::string line(name_of(change.kind));
        line.resize(std::max<std::size_t>(line.size(), 8), ' ');
        line += "  " + (change.old_path ? printable(*change.old_path) + " => " : std::string()) + printable(change.path);
        if (change.added > 0 || change.removed > 0) line += "  +" + std::to_string(change.added) + " -" + std::to_string(change.removed);
        if (change.binary) line += "  (binary, not in the patch)";
        else if (change.note) line += "  (not in the patch: " + printable(*change.note) + ")";
        out += line + "\n";
    }
    if (left_out > 0) out += "and " + std::to_string(left_out) + " more\n";
    return out;
}

namespace {

std::string change_summary(const std::vector<proto::FileChange>& changes, std::int64_t left_out) {
    if (changes.empty() && left_out == 0) return "pyro: nothing has changed\n";
    std::int64_t added = 0, removed = 0;
    std::string out;
    const std::string lines = change_lines(changes, left_out);
    for (std::size_t at = 0; at < lines.size();) {
        const std::size_t end = lines.find('\n', at) + 1;
        out += "pyro: " + lines.substr(at, end - at);
        at = end;
    }
    for (const auto& change : changes) added += change.added, removed += change.removed;
    const std::int64_t files = static_cast<std::int64_t>(changes.size()) + left_out;
    return out + "pyro: " + std::to_string(files) + (files == 1 ? " file" : " files") + " changed, +" + std::to_string(added) + " -" + std::to_string(removed) + "\n";
}

}  // namespace

std::string rejection_text(const Error& error) {
    const auto text = error.details().find("rejections");
    if (text == error.details().end()) return {};
    std::string out;
    for (std::size_t at = 0; at < text->second.size();) {
        const std::size_t end = std::min(text->second.find('\n', at), text->second.size());
        out += "pyro: " + printable(text->second.substr(at, end - at)) + "\n";
        at = end + 1;
    }
    return out;
}

int file_list_command(const Invocation& call) {
    Connection daemon({call.globals.socket});
    json params = call.params;
    const bool one_page = call.given.contains("limit") || call.given.contains("cursor");
    if (!one_page) params["limit"] = 5000;
    json all;
    while (true) {
        json page = call_daemon(daemon, call, params);
        const auto result = proto::from_wire<proto::FileListResult>(page, proto::Unknown::ignore);
        std::string notes;
        for (const std::string& note : result.notes) notes += "pyro: " + printable(note) + "\n";
        if (!call.globals.json) {
            write_stdout(entry_rows(result.entries));
            write_stderr(notes);
        } else if (all.is_null()) {
            all = std::move(page);
        } else {
            for (const char* list : {"entries", "notes"}) all[list].insert(all[list].end(), page[list].begin(), page[list].end());
        }
        if (one_page && result.next_cursor && !call.globals.json) write_stderr("pyro: there is more: --cursor " + command_line({*result.next_cursor}) + "\n");
        if (one_page || !result.next_cursor) break;
        params["cursor"] = *result.next_cursor;
    }
    if (!call.globals.json) return status::ok;
    if (!one_page) all.erase("next_cursor");
    write_stdout(document(in_table_order(call.verb->method->result(), all)));
    return status::ok;
}

int file_read_command(const Invocation& call) {
    const auto own = proto::from_wire<FileReadOptions>(call.own);
    Streams streams;
    std::string content;
    streams.out = call.globals.json ? Output{-1, nullptr, &content} : Output{STDOUT_FILENO};
    Connection daemon({call.globals.socket});
    const auto result = proto::from_wire<proto::FileReadResult>(call_daemon(daemon, call, call.params, &streams), proto::Unknown::ignore);
    if (call.globals.json) {
        proto::FileReport report;
        static_cast<proto::FileReadInfo&>(report) = result;
        const bool text = is_valid_utf8(content);
        report.encoding = text ? "utf-8" : "base64";
        report.content = text ? std::move(content) : encode_base64(content);
        write_stdout(document(in_table_order(proto::type_of<proto::FileReport>(), proto::to_wire(report))));
        return status::ok;
    }
    std::string about;
    if (!own.content_only)
        about = "[file] path=" + printable(result.path) + " size=" + std::to_string(result.size) + " mode=" + printable(result.mode) +
                (result.offset > 0 ? " offset=" + std::to_string(result.offset) : "") + "\n";
    if (result.truncated)
        about += "pyro: there is more: --offset " + std::to_string(result.offset + result.stdout_bytes) + " goes on from here, --max-bytes takes more at once\n";
    write_stderr(about);
    return status::ok;
}

int file_write_command(const Invocation& call) {
    const auto own = proto::from_wire<FileWriteOptions>(call.own);
    const UniqueFd source = text_source(call, own.text, own.text_file, own.dash, "--text");
    Streams streams;
    streams.in = source.get();
    streams.upload = true;
    Connection daemon({call.globals.socket});
    print_result(call, call.verb->method->result(), call_daemon(daemon, call, call.params, &streams));
    return status::ok;
}

int patch_apply_command(const Invocation& call) {
    const auto own = proto::from_wire<PatchApplyOptions>(call.own);
    const UniqueFd source = text_source(call, own.patch, own.patch_file, own.dash, "--patch");
    Streams streams;
    streams.in = source.get();
    streams.upload = true;
    Connection daemon({call.globals.socket});
    json result;
    try {
        result = call_daemon(daemon, call, call.params, &streams);
    } catch (const Error& e) {
        if (!call.globals.json) write_stderr(rejection_text(e));
        throw;
    }
    if (call.globals.json) {
        print_result(call, call.verb->method->result(), std::move(result));
        return status::ok;
    }
    const auto applied = proto::from_wire<proto::WorkspacePatchApplyResult>(result, proto::Unknown::ignore);
    write_stdout(change_lines(applied.changes, applied.changes_left_out));
    return status::ok;
}

int diff_command(const Invocation& call) {
    Streams streams;
    std::string patch;
    streams.out = call.globals.json ? Output{-1, nullptr, &patch} : Output{STDOUT_FILENO};
    Connection daemon({call.globals.socket});
    json result = call_daemon(daemon, call, call.params, &streams);
    if (!call.globals.json) {
        const auto diff = proto::from_wire<proto::WorkspaceDiffResult>(result, proto::Unknown::ignore);
        write_stderr(change_summary(diff.changes, diff.changes_left_out));
        return status::ok;
    }
    result.erase("stdout_bytes");
    ordered_json whole = in_table_order(call.verb->method->result(), result);
    whole["patch"] = valid_utf8(patch);
    write_stdout(document(whole));
    return status::ok;
}

namespace {

// workspace.diff into a file.
int export_patch(const Invocation& call, const ExportOptions& own) {
    const auto asked = proto::from_wire<proto::WorkspaceExportParams>(call.params);
    proto::WorkspaceDiffParams params;
    params.workspace_id = asked.workspace_id;
    if (!export_prefix(asked.path).empty()) params.paths.push_back(asked.path);
    NewFile file(own.output, own.force, "--force");
    Streams streams;
    streams.out.fd = file.fd();
    Invocation diff = call;
    diff.verb = find_verb(proto::WorkspaceDiff::traits.cli);
    Connection daemon({call.globals.socket});
    json result = call_daemon(daemon, diff, proto::to_wire(params), &streams);
    file.place();
    if (call.globals.json) print_result(diff, diff.verb->method->result(), std::move(result));
    else {
        const auto changes = proto::from_wire<proto::WorkspaceDiffResult>(result, proto::Unknown::ignore);
        write_stderr(change_summary(changes.changes, changes.changes_left_out));
    }
    return status::ok;
}

}  // namespace

int export_command(const Invocation& call) {
    const auto own = proto::from_wire<ExportOptions>(call.own);
    if (own.output.ends_with(".patch")) return export_patch(call, own);
    seed::UnpackOptions options;
    options.force = own.force;
    options.prefix = export_prefix(proto::from_wire<proto::WorkspaceExportParams>(call.params).path);
    const bool archive = own.output.ends_with(".tar.zst");
    // Said before anything is sent; unpack() makes sure of it.
    struct stat info {};
    const bool into_directory = !archive && ::stat(own.output.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
    if (!own.force && !into_directory && ::lstat(own.output.c_str(), &info) == 0) throw NewFile::exists_already(own.output, "--force");

    Connection daemon({call.globals.socket});
    Signals signals(call_signals);
    ProgressLine progress("pyro:", call.globals.json);
    CallOptions call_options;
    call_options.on_progress = [&](const proto::Progress& p) { progress.show(p); };
    call_options.signals = &signals;
    Download download([&](const seed::Source& source, std::stop_token stop) {
        ExportStream stream(source, options.prefix);
        options.stop = stop;
        options.shape = stream.shape(stop);
        if (archive && options.shape == seed::Shape::file) options.prefix.resize(options.prefix.rfind('/') + 1 == 0 ? 0 : options.prefix.rfind('/'));
        if (archive) options.shape = seed::Shape::tar_zst;
        seed::unpack([&] { return stream.next(); }, own.output, options);
    });
    json result = download.call(daemon, call.verb->method->name, call.params, call_options);
    progress.clear();
    print_result(call, call.verb->method->result(), std::move(result));
    return status::ok;
}

}  // namespace pyro::client
