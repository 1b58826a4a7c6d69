#include <algorithm>
#include <map>
#include <set>

#include "common/error.hpp"
#include "common/patch/lines.hpp"
#include "common/patch/names.hpp"
#include "common/patch/patch.hpp"

namespace pyro::patch {
namespace {

constexpr std::size_t shown_lines = 20, shown_bytes = 500, shown_before_difference = 3;
constexpr std::size_t longest_target = 4095;

// What may still be spent.
struct Budget {
    std::uint64_t work;
    std::size_t bytes, rejections;

    explicit Budget(const ApplyLimits& limits) : work(limits.work), bytes(limits.bytes), rejections(limits.rejections) {}
    void compare(std::string_view line) {
        const std::uint64_t cost = 1 + line.size() / 64;
        if (cost > work) exceeded("too many places to compare its hunks with");
        work -= cost;
    }
    void read(std::size_t size) {
        if (size > bytes) exceeded("files that are too large together");
        bytes -= size;
    }
    [[noreturn]] static void exceeded(const std::string& what) {
        throw Error(ErrorCode::quota_exceeded, "the patch has " + what, "apply it in parts, by files");
    }
};

struct Sides {
    std::vector<std::string_view> before, after;
    bool context_behind = false;
};

Sides sides_of(const Hunk& hunk) {
    Sides sides;
    const std::vector<std::string_view> body = split_lines(hunk.body);
    for (std::size_t i = 0; i < body.size(); ++i) {
        const char kind = body[i][0];
        if (kind == '\\') continue;
        std::string_view line = body[i].substr(1);
        if (i + 1 < body.size() && body[i + 1][0] == '\\') line.remove_suffix(1);
        if (kind != '+') sides.before.push_back(line);
        if (kind != '-') sides.after.push_back(line);
        sides.context_behind = kind == ' ';
    }
    return sides;
}

// The file's lines while hunks are applied: split where the last hunk was, so that going through a file once costs its length.
class Image {
public:
    explicit Image(const std::vector<std::string_view>& lines) {
        for (auto line = lines.rbegin(); line != lines.rend(); ++line) behind_.push_back({*line, false});
    }
    std::size_t size() const { return front_.size() + behind_.size(); }
    std::string_view text(std::size_t i) const { return at(i).text; }

