// Patches as git writes and takes them: made, read, applied. Values in, values out; no I/O, and no state between calls.
// Where git apply accepts what it cannot mean, this refuses: see parse() and apply_all().
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pyro::patch {

// What is at a path. Of a regular file's permissions git knows one bit: whether the owner may execute it.
// A directory, or anything a patch cannot describe, only ever comes from a lookup.
enum class Mode : std::uint32_t { absent = 0, regular = 0100644, executable = 0100755, symlink = 0120000, directory = 0040000, other = 1 };

constexpr bool is_file(Mode mode) { return mode == Mode::regular || mode == Mode::executable; }
constexpr bool in_patches(Mode mode) { return is_file(mode) || mode == Mode::symlink; }

struct File {
    Mode mode = Mode::absent;
    std::string bytes;  // the content, or the link's target; empty if absent
    bool operator==(const File&) const = default;
};

// Throws invalid_argument unless `path` is relative, of at most 4095 bytes, without NUL, without a component that is empty, ".",
// ".." or of more than 255 bytes, and not beneath a .git in any spelling. Every path this library reads or writes has passed it.
void check_path(std::string_view path);

// A name that patches leave alone, with all that is beneath it: ".git" in any spelling.
bool is_dot_git(std::string_view component);

// As git spells a name: in quotes, C-style, if it holds a control character, a quote, a backslash or a byte from 0x80 on.
std::string quote(std::string_view name);

// As `git diff --numstat`: of a binary file there are no figures.
struct Stat {
    std::size_t added = 0, deleted = 0;
    bool binary = false;
    bool operator==(const Stat&) const = default;
};

// ---- making

// What is beyond them is still described correctly, less well: a file as binary (as git does above core.bigFileThreshold), lines
// as one block that replaces another.
struct MakeLimits {
    std::size_t text_bytes = 64u << 20;  // of either version
    std::size_t diff_lines = 500'000;    // compared on either side, between the first and the last difference
    std::uint64_t work = 1u << 26;       // steps of the comparison: some tenths of a second
};

struct Made {
    std::string text;  // empty if nothing changed
    Stat stat;
};

// The change of one path as a git-format patch: what git apply makes `after` of `before` with. A change between file and symlink
// is a deletion and a creation. Binary content (a NUL in the first 8000 bytes) is an entry without content, which neither
// git apply nor apply_all() takes. invalid_argument for a path or mode that cannot be in a patch.
Made make(std::string_view path, const File& before, const File& after, const MakeLimits& limits = {});

// The same content under another name. The modes may differ, the types may not.
Made make_rename(std::string_view from, Mode before, std::string_view to, Mode after);

// A path that came or went. Equal `content` means equal bytes: a digest, or the bytes themselves. Leave out empty files.
struct Moved {
    std::string path;
    Mode mode;
    std::string content;
};
struct Pair { std::size_t deleted, added; };  // places in the two lists

// Which of `added` are `deleted` under another name: same content and type; the same base name first, then in the lists' order.
// Each is used once. In the order of `added`.
std::vector<Pair> pair_renames(const std::vector<Moved>& deleted, const std::vector<Moved>& added);

// ---- reading

struct Hunk {
    std::size_t old_start, old_count, new_start, new_count;  // as stated; the counts are those of `body`
    std::string body;                                        // whole lines, each with its ' ', '-', '+' or '\'
    std::size_t line;                                        // of its header in the patch
};

// Invariants: a creation has no old path, a deletion no new one, everything else both; they differ only in renames and copies.
// All have passed check_path(). Old and new mode are of one type. A creation's hunks remove nothing, a deletion's add nothing.
struct FilePatch {
    std::optional<std::string> old_path, new_path;
    std::optional<Mode> old_mode, new_mode;  // where the patch says so
    bool renamed = false, copied = false;
    bool may_create = false;  // ---/+++ only, nothing removed: it makes the file if there is none
    bool binary = false;      // "Binary files differ": cannot be applied
    std::vector<Hunk> hunks;
    std::size_t line = 0;  // where it begins in the patch

    const std::string& path() const { return new_path ? *new_path : *old_path; }
    bool creates() const { return !old_path; }
    bool deletes() const { return !new_path; }
};

struct ParseLimits {
    std::size_t bytes = 64u << 20;
    std::size_t files = 50'000;
    std::size_t hunks = 200'000;  // of all files
};

// Reads patches in git's format and plain unified ones (names as `git apply -p1`: the first component is cut off), with any text
// before, between and behind them. Throws invalid_argument, "patch line N: ...", with the detail "line". Stricter than git apply:
// refused are lines behind a hunk that its counts leave out, ---/+++ without a hunk, binary and context diffs, submodules,
// a mode that is not 100644, 100755 or 120000, paths that check_path() refuses, a text without any patch or that ends within a line.
std::vector<FilePatch> parse(std::string_view text, const ParseLimits& limits = {});

// Reads only what make() and make_rename() write, byte for byte, in rising order of paths and each path once (a path that is deleted
// may be created right behind it). For patches of somebody who may say anything: there is no text between what it says it does. Throws
// invalid_argument.
std::vector<FilePatch> parse_made(std::string_view text, const ParseLimits& limits = {});

Stat stat(const FilePatch& patch);

// ---- applying

struct ApplyLimits {
    std::size_t bytes = 256u << 20;  // of all files the patches read
    std::size_t lines = 4'000'000;   // of one file
    std::uint64_t work = 1u << 28;   // lines compared
    std::size_t rejections = 100;    // told; the first ones
};

// Why a patch cannot be applied. If it is for a hunk's place: what the hunk expects and what the file has there, from shortly before
// the first difference and shortened (20 lines of 500 bytes); `position` is the number of the first of these lines in the file.
struct Rejection {
    std::string path;
    std::size_t hunk = 0;  // from 1; 0 for the patch of this file as a whole
    std::size_t line = 0;  // in the patch
    std::string reason;
    std::size_t position = 0;
    std::vector<std::string> expected, found;
};

struct Applied {
    std::string bytes;  // only to be used without rejections
    std::vector<Rejection> rejections;
};

// Applies the hunks to a file's content. Exact: each at its stated position, else at the nearest place where all its lines are and no
// earlier hunk has been; at the beginning (end) of the file if it has no context there. Throws quota_exceeded beyond a limit.
Applied apply_one(const FilePatch& patch, std::string_view bytes, const ApplyLimits& limits = {});

// The tree that patches are applied to. A path given to either has passed check_path().
struct Tree {
    // What is at `path` itself, without following a link; absent as well where a parent is absent, no directory or a link.
    std::function<File(const std::string& path)> lookup;
    // The names in a directory: asked for when a patch puts a file where a directory is.
    std::function<std::vector<std::string>(const std::string& directory)> list;
};

struct Change {
    std::string path;
    File after;  // absent: to be removed
};

struct AppliedAll {
    std::vector<Change> changes;  // removals first, in an order that can be carried out; empty if anything is rejected
    std::vector<Rejection> rejections;
};

// All patches or none, as git apply decides: nothing is created over what exists unless the patches remove it, nothing is removed
// whose content differs; a second patch for a file sees the first one's result; renames and copies see the original tree, so
// that two files may be swapped; nothing is read or written beyond a symlink. Who carries out the changes removes directories
// that become empty by removals before writing, as git does: a file may come where a directory was.
// Stricter than git apply, which does something else than the patch says for these: binary entries; context "without newline
// at end" matched by a line that has one; lines added without context inside a file; a file that one patch changes and a later
// one removes or renames; a file that two patches create. Also refused: link targets that no link can have.
AppliedAll apply_all(const std::vector<FilePatch>& patches, const Tree& tree, const ApplyLimits& limits = {});

}  // namespace pyro::patch
