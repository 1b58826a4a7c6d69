// git as the oracle: it takes what is made here, what it makes is taken here, and both refuse the same.
#include <fcntl.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <random>
#include <set>

#include "common/digest.hpp"
#include "common/patch/patch.hpp"
#include "common/unique_fd.hpp"
#include "tests/support/catch.hpp"

using namespace pyro;
using namespace pyro::patch;
namespace fs = std::filesystem;

namespace {

using Files = std::map<std::string, File>;

struct Outcome {
    int status;
    std::string out, err;
};

// A directory with what git works on in "tree", and git without any configuration but its own defaults.
class Site {
public:
    Site() {
        std::string name = (fs::temp_directory_path() / "pyro-patch-XXXXXX").string();
        REQUIRE(mkdtemp(name.data()) != nullptr);
        root_ = name;
    }
    ~Site() { fs::remove_all(root_); }

    Outcome git(const std::vector<std::string>& arguments, const std::string& input = {}, const std::string& directory = "tree") {
        const std::string top = root_.string();
        replace(top + "/in", input);
        std::vector<std::string> words{"git", "-C", top + "/" + directory};
        words.insert(words.end(), arguments.begin(), arguments.end());
        std::vector<char*> argv;
        for (std::string& word : words) argv.push_back(word.data());
        argv.push_back(nullptr);
        std::vector<std::string> settings{"PATH=/usr/bin:/bin", "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C",
                                          "GIT_CEILING_DIRECTORIES=" + top};
        std::vector<char*> environment;
        for (std::string& setting : settings) environment.push_back(setting.data());
        environment.push_back(nullptr);
        posix_spawn_file_actions_t actions;
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_addopen(&actions, 0, (top + "/in").c_str(), O_RDONLY, 0);
        posix_spawn_file_actions_addopen(&actions, 1, (top + "/out").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
        posix_spawn_file_actions_addopen(&actions, 2, (top + "/err").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
        pid_t pid = 0;
        REQUIRE(posix_spawnp(&pid, "git", &actions, nullptr, argv.data(), environment.data()) == 0);
        posix_spawn_file_actions_destroy(&actions);
        int status = 0;
        REQUIRE(waitpid(pid, &status, 0) == pid);
        return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(top + "/out"), read_file(top + "/err")};
    }

    void write(const Files& files, const std::string& directory = "tree") {
        clear(directory);
        for (const auto& [name, file] : files) {
            const fs::path path = root_ / directory / name;
            fs::create_directories(path.parent_path());
            if (file.mode == Mode::symlink) {
                REQUIRE(symlink(file.bytes.c_str(), path.c_str()) == 0);
            } else {
                replace(path.string(), file.bytes);
                REQUIRE(chmod(path.c_str(), file.mode == Mode::executable ? 0755 : 0644) == 0);
            }
        }
    }
    Files read() const {
        Files files;
        const fs::path top = root_ / "tree";
        for (const auto& entry : fs::recursive_directory_iterator(top)) {
            const std::string name = entry.path().lexically_relative(top).string();
            if (name == ".git" || name.starts_with(".git/")) continue;
            if (entry.is_symlink()) files[name] = {Mode::symlink, fs::read_symlink(entry.path()).string()};
            else if (entry.is_regular_file()) {
                const bool executable = (entry.status().permissions() & fs::perms::owner_exec) != fs::perms::none;
                files[name] = {executable ? Mode::executable : Mode::regular, read_file(entry.path().string())};
            }
        }
        return files;
    }

private:
    // Everything but git's own folder.
    void clear(const std::string& directory) {
        fs::create_directories(root_ / directory);
        for (const auto& entry : fs::directory_iterator(root_ / directory))
            if (entry.path().filename() != ".git") fs::remove_all(entry.path());
    }
    static void replace(const std::string& path, const std::string& bytes) {
        UniqueFd fd = open_file(path, O_WRONLY | O_CREAT | O_TRUNC);
        write_all(fd.get(), bytes);
    }
    fs::path root_;
};

// Random files and what is done to them: few different lines, so that hunks have many places they could go to.
class Dice {
public:
    explicit Dice(unsigned seed) : engine_(seed) {}
    std::size_t below(std::size_t n) { return engine_() % n; }
    bool one_in(std::size_t n) { return below(n) == 0; }

