#include "daemon/workspace/journal.hpp"

#include "common/error.hpp"

#include <algorithm>
#include <cerrno>

#include <fcntl.h>
#include <unistd.h>

namespace pyro::workspace {
namespace {

constexpr std::uint64_t magic = 0x316c6e726f79702e;
constexpr std::uint64_t header_bytes = 64;

// Where in the file a byte of the stream is, and where the stretch ends in which the next ones follow it.
struct Place {
    std::uint64_t at, border;
};
Place place_of(std::uint64_t offset, std::uint64_t half) {
    if (offset < half) return {offset, half};
    return {half + (offset - half) % half, 2 * half};
}

}  // namespace

Journal Journal::create(const std::string& path, std::uint64_t limit) {
    Header header;
    header.magic = magic;
    header.half = std::max<std::uint64_t>(limit / 2, 1);
    Journal journal(path, open_file(path, O_RDWR | O_CREAT | O_EXCL), header);
    journal.write_header();
    return journal;
}

Journal Journal::open(const std::string& path) {
    UniqueFd file = open_file(path, O_RDWR);
    Header header;
    const bool whole = ::pread(file.get(), &header, sizeof header, 0) == static_cast<ssize_t>(sizeof header);
    if (!whole || header.magic != magic || header.half == 0 || header.half > std::uint64_t{1} << 40 || header.lost_from > header.lost_until ||
        header.lost_until > header.total)
        throw Error(ErrorCode::failed_precondition, "the journal " + path + " is damaged", "the command's output is lost; its record is not");
    return Journal(path, std::move(file), header);
}

std::uint64_t Journal::head_end() const noexcept {
    const std::uint64_t end = std::min(header_.total, header_.half);
    return header_.lost_until > 0 ? std::min(end, header_.lost_from) : end;
}

std::uint64_t Journal::tail_begin() const noexcept {
    const std::uint64_t oldest = header_.total > 2 * header_.half ? header_.total - header_.half : head_end();
    return std::max(oldest, header_.lost_until);
}

void Journal::write_header() {
    // One that cannot be written for want of space stays behind: the next daemon does not find what came since, and nothing else happens.
    if (::pwrite(file_.get(), &header_, sizeof header_, 0) < 0 && errno != ENOSPC && errno != EDQUOT) throw Error::from_errno("write a journal");
}

// False when the disk is full.
bool Journal::put(std::uint64_t offset, std::string_view bytes) {
    while (!bytes.empty()) {
        const Place place = place_of(offset, header_.half);
        const std::size_t count = static_cast<std::size_t>(std::min<std::uint64_t>(bytes.size(), place.border - place.at));
        const ssize_t done = ::pwrite(file_.get(), bytes.data(), count, static_cast<off_t>(header_bytes + place.at));
        if (done < 0 && errno == EINTR) continue;
        if (done < 0 && (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)) return false;
        if (done < 0) throw Error::from_errno("write a journal");
        offset += static_cast<std::uint64_t>(done);
        bytes.remove_prefix(static_cast<std::size_t>(done));
    }
    return true;
}

void Journal::append(std::string_view bytes) {
    if (bytes.empty()) return;
    const std::uint64_t from = header_.total, end = from + bytes.size();
    if (!put(from, bytes)) {
        if (header_.lost_until == 0) header_.lost_from = from;
        header_.lost_until = end;
    }
    header_.total = end;
    write_header();
}

Journal::Piece Journal::read(std::uint64_t offset, std::size_t limit) const {
    Piece piece;
    if (offset >= head_end() && offset < tail_begin()) offset = tail_begin();
    piece.offset = offset;
    if (offset >= header_.total) return piece;
    const Place place = place_of(offset, header_.half);
    const std::uint64_t kept_until = offset < head_end() ? head_end() : header_.total;
    piece.bytes.resize(static_cast<std::size_t>(std::min<std::uint64_t>({limit, kept_until - offset, place.border - place.at})));
    const UniqueFd reopened = file_ ? UniqueFd() : open_file(path_, O_RDONLY);
    const ssize_t got = ::pread(file_ ? file_.get() : reopened.get(), piece.bytes.data(), piece.bytes.size(), static_cast<off_t>(header_bytes + place.at));
    if (got != static_cast<ssize_t>(piece.bytes.size())) throw Error(ErrorCode::failed_precondition, "a journal was cut short", "the command's output is lost");
    return piece;
}

}  // namespace pyro::workspace
