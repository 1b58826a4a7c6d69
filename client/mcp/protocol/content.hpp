// What tools, resources and prompts answer with.
#pragma once
#include "client/mcp/protocol/revision.hpp"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pyro::mcp {

using nlohmann::json;          // what came in
using nlohmann::ordered_json;  // what goes out: keys stay as they were written

std::string base64(std::string_view bytes);
std::optional<std::string> from_base64(std::string_view text);  // none: not base64

// One resource as lists and links show it.
struct ResourceInfo {
    std::string uri;
    std::string name;
    std::string title = {};
    std::string description = {};
    std::string mime_type = {};
    std::optional<std::uint64_t> size = {};
    ordered_json annotations = {};  // audience, priority, lastModified; null: none
    ordered_json icons = {};        // an array; null: none
    ordered_json meta = {};         // `_meta`; null: none
};

// What a resource holds, as text or as bytes.
struct ResourceContents {
    std::string uri;
    std::string mime_type;
    std::string data;
    bool is_text = true;
    static ResourceContents text(std::string uri, std::string mime_type, std::string data) { return {std::move(uri), std::move(mime_type), std::move(data), true}; }
    static ResourceContents blob(std::string uri, std::string mime_type, std::string data) { return {std::move(uri), std::move(mime_type), std::move(data), false}; }
};

// One block of a result or of a prompt's message, as the newest revision writes it.
struct Content {
    ordered_json value;
    static Content text(std::string_view text);
    static Content image(std::string_view bytes, std::string_view mime_type);
    static Content audio(std::string_view bytes, std::string_view mime_type);
    static Content link(const ResourceInfo& resource);
    static Content embedded(const ResourceContents& contents);
};

// What a tool answers. With `structured` and no content, the content is that JSON as text.
struct ToolResult {
    std::vector<Content> content = {};
    std::optional<ordered_json> structured = {};
    bool is_error = false;
    ordered_json meta = {};  // `_meta`; null: none

    static ToolResult text(std::string_view text) { return {.content = {Content::text(text)}}; }
    static ToolResult error(std::string_view text) { return {.content = {Content::text(text)}, .is_error = true}; }
    static ToolResult data(ordered_json structured) { return {.structured = std::move(structured)}; }
};

struct PromptMessage {
    std::string role;  // user or assistant
    Content content;
};
struct PromptResult {
    std::string description = {};
    std::vector<PromptMessage> messages;
};

// The forms of a client's revision: what it does not know is left out, or said in text where something would be lost.
ordered_json to_wire(const Content& content, Revision revision);
ordered_json to_wire(const ToolResult& result, Revision revision);
ordered_json to_wire(const PromptResult& result, Revision revision);
ordered_json to_wire(const ResourceContents& contents);
ordered_json to_wire(const ResourceInfo& resource, Revision revision);

// One line. What is no UTF-8 is replaced: a guest's bytes never break a message.
std::string dump(const ordered_json& value);

}  // namespace pyro::mcp