    bool matches(const std::vector<std::string_view>& lines, std::size_t place, Budget& budget) const {
        if (place > size() || lines.size() > size() - place) return false;
        for (std::size_t i = 0; i < lines.size(); ++i) {
            budget.compare(lines[i]);
            if (at(place + i).patched || at(place + i).text != lines[i]) return false;
        }
        return true;
    }
    void replace(std::size_t place, std::size_t count, const std::vector<std::string_view>& lines, Budget& budget) {
        for (; front_.size() > place; front_.pop_back()) budget.compare({}), behind_.push_back(front_.back());
        for (; front_.size() < place; behind_.pop_back()) budget.compare({}), front_.push_back(behind_.back());
        behind_.resize(behind_.size() - count);
        for (const std::string_view line : lines) front_.push_back({line, true});
    }

private:
    struct Line {
        std::string_view text;
        bool patched = false;
    };
    const Line& at(std::size_t i) const { return i < front_.size() ? front_[i] : behind_[size() - 1 - i]; }
    std::vector<Line> front_, behind_;  // the latter from the end of the file
};

// Where the hunk belongs: at its stated place or else at the nearest.
std::optional<std::size_t> find_place(const Image& image, const Hunk& hunk, const Sides& sides, Budget& budget) {
    const std::size_t stated = hunk.new_start == 0 ? 0 : hunk.new_start - 1;
    const bool from_start = hunk.old_start <= 1, to_end = !sides.context_behind;
    const auto matches = [&](std::size_t place) {
        return (!from_start || place == 0) && (!to_end || place + sides.before.size() == image.size()) && image.matches(sides.before, place, budget);
    };
    if (sides.before.empty() && image.size() > 0 && (stated != image.size() || image.text(stated - 1).back() != '\n')) return std::nullopt;
    if (from_start || to_end) {
        if (sides.before.size() > image.size()) return std::nullopt;
        const std::size_t only = from_start ? 0 : image.size() - sides.before.size();
        return matches(only) ? std::optional(only) : std::nullopt;
    }
    const std::size_t start = std::min(stated, image.size());
    for (std::size_t away = 0; away <= start || start + away <= image.size(); ++away) {
        if (start + away <= image.size() && matches(start + away)) return start + away;
        if (away > 0 && away <= start && matches(start - away)) return start - away;
    }
    return std::nullopt;
}

Rejection whole_file(const FilePatch& patch, std::string reason) { return {patch.path(), 0, patch.line, std::move(reason), 0, {}, {}}; }

Rejection hunk_rejection(const FilePatch& patch, std::size_t number, const std::vector<std::string_view>& file, const Sides& sides) {
    const Hunk& hunk = patch.hunks[number];
    Rejection rejection = whole_file(patch, {});
    rejection.hunk = number + 1;
    rejection.line = hunk.line;
    const std::size_t start = hunk.old_start - (hunk.old_count > 0 && hunk.old_start > 0);
    std::size_t equal = 0;
    while (equal < sides.before.size() && start + equal < file.size() && sides.before[equal] == file[start + equal]) ++equal;
    if (sides.before.empty()) rejection.reason = "lines are added without context, and not at the end of the file; make the patch with context";
    else if (equal < sides.before.size()) rejection.reason = "the lines that the hunk expects are not in the file";
    else rejection.reason = hunk.old_start <= 1 && !sides.context_behind ? "the file has more lines than the hunk expects"
                            : !sides.context_behind ? "the hunk has no context behind it, but the file does not end there"
                                                    : "the hunk overlaps one before it";
    const std::size_t skipped = equal - std::min(equal, shown_before_difference);
    rejection.position = start + skipped + 1;
    const auto show = [](const std::vector<std::string_view>& lines, std::size_t from, std::size_t to, std::vector<std::string>& shown) {
        for (std::size_t i = from; i < std::min({to, lines.size(), from + shown_lines}); ++i) {
            const std::string_view line = lines[i].substr(0, lines[i].size() - lines[i].ends_with('\n'));
            shown.push_back(std::string(line.substr(0, shown_bytes)) + (line.size() > shown_bytes ? "..." : ""));
        }
    };
    show(sides.before, skipped, sides.before.size(), rejection.expected);
    // One more of the file than is expected: the line that should not be there may be the next.
    show(file, start + skipped, start + sides.before.size() + 1, rejection.found);
    return rejection;
}

Applied apply_hunks(const FilePatch& patch, std::string_view bytes, const ApplyLimits& limits, Budget& budget) {
    if (patch.binary) return {{}, {whole_file(patch, "the patch does not have the binary content; write the file itself")}};
    Applied applied;
    if (patch.hunks.empty()) {
        applied.bytes = bytes;
    } else {
        if (static_cast<std::size_t>(std::count(bytes.begin(), bytes.end(), '\n')) >= limits.lines) Budget::exceeded("a file with too many lines");
        const std::vector<std::string_view> lines = split_lines(bytes);
        Image image(lines);
        for (std::size_t i = 0; i < patch.hunks.size(); ++i) {
            const Sides sides = sides_of(patch.hunks[i]);
            if (const auto place = find_place(image, patch.hunks[i], sides, budget)) {
                image.replace(*place, sides.before.size(), sides.after, budget);
            } else {
                if (applied.rejections.size() == budget.rejections) break;
                applied.rejections.push_back(hunk_rejection(patch, i, lines, sides));
            }
        }
        for (std::size_t i = 0; i < image.size(); ++i) applied.bytes += image.text(i);
    }
    if (applied.rejections.empty() && patch.deletes() && !applied.bytes.empty())
        applied.rejections.push_back(whole_file(patch, "the file has more content than the patch removes"));
    return applied;
}

// One application of many patches. A path is in `table_` once a patch concerns it.
class Application {
public:
    Application(const Tree& tree, const ApplyLimits& limits) : tree_(tree), limits_(limits), budget_(limits) {}

