// A tar of somebody who may mean harm, entry by entry: ustar, pax records (path, linkpath, size, mtime), GNU's long names. Everything
// else is refused: other formats, sparse files, entries that are neither file, directory nor link, sums that do not fit, names
// that lead elsewhere, an archive that ends early or has something behind its end. Holds one name, never the content.
#pragma once
#include "common/error.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <sys/stat.h>

namespace pyro::guest::files {

inline constexpr std::size_t tar_block_bytes = 512;
inline constexpr std::uint64_t max_archive_entries = 4'000'000;
inline constexpr std::size_t max_pax_bytes = 1 << 20;  // of one header's records

struct Member {
    enum class Type { file, hard_link, symlink, directory };
    Type type = Type::file;
    std::string path;         // as proto/files.hpp has it
    std::string target;       // of a symlink; of a hard link, a path like `path`
    mode_t mode = 0;          // 01777
    std::uint64_t size = 0;   // of a file
    timespec mtime{};
};

class TarReader {
public:
    explicit TarReader(int fd);
    // The next entry, when the content of the last was read or not. Nothing at the archive's end, with the stream at its own.
    std::optional<Member> next();
    // The next bytes of the entry's content, valid until the next call; empty behind the last.
    std::string_view content();

private:
    struct Values {
        std::optional<std::string> path, target;
        std::optional<std::uint64_t> size;
        std::optional<timespec> mtime;
    };
    struct Header;
    std::string_view take(std::size_t most);      // at least one byte, at most that many; throws at the end
    void take_whole(char* to, std::size_t count);
    std::string text(std::uint64_t size, std::size_t most, const char* what);
    void skip_padding(std::uint64_t size);
    void finish();
    Member member(const Header& header, const Values& own);

    int fd_;
    std::string buffer_;
    std::size_t begin_ = 0, end_ = 0;
    std::uint64_t left_ = 0;     // of the content
    std::uint64_t padding_ = 0;  // behind it
    std::uint64_t entries_ = 0;
    Values global_;
};

}  // namespace pyro::guest::files
