// What commands take beside their methods' fields: paths of this host and the like, which the daemon never sees.
// Parser, help and completion read them as they read the methods' own.
#pragma once
#include "proto/env.hpp"
#include "proto/exec.hpp"
#include "proto/file.hpp"

namespace pyro::client {

namespace limits {
inline constexpr proto::FieldOptions host_path{.value = "PATH", .min = 1, .max = 4096, .completes = "file"};
// The one word that is no path: "-" for standard input.
inline constexpr proto::FieldOptions dash{.cli = proto::Cli::positional, .value = "-", .min = 1, .max = 1};
}  // namespace limits

// The client's own fields for method M; none unless said below.
template <class M>
struct ClientFields { using type = void; };

struct ImportOptions {
    static constexpr std::string_view doc = "What env import takes from this host.";
    std::string path;
    static constexpr auto fields() {
        return std::array{proto::field<&ImportOptions::path>("path", "A tar of a root file system (plain, gzip, zstd), an OCI layout (archive or directory), what docker save wrote; - is standard input", {.cli = proto::Cli::positional, .value = "FILE|DIR|-", .min = 1, .max = 4096, .completes = "file"})};
    }
};
template <> struct ClientFields<proto::EnvImport> { using type = ImportOptions; };

struct CreateOptions {
    static constexpr std::string_view doc = "What workspace create takes from this host.";
    std::optional<std::string> seed_path;
    static constexpr auto fields() {
        return std::array{proto::field<&CreateOptions::seed_path>("seed_path", "Fill /workspace from this directory, .tar, .tar.gz, .tgz, .tar.zst or Git checkout (its tracked files and a clean .git)", limits::host_path)};
    }
};
template <> struct ClientFields<proto::WorkspaceCreate> { using type = CreateOptions; };

struct SyncPushOptions {
    static constexpr std::string_view doc = "What workspace sync push takes from this host.";
    std::string path;
    static constexpr auto fields() {
        return std::array{proto::field<&SyncPushOptions::path>("path", "Directory, .tar, .tar.gz, .tgz, .tar.zst or Git checkout of this host", {.cli = proto::Cli::positional, .min = 1, .max = 4096, .completes = "file"})};
    }
};
template <> struct ClientFields<proto::WorkspaceSyncPush> { using type = SyncPushOptions; };

struct ExportOptions {
    static constexpr std::string_view doc = "Where workspace export puts things on this host.";
    std::string output;
    bool force = false;
    static constexpr auto fields() {
        return std::array{
            proto::field<&ExportOptions::output>("output", "File or directory to write; ending in .tar.zst: an archive; ending in .patch: what changed, as workspace diff has it", {.short_flag = 'o', .value = "PATH", .min = 1, .max = 4096, .completes = "file"}),
            proto::field<&ExportOptions::force>("force", "Replace files that are there", {.defaulted = true})};
    }
};
template <> struct ClientFields<proto::WorkspaceExport> { using type = ExportOptions; };

struct FileReadOptions {
    static constexpr std::string_view doc = "How workspace file read prints.";
    bool content_only = false;
    static constexpr auto fields() {
        return std::array{proto::field<&FileReadOptions::content_only>("content_only", "Print just the bytes, without the line about the file on standard error", {.defaulted = true})};
    }
};
template <> struct ClientFields<proto::FileRead> { using type = FileReadOptions; };

struct FileWriteOptions {
    static constexpr std::string_view doc = "What workspace file write takes from this host.";
    std::optional<std::string> text, text_file, dash;
    static constexpr auto fields() {
        return std::array{
            proto::field<&FileWriteOptions::dash>("dash", "Write what comes on standard input", limits::dash),
            proto::field<&FileWriteOptions::text>("text", "Write this text, as it is", {.value = "TEXT"}),
            proto::field<&FileWriteOptions::text_file>("text_file", "Write what is in this file of this host", limits::host_path)};
    }
};
template <> struct ClientFields<proto::FileWrite> { using type = FileWriteOptions; };

struct PatchApplyOptions {
    static constexpr std::string_view doc = "What workspace patch apply takes from this host.";
    std::optional<std::string> patch, patch_file, dash;
    static constexpr auto fields() {
        return std::array{
            proto::field<&PatchApplyOptions::dash>("dash", "The patch comes on standard input", limits::dash),
            proto::field<&PatchApplyOptions::patch>("patch", "The patch itself", {.value = "TEXT"}),
            proto::field<&PatchApplyOptions::patch_file>("patch_file", "The patch is in this file of this host", limits::host_path)};
    }
};
template <> struct ClientFields<proto::WorkspacePatchApply> { using type = PatchApplyOptions; };

}  // namespace pyro::client