    AppliedAll run(const std::vector<FilePatch>& patches) {
        for (const FilePatch& patch : patches)
            if (patch.deletes() || patch.renamed) table_[*patch.old_path].state = State::to_go;
        for (const FilePatch& patch : patches) {
            one(patch);
            if (budget_.rejections == 0) break;
        }
        if (result_.rejections.empty())
            for (const auto& [path, entry] : table_)
                if (entry.result) check_place(path, *entry.patch);
        if (!result_.rejections.empty()) return std::move(result_);
        for (const auto& [path, entry] : table_)
            if (!entry.result) result_.changes.push_back({path, {}});
        for (auto& [path, entry] : table_)
            if (entry.result) result_.changes.push_back({path, std::move(*entry.result)});
        return std::move(result_);
    }

private:
    enum class State { to_go, gone, written };  // to_go: a later patch removes it
    struct Entry {
        State state = State::written;
        std::optional<File> result;        // what stays there in the end; a renamed file may still be replaced by another
        const FilePatch* patch = nullptr;  // that wrote `result`
    };

    Entry* find(const std::string& path) {
        const auto entry = table_.find(path);
        return entry == table_.end() ? nullptr : &entry->second;
    }

    void reject(Rejection rejection) {
        if (budget_.rejections == 0) return;
        --budget_.rejections;
        result_.rejections.push_back(std::move(rejection));
    }
    void reject(const FilePatch& patch, const std::string& path, const std::string& reason) {
        Rejection rejection = whole_file(patch, reason);
        rejection.path = path;
        reject(std::move(rejection));
    }

    File read(const std::string& path) {
        File file = tree_.lookup(path);
        budget_.read(file.bytes.size() + 1);
        return file;
    }

    // The first of its parents, in the tree as it is, that is not a directory. Empty if there is none.
    std::string parent_in_the_way(const std::string& path, bool links_only) {
        for (std::size_t slash = path.find('/'); slash != std::string::npos; slash = path.find('/', slash + 1)) {
            const std::string parent = path.substr(0, slash);
            auto known = parents_.find(parent);
            if (known == parents_.end()) known = parents_.emplace(parent, read(parent).mode).first;
            const Mode mode = known->second;
            if (mode == Mode::symlink || (!links_only && mode != Mode::directory && mode != Mode::absent)) {
                // What the patches remove is in nobody's way.
                const Entry* entry = find(parent);
                if (links_only || !entry || entry->result) return parent;
            }
        }
        return {};
    }

    // What the patch starts from, or nothing if it is rejected.
    std::optional<File> base(const FilePatch& patch) {
        if (patch.creates()) return File{};
        const std::string& path = *patch.old_path;
        Entry* entry = find(path);
        const bool moves = patch.renamed || patch.copied;
        if (entry && entry->state == State::gone && !moves) return reject(patch, path, "an earlier patch has removed or renamed this file"), std::nullopt;
        if (entry && entry->state == State::written) {
            const bool moved_here = entry->patch->renamed || entry->patch->copied;
            if (patch.deletes() || (patch.renamed && !moved_here))
                return reject(patch, path, "an earlier patch of the same text changes this file; apply them one after the other"), std::nullopt;
            if (!moves) {
                budget_.read(entry->result->bytes.size());
                return *entry->result;
            }
        }
        if (const std::string link = parent_in_the_way(path, true); !link.empty())
            return reject(patch, path, shown(link) + " is a symlink, and nothing beyond it is patched"), std::nullopt;
        File file = read(path);
        if (file.mode == Mode::absent && !patch.may_create) return reject(patch, path, "there is no such file"), std::nullopt;
        if (file.mode == Mode::directory) return reject(patch, path, "this is a directory"), std::nullopt;
        if (file.mode == Mode::other) return reject(patch, path, "this is neither a file nor a symlink"), std::nullopt;
        return file;
    }

