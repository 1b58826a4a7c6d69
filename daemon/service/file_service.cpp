#include "daemon/service/file_service.hpp"

#include "daemon/service/transfer.hpp"
#include "daemon/service/viewer.hpp"
#include "daemon/service/workspace_files.hpp"

#include <cstdio>

namespace pyro::service {
namespace {

namespace files = proto::files;

constexpr std::size_t shown_notes = 100;
constexpr std::size_t listed_bytes = 256u << 10;  // of names in one answer, which is one line
constexpr std::size_t shown_rejections = 8u << 10;  // bytes of an error's detail

std::string octal(std::uint32_t mode) {
    char text[16];
    std::snprintf(text, sizeof text, "%04o", mode);
    return text;
}

proto::FileEntry entry_of(const files::Entry& said) {
    static_assert(static_cast<int>(proto::FileKind::other) == static_cast<int>(files::Kind::other) - 1);
    proto::FileEntry entry;
    entry.kind = static_cast<proto::FileKind>(static_cast<int>(said.kind) - 1);
    entry.path = said.path;
    entry.size = static_cast<std::int64_t>(said.size);
    entry.mode = octal(said.mode);
    entry.modified_at = said.mtime_s;
    if (said.kind == files::Kind::symlink) entry.target = said.target;
    return entry;
}

std::string note_of(const files::Note& note) { return note.path + ": " + std::string(files::to_string(note.reason)); }

// Paths are bytes and a cursor is text.
std::string cursor_of(const std::string& path) {
    std::string out;
    for (const char c : path)
        for (const int shift : {4, 0}) out += "0123456789abcdef"[static_cast<unsigned char>(c) >> shift & 15];
    return out;
}

std::string path_of(const std::string& cursor) {
    std::string out;
    const auto digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; };
    for (std::size_t i = 0; i + 1 < cursor.size() && digit(cursor[i]) >= 0 && digit(cursor[i + 1]) >= 0; i += 2)
        out += static_cast<char>(digit(cursor[i]) << 4 | digit(cursor[i + 1]));
    if (out.empty() || out.size() * 2 != cursor.size()) throw Error(ErrorCode::invalid_argument, "that is no cursor of file.list", "leave it out to begin anew");
    return out;
}

// A change of the whole tree: nobody else's at the same time, and nothing of one that was broken off is left.
io::Task<workspace::GuestAnswer> change_tree(std::shared_ptr<workspace::Workspace> workspace, workspace::GuestProgram program, std::stop_token stop) {
    const io::Semaphore::Permit turn = co_await workspace->changing().acquire(stop);
    workspace::GuestAnswer answer;
    std::exception_ptr failure;
    try {
        answer = co_await workspace::run_guest_program(workspace, std::move(program), stop);
    } catch (...) {
        failure = std::current_exception();
    }
    if (!failure) co_return answer;
    if (workspace->state() == workspace::State::running) {
        workspace::GuestProgram recover;
        recover.words = {"files", "recover"};
        try {
            co_await workspace::run_guest_program(workspace, std::move(recover), std::stop_token());
        } catch (const Error&) {
            // The next change does it first.
        }
    }
    std::rethrow_exception(failure);
}

std::string shown_rejection(const files::Rejection& rejection) {
    std::string text = rejection.path + ": ";
    if (rejection.hunk > 0) text += "hunk " + std::to_string(rejection.hunk) + " (line " + std::to_string(rejection.line) + " of the patch): ";
    text += rejection.reason + "\n";
    if (!rejection.expected.empty() || !rejection.found.empty()) {
        text += "  expected at line " + std::to_string(rejection.position) + ":\n";
        for (const std::string& line : rejection.expected) text += "    " + line + "\n";
        text += "  found:\n";
        for (const std::string& line : rejection.found) text += "    " + line + "\n";
    }
    return text;
}

// What an agent needs to mend its patch.
Error rejected(Error error, const std::string& said) {
    std::string text;
    std::size_t count = 0;
    for (const files::Record& record : workspace::records_of(said, files::Decoder::Stream::rejections)) {
        const auto* rejection = std::get_if<files::Rejection>(&record);
        if (!rejection) continue;
        ++count;
        if (text.size() < shown_rejections) text += shown_rejection(*rejection);
    }
    error.with_detail("rejections", text).with_detail("rejected", std::to_string(count));
    return error;
}

// What was shown as the workspace's difference is not any more what is there.
io::Task<bool> changed_since_diff(io::WorkerPool& pool, std::shared_ptr<workspace::Workspace> workspace, std::stop_token stop) {
    const workspace::Workspace::DiffSeen seen = workspace->diff_seen;
    if (seen.digest.empty()) co_return false;
    DiffOptions options;
    options.max_bytes = seen.max_bytes;
    const WorkspaceChanges now = co_await diff_of(pool, std::move(workspace), std::move(options), std::move(stop));
    co_return now.digest != seen.digest;
}

proto::TransferResult result_of(const workspace::Workspace& workspace, const std::vector<files::Record>& records) {
    const files::Done& done = workspace::done_of(records);
    proto::TransferResult result;
    result.workspace_id = workspace.id();
    result.files = static_cast<std::int64_t>(done.files + done.hard_links);
    result.directories = static_cast<std::int64_t>(done.directories);
    result.symlinks = static_cast<std::int64_t>(done.symlinks);
    result.bytes = static_cast<std::int64_t>(done.bytes);
    result.left_out = static_cast<std::int64_t>(done.left_out);
    for (const files::Record& record : records) {
        const auto* note = std::get_if<files::Note>(&record);
        if (note && result.notes.size() < shown_notes) result.notes.push_back(note_of(*note));
    }
    return result;
}

}  // namespace

