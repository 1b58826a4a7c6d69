#include "guest/files/tar_reader.hpp"

#include "guest/files/beneath.hpp"
#include "proto/files.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <unistd.h>

namespace pyro::guest::files {
namespace {

[[noreturn]] void refuse_archive(const std::string& why) {
    throw Error(ErrorCode::invalid_argument, "the archive is refused: " + why, "make it anew; nothing of it was taken");
}

// Octal as POSIX has it, or, where GNU has larger numbers, base 256.
std::int64_t number_of(std::string_view field, const char* what) {
    if ((static_cast<unsigned char>(field[0]) & 0x80) != 0) {
        const bool negative = (static_cast<unsigned char>(field[0]) & 0x40) != 0;
        std::int64_t value = negative ? -1 : 0;
        for (std::size_t i = 0; i < field.size(); ++i) {
            const unsigned byte = i == 0 ? (static_cast<unsigned char>(field[0]) & 0x3f) | (negative ? 0xc0u : 0u) : static_cast<unsigned char>(field[i]);
            if (value > (INT64_MAX >> 8) || value < (INT64_MIN >> 8)) refuse_archive(std::string(what) + " is too large");
            value = value * 256 + static_cast<std::int64_t>(byte);
        }
        return value;
    }
    const std::size_t begin = std::min(field.find_first_not_of(' '), field.size());
    const std::size_t end = std::min(field.find_first_of(std::string_view(" \0", 2), begin), field.size());
    if (field.find_first_not_of(std::string_view(" \0", 2), end) != std::string_view::npos) refuse_archive(std::string(what) + " is no number");
    std::int64_t value = 0;
    for (const char c : field.substr(begin, end - begin)) {
        if (c < '0' || c > '7') refuse_archive(std::string(what) + " is no number");
        value = value * 8 + (c - '0');  // at most 12 digits
    }
    return value;
}

std::string text_of(std::string_view field) { return std::string(field.substr(0, field.find('\0'))); }

std::uint64_t size_of(std::int64_t size) {
    if (size < 0) refuse_archive("an entry has a negative size");
    return static_cast<std::uint64_t>(size);
}

template <class T>
T decimal(std::string_view text, const std::string& what) {
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size()) refuse_archive(what + " is no number");
    return value;
}

// "-1.25" is a quarter before -1: -2 s and 750,000,000 ns.
timespec time_of(std::string_view text) {
    const std::size_t dot = std::min(text.find('.'), text.size());
    timespec time{};
    time.tv_sec = decimal<std::int64_t>(text.substr(0, dot), "a time");
    if (dot < text.size()) {
        std::string digits(text.substr(dot + 1));
        if (digits.empty() || digits.size() > 100 || digits.find_first_not_of("0123456789") != std::string::npos) refuse_archive("a time is no number");
        digits.resize(9, '0');
        time.tv_nsec = decimal<long>(digits, "a time");
        if (text.starts_with('-') && time.tv_nsec != 0) {
            if (time.tv_sec == INT64_MIN) refuse_archive("a time is too early");
            --time.tv_sec;
            time.tv_nsec = 1'000'000'000 - time.tv_nsec;
        }
    }
    return time;
}

// Of a member or of a hard link's target.
std::string inner_path(const std::string& name, const char* what) {
    std::string path = name;
    if (path.starts_with('/')) refuse_archive(std::string(what) + " " + quoted(name) + " is absolute");
    while (path.starts_with("./")) path.erase(0, path.find_first_not_of('/', 1));
    while (path.size() > 1 && path.ends_with('/')) path.pop_back();
    if (path.empty()) path = name.empty() ? "" : ".";
    if (path.size() > proto::files::max_path_bytes) refuse_archive(std::string(what) + " " + quoted(name) + " is too long");
    if (!proto::files::is_path(path))
        refuse_archive(std::string(what) + " " + quoted(name) + " has a part that is empty, \".\", \"..\" or longer than 255 bytes");
    if (is_staging(path.substr(0, path.find('/')))) refuse_archive(std::string(what) + " " + quoted(name) + " is a name that pyro keeps for itself");
    return path;
}

}  // namespace