    void one(const FilePatch& patch) {
        std::optional<File> before = base(patch);
        if (!before) return;
        const Mode expected = patch.old_mode.value_or(before->mode);
        if (before->mode != Mode::absent && is_file(before->mode) != is_file(expected))
            return reject(patch, *patch.old_path, is_file(expected) ? "this is a symlink, and the patch is for a file" : "this is a file, and the patch is for a symlink");
        const bool appears = before->mode == Mode::absent || patch.renamed || patch.copied;
        if (patch.new_path && appears && !may_appear(patch)) return;

        Applied applied = apply_hunks(patch, before->bytes, limits_, budget_);
        for (Rejection& rejection : applied.rejections) reject(std::move(rejection));
        if (!applied.rejections.empty()) return;
        if (patch.new_path) {
            File after{patch.new_mode.value_or(before->mode == Mode::absent ? Mode::regular : before->mode), std::move(applied.bytes)};
            if (after.mode == Mode::symlink && (after.bytes.empty() || after.bytes.size() > longest_target || after.bytes.find('\0') != std::string::npos))
                return reject(patch, *patch.new_path, "no symlink can have this target");
            table_[*patch.new_path] = {State::written, std::move(after), &patch};
        }
        if (patch.deletes() || patch.renamed) table_[*patch.old_path].state = State::gone;
    }

    bool may_appear(const FilePatch& patch) {
        const Entry* entry = find(*patch.new_path);
        if (entry && entry->result) return reject(patch, *patch.new_path, "an earlier patch makes this file"), false;
        if (entry) return true;
        const Mode mode = read(*patch.new_path).mode;
        if (mode == Mode::directory) over_directories_.insert(*patch.new_path);
        if (mode == Mode::absent || mode == Mode::directory) return true;
        // Where a link on the way is removed, what is beyond it does not count.
        if (!parent_in_the_way(*patch.new_path, true).empty()) return true;
        return reject(patch, *patch.new_path, "this exists already"), false;
    }

    // In the tree as it will be: a file has directories above it and nothing below.
    void check_place(const std::string& path, const FilePatch& patch) {
        for (std::size_t slash = path.find('/'); slash != std::string::npos; slash = path.find('/', slash + 1)) {
            const std::string parent = path.substr(0, slash);
            const Entry* entry = find(parent);
            if (entry && entry->result)
                return reject(patch, path, shown(parent) + " is no directory when all is applied");
        }
        if (const std::string parent = parent_in_the_way(path, false); !parent.empty())
            return reject(patch, path, shown(parent) + " is a file or a symlink, not a directory");
        if (over_directories_.contains(path) && !goes_away(path, true)) reject(patch, path, "there is a directory, and it is not empty");
    }

    // Whether nothing is left in a directory. One that was empty before stays, except where the file comes.
    bool goes_away(const std::string& directory, bool top) {
        const std::vector<std::string> names = tree_.list(directory);
        for (const std::string& name : names) {
            const std::string path = directory + "/" + name;
            const auto entry = table_.lower_bound(path);
            if (entry == table_.end()) return false;
            if (entry->first == path && !entry->second.result) continue;
            const auto below = table_.lower_bound(path + "/");
            if (below == table_.end() || !below->first.starts_with(path + "/") || !goes_away(path, false)) return false;
        }
        return top || !names.empty();
    }

    const Tree& tree_;
    const ApplyLimits& limits_;
    Budget budget_;
    std::map<std::string, Entry> table_;
    std::map<std::string, Mode> parents_;
    std::set<std::string> over_directories_;  // made where directories are
    AppliedAll result_;
};

}  // namespace

Applied apply_one(const FilePatch& patch, std::string_view bytes, const ApplyLimits& limits) {
    Budget budget(limits);
    return apply_hunks(patch, bytes, limits, budget);
}

AppliedAll apply_all(const std::vector<FilePatch>& patches, const Tree& tree, const ApplyLimits& limits) {
    return Application(tree, limits).run(patches);
}

}  // namespace pyro::patch
