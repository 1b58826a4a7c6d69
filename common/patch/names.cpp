#include "common/patch/names.hpp"

#include <algorithm>

#include "common/error.hpp"
#include "common/patch/patch.hpp"

namespace pyro::patch {
namespace {

constexpr std::string_view escaped_as = "abtnvfr\"\\", escaped = "\a\b\t\n\v\f\r\"\\";
constexpr std::size_t longest_path = 4095, longest_name = 255;

}  // namespace

bool is_dot_git(std::string_view component) {
    constexpr std::string_view name = ".git";
    return std::equal(component.begin(), component.end(), name.begin(), name.end(),
                      [](char given, char wanted) { return given == wanted || (given >= 'A' && given <= 'Z' && given - 'A' + 'a' == wanted); });
}

void check_path(std::string_view path) {
    const auto refuse = [&](std::string_view why) {
        throw Error(ErrorCode::invalid_argument, "path " + shown(path) + " " + std::string(why), "name files relative to the top directory");
    };
    if (path.empty()) refuse("is empty");
    if (path.size() > longest_path) refuse("is longer than 4095 bytes");
    if (path.find('\0') != std::string_view::npos) refuse("has a NUL in it");
    if (path[0] == '/') refuse("is absolute");
    for (std::size_t start = 0; start <= path.size();) {
        const std::size_t end = std::min(path.find('/', start), path.size());
        const std::string_view component = path.substr(start, end - start);
        if (component.empty()) refuse("has an empty component");
        if (component.size() > longest_name) refuse("has a component of more than 255 bytes");
        if (component == ".") refuse("has a component \".\"");
        if (component == "..") refuse("has a component \"..\"");
        if (is_dot_git(component)) refuse("is beneath a .git, which patches leave alone");
        start = end + 1;
    }
}

std::string quote(std::string_view name) {
    std::string text;
    bool needed = false;
    for (const char c : name) {
        const auto byte = static_cast<unsigned char>(c);
        const std::size_t short_form = escaped.find(c);
        if (short_form == std::string_view::npos && byte >= 0x20 && byte < 0x7f) {
            text += c;
            continue;
        }
        needed = true;
        text += '\\';
        if (short_form != std::string_view::npos) text += escaped_as[short_form];
        else for (int shift = 6; shift >= 0; shift -= 3) text += static_cast<char>('0' + ((byte >> shift) & 7));
    }
    return needed ? '"' + text + '"' : text;
}

std::string shown(std::string_view name) {
    const std::string quoted = quote(name.substr(0, 200));
    return quoted.starts_with('"') ? quoted : '"' + quoted + '"';
}

std::optional<std::string> unquote(std::string_view& text) {
    std::string name;
    for (std::size_t i = 1; i < text.size(); ++i) {
        if (text[i] == '"') {
            text.remove_prefix(i + 1);
            return name;
        }
        if (text[i] != '\\') {
            name += text[i];
            continue;
        }
        if (++i >= text.size()) break;
        if (const std::size_t short_form = escaped_as.find(text[i]); short_form != std::string_view::npos) {
            name += escaped[short_form];
            continue;
        }
        if (text[i] > '3' || i + 2 >= text.size()) break;
        int byte = 0;
        for (const char digit : text.substr(i, 3)) {
            if (digit < '0' || digit > '7') return std::nullopt;
            byte = byte * 8 + digit - '0';
        }
        name += static_cast<char>(byte);
        i += 2;
    }
    return std::nullopt;
}

}  // namespace pyro::patch
