// A guest's bytes as a model is shown them: no more than fits, no terminal's control sequences, valid UTF-8, and always said what is missing.
#pragma once
#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pyro::shim {

inline constexpr std::size_t most_shown = 30'000;   // characters of one result
inline constexpr std::size_t most_output = 26'000;  // of them for a command's output

// Leaves out ANSI escape sequences, also those that come in pieces.
class AnsiFilter {
public:
    std::string operator()(std::string_view bytes);

private:
    enum class State { text, escape, charset, csi, string, string_escape } state_ = State::text;
};

// One stream of a command, its head and its tail. Not for threads of its own.
class Shown {
public:
    explicit Shown(bool keep_ansi = false) : keep_ansi_(keep_ansi) {}
    void add(std::string_view bytes);                 // a character that is not all there yet waits for its rest...
    void finish();                                    // ...which does not come any more
    std::uint64_t raw_bytes() const { return raw_; }  // before anything was left out
    std::size_t wanted() const;                       // what all that is kept would need
    // At most about `budget` characters as JSON counts them. `where`: how to get the rest. What was done to it is added to `notes`.
    std::string text(std::size_t budget, const std::string& name, const std::string& where, std::vector<std::string>& notes, bool& truncated) const;

private:
    void take(std::string_view bytes);

    bool keep_ansi_;
    AnsiFilter filter_;
    std::string unfinished_;
    std::uint64_t raw_ = 0, total_ = 0;
    std::string head_, tail_;
};

// Characters that the text takes in JSON.
std::size_t json_size(std::string_view text);
// Bytes at the end that are the beginning of a character.
std::size_t unfinished_character(std::string_view text);
// The longest beginning of at most `size` bytes that cuts no character.
std::string_view whole_characters(std::string_view text, std::size_t size);

// Makes a result fit: long strings are cut, and lists lose their ends; `notes` says so. Members named in `kept` are left alone.
void fit(nlohmann::ordered_json& result, const std::vector<std::string>& kept = {});

}  // namespace pyro::shim
