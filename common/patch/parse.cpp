#include <algorithm>
#include <charconv>

#include "common/error.hpp"
#include "common/patch/names.hpp"
#include "common/patch/patch.hpp"

namespace pyro::patch {
namespace {

// More than two names of 4095 bytes can take, each byte written as an octal escape.
constexpr std::size_t longest_header_line = 40'000;
constexpr std::size_t highest_line_number = 1'000'000'000;
constexpr std::string_view no_name = "/dev/null";

bool eat(std::string_view& text, std::string_view prefix) {
    if (!text.starts_with(prefix)) return false;
    text.remove_prefix(prefix.size());
    return true;
}

class Parser {
public:
    Parser(std::string_view text, const ParseLimits& limits) : rest_(text), limits_(limits) {}

    std::vector<FilePatch> run() {
        if (rest_.size() > limits_.bytes)
            fail("the patch has more than " + std::to_string(limits_.bytes) + " bytes", "split it by files");
        if (!rest_.empty() && rest_.back() != '\n')
            fail_at(static_cast<std::size_t>(std::count(rest_.begin(), rest_.end(), '\n')) + 1, "the patch ends within this line",
                    "give all of it, and end it with a newline");
        while (!rest_.empty()) {
            std::string_view line = peek();
            if (eat(line, "diff --git ")) {
                git_patch(line);
            } else if (line.starts_with("--- ") && next_but_one().starts_with("+++ ")) {
                plain_patch();
            } else {
                refuse_part_of_patch(line);
                after_hunk_ = after_hunk_ && line == "\n";
                take();
            }
        }
        if (patches_.empty()) fail_at(1, "there is no patch in the text", "give the output of git diff or diff -u");
        return std::move(patches_);
    }

private:
    [[noreturn]] void fail(const std::string& what, std::string hint = "make the patch anew with git diff") const { fail_at(line_, what, std::move(hint)); }
    [[noreturn]] static void fail_at(std::size_t line, const std::string& what, std::string hint = "make the patch anew with git diff") {
        throw Error(ErrorCode::invalid_argument, "patch line " + std::to_string(line) + ": " + what, std::move(hint))
            .with_detail("line", std::to_string(line));
    }

    // Lines with their newline.
    std::string_view peek() const { return rest_.substr(0, rest_.find('\n') + 1); }
    std::string_view next_but_one() const { return rest_.substr(peek().size()); }
    std::string_view take() {
        const std::string_view line = peek();
        rest_.remove_prefix(line.size());
        ++line_;
        return line;
    }
    // A line of a header, without its end.
    std::string_view header(std::string_view line) const {
        if (line.size() > longest_header_line) fail("this line of a header is longer than any name", "shorten the name");
        line.remove_suffix(1);
        if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
        return line;
    }

    // Text around patches means nothing; what looks like a piece of one must not go unnoticed there.
    void refuse_part_of_patch(std::string_view line) const {
        if (line.starts_with("@@ -")) fail("a hunk without a file", "give the ---/+++ or diff --git lines in front of it as well");
        if (line.starts_with("***************")) fail("a context diff", "use git diff or diff -u");
        if (line.starts_with("diff --cc ") || line.starts_with("diff --combined ")) fail("a merge's combined diff", "use git diff between two trees");
        if (line.starts_with("GIT binary patch")) fail_binary();
        if (line.starts_with("Binary files ") && line.ends_with(" differ\n")) fail("binary content that the patch does not have", "write the file itself instead");
        // "-- " alone begins the signature of a patch that was mailed.
        if (after_hunk_ && line != "-- \n" && std::string_view("+- \\").find(line[0]) != std::string_view::npos)
            fail("the hunk before this line has more lines than its header says", "correct the counts in its @@ line");
    }
    [[noreturn]] void fail_binary(const std::string& whose = {}) const { fail(whose + "a GIT binary patch: binary content cannot be applied", "write the file itself instead"); }

    FilePatch& begin() {
        if (patches_.size() >= limits_.files) fail("more than " + std::to_string(limits_.files) + " files", "split the patch by files");
        after_hunk_ = false;
        FilePatch& patch = patches_.emplace_back();
        patch.line = line_;
        return patch;
    }

    std::string checked(std::string path) const {
        try {
            check_path(path);
        } catch (Error& error) {
            throw error.add_context("patch line " + std::to_string(line_)).with_detail("line", std::to_string(line_));
        }
        return path;
    }

