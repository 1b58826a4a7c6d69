// What `pyro-guest files OP` says, declared once for the guest that runs it and the daemon that reads it. Pure: no I/O.
//
// Results are a stream of records, little-endian:
//
//     length u32 | type u8 | body          length counts type and body
//
//     1 Entry   kind u8 | mode u32 | size u64 | mtime s i64 | mtime ns u32 | path u32+bytes | target u32+bytes
//     2 Note    reason u8 | path u32+bytes
//     3 Done    files, directories, symlinks, hard links, bytes, left out: u64 each | more u8
//     4 Change  kind u8 | note u8 | binary u8 | lines added u64 | lines deleted u64 | path u32+bytes | old path u32+bytes
//     5 Rejection  hunk u32 | line u32 | position u64 | path u32+bytes | reason u32+bytes | expected, found: u8 and as many u32+bytes each
//
// Done is the last one; a stream without it was broken off. Which operation says what, and where:
//
//     list     stdout: Entries in rising byte order of paths, Notes of directories that could not be looked into, Done
//     stat     stdout: one Entry, Done
//     read     stdout: the bytes of the file; stderr: its Entry, Done (bytes: how many were read; more: there are more behind them)
//     write    stdout: Done (bytes)
//     remove   stdout: Done (what was removed, by kind)
//     unpack   stdout: Done (what the archive held, by kind)
//     recover  stdout: Done (directories: how many killed runs of unpack and apply were undone)
//     pack     stdout: a tar; stderr: Notes of what is not in it as it was, the first max_pack_notes of them, Done
//     apply    stdout: a Change per path in rising byte order, Done (files: how many)
//     diff     stdout: the patch; stderr: Changes in rising byte order of paths, Notes of what could not be compared, Done (files: how
//              many Changes; bytes: of the patch; left out: Changes without text because of a bound, and all behind max_changes;
//              more: there are such)
//
// An operation that fails exits with 1, and stderr is one failure: CODE\0message\0hint\0. What was on stdout is void then, but
// for a patch whose hunks do not fit (failed_precondition): there it is the Rejections and Done (more: there may be others).
//
// Paths are relative to the root, "." being the root itself: components of 1 to 255 bytes, any but NUL and '/', none "." or "..",
// in all at most max_path_bytes. They are bytes: neither UTF-8 nor printable.
#pragma once
#include "common/error.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace pyro::proto::files {

inline constexpr std::size_t max_path_bytes = 64 << 10;
inline constexpr std::size_t max_name_bytes = 255;
inline constexpr std::size_t max_target_bytes = 4095;       // of a symbolic link
inline constexpr std::size_t max_record_bytes = 80 << 10;   // without the length before it
inline constexpr std::size_t max_failure_bytes = 4 << 10;   // a failure as a whole
inline constexpr std::size_t max_pack_notes = 1000;         // Done.left_out counts the rest too
inline constexpr std::size_t max_pack_notes_bytes = 1 << 20;
inline constexpr std::size_t max_patch_bytes = 64 << 20;
inline constexpr std::size_t max_patch_path_bytes = 4095;    // of a Change or a Rejection
inline constexpr std::size_t max_changes = 50'000;
inline constexpr std::size_t max_rejections = 100;
inline constexpr std::size_t max_rejection_lines = 21;       // expected and found, each
inline constexpr std::size_t max_rejection_line_bytes = 512;
inline constexpr std::size_t max_rejection_reason_bytes = 1000;

enum class Kind : std::uint8_t { file = 1, directory, symlink, other };

struct Entry {
    Kind kind = Kind::file;
    std::uint32_t mode = 0;        // the permission bits, 07777
    std::uint64_t size = 0;        // of a file; else 0
    std::int64_t mtime_s = 0;
    std::uint32_t mtime_ns = 0;
    std::string path;
    std::string target;            // of a symlink; else empty
    bool operator==(const Entry&) const = default;
};

enum class Reason : std::uint8_t {
    special = 1,   // a fifo, a socket or a device: not packed
    mount_point,   // another file system begins there: not looked into
    unreadable,    // the user may not read it
    changed,       // became something else, or went, while it was read
    too_long,      // what lies below has paths of more than max_path_bytes
    padded,        // the file became shorter while it was read: its end is zeros in the tar
    too_large,     // more than a patch shows of one file
    limit,         // the patch has no room left for it
    in_the_way,    // something that is not in the patch stays where this would have to be
};
std::string_view to_string(Reason reason);  // a few words: "a mount point"

struct Note {
    Reason reason = Reason::special;
    std::string path;
    bool operator==(const Note&) const = default;
};

struct Done {
    std::uint64_t files = 0, directories = 0, symlinks = 0, hard_links = 0;
    std::uint64_t bytes = 0;      // of the content of files
    std::uint64_t left_out = 0;   // pack: how many were left out or padded
    bool more = false;            // list, read: the limit was reached and there is more
    bool operator==(const Done&) const = default;
};

enum class ChangeKind : std::uint8_t { added = 1, modified, deleted, renamed, mode, type };
std::string_view to_string(ChangeKind kind);

// What is different at a path, or was made so. Where there is a note, or the content is binary, the patch does not have it (but a
// binary file that was only renamed is in it).
struct Change {
    ChangeKind kind = ChangeKind::modified;
    std::optional<Reason> note;
    bool binary = false;
    std::uint64_t added = 0, deleted = 0;  // lines; none of what is binary, or has a note
    std::string path;
    std::string old_path;                  // of what was renamed; else empty
    bool operator==(const Change&) const = default;
};

// A hunk that does not fit, or (hunk 0) a file's patch as a whole. The lines are bytes, without their newlines.
struct Rejection {
    std::uint32_t hunk = 0, line = 0;      // from 1; the line is the patch's
    std::uint64_t position = 0;            // the number of the first of these lines in the file
    std::string path, reason;
    std::vector<std::string> expected, found;
    bool operator==(const Rejection&) const = default;
};

using Record = std::variant<Entry, Note, Done, Change, Rejection>;
std::string encode(const Record& record);

// Is it a path as above?
bool is_path(std::string_view path);

// Records out of a byte stream in pieces of any size, of a guest that may say anything: what is not exactly as above throws
// Error(guest_failed), as do records of another stream, entries or changes out of order or too many, and anything behind Done.
// Holds one record and one piece.
class Decoder {
public:
    enum class Stream { entries, changes, rejections };
    explicit Decoder(Stream stream = Stream::entries) : stream_(stream) {}
    void feed(std::string_view bytes);
    std::optional<Record> next();                     // call until it has nothing
    void finish() const;                              // the stream ended: throws unless Done was its last

private:
    void in_order(const std::string& path);
    Stream stream_;
    std::string buffer_;
    std::size_t taken_ = 0;
    std::size_t count_ = 0;
    std::string last_path_;
    bool done_ = false;
};

// The failure on stderr. Decoding takes whatever came (also nothing, or what a dying program prints): one that is no failure
// reads as guest_failed. In message and hint, control bytes become '?'; they may still be invalid UTF-8.
std::string encode_failure(const Error& error);
Error decode_failure(std::string_view bytes);

// Length of the valid UTF-8 sequence at the beginning of `text`, 0 if there is none.
std::size_t utf8_sequence(std::string_view text);

}  // namespace pyro::proto::files
