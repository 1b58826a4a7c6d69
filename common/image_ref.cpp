#include "common/image_ref.hpp"

#include <algorithm>
#include <array>
#include <charconv>

#include "common/error.hpp"

namespace pyro {
namespace {

constexpr std::size_t max_reference = 512, max_repository = 255, max_registry = 253 + 6, max_tag = 128;

bool ref_lower(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }
bool ref_alnum(char c) { return ref_lower(c) || (c >= 'A' && c <= 'Z'); }

// What the user typed may hold anything; an error message shows it harmless and short.
std::string ref_quoted(std::string_view text) {
    std::string out = "\"";
    for (const char c : text.substr(0, 80))
        out += c < 0x20 || c == 0x7f ? '?' : c;
    return out + (text.size() > 80 ? "...\"" : "\"");
}

constexpr std::string_view ref_form = "write it as [registry/]repository[:tag][@sha256:digest], for example debian:12";

[[noreturn]] void ref_refuse(std::string_view text, const std::string& why, std::string hint = std::string(ref_form)) {
    throw Error(ErrorCode::invalid_argument, "image reference " + ref_quoted(text) + ": " + why, std::move(hint));
}

// [a-z0-9]+ joined by one '.', one or two '_', or any number of '-'.
bool ref_component(std::string_view part) {
    if (part.empty() || !ref_lower(part.front()) || !ref_lower(part.back()))
        return false;
    for (std::size_t i = 0; i < part.size();) {
        if (ref_lower(part[i])) {
            ++i;
            continue;
        }
        const char separator = part[i];
        std::size_t run = 0;
        while (part[i] == separator)  // ends: the last character is no separator
            ++i, ++run;
        if (!(separator == '-' || (separator == '.' && run == 1) || (separator == '_' && run <= 2)) || !ref_lower(part[i]))
            return false;
    }
    return true;
}

bool ref_host(std::string_view host) {
    if (host.size() > 2 && host.front() == '[' && host.back() == ']')
        return std::all_of(host.begin() + 1, host.end() - 1, [](char c) { return std::string_view("0123456789abcdefABCDEF:").find(c) != std::string_view::npos; });
    while (true) {
        const std::string_view label = host.substr(0, host.find('.'));
        if (label.empty() || label.size() > 63 || !ref_alnum(label.front()) || !ref_alnum(label.back()) ||
            !std::all_of(label.begin(), label.end(), [](char c) { return ref_alnum(c) || c == '-'; }))
            return false;
        if (label.size() == host.size())
            return true;
        host.remove_prefix(label.size() + 1);
    }
}

bool ref_registry(std::string_view registry) {
    const auto colon = registry.rfind(':');
    const bool ported = colon != std::string_view::npos && registry.back() != ']';
    if (ported) {
        const std::string_view port = registry.substr(colon + 1);
        unsigned number = 0;
        const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
        if (port.empty() || error != std::errc() || end != port.data() + port.size() || number == 0 || number > 65535)
            return false;
    }
    return registry.size() <= max_registry && ref_host(ported ? registry.substr(0, colon) : registry);
}

}  // namespace

ImageRef ImageRef::parse(std::string_view text) {
    if (text.empty())
        ref_refuse(text, "is empty");
    if (text.size() > max_reference)
        ref_refuse(text, "is longer than " + std::to_string(max_reference) + " characters");
    for (const char c : text)
        if (c <= 0x20 || c == 0x7f)  // char is signed here: bytes above 0x7f are below zero
            ref_refuse(text, "has a space, a control character or a character that is not ASCII");

    if (const auto scheme = text.find("://"); scheme != std::string_view::npos)
        ref_refuse(text, "is an address", "write it without " + ref_quoted(text.substr(0, scheme + 3)));
    if (text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos)
        ref_refuse(text, "64 hexadecimal digits are a digest, no name", "write what it is a digest of: repository@sha256:digest");

    ImageRef ref;
    std::string_view rest = text;
    if (const auto at = rest.find('@'); at != std::string_view::npos) {
        try {
            ref.digest = Digest::parse(rest.substr(at + 1));
        } catch (const Error&) {
            ref_refuse(text, "the digest after '@' is not sha256: and 64 lower-case hexadecimal digits");
        }
        rest = rest.substr(0, at);
    }
    if (const auto colon = rest.rfind(':'); colon != std::string_view::npos && rest.find('/', colon) == std::string_view::npos) {
        ref.tag = rest.substr(colon + 1);
        rest = rest.substr(0, colon);
        if (ref.tag.empty() || ref.tag.size() > max_tag || !(ref_alnum(ref.tag[0]) || ref.tag[0] == '_') ||
            !std::all_of(ref.tag.begin(), ref.tag.end(), [](char c) { return ref_alnum(c) || c == '_' || c == '.' || c == '-'; }))
            ref_refuse(text, "the tag after ':' must be 1 to 128 letters, digits, '_', '.' or '-' and not begin with '.' or '-'");
    } else if (ref.digest.empty()) {
        ref.tag = "latest";
    }

    // docker's rule: the first part is a registry if it could not be a repository name.
    ref.registry = "docker.io";
    if (const auto slash = rest.find('/'); slash != std::string_view::npos) {
        const std::string_view first = rest.substr(0, slash);
        if (first == "localhost" || first.find_first_of(".:[ABCDEFGHIJKLMNOPQRSTUVWXYZ") != std::string_view::npos) {
            if (!ref_registry(first))
                ref_refuse(text, "the registry " + ref_quoted(first) + " is not a host name with an optional port");
            ref.registry = first;
            rest = rest.substr(slash + 1);
        }
    }
    if (ref.registry == "index.docker.io")
        ref.registry = "docker.io";
    ref.repository = rest;
    if (ref.registry == "docker.io" && rest.find('/') == std::string_view::npos)
        ref.repository = "library/" + ref.repository;
    if (ref.repository.size() > max_repository)
        ref_refuse(text, "the repository is longer than " + std::to_string(max_repository) + " characters");
    for (std::string_view left = rest;;) {
        const std::string_view part = left.substr(0, left.find('/'));
        const auto upper = [](char c) { return c >= 'A' && c <= 'Z'; };
        std::string lower(text.substr(0, static_cast<std::size_t>(rest.data() + rest.size() - text.data())));
        std::transform(lower.begin(), lower.end(), lower.begin(), [&](char c) { return upper(c) ? static_cast<char>(c - 'A' + 'a') : c; });
        if (std::any_of(part.begin(), part.end(), upper))
            ref_refuse(text, "repository names are lower-case", "write " + lower + std::string(text.substr(lower.size())));
        if (!ref_component(part))
            ref_refuse(text, "the repository part " + ref_quoted(part) +
                                 " must be lower-case letters and digits, joined by '.', '_', '__' or '-'");
        if (part.size() == left.size())
            break;
        left.remove_prefix(part.size() + 1);
    }
    return ref;
}

std::string ImageRef::str() const {
    return registry + "/" + repository + (tag.empty() ? "" : ":" + tag) + (digest.empty() ? "" : "@" + digest.str());
}

std::string ImageRef::selector() const { return digest.empty() ? tag : digest.str(); }

ImageSource ImageSource::parse(std::string_view text) {
    static constexpr std::array forms{std::pair{std::string_view("oci:"), Kind::oci_layout}, std::pair{std::string_view("oci-archive:"), Kind::oci_archive},
                                      std::pair{std::string_view("docker-archive:"), Kind::docker_archive}};
    ImageSource out;
    for (const auto& [prefix, kind] : forms) {
        if (!text.starts_with(prefix))
            continue;
        // As container tools do it: the path ends at the first colon.
        const std::string_view rest = text.substr(prefix.size());
        const auto colon = std::min(rest.find(':'), rest.size());
        out.kind = kind;
        out.path = rest.substr(0, colon);
        out.name = rest.substr(std::min(colon + 1, rest.size()));
        if (out.path.empty() || out.path.find('\0') != std::string::npos || (colon < rest.size() && out.name.empty()) || text.size() > 4096 + 512)
            throw Error(ErrorCode::invalid_argument, ref_quoted(text) + " names no file", "write " + std::string(prefix) + "PATH, or " + std::string(prefix) + "PATH:TAG");
        return out;
    }
    out.reference = ImageRef::parse(text);
    return out;
}

}  // namespace pyro