    // A name as -p1 takes it: without its first component. Nothing for /dev/null.
    std::optional<std::string> stripped(const std::string& name) const {
        if (name == no_name) return std::nullopt;
        if (name.starts_with('/')) checked(name);
        const std::size_t slash = name.find('/');
        if (slash == std::string::npos)
            fail("the name " + shown(name) + " has no first component to cut off", "name files with a/ and b/ in front, as git diff does");
        return checked(name.substr(slash + 1));
    }

    // What stands on a line of its own behind a keyword. A plain name ends at a tab where `until_tab`.
    std::string name_of(std::string_view text, bool until_tab) const {
        if (text.starts_with('"')) {
            if (const auto name = unquote(text)) return *name;
            fail("a quoted name that is not as git quotes");
        }
        return std::string(until_tab ? text.substr(0, text.find('\t')) : text);
    }

    Mode mode_of(std::string_view text) const {
        for (const auto& [spelling, mode] : {std::pair{"100644", Mode::regular}, {"100755", Mode::executable}, {"120000", Mode::symlink}})
            if (text == spelling) return mode;
        if (text == "160000") fail("mode 160000: a submodule cannot be patched", "leave submodules out of the patch");
        fail("mode " + shown(text) + " is not 100644, 100755 or 120000");
    }

    // The one name on both sides of "a/x b/x"; nothing if they differ, as in renames, which name them below.
    std::optional<std::string> common_name(std::string_view line) const {
        if (line.starts_with('"')) {
            const auto first = unquote(line);
            if (!first || !eat(line, " ")) return std::nullopt;
            return same_below(*first, name_of(line, false));
        }
        // Names may have blanks. What is behind the first slash of both is of one length: at most one blank can be between them.
        const std::size_t first_slash = line.find('/');
        std::size_t slash = 0;
        for (std::size_t blank = line.find(' '); blank != std::string_view::npos; blank = line.find(' ', blank + 1)) {
            const std::string_view second = line.substr(blank + 1);
            if (second.starts_with('"')) return same_below(line.substr(0, blank), name_of(second, false));
            if (slash < blank) slash = line.find('/', blank);
            if (slash == std::string_view::npos) return std::nullopt;
            if (blank > first_slash && blank - first_slash == line.size() - slash) return same_below(line.substr(0, blank), second);
        }
        return std::nullopt;
    }
    std::optional<std::string> same_below(std::string_view first, std::string_view second) const {
        const std::size_t a = first.find('/'), b = second.find('/');
        if (a == std::string_view::npos || b == std::string_view::npos || first.substr(a) != second.substr(b)) return std::nullopt;
        return stripped(std::string(first));
    }