io::Task<proto::FileListResult> FileService::serve(proto::FileList, proto::FileListParams params, rpc::Call& call) {
    const auto workspace = workspaces_.get(viewer_of(call.peer()), params.workspace_id);
    workspace::GuestProgram program;
    program.words = {"files", "list", "--limit", std::to_string(params.limit)};
    if (params.recursive) program.words.push_back("--recursive");
    if (params.cursor) program.words.insert(program.words.end(), {"--after", path_of(*params.cursor)});
    program.words.insert(program.words.end(), {"--", params.path});
    const workspace::GuestAnswer answer = co_await workspace::run_guest_program(workspace, std::move(program), call.stop());
    const auto records = workspace::records_of(answer.out);
    proto::FileListResult result;
    result.workspace_id = workspace->id();
    std::string last;
    std::size_t bytes = 0;
    for (const files::Record& record : records) {
        if (bytes > listed_bytes) break;
        if (const auto* entry = std::get_if<files::Entry>(&record)) {
            result.entries.push_back(entry_of(*entry));
            last = entry->path;
            bytes += entry->path.size() + entry->target.size();
        } else if (const auto* note = std::get_if<files::Note>(&record); note && result.notes.size() < shown_notes) {
            result.notes.push_back(note_of(*note));
        }
    }
    if ((workspace::done_of(records).more || bytes > listed_bytes) && !last.empty()) result.next_cursor = cursor_of(last);
    co_return result;
}

io::Task<proto::FileReadResult> FileService::serve(proto::FileRead, proto::FileReadParams params, rpc::Call& call) {
    const auto workspace = workspaces_.get(viewer_of(call.peer()), params.workspace_id);
    std::unique_ptr<Transfer> download = co_await Transfer::open(call, rpc::Direction::both);
    workspace::GuestProgram program;
    program.words = {"files", "read", "--offset", std::to_string(params.offset), "--limit", std::to_string(params.max_bytes), "--", params.path};
    program.output = download->sink();
    const workspace::GuestAnswer answer = co_await workspace::run_guest_program(workspace, std::move(program), call.stop());
    const auto records = workspace::records_of(answer.err);
    const auto* entry = std::get_if<files::Entry>(&records.front());
    if (!entry) throw Error(ErrorCode::guest_failed, "the guest does not say what it read");
    download->finish();
    proto::FileReadResult result;
    result.workspace_id = workspace->id();
    result.path = entry->path;
    result.size = static_cast<std::int64_t>(entry->size);
    result.mode = octal(entry->mode);
    result.offset = params.offset;
    result.truncated = workspace::done_of(records).more;
    result.stdout_bytes = static_cast<std::int64_t>(download->sent());
    co_return result;
}

io::Task<proto::FileWriteResult> FileService::serve(proto::FileWrite, proto::FileWriteParams params, rpc::Call& call) {
    const auto workspace = workspaces_.get(viewer_of(call.peer()), params.workspace_id);
    std::unique_ptr<Transfer> upload = co_await Transfer::open(call, rpc::Direction::both);
    workspace::GuestProgram program;
    program.words = {"files", "write", "--parents"};
    if (params.mode) program.words.insert(program.words.end(), {"--mode", *params.mode});
    program.words.insert(program.words.end(), {"--", params.path});
    program.input = upload->source();
    const workspace::GuestAnswer answer = co_await change_tree(workspace, std::move(program), call.stop());
    proto::FileWriteResult result;
    result.workspace_id = workspace->id();
    result.path = params.path;
    const auto records = workspace::records_of(answer.out);
    result.bytes_written = static_cast<std::int64_t>(workspace::done_of(records).bytes);
    co_return result;
}

