#include "client/mcp/protocol/content.hpp"

#include <array>

namespace pyro::mcp {

namespace {

constexpr std::string_view base64_digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

constexpr auto base64_values = [] {
    std::array<std::int8_t, 256> values{};
    values.fill(-1);
    for (std::size_t i = 0; i < base64_digits.size(); ++i) values[static_cast<unsigned char>(base64_digits[i])] = static_cast<std::int8_t>(i);
    return values;
}();

std::string string_at(const ordered_json& object, const char* key) {
    const auto found = object.find(key);
    return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

}  // namespace

std::string base64(std::string_view bytes) {
    std::string text;
    text.reserve((bytes.size() + 2) / 3 * 4);
    for (std::size_t i = 0; i < bytes.size(); i += 3) {
        const std::size_t n = std::min<std::size_t>(3, bytes.size() - i);
        std::uint32_t group = 0;
        for (std::size_t k = 0; k < 3; ++k) group = group << 8 | (k < n ? static_cast<unsigned char>(bytes[i + k]) : 0u);
        for (std::size_t k = 0; k < 4; ++k) text += k <= n ? base64_digits[group >> (18 - 6 * k) & 63] : '=';
    }
    return text;
}

std::optional<std::string> from_base64(std::string_view text) {
    if (text.size() % 4 != 0) return std::nullopt;
    std::size_t padding = 0;
    while (padding < 2 && text.ends_with('=')) text.remove_suffix(1), ++padding;
    std::string bytes;
    std::uint32_t bits = 0;
    int count = 0;
    for (const char c : text) {
        const int value = base64_values[static_cast<unsigned char>(c)];
        if (value < 0) return std::nullopt;
        bits = bits << 6 | static_cast<std::uint32_t>(value);
        count += 6;
        if (count >= 8) bytes += static_cast<char>(bits >> (count -= 8) & 255);
    }
    return bytes;
}

Content Content::text(std::string_view text) { return {{{"type", "text"}, {"text", text}}}; }

Content Content::image(std::string_view bytes, std::string_view mime_type) {
    return {{{"type", "image"}, {"data", base64(bytes)}, {"mimeType", mime_type}}};
}

Content Content::audio(std::string_view bytes, std::string_view mime_type) {
    return {{{"type", "audio"}, {"data", base64(bytes)}, {"mimeType", mime_type}}};
}

Content Content::link(const ResourceInfo& resource) {
    ordered_json value{{"type", "resource_link"}};
    value.update(to_wire(resource, stateless));
    return {std::move(value)};
}

Content Content::embedded(const ResourceContents& contents) { return {{{"type", "resource"}, {"resource", to_wire(contents)}}}; }

ordered_json to_wire(const Content& content, Revision revision) {
    ordered_json value = content.value;
    const std::string type = string_at(value, "type");
    if (type == "audio" && revision < since::audio)
        return Content::text("[audio, " + string_at(value, "mimeType") + ": this client's protocol revision cannot take it]").value;
    if (type == "resource_link" && revision < since::resource_link)
        return Content::text(string_at(value, "name") + ": " + string_at(value, "uri")).value;
    if (revision < since::icons) value.erase("icons");
    if (revision < since::meta) {
        value.erase("_meta");
        if (const auto annotations = value.find("annotations"); annotations != value.end()) annotations->erase("lastModified");
    }
    return value;
}

ordered_json to_wire(const ToolResult& result, Revision revision) {
    ordered_json content = ordered_json::array();
    for (const Content& block : result.content) content.push_back(to_wire(block, revision));
    if (content.empty() && result.structured) content.push_back(Content::text(dump(*result.structured)).value);
    ordered_json wire{{"content", std::move(content)}};
    if (result.structured && (revision >= since::any_structured_content || (revision >= since::structured_content && result.structured->is_object())))
        wire["structuredContent"] = *result.structured;
    if (result.is_error) wire["isError"] = true;
    if (result.meta.is_object()) wire["_meta"] = result.meta;
    return wire;
}

ordered_json to_wire(const PromptResult& result, Revision revision) {
    ordered_json wire = ordered_json::object();
    if (!result.description.empty()) wire["description"] = result.description;
    wire["messages"] = ordered_json::array();
    for (const PromptMessage& message : result.messages)
        wire["messages"].push_back({{"role", message.role}, {"content", to_wire(message.content, revision)}});
    return wire;
}

ordered_json to_wire(const ResourceContents& contents) {
    ordered_json wire{{"uri", contents.uri}};
    if (!contents.mime_type.empty()) wire["mimeType"] = contents.mime_type;
    if (contents.is_text) wire["text"] = contents.data;
    else wire["blob"] = base64(contents.data);
    return wire;
}

ordered_json to_wire(const ResourceInfo& resource, Revision revision) {
    ordered_json wire{{"uri", resource.uri}, {"name", resource.name}};
    if (!resource.title.empty() && revision >= since::title) wire["title"] = resource.title;
    if (!resource.description.empty()) wire["description"] = resource.description;
    if (!resource.mime_type.empty()) wire["mimeType"] = resource.mime_type;
    if (resource.size) wire["size"] = *resource.size;
    if (resource.annotations.is_object()) {
        wire["annotations"] = resource.annotations;
        if (revision < since::meta) wire["annotations"].erase("lastModified");
    }
    if (resource.icons.is_array() && revision >= since::icons) wire["icons"] = resource.icons;
    if (resource.meta.is_object() && revision >= since::meta) wire["_meta"] = resource.meta;
    return wire;
}

std::string dump(const ordered_json& value) { return value.dump(-1, ' ', false, ordered_json::error_handler_t::replace); }

}  // namespace pyro::mcp
