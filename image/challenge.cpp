#include "image/challenge.hpp"

#include <curl/curl.h>

#include <algorithm>
#include <cctype>
#include <charconv>

namespace pyro::image {
namespace {

constexpr std::size_t max_challenges = 16, max_parameters = 16;

bool token_byte(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
}

struct ChallengeReader {
    std::string_view text;
    std::size_t at = 0;

    bool ended() const { return at >= text.size(); }
    void skip(std::string_view bytes) {
        while (!ended() && bytes.find(text[at]) != std::string_view::npos)
            ++at;
    }
    std::string token() {
        std::string out;
        while (!ended() && token_byte(text[at]))
            out += static_cast<char>(std::tolower(static_cast<unsigned char>(text[at++])));
        return out;
    }
    std::string value() {
        std::string out;
        if (ended() || text[at] != '"') {
            while (!ended() && text[at] != ',' && text[at] != ' ' && text[at] != '\t')
                out += text[at++];
            return out;
        }
        for (++at; !ended() && text[at] != '"'; ++at) {
            if (text[at] == '\\' && at + 1 < text.size())
                ++at;
            out += text[at];
        }
        ++at;
        return out;
    }
};

}  // namespace

std::vector<Challenge> parse_challenges(std::string_view header) {
    std::vector<Challenge> out;
    ChallengeReader reader{header};
    while (true) {
        reader.skip(" \t,");
        if (reader.ended())
            return out;
        std::string word = reader.token();
        if (word.empty()) {  // no token begins here
            ++reader.at;
            continue;
        }
        reader.skip(" \t");
        if (!reader.ended() && reader.text[reader.at] == '=') {
            ++reader.at;
            reader.skip(" \t");
            std::string value = reader.value();
            if (!out.empty() && out.back().parameters.size() < max_parameters)
                out.back().parameters.emplace(std::move(word), std::move(value));  // the first of a name counts
        } else if (out.size() == max_challenges) {
            return out;
        } else {
            out.push_back(Challenge{std::move(word), {}});
        }
    }
}

std::optional<std::chrono::seconds> parse_retry_after(const std::string& header, std::int64_t now) {
    std::int64_t seconds = 0;
    const char* const end = header.data() + header.size();
    const auto [rest, error] = std::from_chars(header.data(), end, seconds);
    if (error != std::errc() || rest != end) {
        const time_t date = header.empty() || header.size() > 64 ? -1 : curl_getdate(header.c_str(), nullptr);
        seconds = date < 0 ? -1 : static_cast<std::int64_t>(date) - now;
    }
    if (seconds < 0)
        return std::nullopt;
    return std::chrono::seconds(std::min<std::int64_t>(seconds, 366 * 86400));
}

std::string base64(std::string_view bytes) {
    static constexpr char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string out;
    for (std::size_t i = 0; i < bytes.size(); i += 3) {
        std::uint32_t group = 0;
        const std::size_t have = std::min<std::size_t>(3, bytes.size() - i);
        for (std::size_t j = 0; j < 3; ++j)
            group = group << 8 | (j < have ? static_cast<unsigned char>(bytes[i + j]) : 0u);
        for (std::size_t j = 0; j < 4; ++j)
            out += j <= have ? digits[group >> (18 - 6 * j) & 63] : '=';
    }
    return out;
}

std::string percent_encoded(std::string_view text) {
    static constexpr char hex[] = "0123456789ABCDEF";
    std::string out;
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_' || c == '~')
            out += c;
        else
            out += {'%', hex[byte >> 4], hex[byte & 15]};
    }
    return out;
}

}  // namespace pyro::image