struct TarReader::Header {
    char bytes[tar_block_bytes];
    std::string_view field(std::size_t at, std::size_t size) const { return {bytes + at, size}; }
    bool empty() const { return std::all_of(bytes, bytes + tar_block_bytes, [](char c) { return c == '\0'; }); }
    char type() const { return bytes[156]; }
    std::uint64_t size() const { return size_of(number_of(field(124, 12), "a size")); }
    void check() const {
        unsigned sum = 8 * ' ';
        for (std::size_t i = 0; i < tar_block_bytes; ++i)
            if (i < 148 || i >= 156) sum += static_cast<unsigned char>(bytes[i]);
        if (number_of(field(148, 8), "a check sum") != static_cast<std::int64_t>(sum)) refuse_archive("a header's check sum does not fit");
        if (!posix() && field(257, 8) != std::string_view("ustar  \0", 8)) refuse_archive("it is no POSIX tar");
    }
    bool posix() const { return field(257, 8) == std::string_view("ustar\00000", 8); }
    std::string path() const {
        const std::string prefix = posix() ? text_of(field(345, 155)) : "";  // GNU keeps other things there
        return (prefix.empty() ? "" : prefix + "/") + text_of(field(0, 100));
    }
};

TarReader::TarReader(int fd) : fd_(fd), buffer_(256 << 10, '\0') {}

std::string_view TarReader::take(std::size_t most) {
    while (begin_ == end_) {
        const ssize_t got = ::read(fd_, buffer_.data(), buffer_.size());
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) throw Error::from_errno("read the archive");
        if (got == 0) throw Error(ErrorCode::unavailable, "the archive ends too early; nothing was changed", "send it again");
        begin_ = 0;
        end_ = static_cast<std::size_t>(got);
    }
    const std::string_view bytes(buffer_.data() + begin_, std::min(most, end_ - begin_));
    begin_ += bytes.size();
    return bytes;
}

void TarReader::take_whole(char* to, std::size_t count) {
    while (count > 0) {
        const std::string_view bytes = take(count);
        std::memcpy(to, bytes.data(), bytes.size());
        to += bytes.size();
        count -= bytes.size();
    }
}

std::string TarReader::text(std::uint64_t size, std::size_t most, const char* what) {
    if (size > most) refuse_archive(std::string(what) + " of " + std::to_string(size) + " bytes; at most " + std::to_string(most));
    std::string text(static_cast<std::size_t>(size), '\0');
    take_whole(text.data(), text.size());
    skip_padding(size);
    return text;
}

void TarReader::skip_padding(std::uint64_t size) {
    char padding[tar_block_bytes];
    take_whole(padding, (tar_block_bytes - size % tar_block_bytes) % tar_block_bytes);
}

std::string_view TarReader::content() {
    if (left_ == 0) return {};
    const std::string_view bytes = take(static_cast<std::size_t>(std::min<std::uint64_t>(left_, buffer_.size())));
    left_ -= bytes.size();
    return bytes;
}

std::optional<Member> TarReader::next() {
    while (!content().empty()) {}
    skip_padding(std::exchange(padding_, 0));
    Values own;
    bool described = false;  // by records that need an entry behind them
    while (true) {
        Header header;
        take_whole(header.bytes, tar_block_bytes);
        if (header.empty()) {
            if (described) refuse_archive("the last entry is missing");
            finish();
            return std::nullopt;
        }
        header.check();
        // Headers of any kind count: a stream of nothing else has an end too.
        if (++entries_ > 2 * max_archive_entries) refuse_archive("it has more than " + std::to_string(max_archive_entries) + " entries");
        switch (header.type()) {
            case 'L':
                own.path = text_of(text(header.size(), proto::files::max_path_bytes + tar_block_bytes, "a name"));
                described = true;
                continue;
            case 'K':
                own.target = text_of(text(header.size(), proto::files::max_path_bytes + tar_block_bytes, "a link's target"));
                described = true;
                continue;
            case 'x': case 'g': {
                Values& to = header.type() == 'x' ? own : global_;
                described = described || header.type() == 'x';
                const std::string records = text(header.size(), max_pax_bytes, "pax records");
                for (std::string_view rest = records; !rest.empty();) {
                    const std::size_t space = rest.find(' ');
                    if (space == std::string_view::npos || space > 8) refuse_archive("a pax record without its length");
                    const auto length = decimal<std::size_t>(rest.substr(0, space), "a pax record's length");
                    if (length < space + 3 || length > rest.size() || rest[length - 1] != '\n') refuse_archive("a pax record's length does not fit");
                    const std::string_view record = rest.substr(space + 1, length - space - 2);
                    rest.remove_prefix(length);
                    const std::size_t equals = record.find('=');
                    if (equals == std::string_view::npos || equals == 0) refuse_archive("a pax record without a name");
                    const std::string_view key = record.substr(0, equals);
                    const std::string_view value = record.substr(equals + 1);
                    if (key.starts_with("GNU.sparse.")) refuse_archive("it has sparse files, which are not understood; make it without --sparse");
                    const bool known = key == "path" || key == "linkpath" || key == "size" || key == "mtime";
                    if (!known) continue;
                    if (value.empty()) refuse_archive("an empty pax record " + std::string(key));
                    if (value.find('\0') != std::string_view::npos) refuse_archive("a pax record " + std::string(key) + " with a NUL");
                    if (key == "path") to.path = value;
                    else if (key == "linkpath") to.target = value;
                    else if (key == "size") to.size = size_of(decimal<std::int64_t>(value, "a pax record size"));
                    else to.mtime = time_of(value);
                }
                continue;
            }
            default: return member(header, own);
        }
    }
}