    std::string line() {
        if (one_in(3)) return one_in(2) ? "a\n" : "b\n";
        static const std::string common[] = {"", "a", "b", "}", "\tx", "- y", "+z", "\\ No newline at end of file", "@@ -1 +1 @@", "--- a/f1", "diff --git a/f1 b/f1"};
        std::string text = one_in(40) ? std::string(below(9000), 'l') : one_in(3) ? "line " + std::to_string(below(50)) : common[below(std::size(common))];
        if (one_in(30)) text += static_cast<char>(1 + below(9));
        if (one_in(30)) text += "\xff\xfe";
        return text + (one_in(12) ? "\r\n" : "\n");
    }
    std::string content() {
        std::string text;
        if (one_in(10)) return text;
        if (one_in(4)) {  // hardly anything to tell places by
            for (std::size_t lines = below(30); lines > 0; --lines) text += one_in(2) ? "a\n" : "b\n";
            return newline(text);
        }
        for (std::size_t lines = one_in(4) ? below(120) : below(14); lines > 0; --lines) text += line();
        if (one_in(25)) text += std::string(8000, 'p') + std::string(1, '\0') + "\n";  // NUL, but too late to be binary
        return newline(text);
    }
    std::string newline(std::string text) {
        if (one_in(5) && text.ends_with('\n')) text.pop_back();
        return text;
    }
    std::string edited(const std::string& text) {
        std::vector<std::string> lines;
        for (std::size_t at = 0, end; at < text.size(); at = end) {
            end = std::min(text.find('\n', at), text.size() - 1) + 1;
            lines.push_back(text.substr(at, end - at));
        }
        for (std::size_t edits = 1 + below(4); edits > 0; --edits) {
            const std::size_t at = below(lines.size() + 1), count = std::min(lines.size() - at, 1 + below(3));
            const auto place = lines.begin() + static_cast<std::ptrdiff_t>(at);
            if (one_in(3)) lines.erase(place, place + static_cast<std::ptrdiff_t>(count));
            else if (one_in(2) || count == 0) lines.insert(place, line());
            else *place = line();
        }
        std::string result;
        for (std::size_t i = 0; i < lines.size(); ++i) result += lines[i] + (i + 1 < lines.size() && !lines[i].ends_with('\n') ? "\n" : "");
        if (one_in(8) && !result.empty() && !result.ends_with('\n')) result += '\n';
        return newline(result);
    }
    File file() {
        if (one_in(8)) return {Mode::symlink, "to/" + std::to_string(below(9)) + (one_in(3) ? "\n" : "")};
        return {one_in(4) ? Mode::executable : Mode::regular, content()};
    }
    File changed(const File& file) {
        if (one_in(12)) return this->file();
        if (file.mode == Mode::symlink) return {Mode::symlink, "other"};
        File result = file;
        if (!one_in(6)) result.bytes = edited(file.bytes);
        if (one_in(6)) result.mode = file.mode == Mode::regular ? Mode::executable : Mode::regular;
        return result;
    }
    std::string name() {
        static const std::string odd[] = {"", " blank", "tab\t", "\"q\"", "back\\", "\xc3\xa9", "\n", "a b/b c", "-x", "x/", "d/e/", "\x7f", " b/", "{}"};
        return odd[below(std::size(odd))] + "n" + std::to_string(below(1000));
    }
    Files tree() {
        Files files;
        for (std::size_t i = 0; i < 30; ++i) files[name()] = file();
        return files;
    }
    Files changed(const Files& files) {
        Files result;
        for (const auto& [name, file] : files) {
            if (one_in(8)) continue;
            if (one_in(10)) result[this->name()] = file;
            else result[name] = one_in(3) ? file : changed(file);
        }
        for (std::size_t i = 0; i < 3; ++i) result[name()] = file();
        return result;
    }

private:
    std::mt19937 engine_;
};

std::size_t rounds(std::size_t usual) {
    const char* factor = std::getenv("PYRO_PATCH_ROUNDS");  // times as many, for a longer search by hand
    return usual * (factor ? std::strtoul(factor, nullptr, 10) : 1);
}

// As a whole tree's diff is put together.
std::string patch_of(const Files& before, const Files& after, std::size_t* changes = nullptr) {
    std::vector<Moved> deleted, added;
    for (const auto& [name, file] : before)
        if (!after.contains(name) && !file.bytes.empty()) deleted.push_back({name, file.mode, Digest::of(file.bytes).str()});
    for (const auto& [name, file] : after)
        if (!before.contains(name) && !file.bytes.empty()) added.push_back({name, file.mode, Digest::of(file.bytes).str()});
    std::map<std::string, std::string> from;
    std::set<std::string> gone;
    for (const Pair& pair : pair_renames(deleted, added)) {
        from[added[pair.added].path] = deleted[pair.deleted].path;
        gone.insert(deleted[pair.deleted].path);
    }
    Files all = before;
    all.insert(after.begin(), after.end());
    std::string text;
    for (const auto& [name, unused] : all) {
        if (gone.contains(name)) continue;
        const auto old = before.find(name), now = after.find(name);
        if (from.contains(name)) text += make_rename(from[name], before.at(from[name]).mode, name, now->second.mode).text;
        else text += make(name, old == before.end() ? File{} : old->second, now == after.end() ? File{} : now->second).text;
        if (changes && (old == before.end() || now == after.end() || old->second != now->second)) ++*changes;
    }
    return text;
}

Tree tree_of(const Files& files) {
    return {[&files](const std::string& path) {
                if (const auto file = files.find(path); file != files.end()) return file->second;
                const auto below = files.lower_bound(path + "/");
                return File{below != files.end() && below->first.starts_with(path + "/") ? Mode::directory : Mode::absent, {}};
            },
            [&files](const std::string& directory) {
                std::set<std::string> names;
                for (auto file = files.lower_bound(directory + "/"); file != files.end() && file->first.starts_with(directory + "/"); ++file)
                    names.insert(file->first.substr(directory.size() + 1, file->first.find('/', directory.size() + 1) - directory.size() - 1));
                return std::vector<std::string>(names.begin(), names.end());
            }};
}

Files carried_out(Files files, const AppliedAll& applied) {
    for (const Change& change : applied.changes)
        if (change.after.mode == Mode::absent) files.erase(change.path);
        else files[change.path] = change.after;
    return files;
}

std::string told(const std::vector<Rejection>& rejections) {
    std::string text;
    for (const Rejection& rejection : rejections) text += quote(rejection.path) + " hunk " + std::to_string(rejection.hunk) + ": " + rejection.reason + "\n";
    return text;
}

// A file may not be where another is a directory.
bool is_tree(const Files& files) {
    for (const auto& [name, file] : files)
        for (std::size_t slash = name.find('/'); slash != std::string::npos; slash = name.find('/', slash + 1))
            if (files.contains(name.substr(0, slash))) return false;
    return true;
}

using Figures = std::multiset<std::pair<std::size_t, std::size_t>>;

// "ADDED\tDELETED\tNAME\0" of each patch, as both git diff and git apply print it with --numstat -z, without the renames' names.
Figures figures_of_git(const std::string& numstat) {
    Figures figures;
    REQUIRE((numstat.empty() || numstat.back() == '\0'));
    for (std::size_t at = 0; at < numstat.size(); at = numstat.find('\0', at) + 1) {
        char* end = nullptr;
        const std::size_t added = std::strtoul(numstat.c_str() + at, &end, 10);
        if (end == numstat.c_str() + at || *end != '\t') continue;
        const char* second = end + 1;
        const std::size_t deleted = std::strtoul(second, &end, 10);
        if (end != second && *end == '\t') figures.emplace(added, deleted);
    }
    return figures;
}

Figures figures_of(const std::vector<FilePatch>& patches) {
    Figures figures;
    for (const FilePatch& patch : patches) figures.emplace(stat(patch).added, stat(patch).deleted);
    return figures;
}

}  // namespace

TEST_CASE("git apply makes the second tree of a patch made here, and so does apply_all") {
    Site site;
    std::size_t changes = 0, renames = 0;
    for (unsigned seed = 1; seed <= rounds(100); ++seed) {
        INFO("seed " << seed);
        Dice dice(seed);
        const Files before = dice.tree(), after = dice.changed(before);
        if (!is_tree(before) || !is_tree(after)) continue;
        const std::string text = patch_of(before, after, &changes);
        INFO(text);
        site.write(before);
        const Outcome outcome = site.git({"apply", "-p1", "--numstat", "-z", "--apply", "--whitespace=nowarn"}, text);
        INFO(outcome.err);
        REQUIRE(outcome.status == 0);
        REQUIRE(site.read() == after);

        const std::vector<FilePatch> patches = parse(text);
        for (const FilePatch& patch : patches) renames += patch.renamed;
        const AppliedAll applied = apply_all(patches, tree_of(before));
        INFO(told(applied.rejections));
        REQUIRE(carried_out(before, applied) == after);
        REQUIRE(figures_of(patches) == figures_of_git(outcome.out));
    }
    CHECK(changes > rounds(1500));
    CHECK(renames > rounds(100));
}

TEST_CASE("what git diff writes is taken, and makes the second tree") {
    Site site;
    std::size_t patches_read = 0, renames = 0;
    site.write({});
    REQUIRE(site.git({"init", "-q"}).status == 0);
    for (unsigned seed = 1; seed <= rounds(25); ++seed) {
        INFO("seed " << seed);
        Dice dice(seed + 100'000);
        const Files before = dice.tree(), after = dice.changed(before);
        if (!is_tree(before) || !is_tree(after)) continue;
        std::string trees[2];
        for (int i = 0; i < 2; ++i) {
            site.write(i == 0 ? before : after);
            REQUIRE(site.git({"add", "-A"}).status == 0);
            trees[i] = site.git({"write-tree"}).out.substr(0, 40);
        }
        static const char* const contexts[] = {"-U1", "-U3", "-U3", "-U9"};
        static const char* const renaming[] = {"--no-renames", "-M", "-M30", "-C30"};
        static const char* const ways[] = {"--minimal", "--patience", "--histogram", "--function-context"};
        const std::vector<std::string> command{"diff", contexts[seed % 4], renaming[dice.below(4)], ways[dice.below(4)], trees[0], trees[1]};
        const std::string text = site.git(command).out;
        INFO(text);
        const std::vector<FilePatch> patches = parse(text);
        const AppliedAll applied = apply_all(patches, tree_of(before));
        INFO(told(applied.rejections));
        REQUIRE(carried_out(before, applied) == after);
        patches_read += patches.size();
        for (const FilePatch& patch : patches) renames += patch.renamed || patch.copied;

        REQUIRE(figures_of(patches) == figures_of_git(site.git({"apply", "--numstat", "-z", "-"}, text).out));

        // What is made here is not longer than git can have it.
        std::size_t made = 0, made_by_git = 0;
        Files all = before;
        all.insert(after.begin(), after.end());
        for (const auto& [name, unused] : all) {
            const auto old = before.find(name), now = after.find(name);
            const Made change = make(name, old == before.end() ? File{} : old->second, now == after.end() ? File{} : now->second);
            made += change.stat.added + change.stat.deleted;
        }
        for (const auto& [added, deleted] : figures_of_git(site.git({"diff", "--minimal", "--no-renames", "--numstat", "-z", trees[0], trees[1]}).out))
            made_by_git += added + deleted;
        REQUIRE(made <= made_by_git);
        REQUIRE(made > 0);
    }
    CHECK(patches_read > rounds(350));
    CHECK(renames > rounds(25));
}

TEST_CASE("git diff --no-index of two directories is taken as well") {
    Site site;
    for (unsigned seed = 1; seed <= rounds(20); ++seed) {
        INFO("seed " << seed);
        Dice dice(seed + 200'000);
        const Files before = dice.tree(), after = dice.changed(before);
        if (!is_tree(before) || !is_tree(after)) continue;
        site.write(before, "a");
        site.write(after, "b");
        const std::string text = site.git({"diff", "--no-index", "--no-prefix", "--no-renames", "a", "b"}, {}, "").out;
        INFO(text);
        const AppliedAll applied = apply_all(parse(text), tree_of(before));
        INFO(told(applied.rejections));
        REQUIRE(carried_out(before, applied) == after);
    }
}

TEST_CASE("on another base, git apply and apply_all refuse the same files and make the same of the others") {
    Site site;
    std::size_t taken = 0, refused = 0, joined = 0;
    for (unsigned seed = 1; seed <= rounds(60); ++seed) {
        INFO("seed " << seed);
        Dice dice(seed + 300'000);
        Files base;
        std::map<std::string, std::string> texts;
        std::string all;
        for (std::size_t i = 0; i < 60; ++i) {
            const std::string name = "f" + std::to_string(i);
            const File before = dice.one_in(8) ? File{} : dice.file(), after = dice.one_in(8) ? File{} : dice.changed(before.mode == Mode::absent ? dice.file() : before);
            File now = before;
            if (dice.one_in(10)) now = dice.file();
            else if (dice.one_in(12)) now = File{};
            else if (before.mode != Mode::absent && !dice.one_in(4)) now = dice.changed(before);
            if (now.mode != Mode::absent) base[name] = now;
            texts[name] = make(name, before, after).text;
            all += texts[name];
        }
        ApplyLimits limits;
        limits.rejections = 1000;
        site.write(base);
        const Outcome check = site.git({"apply", "-p1", "--check", "--whitespace=nowarn"}, all);
        INFO(check.err);
        std::set<std::string> git_refuses;
        for (std::size_t at = 0; at < check.err.size(); at = check.err.find('\n', at) + 1) {
            const std::string line = check.err.substr(at, check.err.find('\n', at) - at);
            if (line.starts_with("error: f")) git_refuses.insert(line.substr(7, line.find(':', 7) - 7));
        }
        REQUIRE(git_refuses.empty() == (check.status == 0));
        std::set<std::string> refuses;
        const AppliedAll whole = apply_all(parse(all), tree_of(base), limits);
        INFO(told(whole.rejections));
        for (const Rejection& rejection : whole.rejections) refuses.insert(rejection.path);
        std::string rest;
        for (const auto& [name, text] : texts) {
            INFO(text);
            if (refuses.contains(name) && !git_refuses.contains(name)) {
                // git takes a last line with newline for one without and joins it to what follows.
                std::size_t context_at_end = 0;
                for (const FilePatch& patch : parse(text))
                    for (const Hunk& hunk : patch.hunks)
                        if (const std::size_t mark = hunk.body.rfind("\n\\ No newline"); mark != std::string::npos)
                            context_at_end += hunk.body[hunk.body.rfind('\n', mark - 1) + 1] == ' ';
                INFO(name);
                REQUIRE(context_at_end > 0);
                ++joined;
            } else {
                INFO(name);
                REQUIRE(refuses.contains(name) == git_refuses.contains(name));
                if (!refuses.contains(name)) rest += text;
                (refuses.contains(name) ? refused : taken) += !text.empty();
            }
        }
        if (rest.empty()) continue;
        const AppliedAll applied = apply_all(parse(rest), tree_of(base));
        INFO(told(applied.rejections));
        REQUIRE(applied.rejections.empty());
        REQUIRE(site.git({"apply", "-p1", "--whitespace=nowarn"}, rest).status == 0);
        REQUIRE(carried_out(base, applied) == site.read());
    }
    CHECK(taken > rounds(1000));
    CHECK(refused > rounds(800));
    CHECK(joined < taken / 100);
}

namespace {

// What becomes of a patch of several files. `reason`: a part of why it is refused, or empty.
struct Case {
    const char* title;
    Files files;
    std::string patch, reason;
    bool stricter = false;  // than some git, which takes it
};

File text(const std::string& bytes, Mode mode = Mode::regular) { return {mode, bytes}; }
std::string change(const std::string& path, const std::string& before, const std::string& after) { return make(path, text(before), text(after)).text; }
std::string creation(const std::string& path, const std::string& bytes) { return make(path, {}, text(bytes)).text; }
std::string removal(const std::string& path, const std::string& bytes) { return make(path, text(bytes), {}).text; }
std::string renaming(const std::string& from, const std::string& to) { return make_rename(from, Mode::regular, to, Mode::regular).text; }

const File a_link{Mode::symlink, "dir"};

std::vector<Case> cases() {
    return {
        {"a creation over a file", {{"x", text("1\n")}}, creation("x", "2\n"), "exists already"},
        {"a creation over an equal file", {{"x", text("2\n")}}, creation("x", "2\n"), "exists already"},
        {"a creation over a symlink", {{"x", a_link}}, creation("x", "2\n"), "exists already"},
        {"an empty creation over a file", {{"x", text("1\n")}}, creation("x", ""), "exists already"},
        {"a creation in new directories", {}, creation("d/e/x", "2\n"), ""},
        {"a creation below a file", {{"d", text("1\n")}}, creation("d/x", "2\n"), "\"d\" is a file or a symlink"},
        {"a creation below a file that is removed", {{"d", text("1\n")}}, removal("d", "1\n") + creation("d/x", "2\n"), ""},
        {"the same in the other order", {{"d", text("1\n")}}, creation("d/x", "2\n") + removal("d", "1\n"), ""},
        {"a creation below a created file", {}, creation("d", "1\n") + creation("d/x", "2\n"), "no directory when all is applied"},
        {"a creation where a directory is", {{"d/x", text("1\n")}}, creation("d", "2\n"), "it is not empty"},
        {"a creation where a directory becomes empty", {{"d/x", text("1\n")}, {"d/e/y", text("1\n")}},
         removal("d/x", "1\n") + creation("d", "2\n") + removal("d/e/y", "1\n"), ""},
        {"a creation where a directory becomes less", {{"d/x", text("1\n")}, {"d/e/y", text("1\n")}, {"d/e/z", text("1\n")}},
         removal("d/x", "1\n") + creation("d", "2\n") + removal("d/e/y", "1\n"), "it is not empty"},
        {"two creations of one file", {}, creation("x", "1\n") + creation("x", "2\n"), "an earlier patch makes this file", true},
        {"a removal and a creation", {{"x", text("1\n")}}, removal("x", "1\n") + creation("x", "2\n"), ""},
        {"a creation and a removal of what was there", {{"x", text("1\n")}}, creation("x", "2\n") + removal("x", "1\n"), "changes this file"},
        {"a file becomes a symlink", {{"x", text("1\n")}}, make("x", text("1\n"), a_link).text, ""},
        {"a symlink becomes a file", {{"x", a_link}}, make("x", a_link, text("1\n")).text, ""},
        {"a symlink becomes another", {{"x", a_link}}, make("x", a_link, {Mode::symlink, "y"}).text, ""},
        {"a symlink is another than expected", {{"x", {Mode::symlink, "z"}}}, make("x", a_link, {Mode::symlink, "y"}).text, "are not in the file"},
        {"a change of a link's target, written as a file's", {{"x", {Mode::symlink, "1\n"}}}, change("x", "1\n", "2\n"), ""},
        {"a symlink where a new mode says file", {{"x", {Mode::symlink, "1\n"}}}, make("x", text("1\n"), text("2\n", Mode::executable)).text, "this is a symlink"},
        {"a file where a symlink is expected", {{"x", text("dir")}}, "diff --git a/x b/x\nindex 1..2 120000\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-dir\n\\ No newline at end of file\n+y\n", "this is a file"},
        {"a removal of what differs", {{"x", text("1\n2\n")}}, removal("x", "1\n"), "the file has more lines"},
        {"a removal of a file that should be empty", {{"x", text("1\n")}}, removal("x", ""), "more content than the patch removes"},
        {"a removal of nothing", {}, removal("x", "1\n"), "no such file"},
        {"two removals of one file", {{"x", text("1\n")}}, removal("x", "1\n") + removal("x", "1\n"), "removed or renamed"},
        {"a change of nothing", {}, change("x", "1\n", "2\n"), "no such file"},
        {"a change of a directory", {{"x/y", text("1\n")}}, change("x", "1\n", "2\n"), "is a directory", true},
        {"a change of a removed file", {{"x", text("1\n")}}, removal("x", "1\n") + change("x", "1\n", "2\n"), "removed or renamed"},
        {"two changes of one file", {{"x", text("1\n")}}, change("x", "1\n", "2\n") + change("x", "2\n", "3\n"), ""},
        {"two changes of one file, the second for what was there", {{"x", text("1\n")}}, change("x", "1\n", "2\n") + change("x", "1\n", "3\n"), "are not in the file"},
        {"a creation and a change", {}, creation("x", "1\n") + change("x", "1\n", "3\n"), ""},
        {"a change and a removal", {{"x", text("1\n")}}, change("x", "1\n", "2\n") + removal("x", "2\n"), "changes this file", true},
        {"a change and a renaming", {{"x", text("1\n")}}, change("x", "1\n", "2\n") + renaming("x", "y"), "changes this file", true},
        {"a renaming", {{"x", text("1\n", Mode::executable)}}, renaming("x", "d/y"), ""},
        {"a renaming of nothing", {}, renaming("x", "y"), "no such file"},
        {"a renaming onto a file", {{"x", text("1\n")}, {"y", text("2\n")}}, renaming("x", "y"), "exists already"},
        {"a renaming onto a removed file", {{"x", text("1\n")}, {"y", text("2\n")}}, removal("y", "2\n") + renaming("x", "y"), ""},
        {"a renaming, and a change of the new name", {{"x", text("1\n")}}, renaming("x", "y") + change("y", "1\n", "2\n"), ""},
        {"a renaming, and a change of the old name", {{"x", text("1\n")}}, renaming("x", "y") + change("x", "1\n", "2\n"), "removed or renamed"},
        {"two files swapped", {{"x", text("1\n")}, {"y", text("2\n")}}, renaming("x", "y") + renaming("y", "x"), ""},
        {"three names moved on", {{"x", text("1\n")}, {"y", text("2\n")}}, renaming("x", "y") + renaming("y", "z"), ""},
        {"three names moved on, from the end", {{"x", text("1\n")}, {"y", text("2\n")}}, renaming("y", "z") + renaming("x", "y"), ""},
        {"one file renamed twice", {{"x", text("1\n")}}, renaming("x", "y") + renaming("x", "z"), ""},
        {"a renaming below itself", {{"x", text("1\n")}}, renaming("x", "x/y"), ""},
        {"a renaming to above itself", {{"x/y", text("1\n")}}, renaming("x/y", "x"), ""},
        {"a copy beside a change", {{"x", text("1\n")}}, change("x", "1\n", "2\n") + "diff --git a/x b/y\ncopy from x\ncopy to y\n", ""},
        {"a copy onto a file", {{"x", text("1\n")}, {"y", text("1\n")}}, "diff --git a/x b/y\ncopy from x\ncopy to y\n", "exists already"},
        {"a renaming with changes", {{"x", text("1\n2\n3\n")}},
         "diff --git a/x b/y\nold mode 100644\nnew mode 100755\nsimilarity index 80%\nrename from x\nrename to y\n--- a/x\n+++ b/y\n@@ -1,3 +1,3 @@\n 1\n-2\n+two\n 3\n", ""},
        {"a change beyond a symlink", {{"l", a_link}, {"dir/x", text("1\n")}}, change("l/x", "1\n", "2\n"), "\"l\" is a symlink"},
        {"a creation beyond a symlink", {{"l", a_link}, {"dir/x", text("1\n")}}, creation("l/y", "2\n"), "not a directory"},
        {"a creation beyond a symlink that is made", {{"dir/x", text("1\n")}}, make("l", {}, a_link).text + creation("l/y", "2\n"), "no directory when all"},
        {"the same in the other order", {{"dir/x", text("1\n")}}, creation("l/y", "2\n") + make("l", {}, a_link).text, "no directory when all"},
        {"a creation where a symlink is removed", {{"l", a_link}, {"dir/x", text("1\n")}}, make("l", a_link, {}).text + creation("l/x", "2\n"), ""},
        {"a removal beyond a symlink", {{"l", a_link}, {"dir/x", text("1\n")}}, removal("l/x", "1\n"), "\"l\" is a symlink"},
        {"a renaming out of a symlink", {{"l", a_link}, {"dir/x", text("1\n")}}, renaming("l/x", "y"), "\"l\" is a symlink"},
        {"a mode that is there already", {{"x", text("1\n", Mode::executable)}}, make("x", text("1\n"), text("1\n", Mode::executable)).text, ""},
        {"an executable keeps its mode", {{"x", text("1\n", Mode::executable)}}, change("x", "1\n", "2\n"), ""},
        {"binary content", {{"x", text("1\n")}}, make("x", text("1\n"), text(std::string(1, '\0'))).text, "does not have the binary content"},
        {"no target of a symlink", {}, "diff --git a/x b/x\nnew file mode 120000\n", "no symlink can have this target"},
        {"a plain patch makes a file", {}, "--- a/x\n+++ b/x\n@@ -0,0 +1 @@\n+1\n", ""},
        {"a plain patch fills an empty file", {{"x", text("")}}, "--- a/x\n+++ b/x\n@@ -0,0 +1 @@\n+1\n", ""},
        {"a plain patch for an empty file meets a full one", {{"x", text("2\n")}}, "--- a/x\n+++ b/x\n@@ -0,0 +1 @@\n+1\n", "without context"},
        {"a plain patch empties a file", {{"x", text("1\n")}}, "--- a/x\n+++ b/x\n@@ -1 +0,0 @@\n-1\n", ""},
        {"a plain patch removes a file", {{"x", text("1\n")}}, "--- a/x\n+++ /dev/null\n@@ -1 +0,0 @@\n-1\n", ""},
        {"a plain patch with dates makes a file", {}, "--- a/x\t1970-01-01 01:00:00.000000000 +0100\n+++ b/x\t2020-02-02 10:00:00.000000000 +0100\n@@ -0,0 +1 @@\n+1\n", ""},
        {"a plain patch with dates does not make it twice", {{"x", text("")}}, "--- a/x\t1969-12-31 19:00:00 -0500\n+++ b/x\t2020-02-02 10:00:00 -0500\n@@ -0,0 +1 @@\n+1\n", "exists already"},
        {"a plain patch with dates removes a file", {{"x", text("1\n")}}, "--- a/x\t2020-02-02 10:00:00 +0000\n+++ b/x\t1970-01-01 00:00:00 +0000\n@@ -1 +0,0 @@\n-1\n", ""},
        {"lines added without context in a file", {{"x", text("1\n2\n3\n")}}, "--- a/x\n+++ b/x\n@@ -2,0 +3 @@\n+n\n", "without context", true},
        {"lines added without context at its end", {{"x", text("1\n2\n3\n")}}, "--- a/x\n+++ b/x\n@@ -3,0 +4 @@\n+n\n", ""},
        {"lines added without context behind a last line without newline", {{"x", text("1\n2")}}, "--- a/x\n+++ b/x\n@@ -2,0 +3 @@\n+n\n", "without context", true},
        {"context without newline meets a line with one", {{"x", text("1\n2\n3\n")}}, "--- a/x\n+++ b/x\n@@ -1,3 +1,3 @@\n-1\n+n\n 2\n 3\n\\ No newline at end of file\n", "are not in the file", true},
        {"hunks in the wrong order", {{"x", text("1\n2\n3\n4\n5\n6\n7\n8\n")}}, "--- a/x\n+++ b/x\n@@ -5,3 +5,3 @@\n 5\n-6\n+six\n 7\n@@ -2,3 +2,3 @@\n 2\n-3\n+three\n 4\n", ""},
        {"hunks that overlap", {{"x", text("1\n2\n3\n4\n5\n6\n7\n8\n")}}, "--- a/x\n+++ b/x\n@@ -2,3 +2,3 @@\n 2\n-3\n+three\n 4\n@@ -4,3 +4,3 @@\n 4\n-5\n+five\n 6\n", "overlaps one before it"},
        {"a hunk elsewhere, forward before backward", {{"x", text("a\nb\nc\n0\na\nb\nc\n0\na\nb\nc\n")}}, "--- a/x\n+++ b/x\n@@ -3,3 +3,3 @@\n a\n-b\n+B\n c\n", ""},
        {"a hunk elsewhere, the nearest", {{"x", text("0\na\nb\nc\n0\n0\n0\n0\na\nb\nc\n0\n")}}, "--- a/x\n+++ b/x\n@@ -3,3 +3,3 @@\n a\n-b\n+B\n c\n", ""},
        {"a hunk from line 1 is not looked for elsewhere", {{"x", text("0\na\nb\nc\n")}}, "--- a/x\n+++ b/x\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n", "are not in the file"},
        {"a hunk without context behind belongs to the end", {{"x", text("0\na\nb\nc\na\nb\n")}}, "--- a/x\n+++ b/x\n@@ -2,2 +2,2 @@\n a\n-b\n+B\n", ""},
        {"a hunk without context behind, not at the end", {{"x", text("0\na\nb\nc\n")}}, "--- a/x\n+++ b/x\n@@ -2,2 +2,2 @@\n a\n-b\n+B\n", "does not end there"},
        {"one of three files does not fit", {{"x", text("1\n")}, {"y", text("1\n")}, {"z", text("1\n")}},
         change("x", "1\n", "2\n") + change("y", "0\n", "2\n") + change("z", "1\n", "2\n"), "are not in the file"},
    };
}

}  // namespace

TEST_CASE("what becomes of several files is what git apply decides") {
    Site site;
    for (const Case& one : cases()) {
        INFO(one.title << "\n" << one.patch);
        const AppliedAll applied = apply_all(parse(one.patch), tree_of(one.files));
        INFO(told(applied.rejections));
        site.write(one.files);
        const Outcome outcome = site.git({"apply", "-p1", "--whitespace=nowarn"}, one.patch);
        INFO(outcome.err);
        if (!one.stricter) CHECK((outcome.status == 0) == one.reason.empty());
        if (one.reason.empty()) {
            CHECK(applied.rejections.empty());
            CHECK(carried_out(one.files, applied) == site.read());
        } else {
            REQUIRE_FALSE(applied.rejections.empty());
            CHECK(applied.changes.empty());
            CHECK_THAT(applied.rejections[0].reason, Catch::Matchers::ContainsSubstring(one.reason));
            CHECK(applied.rejections[0].line > 0);
        }
    }
}
