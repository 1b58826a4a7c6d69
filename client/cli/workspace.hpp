// What the commands of workspaces have in common.
#pragma once
#include "client/cli/commands.hpp"
#include "client/cli/render.hpp"
#include "client/cli/workspace_options.hpp"
#include "client/transfer/host_source.hpp"

namespace pyro::client {

std::int64_t unix_now();

// Tables and lines for people.
std::string workspace_table(const std::vector<proto::WorkspaceInfo>& workspaces, std::int64_t now, Style style);
std::string exec_table(const std::vector<proto::ExecInfo>& execs, std::int64_t now, Style style);
std::string exec_footer(const proto::ExecInfo& exec);
std::string summary_text(const proto::WorkspaceSummaryResult& summary, std::int64_t now, Style style);
std::string entry_rows(const std::vector<proto::FileEntry>& entries);
std::string change_lines(const std::vector<proto::FileChange>& changes, std::int64_t left_out);  // as git's --stat, with what the patch lacks
std::string rejection_text(const Error& error);  // of a patch: file, hunk, what it expects and what is there, as the daemon tells it
std::string encode_base64(std::string_view bytes);

// "120 files, 3.2 MiB" of the checkout /x at 0123456 (main).
std::string taken_words(const seed::Packed& packed);
nlohmann::ordered_json skipped_document(const seed::Packed& packed);
std::string skipped_lines(const seed::Packed& packed);  // for standard error

// The bytes that one of --text, --text-file and - means. Opened, and refused, at once. Throws UsageError unless it is exactly one.
UniqueFd text_source(const Invocation& call, const std::optional<std::string>& text, const std::optional<std::string>& file,
                     const std::optional<std::string>& dash, const std::string& flag);

// A result for people and for programs: of a transfer, without the count of the stream's own bytes.
void print_result(const Invocation& call, const proto::TypeInfo& type, nlohmann::json result);

}  // namespace pyro::client