Member TarReader::member(const Header& header, const Values& own) {
    const auto either = [](const auto& first, const auto& second) { return first ? first : second; };
    Member member;
    const std::string name = either(own.path, global_.path).value_or(header.path());
    member.path = inner_path(name, "the entry");
    switch (header.type()) {
        case '0': case '7': case '\0': member.type = Member::Type::file; break;
        case '1': member.type = Member::Type::hard_link; break;
        case '2': member.type = Member::Type::symlink; break;
        case '5': member.type = Member::Type::directory; break;
        case '3': case '4': refuse_archive(quoted(name) + " is a device");
        case '6': refuse_archive(quoted(name) + " is a fifo");
        default: refuse_archive(quoted(name) + " is of an unknown type " + quoted(std::string_view(header.bytes + 156, 1)));
    }
    if (member.type != Member::Type::directory && (name.ends_with('/') || member.path == ".")) refuse_archive(quoted(name) + " has the name of a directory");
    member.size = either(own.size, global_.size).value_or(header.size());
    member.mode = static_cast<mode_t>(number_of(header.field(100, 8), "a mode")) & 01777;
    if (const auto mtime = either(own.mtime, global_.mtime)) member.mtime = *mtime;
    else member.mtime.tv_sec = number_of(header.field(136, 12), "a time");
    const std::string target = either(own.target, global_.target).value_or(text_of(header.field(157, 100)));
    if (member.type == Member::Type::file) {
        left_ = padding_ = member.size;
        return member;
    }
    if (member.size != 0) refuse_archive(quoted(name) + " has content and is no file");
    if (member.type == Member::Type::symlink) {
        if (target.empty() || target.size() > proto::files::max_target_bytes) refuse_archive("the symbolic link " + quoted(name) + " leads nowhere, or is too long");
        member.target = target;
    } else if (member.type == Member::Type::hard_link) {
        member.target = inner_path(target, "the hard link's target");
    }
    return member;
}

// A second empty block, and zeros up to the end of the stream.
void TarReader::finish() {
    Header header;
    take_whole(header.bytes, tar_block_bytes);
    if (!header.empty()) refuse_archive("an empty block in its middle");
    std::uint64_t behind = 0;
    while (true) {
        const std::string_view rest(buffer_.data() + begin_, end_ - begin_);
        if (rest.find_first_not_of('\0') != std::string_view::npos) refuse_archive("something behind its end");
        behind += rest.size();
        if (behind > 16 << 20) refuse_archive("zeros without end behind its end");
        const ssize_t got = ::read(fd_, buffer_.data(), buffer_.size());
        if (got < 0 && errno == EINTR) {
            begin_ = end_ = 0;
            continue;
        }
        if (got < 0) throw Error::from_errno("read the archive");
        if (got == 0) return;
        begin_ = 0;
        end_ = static_cast<std::size_t>(got);
    }
}

}  // namespace pyro::guest::files
