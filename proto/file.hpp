// Files of a workspace. Paths are relative to /workspace, or absolute below it; none leads out.
#pragma once
#include "proto/workspace.hpp"

namespace pyro::proto {

enum class FileKind { file, directory, symlink, other };
constexpr auto enum_names(FileKind) { return std::array<std::string_view, 4>{"file", "directory", "symlink", "other"}; }

namespace limits {
inline constexpr FieldOptions guest_path{.cli = Cli::positional, .value = "PATH", .min = 1, .max = 4096};
inline constexpr FieldOptions guest_path_or_root{.cli = Cli::positional, .value = "PATH", .min = 1, .max = 4096, .defaulted = true};
}  // namespace limits

struct FileEntry {
    static constexpr std::string_view doc = "A file, a directory or a link.";
    FileKind kind = FileKind::file;
    std::string path;
    std::int64_t size = 0;
    std::string mode;
    std::int64_t modified_at = 0;
    std::optional<std::string> target;
    static constexpr auto fields() {
        return std::array{
            field<&FileEntry::kind>("kind", "file, directory, symlink, or other: a socket, a fifo, a device"),
            field<&FileEntry::path>("path", "Path below /workspace; invalid UTF-8 replaced"),
            field<&FileEntry::size>("size", "Bytes of a file"),
            field<&FileEntry::mode>("mode", "Permissions in octal: 0644"),
            field<&FileEntry::modified_at>("modified_at", "Unix seconds"),
            field<&FileEntry::target>("target", "Where a symbolic link points; invalid UTF-8 replaced")};
    }
};

struct FileListParams {
    static constexpr std::string_view doc = "List a directory of a workspace.";
    std::string workspace_id;
    std::string path = "/workspace";
    bool recursive = false;
    std::int64_t limit = 1000;
    std::optional<std::string> cursor;
    static constexpr auto fields() {
        return std::array{
            field<&FileListParams::workspace_id>("workspace_id", "Id, unique beginning of an id, or name", limits::workspace),
            field<&FileListParams::path>("path", "Directory in /workspace", limits::guest_path_or_root),
            field<&FileListParams::recursive>("recursive", "And everything below it", {.short_flag = 'r', .defaulted = true}),
            field<&FileListParams::limit>("limit", "At most so many entries", {.min = 1, .max = 5000, .defaulted = true}),
            field<&FileListParams::cursor>("cursor", "next_cursor of the answer before", {.value = "CURSOR", .min = 1, .max = 8192})};
    }
};
struct FileListResult {
    static constexpr std::string_view doc = "Entries of a directory, in the order of their paths' bytes.";
    std::string workspace_id;
    std::vector<FileEntry> entries;
    std::optional<std::string> next_cursor;
    std::vector<std::string> notes;
    static constexpr auto fields() {
        return std::array{field<&FileListResult::workspace_id>("workspace_id", "The workspace"),
                          field<&FileListResult::entries>("entries", "What is there"),
                          field<&FileListResult::next_cursor>("next_cursor", "There is more: ask with this"),
                          field<&FileListResult::notes>("notes", "Directories that could not be looked into, and why")};
    }
};
struct FileList {
    static constexpr std::string_view name = "file.list";
    using Params = FileListParams;
    using Result = FileListResult;
    static constexpr Traits traits{.cli = "workspace file list", .mcp = "workspace_file_list", .sdk = "list_workspace_files", .read_only = true};
};

struct FileReadParams {
    static constexpr std::string_view doc = "Read a file of a workspace.";
    std::string workspace_id;
    std::string path;
    std::int64_t offset = 0;
    std::int64_t max_bytes = 65536;
    static constexpr auto fields() {
        return std::array{
            field<&FileReadParams::workspace_id>("workspace_id", "Id, unique beginning of an id, or name", limits::workspace),
            field<&FileReadParams::path>("path", "File in /workspace", limits::guest_path),
            field<&FileReadParams::offset>("offset", "First byte", {.value = "BYTE", .min = 0, .defaulted = true}),
            field<&FileReadParams::max_bytes>("max_bytes", "At most so many bytes", {.value = "BYTES", .min = 0, .max = std::int64_t{1} << 30, .defaulted = true})};
    }
};
struct FileReadInfo {
    std::string workspace_id;
    std::string path;
    std::int64_t size = 0;
    std::string mode;
    std::int64_t offset = 0;
    bool truncated = false;
    template <class R>
    static constexpr auto fields_in() {
        return std::array{
            field<&FileReadInfo::workspace_id, R>("workspace_id", "The workspace"),
            field<&FileReadInfo::path, R>("path", "The file"),
            field<&FileReadInfo::size, R>("size", "Bytes of the whole file"),
            field<&FileReadInfo::mode, R>("mode", "Permissions in octal: 0644"),
            field<&FileReadInfo::offset, R>("offset", "Where what was read begins"),
            field<&FileReadInfo::truncated, R>("truncated", "Whether there is more behind it")};
    }
};
struct FileReadResult : FileReadInfo {
    static constexpr std::string_view doc = "A file. Its bytes came over the attach connection.";
    std::int64_t stdout_bytes = 0;
    static constexpr auto fields() {
        return join(fields_in<FileReadResult>(), std::array{field<&FileReadResult::stdout_bytes>("stdout_bytes", "How many were sent, on stream 1")});
    }
};
// What clients make of a FileReadResult and the stream.
struct FileReport : FileReadInfo {
    static constexpr std::string_view doc = "A file with its content.";
    std::string encoding;
    std::string content;
    static constexpr auto fields() {
        return join(fields_in<FileReport>(),
                    std::array{field<&FileReport::encoding>("encoding", "utf-8; or base64, where the bytes are no UTF-8"),
                               field<&FileReport::content>("content", "What was read")});
    }
};
struct FileRead {
    static constexpr std::string_view name = "file.read";
    using Params = FileReadParams;
    using Result = FileReadResult;
    static constexpr Traits traits{.cli = "workspace file read", .mcp = "workspace_file_read", .sdk = "read_workspace_file", .read_only = true, .carries = Carries::download};
};

struct FileWriteParams {
    static constexpr std::string_view doc = "Write a file of a workspace: replaced at once or not at all; missing directories are made.";
    std::string workspace_id;
    std::string path;
    std::optional<std::string> mode;
    static constexpr auto fields() {
        return std::array{
            field<&FileWriteParams::workspace_id>("workspace_id", "Id, unique beginning of an id, or name", limits::workspace),
            field<&FileWriteParams::path>("path", "File in /workspace", limits::guest_path),
            field<&FileWriteParams::mode>("mode", "Permissions in octal; default: those it has, 0644 for a new one", {.value = "MODE", .min = 1, .max = 5})};
    }
};
struct FileWriteResult {
    static constexpr std::string_view doc = "The file was written.";
    std::string workspace_id;
    std::string path;
    std::int64_t bytes_written = 0;
    static constexpr auto fields() {
        return std::array{field<&FileWriteResult::workspace_id>("workspace_id", "The workspace"),
                          field<&FileWriteResult::path>("path", "The file"),
                          field<&FileWriteResult::bytes_written>("bytes_written", "Its size")};
    }
};
struct FileWrite {
    static constexpr std::string_view name = "file.write";
    using Params = FileWriteParams;
    using Result = FileWriteResult;
    static constexpr Traits traits{.cli = "workspace file write", .mcp = "workspace_file_write", .sdk = "write_workspace_file", .destructive = true, .carries = Carries::upload};
};

}  // namespace pyro::proto