    void git_patch(std::string_view first_line) {
        FilePatch& patch = begin();
        const auto common = common_name(header(first_line));
        take();
        std::optional<std::string> minus, plus, from, to;  // of ---, +++ and renames; minus and plus still with their prefix
        std::optional<Mode> index_mode;
        bool created = false, deleted = false;
        for (bool more = true; more && !rest_.empty();) {
            std::string_view line = peek();
            if (eat(line, "old mode ")) patch.old_mode = mode_of(header(line));
            else if (eat(line, "new mode ")) patch.new_mode = mode_of(header(line));
            else if (eat(line, "new file mode ")) created = true, patch.new_mode = mode_of(header(line));
            else if (eat(line, "deleted file mode ")) deleted = true, patch.old_mode = mode_of(header(line));
            else if (eat(line, "rename from ")) patch.renamed = true, from = checked(name_of(header(line), false));
            else if (eat(line, "rename to ")) patch.renamed = true, to = checked(name_of(header(line), false));
            else if (eat(line, "copy from ")) patch.copied = true, from = checked(name_of(header(line), false));
            else if (eat(line, "copy to ")) patch.copied = true, to = checked(name_of(header(line), false));
            else if (eat(line, "index ")) index_mode = mode_of_index(header(line));
            else if (eat(line, "--- ")) minus = name_of(header(line), true);
            else if (eat(line, "+++ ")) plus = name_of(header(line), true), more = false;
            else if (line.starts_with("Binary files ") && header(line).ends_with(" differ")) patch.binary = true, more = false;
            else if (line.starts_with("GIT binary patch")) fail_binary(common ? shown(*common) + " has " : "");
            else if (!eat(line, "similarity index ") && !eat(line, "dissimilarity index ")) break;
            header(line);
            take();
        }

        if (created + deleted + patch.renamed + patch.copied > 1) fail("a file cannot be new, deleted, renamed and copied at once");
        const bool moved = patch.renamed || patch.copied;
        if (moved && (!from || !to || *from == *to)) fail("a rename or copy without two names");
        const auto side = [&](const std::optional<std::string>& named, bool absent, const std::optional<std::string>& known) {
            std::optional<std::string> path = known ? known : common;
            if (named) {
                const auto given = stripped(*named);
                if (given.has_value() == absent) fail(absent ? "/dev/null is expected here" : "/dev/null without \"new file mode\" or \"deleted file mode\"");
                if (given && path && *given != *path) fail("the names in the header of this file differ");
                path = given;
            }
            if (absent) path.reset();
            else if (!path) fail("the header does not name the file");
            return path;
        };
        patch.old_path = side(minus, created, from);
        patch.new_path = side(plus, deleted, to);
        if (!moved && patch.old_path && patch.new_path && *patch.old_path != *patch.new_path)
            fail("the names in the header of this file differ", "a rename needs its rename from and rename to lines");
        if (!created && !deleted && patch.old_mode.has_value() != patch.new_mode.has_value()) fail("old mode and new mode belong together");
        if (!created && !patch.old_mode) patch.old_mode = index_mode;
        if (patch.old_mode && patch.new_mode && is_file(*patch.old_mode) != is_file(*patch.new_mode))
            fail("a file and a symlink are not each other's mode", "delete one and create the other");
        if (!patch.binary && minus.has_value() != plus.has_value()) fail("--- and +++ belong together");
        hunks(patch);
        if (patch.hunks.empty() && minus) fail("--- and +++ without a hunk behind them");
        if (patch.hunks.empty() && !patch.binary && !created && !deleted && !moved && !patch.new_mode) fail("the header says no change");
    }

    std::optional<Mode> mode_of_index(std::string_view text) const {
        const std::size_t blank = text.find(' ');
        if (text.substr(0, blank).find_first_not_of("0123456789abcdef.,") != std::string_view::npos) fail("an index line without object names");
        if (blank == std::string_view::npos) return std::nullopt;
        return mode_of(text.substr(blank + 1));
    }

    void plain_patch() {
        FilePatch& patch = begin();
        const std::string_view minus = header(peek()).substr(4);
        take();
        const std::string_view plus = header(peek()).substr(4);
        auto old_path = stripped(name_of(minus, true)), new_path = stripped(name_of(plus, true));
        if (!old_path && !new_path) fail("/dev/null on both sides");
        // diff -N says by the date that there is no file, and x.orig is x.
        if (old_path && new_path) {
            if (!new_path->starts_with(*old_path)) old_path = new_path;
            else new_path = old_path;
            if (is_epoch(minus)) old_path.reset();
            else if (is_epoch(plus)) new_path.reset();
        }
        patch.old_path = std::move(old_path);
        patch.new_path = std::move(new_path);
        take();
        hunks(patch);
        if (patch.hunks.empty()) fail("--- and +++ without a hunk behind them", "a hunk begins with @@ -LINE,COUNT +LINE,COUNT @@");
        if (patch.old_path && patch.new_path && patch.hunks.size() == 1 && patch.hunks[0].old_count == 0) patch.may_create = true;
    }

    // "NAME<tab>1970-01-01 01:00:00.000000000 +0100": the beginning of time in any zone.
    static bool is_epoch(std::string_view text) {
        text.remove_prefix(std::min(text.find('\t'), text.size()));
        int minutes = 0;
        if (eat(text, "\t1969-12-31 ")) minutes = -24 * 60;
        else if (!eat(text, "\t1970-01-01 ")) return false;
        const auto two = [&](int& value) {
            const bool digits = text.size() >= 2 && text[0] >= '0' && text[0] <= '9' && text[1] >= '0' && text[1] <= '9';
            if (digits) value = (text[0] - '0') * 10 + text[1] - '0', text.remove_prefix(2);
            return digits;
        };
        int hour = 0, minute = 0, zone_hour = 0, zone_minute = 0;
        if (!two(hour) || !eat(text, ":") || !two(minute) || !eat(text, ":00")) return false;
        if (eat(text, ".")) text.remove_prefix(std::min(text.find_first_not_of('0'), text.size()));
        const bool west = text.starts_with(" -");
        if (!eat(text, " +") && !eat(text, " -")) return false;
        if (!two(zone_hour)) return false;
        eat(text, ":");
        if (!two(zone_minute) || !text.empty()) return false;
        const int zone = zone_hour * 60 + zone_minute;
        return minutes + hour * 60 + minute == (west ? -zone : zone);
    }