io::Task<proto::WorkspacePatchApplyResult> FileService::serve(proto::WorkspacePatchApply, proto::WorkspacePatchApplyParams params, rpc::Call& call) {
    const auto workspace = workspaces_.get(viewer_of(call.peer()), params.workspace_id);
    std::unique_ptr<Transfer> upload = co_await Transfer::open(call, rpc::Direction::both);
    workspace::GuestProgram program;
    program.words = {"files", "apply"};
    program.input = upload->source();
    program.may_fail = true;
    const workspace::GuestAnswer answer = co_await change_tree(workspace, std::move(program), call.stop());
    if (answer.failure && !answer.out.empty()) throw rejected(*answer.failure, answer.out);
    if (answer.failure) throw *answer.failure;
    proto::WorkspacePatchApplyResult result;
    result.workspace_id = workspace->id();
    const auto records = workspace::records_of(answer.out, files::Decoder::Stream::changes);
    result.changes = shown_changes(records);
    result.changes_left_out = static_cast<std::int64_t>(workspace::done_of(records).files) - static_cast<std::int64_t>(result.changes.size());
    co_return result;
}

io::Task<proto::WorkspaceDiffResult> FileService::serve(proto::WorkspaceDiff, proto::WorkspaceDiffParams params, rpc::Call& call) {
    const auto workspace = workspaces_.get(viewer_of(call.peer()), params.workspace_id);
    std::unique_ptr<Transfer> download = co_await Transfer::open(call, rpc::Direction::both);
    DiffOptions options;
    options.paths = std::move(params.paths);
    options.verify = params.verify;
    const std::int64_t options_max = options.max_bytes = params.max_bytes;
    const bool whole = options.paths.empty();
    WorkspaceChanges changes = co_await diff_of(pool_, workspace, std::move(options), call.stop());
    if (whole) workspace->diff_seen = {options_max, changes.digest};
    if (!changes.patch.empty()) co_await download->send(std::move(changes.patch), call.stop());
    download->finish();
    proto::WorkspaceDiffResult result;
    result.workspace_id = workspace->id();
    result.changes_left_out = static_cast<std::int64_t>(changes.total) - static_cast<std::int64_t>(changes.changes.size());
    result.changes = std::move(changes.changes);
    result.stdout_bytes = static_cast<std::int64_t>(download->sent());
    co_return result;
}

io::Task<proto::TransferResult> FileService::serve(proto::WorkspaceSyncPush, proto::WorkspaceSyncPushParams params, rpc::Call& call) {
    const auto workspace = workspaces_.get(viewer_of(call.peer()), params.workspace_id);
    std::unique_ptr<Transfer> upload = co_await Transfer::open(call, rpc::Direction::both);
    workspace::GuestProgram program;
    program.words = {"files", "unpack", "--dest", params.dest};
    program.input = upload->source();
    const workspace::GuestAnswer answer = co_await change_tree(workspace, std::move(program), call.stop());
    const auto records = workspace::records_of(answer.out);
    proto::TransferResult result = result_of(*workspace, records);
    co_return result;
}

io::Task<proto::TransferResult> FileService::serve(proto::WorkspaceExport, proto::WorkspaceExportParams params, rpc::Call& call) {
    const auto workspace = workspaces_.get(viewer_of(call.peer()), params.workspace_id);
    std::unique_ptr<Transfer> download = co_await Transfer::open(call, rpc::Direction::both);
    workspace::GuestProgram program;
    program.words = {"files", "pack", "--", params.path};
    program.output = download->sink();
    const workspace::GuestAnswer answer = co_await workspace::run_guest_program(workspace, std::move(program), call.stop());
    const auto records = workspace::records_of(answer.err);
    download->finish();
    workspace->count_export();
    proto::TransferResult result = result_of(*workspace, records);
    const bool changed = co_await changed_since_diff(pool_, workspace, call.stop());
    if (changed) result.notes.push_back("the workspace has changed since its last diff");
    result.stdout_bytes = static_cast<std::int64_t>(download->sent());
    co_return result;
}

}  // namespace pyro::service
