#include <algorithm>
#include <map>
#include <tuple>

#include "common/error.hpp"
#include "common/patch/lines.hpp"
#include "common/patch/names.hpp"
#include "common/patch/patch.hpp"

namespace pyro::patch {
namespace {

constexpr std::size_t context = 3;
constexpr std::size_t looked_at_for_nul = 8000;
constexpr std::string_view no_newline = "\\ No newline at end of file\n";

std::string octal(Mode mode) {
    std::string digits;
    for (int shift = 15; shift >= 0; shift -= 3) digits += static_cast<char>('0' + ((static_cast<unsigned>(mode) >> shift) & 7));
    return digits;
}

std::string header(std::string_view from, std::string_view to) {
    return "diff --git " + quote("a/" + std::string(from)) + " " + quote("b/" + std::string(to)) + "\n";
}

bool is_binary(std::string_view bytes) { return bytes.substr(0, looked_at_for_nul).find('\0') != std::string_view::npos; }

// The part of two texts around all that differs: `lead` and `tail` lines of context that stay what they are, and what is between.
struct Window {
    std::vector<std::string_view> before, after;
    std::size_t lead, tail;
    std::size_t first_line;  // lines in front of it
};

Window differing_part(std::string_view before, std::string_view after) {
    const auto line_start = [](std::string_view text, std::size_t at) { return at == 0 ? 0 : text.rfind('\n', at - 1) + 1; };
    const auto first = std::mismatch(before.begin(), before.end(), after.begin(), after.end()).first;
    std::size_t start = line_start(before, static_cast<std::size_t>(first - before.begin()));
    // The end must be a line's start in both: behind a newline of the common part, or where both common parts begin.
    const std::string_view rest_before = before.substr(start), rest_after = after.substr(start);
    std::size_t same = static_cast<std::size_t>(
        std::mismatch(rest_before.rbegin(), rest_before.rend(), rest_after.rbegin(), rest_after.rend()).first - rest_before.rbegin());
    const auto starts_line = [&](std::string_view text) { return same == text.size() || text[text.size() - same - 1] == '\n'; };
    if (!starts_line(rest_before) || !starts_line(rest_after)) {
        const std::size_t newline = rest_before.find('\n', rest_before.size() - same);
        same = newline == std::string_view::npos ? 0 : rest_before.size() - newline - 1;
    }
    std::size_t end = before.size() - same, lead = 0, tail = 0;
    for (; tail < context && end < before.size(); ++tail) end = std::min(before.find('\n', end), before.size() - 1) + 1;
    for (; lead < context && start > 0; ++lead) start = line_start(before, start - 1);
    const std::size_t behind = before.size() - end;
    return {split_lines(before.substr(start, end - start)), split_lines(after.substr(start, after.size() - behind - start)), lead, tail,
            static_cast<std::size_t>(std::count(before.begin(), before.begin() + static_cast<std::ptrdiff_t>(start), '\n'))};
}

std::string range(std::size_t start, std::size_t count) {
    return std::to_string(count == 0 ? start : start + 1) + (count == 1 ? "" : "," + std::to_string(count));
}

void put_line(std::string& text, char side, std::string_view line) {
    text += side;
    text += line;
    if (line.back() != '\n') text += '\n', text += no_newline;
}

// Appends the hunks and counts what is in them.
void put_hunks(Made& made, std::string_view before, std::string_view after, const MakeLimits& limits) {
    const Window window = differing_part(before, after);
    const auto& [a, b, context_before, context_behind, first_line] = window;
    using Lines = std::vector<std::string_view>;
    const auto middle = [&](const Lines& lines) {
        return Lines(lines.begin() + static_cast<std::ptrdiff_t>(context_before), lines.end() - static_cast<std::ptrdiff_t>(context_behind));
    };
    const Lines middle_a = middle(a), middle_b = middle(b);
    LineDiff diff{std::vector<char>(middle_a.size(), 1), std::vector<char>(middle_b.size(), 1)};
    if (std::max(middle_a.size(), middle_b.size()) <= limits.diff_lines) diff = diff_lines(middle_a, middle_b, limits.work);
    for (std::vector<char>* flags : {&diff.deleted, &diff.added}) {
        flags->insert(flags->begin(), context_before, 0);
        flags->insert(flags->end(), context_behind, 0);
    }

    struct Group { std::size_t a0, a1, b0, b1; };
    std::vector<Group> groups;
    for (std::size_t i = 0, j = 0; i < a.size() || j < b.size(); ++i, ++j) {
        Group group{i, i, j, j};
        while (group.a1 < a.size() && diff.deleted[group.a1]) ++group.a1;
        while (group.b1 < b.size() && diff.added[group.b1]) ++group.b1;
        i = group.a1, j = group.b1;
        if (group.a0 != i || group.b0 != j) groups.push_back(group);
    }
    for (std::size_t first = 0, next; first < groups.size(); first = next) {
        for (next = first + 1; next < groups.size() && groups[next].a0 - groups[next - 1].a1 <= 2 * context;) ++next;
        const std::size_t lead = std::min(context, groups[first].a0);
        const std::size_t a0 = groups[first].a0 - lead, b0 = groups[first].b0 - lead;
        const std::size_t tail = std::min(context, a.size() - groups[next - 1].a1);
        const std::size_t a1 = groups[next - 1].a1 + tail, b1 = groups[next - 1].b1 + tail;
        made.text += "@@ -" + range(first_line + a0, a1 - a0) + " +" + range(first_line + b0, b1 - b0) + " @@\n";
        std::size_t at = a0;
        for (std::size_t g = first; g < next; ++g) {
            while (at < groups[g].a0) put_line(made.text, ' ', a[at++]);
            while (at < groups[g].a1) put_line(made.text, '-', a[at++]);
            for (std::size_t j = groups[g].b0; j < groups[g].b1; ++j) put_line(made.text, '+', b[j]);
            made.stat.deleted += groups[g].a1 - groups[g].a0;
            made.stat.added += groups[g].b1 - groups[g].b0;
        }
        while (at < a1) put_line(made.text, ' ', a[at++]);
    }
}

// A reader would take a date for what follows a blank: git ends such a name with a tab.
std::string name_lines(const std::string& old_name, const std::string& new_name) {
    const auto ended = [](const std::string& name) { return name + (name.find(' ') == std::string::npos ? "\n" : "\t\n"); };
    return "--- " + ended(old_name) + "+++ " + ended(new_name);
}

std::string similarity_lines(std::string_view from, std::string_view to) {
    return "similarity index 100%\nrename from " + quote(from) + "\nrename to " + quote(to) + "\n";
}

// Of its lines, these are what a reader of patches does not look at.
bool ends_as_written(const Hunk& hunk) {
    for (std::size_t at = 0; at < hunk.body.size(); at = hunk.body.find('\n', at) + 1)
        if (hunk.body[at] == '\\' && !std::string_view(hunk.body).substr(at).starts_with(no_newline)) return false;
    return true;
}

// As make() or make_rename() would have written it, if it can have come from them.
std::string written(const FilePatch& patch) {
    const std::string& from = patch.old_path ? *patch.old_path : patch.path();
    std::string text = header(from, patch.path());
    if (patch.creates()) text += "new file mode " + octal(patch.new_mode.value_or(Mode::absent)) + "\n";
    else if (patch.deletes()) text += "deleted file mode " + octal(patch.old_mode.value_or(Mode::absent)) + "\n";
    else if (patch.old_mode && patch.new_mode && patch.old_mode != patch.new_mode) text += "old mode " + octal(*patch.old_mode) + "\nnew mode " + octal(*patch.new_mode) + "\n";
    if (patch.renamed) text += similarity_lines(from, patch.path());
    if (patch.hunks.empty()) return text;
    text += name_lines(patch.creates() ? "/dev/null" : quote("a/" + from), patch.deletes() ? "/dev/null" : quote("b/" + patch.path()));
    const auto stated = [](std::size_t start, std::size_t count) { return std::to_string(start) + (count == 1 ? "" : "," + std::to_string(count)); };
    for (const Hunk& hunk : patch.hunks)
        text += "@@ -" + stated(hunk.old_start, hunk.old_count) + " +" + stated(hunk.new_start, hunk.new_count) + " @@\n" + hunk.body;
    return text;
}

}  // namespace

Made make(std::string_view path, const File& before, const File& after, const MakeLimits& limits) {
    check_path(path);
    for (const Mode mode : {before.mode, after.mode})
        if (mode != Mode::absent && !in_patches(mode))
            throw Error(ErrorCode::invalid_argument, shown(path) + " is neither a file nor a symlink", "leave it out of the patch");
    if (before == after) return {};
    if (in_patches(before.mode) && in_patches(after.mode) && is_file(before.mode) != is_file(after.mode)) {
        Made made = make(path, before, {}, limits);
        const Made created = make(path, {}, after, limits);
        made.text += created.text;
        made.stat = {made.stat.added + created.stat.added, made.stat.deleted + created.stat.deleted, made.stat.binary || created.stat.binary};
        return made;
    }
    Made made{header(path, path), {}};
    if (before.mode == Mode::absent) made.text += "new file mode " + octal(after.mode) + "\n";
    else if (after.mode == Mode::absent) made.text += "deleted file mode " + octal(before.mode) + "\n";
    else if (before.mode != after.mode) made.text += "old mode " + octal(before.mode) + "\nnew mode " + octal(after.mode) + "\n";
    if (before.bytes == after.bytes) return made;

    const std::string old_name = before.mode == Mode::absent ? "/dev/null" : quote("a/" + std::string(path));
    const std::string new_name = after.mode == Mode::absent ? "/dev/null" : quote("b/" + std::string(path));
    if (is_binary(before.bytes) || is_binary(after.bytes) || std::max(before.bytes.size(), after.bytes.size()) > limits.text_bytes) {
        made.text += "Binary files " + old_name + " and " + new_name + " differ\n";
        made.stat.binary = true;
        return made;
    }
    made.text += name_lines(old_name, new_name);
    put_hunks(made, before.bytes, after.bytes, limits);
    return made;
}

Made make_rename(std::string_view from, Mode before, std::string_view to, Mode after) {
    check_path(from);
    check_path(to);
    if (!in_patches(before) || !in_patches(after) || is_file(before) != is_file(after))
        throw Error(ErrorCode::invalid_argument, shown(from) + " and " + shown(to) + " are of different types", "describe them as removed and added");
    Made made{header(from, to), {}};
    if (before != after) made.text += "old mode " + octal(before) + "\nnew mode " + octal(after) + "\n";
    made.text += similarity_lines(from, to);
    return made;
}

std::vector<FilePatch> parse_made(std::string_view text, const ParseLimits& limits) {
    std::vector<FilePatch> patches = parse(text, limits);
    const auto refuse = [](const FilePatch& patch, const char* why) {
        throw Error(ErrorCode::invalid_argument, "patch line " + std::to_string(patch.line) + ": " + why, "only a patch that was made here is taken")
            .with_detail("line", std::to_string(patch.line));
    };
    const FilePatch* last = nullptr;
    for (const FilePatch& patch : patches) {
        const std::string again = written(patch);
        const bool ends = std::all_of(patch.hunks.begin(), patch.hunks.end(), ends_as_written);
        if (!text.starts_with(again) || !ends || (patch.renamed && !patch.hunks.empty())) refuse(patch, "not written as it would be written here");
        text.remove_prefix(again.size());
        if (last && patch.path() <= last->path() && !(patch.path() == last->path() && last->deletes() && patch.creates()))
            refuse(patch, "out of order");
        last = &patch;
    }
    if (!text.empty()) refuse(patches.back(), "something behind it");
    return patches;
}

std::vector<Pair> pair_renames(const std::vector<Moved>& deleted, const std::vector<Moved>& added) {
    const auto base = [](const Moved& moved) { return moved.path.substr(moved.path.rfind('/') + 1); };
    // By content, type and base name; then by content and type.
    using Key = std::tuple<std::string_view, bool, std::string>;
    std::vector<std::size_t> found(added.size(), deleted.size());
    std::vector<char> used(deleted.size());
    for (const bool by_name : {true, false}) {
        const auto key = [&](const Moved& moved) { return Key{moved.content, is_file(moved.mode), by_name ? base(moved) : std::string()}; };
        std::map<Key, std::vector<std::size_t>> sources;
        for (std::size_t i = deleted.size(); i-- > 0;)
            if (!used[i]) sources[key(deleted[i])].push_back(i);
        for (std::size_t j = 0; j < added.size(); ++j) {
            if (found[j] != deleted.size()) continue;
            const auto source = sources.find(key(added[j]));
            if (source == sources.end() || source->second.empty()) continue;
            found[j] = source->second.back();
            used[found[j]] = 1;
            source->second.pop_back();
        }
    }
    std::vector<Pair> pairs;
    for (std::size_t j = 0; j < added.size(); ++j)
        if (found[j] != deleted.size()) pairs.push_back({found[j], j});
    return pairs;
}

}  // namespace pyro::patch