    void hunks(FilePatch& patch) {
        if (patch.binary) return;
        while (rest_.starts_with("@@ -")) {
            if (hunk_count_++ >= limits_.hunks) fail("more than " + std::to_string(limits_.hunks) + " hunks", "split the patch by files");
            Hunk& hunk = patch.hunks.emplace_back();
            hunk.line = line_;
            std::string_view text = peek();
            eat(text, "@@ -");
            range(text, hunk.old_start, hunk.old_count, " +");
            range(text, hunk.new_start, hunk.new_count, " @@");
            if (patch.creates() && hunk.old_count > 0) fail("a new file has no old lines");
            if (patch.deletes() && hunk.new_count > 0) fail("a deleted file keeps no lines");
            take();
            body(hunk);
        }
    }

    void range(std::string_view& text, std::size_t& start, std::size_t& count, std::string_view behind) const {
        const auto number = [&](std::size_t& value) {
            const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
            if (error != std::errc() || value > highest_line_number) fail("the line numbers of this hunk cannot be read or are out of range");
            text.remove_prefix(static_cast<std::size_t>(end - text.data()));
        };
        number(start);
        count = 1;
        if (eat(text, ",")) number(count);
        if (!eat(text, behind)) fail("a hunk begins with @@ -LINE,COUNT +LINE,COUNT @@");
    }

    void body(Hunk& hunk) {
        std::size_t old_left = hunk.old_count, new_left = hunk.new_count;
        bool changes = false, old_ended = false, new_ended = false;
        char previous = '\\';
        // Behind the last line there may still be its "\ No newline at end of file".
        while (old_left > 0 || new_left > 0 || (rest_.starts_with("\\ ") && previous != '\\')) {
            if (rest_.empty())
                fail_at(hunk.line, "the patch ends within this hunk; " + std::to_string(old_left) + " old and " + std::to_string(new_left) +
                        " new lines are missing", "give all of it, or correct the counts in its @@ line");
            const std::string_view line = peek();
            const char kind = line == "\n" ? ' ' : line[0];  // of an empty line some programs drop the blank
            const bool in_old = kind == ' ' || kind == '-', in_new = kind == ' ' || kind == '+';
            if (kind == '\\') {
                if (!line.starts_with("\\ ") || previous == '\\') fail("a line that belongs to no hunk");
                old_ended |= previous != '+';
                new_ended |= previous != '-';
            } else if (!in_old && !in_new) {
                fail("this line is in a hunk that needs " + std::to_string(old_left) + " more old and " + std::to_string(new_left) +
                     " more new lines, and begins with none of ' ', '-', '+'", "correct the hunk or the counts in its @@ line");
            } else if ((in_old && old_left == 0) || (in_new && new_left == 0)) {
                fail("more lines than the hunk's header says", "correct the counts in its @@ line");
            } else if ((in_old && old_ended) || (in_new && new_ended)) {
                fail("a line behind the one without newline");
            }
            if (kind == ' ' && line[0] != ' ') hunk.body += ' ';
            hunk.body += line;
            old_left -= in_old;
            new_left -= in_new;
            changes |= in_old != in_new;
            previous = kind;
            take();
        }
        if (!changes) fail_at(hunk.line, "a hunk that changes nothing");
        after_hunk_ = true;
    }

    std::string_view rest_;
    const ParseLimits limits_;
    std::size_t line_ = 1;
    std::size_t hunk_count_ = 0;
    bool after_hunk_ = false;  // nothing but empty lines since the last hunk
    std::vector<FilePatch> patches_;
};

}  // namespace

std::vector<FilePatch> parse(std::string_view text, const ParseLimits& limits) { return Parser(text, limits).run(); }

Stat stat(const FilePatch& patch) {
    Stat sum;
    sum.binary = patch.binary;
    for (const Hunk& hunk : patch.hunks)
        for (std::size_t at = 0; at < hunk.body.size(); at = hunk.body.find('\n', at) + 1) {
            sum.added += hunk.body[at] == '+';
            sum.deleted += hunk.body[at] == '-';
        }
    return sum;
}

}  // namespace pyro::patch
