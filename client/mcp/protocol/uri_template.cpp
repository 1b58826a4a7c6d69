#include "client/mcp/protocol/uri_template.hpp"

#include "common/error.hpp"

namespace pyro::mcp {

namespace {

int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

std::optional<std::string> percent_decoded(std::string_view text) {
    std::string decoded;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] != '%') {
            decoded += text[i];
            continue;
        }
        const int high = i + 2 < text.size() ? hex_digit(text[i + 1]) : -1;
        const int low = high < 0 ? -1 : hex_digit(text[i + 2]);
        if (low < 0) return std::nullopt;
        decoded += static_cast<char>(high << 4 | low);
        i += 2;
    }
    return decoded;
}

}  // namespace

UriTemplate::UriTemplate(std::string_view text) {
    while (!text.empty()) {
        const std::size_t open = text.find('{');
        Part part{std::string(text.substr(0, open)), {}, false};
        text.remove_prefix(open == std::string_view::npos ? text.size() : open);
        if (!text.empty()) {
            const std::size_t close = text.find('}');
            PYRO_CHECK(close != std::string_view::npos);
            std::string_view name = text.substr(1, close - 1);
            part.rest = name.starts_with('+');
            name.remove_prefix(part.rest ? 1 : 0);
            PYRO_CHECK(!name.empty());
            part.variable = name;
            variables_.push_back(part.variable);
            text.remove_prefix(close + 1);
        }
        parts_.push_back(std::move(part));
    }
}

std::optional<std::map<std::string, std::string>> UriTemplate::match(std::string_view uri) const {
    std::map<std::string, std::string> values;
    for (std::size_t i = 0; i < parts_.size(); ++i) {
        const Part& part = parts_[i];
        if (!uri.starts_with(part.literal)) return std::nullopt;
        uri.remove_prefix(part.literal.size());
        if (part.variable.empty()) continue;
        // A variable ends where the next literal begins; the last one takes what is left.
        const bool last = i + 1 == parts_.size();
        const std::size_t end = last ? uri.size() : part.rest ? uri.rfind(parts_[i + 1].literal) : uri.find(parts_[i + 1].literal);
        if (end == std::string_view::npos || end == 0) return std::nullopt;
        const std::string_view raw = uri.substr(0, end);
        if (!part.rest && raw.find('/') != std::string_view::npos) return std::nullopt;
        auto value = percent_decoded(raw);
        if (!value) return std::nullopt;
        values[part.variable] = std::move(*value);
        uri.remove_prefix(end);
    }
    if (!uri.empty()) return std::nullopt;
    return values;
}

}  // namespace pyro::mcp
