#include "client/mcp/text.hpp"

#include "client/lib/capture.hpp"

#include <algorithm>
#include <map>
#include <utility>

namespace pyro::shim {

using nlohmann::ordered_json;

namespace {

bool continues(char c) { return (static_cast<unsigned char>(c) & 0xC0u) == 0x80u; }

std::string_view whole_characters_behind(std::string_view text, std::size_t size) {
    if (text.size() <= size) return text;
    text.remove_prefix(text.size() - size);
    for (int i = 0; i < 3 && !text.empty() && continues(text.front()); ++i) text.remove_prefix(1);
    return text;
}

}  // namespace

std::string AnsiFilter::operator()(std::string_view bytes) {
    std::string out;
    out.reserve(bytes.size());
    for (const char c : bytes) {
        const auto byte = static_cast<unsigned char>(c);
        switch (state_) {
            case State::text:
                if (c == '\x1b') state_ = State::escape;
                else out += c;
                break;
            case State::escape:
                if (c == '[') state_ = State::csi;
                else if (c == ']' || c == 'P' || c == 'X' || c == '^' || c == '_') state_ = State::string;
                else if (byte >= 0x20 && byte <= 0x2f) state_ = State::charset;
                else if (c != '\x1b') state_ = State::text;
                break;
            case State::charset:
                if (byte < 0x20 || byte > 0x2f) state_ = State::text;
                break;
            case State::csi:
                if (byte >= 0x40 && byte <= 0x7e) state_ = State::text;
                else if (byte < 0x20 || byte > 0x3f) {  // no sequence after all
                    state_ = c == '\x1b' ? State::escape : State::text;
                    if (c != '\x1b') out += c;
                }
                break;
            case State::string:
                if (c == '\a' || c == '\n') state_ = State::text;
                else if (c == '\x1b') state_ = State::string_escape;
                if (c == '\n') out += c;  // nothing that was meant for a terminal goes over a line's end
                break;
            case State::string_escape: state_ = State::text; break;
        }
    }
    return out;
}

void Shown::add(std::string_view bytes) {
    const std::string whole = std::exchange(unfinished_, {}) + std::string(bytes);
    const std::size_t later = unfinished_character(whole);
    unfinished_ = whole.substr(whole.size() - later);
    take(std::string_view(whole).substr(0, whole.size() - later));
}

void Shown::finish() { take(std::exchange(unfinished_, {})); }

void Shown::take(std::string_view bytes) {
    raw_ += bytes.size();
    const std::string filtered = keep_ansi_ ? std::string(bytes) : filter_(bytes);
    std::string_view rest = filtered;
    total_ += rest.size();
    const std::size_t to_head = std::min(rest.size(), most_output - head_.size());
    head_ += rest.substr(0, to_head);
    rest.remove_prefix(to_head);
    tail_ += rest;
    if (tail_.size() > 2 * most_output) tail_.erase(0, tail_.size() - most_output);
}

std::size_t Shown::wanted() const { return json_size(head_) + json_size(tail_); }

std::string Shown::text(std::size_t budget, const std::string& name, const std::string& where, std::vector<std::string>& notes, bool& truncated) const {
    const bool all_kept = total_ == head_.size() + tail_.size();
    const std::string whole = all_kept ? head_ + tail_ : std::string();
    std::string_view head = all_kept ? whole : head_, tail;
    if (!all_kept || wanted() > budget) {
        truncated = true;
        const std::size_t fits = std::min(budget, budget * (head_.size() + tail_.size()) / std::max<std::size_t>(wanted(), 1));
        head = whole_characters(head, fits / 2);
        tail = whole_characters_behind(all_kept ? std::string_view(whole) : tail_, fits - head.size());
    }
    if (!client::is_valid_utf8(head) || !client::is_valid_utf8(tail)) notes.push_back(name + ": bytes that are no UTF-8 were replaced by U+FFFD");
    std::string out = client::valid_utf8(head);
    if (const std::uint64_t missing = total_ - head.size() - tail.size(); missing > 0)
        out += "\n[" + std::to_string(missing) + " bytes left out" + (where.empty() ? "" : "; " + where) + "]\n";
    return out + client::valid_utf8(tail);
}

std::size_t json_size(std::string_view text) {
    std::size_t size = 0;
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (c == '"' || c == '\\' || c == '\n' || c == '\t' || c == '\r' || c == '\b' || c == '\f') size += 2;
        else if (byte < 0x20) size += 6;
        else if ((byte & 0xC0u) != 0x80u) ++size;
    }
    return size;
}

std::size_t unfinished_character(std::string_view text) {
    for (std::size_t back = 1; back <= 3 && back <= text.size(); ++back) {
        const auto byte = static_cast<unsigned char>(text[text.size() - back]);
        if ((byte & 0xC0u) == 0x80u) continue;
        const std::size_t length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC2 ? 2 : 1;
        return back < length ? back : 0;
    }
    return 0;
}

std::string_view whole_characters(std::string_view text, std::size_t size) {
    if (text.size() <= size) return text;
    for (int i = 0; i < 3 && size > 0 && continues(text[size]); ++i) --size;
    return text.substr(0, size);
}

namespace {

// Cuts strings that are too long for what they are: names, arguments, messages.
bool cut_strings(ordered_json& value, std::size_t most) {
    if (value.is_string()) {
        auto& text = value.get_ref<std::string&>();
        if (text.size() <= most) return false;
        text = std::string(whole_characters(text, most)) + "...";
        return true;
    }
    bool any = false;
    if (value.is_structured())
        for (auto& member : value) any |= cut_strings(member, most);
    return any;
}

}  // namespace

void fit(ordered_json& result, const std::vector<std::string>& kept) {
    const auto is_kept = [&](const std::string& name) { return std::find(kept.begin(), kept.end(), name) != kept.end(); };
    const auto size = [](const ordered_json& value) { return value.dump(-1, ' ', false, ordered_json::error_handler_t::replace).size(); };
    std::vector<std::string> said;
    std::size_t fixed = 0;
    for (auto& [name, member] : result.items()) {
        if (is_kept(name)) fixed += size(member);
        else if (cut_strings(member, 2'000)) said.push_back(name + ": long texts were cut");
    }
    const std::size_t budget = most_shown > fixed + 2'000 ? most_shown - fixed : 2'000;
    std::map<std::string, std::size_t> gone;
    while (size(result) - fixed > budget) {
        ordered_json* longest = nullptr;
        std::string name;
        for (auto& [key, member] : result.items())
            if (!is_kept(key) && member.is_array() && member.size() > 1 && (!longest || size(member) > size(*longest))) longest = &member, name = key;
        if (!longest) break;
        const std::size_t half = longest->size() / 2;
        gone[name] += longest->size() - half;
        longest->erase(longest->begin() + static_cast<std::ptrdiff_t>(half), longest->end());
    }
    for (const auto& [name, count] : gone) said.push_back(name + ": the last " + std::to_string(count) + " were left out");
    for (const std::string& note : said) result["notes"].push_back(note);
}

}  // namespace pyro::shim
