// What a command wrote to one stream, kept on disk within a bound: its head and its tail.
#pragma once
#include "common/unique_fd.hpp"

#include <cstdint>
#include <string>
#include <string_view>

namespace pyro::workspace {

// Owns one file, open until close(): a header with the number of bytes that ever came, the head, and a ring with the tail. Offsets are absolute in the
// stream. Written and read on the domain thread: the file is never synced, so both are copies to and from the page cache. A daemon
// that is killed leaves a journal whose header is right or behind, never ahead.
//
// When the disk is full, bytes are counted and not kept; the command goes on.
class Journal {
public:
    // Creates the file, or takes up one of an earlier daemon: its limit then holds. `limit`: bytes kept at most.
    static Journal create(const std::string& path, std::uint64_t limit);
    static Journal open(const std::string& path);

    void append(std::string_view bytes);
    std::uint64_t total() const noexcept { return header_.total; }    // where the next byte will be
    std::uint64_t elided() const noexcept { return tail_begin() - head_end(); }  // bytes from the middle that are gone

    struct Piece {
        std::uint64_t offset = 0;  // of the first byte; beyond the one asked for where that is not kept any more
        std::string bytes;         // empty: nothing is there yet
    };
    Piece read(std::uint64_t offset, std::size_t limit) const;

    // Nothing more is appended: from now on the file is open only while it is read.
    void close() noexcept { file_.reset(); }

private:
    struct Header {
        std::uint64_t magic = 0;
        std::uint64_t half = 0;                          // bytes of the head, and of the ring
        std::uint64_t total = 0;
        std::uint64_t lost_from = 0, lost_until = 0;     // the stretch in which something could not be written
    };
    Journal(std::string path, UniqueFd file, Header header) : path_(std::move(path)), file_(std::move(file)), header_(header) {}
    // Kept is what is before the one and from the other on.
    std::uint64_t head_end() const noexcept;
    std::uint64_t tail_begin() const noexcept;
    bool put(std::uint64_t offset, std::string_view bytes);
    void write_header();

    std::string path_;
    UniqueFd file_;  // none: closed
    Header header_;
};

}  // namespace pyro::workspace
