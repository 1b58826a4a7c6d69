#include "daemon/service/workspace_files.hpp"

#include "common/digest.hpp"
#include "common/error.hpp"
#include "common/patch/patch.hpp"

#include <map>

namespace pyro::service {
namespace {

namespace files = proto::files;

constexpr std::int64_t glance_bytes = 4 << 20;  // of a patch that is only counted
constexpr const char* upper = "/.pyro/workspace/upper";
constexpr const char* lower = "/.pyro/workspace/lower";

// One answer is one line: it names so many, and no more than so many bytes of names.
constexpr std::size_t max_changes = 5000, max_named_bytes = 256u << 10;

proto::FileChange change_of(const files::Change& said) {
    static_assert(static_cast<int>(proto::ChangeKind::type) == static_cast<int>(files::ChangeKind::type) - 1);
    proto::FileChange change;
    change.kind = static_cast<proto::ChangeKind>(static_cast<int>(said.kind) - 1);
    change.path = said.path;
    if (!said.old_path.empty()) change.old_path = said.old_path;
    change.added = static_cast<std::int64_t>(said.added);
    change.removed = static_cast<std::int64_t>(said.deleted);
    change.binary = said.binary;
    if (said.note) change.note = std::string(files::to_string(*said.note));
    return change;
}

// By path, from the patch itself: it is what is handed on, whatever else the guest says of it.
std::map<std::string, patch::Stat> count_lines(const std::string& text) {
    std::map<std::string, patch::Stat> out;
    if (text.empty()) return out;
    try {
        for (const patch::FilePatch& file : patch::parse_made(text)) {
            const patch::Stat lines = patch::stat(file);
            patch::Stat& sum = out[file.path()];  // what becomes another kind of file is deleted and made
            sum.added += lines.added;
            sum.deleted += lines.deleted;
        }
    } catch (const Error& e) {
        throw Error(ErrorCode::guest_failed, "what the guest calls its diff is none: " + e.message(), "reset the workspace: it has not kept to itself");
    }
    return out;
}

}  // namespace

std::vector<proto::FileChange> shown_changes(const std::vector<files::Record>& records) {
    std::vector<proto::FileChange> out;
    std::size_t bytes = 0;
    for (const files::Record& record : records) {
        const auto* change = std::get_if<files::Change>(&record);
        if (!change) continue;
        bytes += change->path.size() + change->old_path.size();
        if (out.size() == max_changes || bytes > max_named_bytes) break;
        out.push_back(change_of(*change));
    }
    return out;
}

io::Task<WorkspaceChanges> diff_of(io::WorkerPool& pool, std::shared_ptr<workspace::Workspace> workspace, DiffOptions options, std::stop_token stop) {
    workspace::GuestProgram program;
    program.words = {"files", "diff", "--upper", upper, "--lower", lower, "--max-bytes", std::to_string(options.max_bytes)};
    if (options.verify) program.words.push_back("--verify");
    program.words.push_back("--");
    for (std::string& path : options.paths) program.words.push_back(std::move(path));
    workspace::GuestAnswer answer = co_await workspace::run_guest_program(workspace, std::move(program), std::move(stop));
    const auto records = workspace::records_of(answer.err, files::Decoder::Stream::changes);
    WorkspaceChanges out;
    out.changes = shown_changes(records);
    out.total = workspace::done_of(records).files;
    // A large one takes a while: not the domain thread's.
    struct Read {
        std::string text, digest;
        std::map<std::string, patch::Stat> counted;
    };
    auto read = [text = std::move(answer.out)]() mutable {
        Read done;
        done.counted = count_lines(text);
        done.digest = Digest::of(text).str();
        done.text = std::move(text);
        return done;
    };
    Read checked = co_await io::offload(pool, std::move(read));
    for (proto::FileChange& change : out.changes) {
        const auto found = checked.counted.find(change.path);
        const patch::Stat lines = found == checked.counted.end() ? patch::Stat() : found->second;
        change.added = static_cast<std::int64_t>(lines.added);
        change.removed = static_cast<std::int64_t>(lines.deleted);
    }
    out.patch = std::move(checked.text);
    out.digest = std::move(checked.digest);
    co_return out;
}

io::Task<WorkspaceChanges> changes_of(io::WorkerPool& pool, std::shared_ptr<workspace::Workspace> workspace, std::stop_token stop) {
    DiffOptions options;
    options.max_bytes = glance_bytes;
    WorkspaceChanges changes = co_await diff_of(pool, std::move(workspace), std::move(options), std::move(stop));
    changes.patch.clear();
    co_return changes;
}

}  // namespace pyro::service
