// The revisions of the protocol, and what each of them may carry.
#pragma once
#include <array>
#include <optional>
#include <string_view>

namespace pyro::mcp {

// In order of age. All but the last are negotiated once by `initialize`; the last comes with every request.
enum class Revision { v2024_11_05, v2025_03_26, v2025_06_18, v2025_11_25, v2026_07_28 };

inline constexpr std::array revision_names{
    std::string_view{"2024-11-05"}, std::string_view{"2025-03-26"}, std::string_view{"2025-06-18"},
    std::string_view{"2025-11-25"}, std::string_view{"2026-07-28"},
};
inline constexpr Revision newest_legacy = Revision::v2025_11_25;
inline constexpr Revision stateless = Revision::v2026_07_28;

constexpr std::string_view to_string(Revision revision) { return revision_names[static_cast<std::size_t>(revision)]; }
std::optional<Revision> revision_from(std::string_view name) noexcept;
constexpr bool is_modern(Revision revision) { return revision >= stateless; }

// What came with a revision; everything else is as old as the protocol.
namespace since {
inline constexpr Revision tool_annotations = Revision::v2025_03_26;
inline constexpr Revision audio = Revision::v2025_03_26;
inline constexpr Revision progress_message = Revision::v2025_03_26;
inline constexpr Revision completions_capability = Revision::v2025_03_26;
inline constexpr Revision structured_content = Revision::v2025_06_18;  // and outputSchema
inline constexpr Revision title = Revision::v2025_06_18;
inline constexpr Revision resource_link = Revision::v2025_06_18;
inline constexpr Revision elicitation = Revision::v2025_06_18;
inline constexpr Revision meta = Revision::v2025_06_18;           // `_meta` of definitions and content, lastModified
inline constexpr Revision icons = Revision::v2025_11_25;          // and description and websiteUrl of a server
inline constexpr Revision errors_without_id = Revision::v2025_11_25;  // before: `id: null`
inline constexpr Revision any_structured_content = Revision::v2026_07_28;  // before: objects only
}  // namespace since

// Arrays of messages were added in one revision and removed in the next.
constexpr bool has_batches(Revision revision) { return revision == Revision::v2025_03_26; }

}  // namespace pyro::mcp
