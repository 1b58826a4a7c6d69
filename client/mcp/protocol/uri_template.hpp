// URI templates of resources: literals, {name} for one segment and {+name} for the rest with its slashes (RFC 6570).
#pragma once
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pyro::mcp {

class UriTemplate {
public:
    explicit UriTemplate(std::string_view text);  // a malformed one is a bug
    // The values of its variables, percent-decoded, if `uri` is one of its.
    std::optional<std::map<std::string, std::string>> match(std::string_view uri) const;
    const std::vector<std::string>& variables() const noexcept { return variables_; }

private:
    struct Part { std::string literal; std::string variable; bool rest; };  // a literal, then a variable (the last part: perhaps none)
    std::vector<Part> parts_;
    std::vector<std::string> variables_;
};

}  // namespace pyro::mcp
