// The canonical tar stream that seeds, syncs and exports travel as: written here, and read here together with the tar
// dialects of the world.
//
// Canonical: uncompressed POSIX pax with three kinds of entries (directories, files, symbolic links), no entry for the root,
// every directory before what is in it, names of one directory in the order of their bytes. Owners are 0 and nameless. A
// pax header stands before an entry only for what the plain one cannot say, with `linkpath`, `mtime`, `path` and `size` as its
// only keys, in that order. Hard links are files of their own and holes are zeros. So equal trees are equal bytes.
#pragma once
#include <cstdint>
#include <exception>
#include <functional>
#include <locale.h>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "common/digest.hpp"
#include "common/error.hpp"

struct archive;
struct archive_entry;

namespace pyro::client::seed {

using Sink = std::function<void(std::string_view)>;  // takes all of the bytes, or throws
using Source = std::function<std::string_view()>;    // the next bytes, valid until the next call; none at the end

// What one seed, sync or export may be. What goes beyond is refused with invalid_argument.
struct Limits {
    std::uint64_t entries = 1'000'000;         // of the result, directories that are only implied among them
    std::uint64_t bytes = std::uint64_t{16} << 30;  // of files, unpacked
    std::uint64_t ratio = 1000;                // unpacked to packed bytes of a compressed archive...
    std::uint64_t ratio_from = 64u << 20;      // ...from so many unpacked bytes on
};
inline constexpr std::size_t max_component = 255;    // what a file system holds
inline constexpr std::size_t max_path = 64u << 10;
inline constexpr std::size_t max_target = 4095;      // of a symbolic link

enum class EntryType { directory, file, symlink };

struct Entry {
    std::string path;  // relative, as relative_path() makes it
    EntryType type = EntryType::file;
    unsigned mode = 0;  // see kept_mode(); not used for symbolic links
    std::int64_t mtime = 0;
    std::uint32_t mtime_nsec = 0;  // written only for times since 1970: readers disagree about a negative fraction
    std::uint64_t size = 0;        // of a file
    std::string target;            // of a symbolic link
};

// The bits that travel: permissions, and the sticky bit of directories.
constexpr unsigned kept_mode(EntryType type, unsigned mode) {
    return mode & (type == EntryType::directory ? 01777u : 0777u);
}

// A name as a message shows it: control characters escaped, the middle of a long one left out.
std::string printable(std::string_view name);

// `raw` without "." and empty components; empty for the root itself. Throws invalid_argument, with the name, for what is absolute,
// has "..", or is longer than max_component or max_path allow.
std::string relative_path(std::string_view raw);

// Writes the stream in blocks of 256 KiB and hashes it. begin(), then exactly Entry::size bytes by data() and zeros(); finish().
// Entries must come in canonical order. Throws Cancelled when stopped.
class TarWriter {
public:
    TarWriter(Sink sink, std::stop_token stop);
    void begin(const Entry& entry);
    void data(std::string_view bytes);
    void zeros(std::uint64_t count);
    Digest finish();  // once; of the whole stream
    std::uint64_t written() const noexcept { return written_; }

private:
    void header(std::string_view name, std::string_view target, char type, unsigned mode, std::int64_t mtime, std::uint64_t size);
    void pad();
    void append(std::string_view bytes);
    void append_zeros(std::uint64_t count);
    void flush();

    Sink sink_;
    std::stop_token stop_;
    std::string buffer_;
    Sha256 hash_;
    std::uint64_t written_ = 0;
    std::uint64_t pending_ = 0;   // bytes of the current file still to come
    std::size_t padding_ = 0;     // zeros behind it
};

// Reads a tar of any dialect, with exactly one layer of gzip or zstd undone where `packed` says that there may be one: an
// archive in an archive stays what it is, no tar. Bounds what comes out of the compression; the caller bounds entries.
class TarReader {
public:
    struct Item {
        Entry entry;            // path and target are raw: as they stand in the archive
        bool hard_link = false;  // then entry.target is what it is another name of
        std::string other;      // what else it is ("a device"); then nothing else holds
    };
    struct Piece {
        std::uint64_t offset = 0;  // increasing; what lies between pieces is zeros
        std::string_view bytes;
    };

    TarReader(Source source, bool packed, const Limits& limits, std::stop_token stop);
    ~TarReader();
    TarReader(const TarReader&) = delete;
    TarReader& operator=(const TarReader&) = delete;

    bool next(Item& item);      // false at the end
    bool content(Piece& piece);  // of the last item; false at its end
    // Reads to the very end, and says whether the stream was closed by the two blocks of zeros that end a tar.
    bool finish();

private:
    struct FreeArchive { void operator()(archive* a) const noexcept; };
    struct FreeLocale { void operator()(locale_t l) const noexcept { freelocale(l); } };
    using Archive = std::unique_ptr<archive, FreeArchive>;
    class InLocale;

    std::string_view next_packed();
    std::string_view next_plain();
    static long read_packed(archive* a, void* self, const void** buffer);
    static long read_plain(archive* a, void* self, const void** buffer);
    long deliver(archive* a, std::string_view (TarReader::*more)(), const void** buffer);
    void check(archive* a, int status, const std::string& doing);

    Source source_;
    Limits limits_;
    std::stop_token stop_;
    std::unique_ptr<std::remove_pointer_t<locale_t>, FreeLocale> locale_;
    std::string_view head_;        // what was looked at to tell the compression, still to be delivered
    bool head_pending_ = false;
    std::uint64_t packed_ = 0, unpacked_ = 0;
    std::string tail_;             // the last bytes of the plain stream, at most two blocks
    std::exception_ptr kept_;      // what could not be thrown through C
    std::uint64_t size_ = 0;       // of the current file
    std::string current_ = "the beginning";
    Archive decompressor_, tar_;
};

}  // namespace pyro::client::seed
