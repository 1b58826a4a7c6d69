#include "guest/files/operations.hpp"
#include "guest/files/tar_reader.hpp"
#include "guest/files/walk.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>

namespace pyro::guest::files {
namespace {

using proto::files::Done;
using proto::files::Entry;
using proto::files::Kind;
using proto::files::Note;
using proto::files::Reason;

constexpr std::int64_t most_octal = 077777777777;  // of eleven digits

std::string_view padding(std::uint64_t size) {
    static constexpr char zeros[tar_block_bytes] = {};
    return {zeros, static_cast<std::size_t>((tar_block_bytes - size % tar_block_bytes) % tar_block_bytes)};
}

std::string pax_record(std::string_view key, std::string_view value) {
    // The length counts its own digits.
    const std::size_t rest = key.size() + value.size() + 3;
    std::size_t length = rest + 1;
    while (std::to_string(length).size() + rest != length) length = std::to_string(length).size() + rest;
    return std::to_string(length) + " " + std::string(key) + "=" + std::string(value) + "\n";
}

std::string decimal_time(std::int64_t seconds, std::uint32_t nanoseconds) {
    const bool before = seconds < 0 && nanoseconds > 0;  // -2 s and 750,000,000 ns are -1.25
    if (before) ++seconds, nanoseconds = 1'000'000'000 - nanoseconds;
    char text[40];
    std::snprintf(text, sizeof text, "%s%lld.%09u", before && seconds == 0 ? "-" : "", static_cast<long long>(seconds), nanoseconds);
    return text;
}

// Does it stand in a header's field as it is?
bool fits(std::string_view text) {
    return text.size() <= 100 && std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
}

bool is_utf8(std::string_view text) {
    while (!text.empty()) {
        const std::size_t length = proto::files::utf8_sequence(text);
        if (length == 0) return false;
        text.remove_prefix(length);
    }
    return true;
}

std::string ustar_header(std::string_view name, char type, mode_t mode, std::uint64_t size, std::int64_t mtime, std::string_view target) {
    std::string header(tar_block_bytes, '\0');
    const auto text = [&](std::size_t at, std::string_view value) { header.replace(at, value.size(), value); };
    const auto octal = [&](std::size_t at, int digits, std::uint64_t value) {
        char number[24];
        std::snprintf(number, sizeof number, "%0*llo", digits, static_cast<unsigned long long>(value));
        text(at, number);
    };
    text(0, name);
    octal(100, 7, mode);
    octal(108, 7, 0);
    octal(116, 7, 0);
    octal(124, 11, size);
    octal(136, 11, static_cast<std::uint64_t>(mtime));
    text(148, "        ");
    header[156] = type;
    text(157, target);
    text(257, std::string_view("ustar\00000", 8));
    octal(329, 7, 0);
    octal(337, 7, 0);
    unsigned sum = 0;
    for (const char c : header) sum += static_cast<unsigned char>(c);
    octal(148, 6, sum);
    header[154] = '\0';
    return header;
}

std::string tar_header(const Entry& entry) {
    const std::string path = entry.kind == Kind::directory ? entry.path + "/" : entry.path;
    const bool path_fits = fits(path), target_fits = fits(entry.target);
    const bool time_fits = entry.mtime_ns == 0 && entry.mtime_s >= 0 && entry.mtime_s <= most_octal;
    const bool size_fits = entry.size <= static_cast<std::uint64_t>(most_octal);
    std::string records;
    if ((!path_fits && !is_utf8(path)) || (!target_fits && !is_utf8(entry.target))) records += pax_record("hdrcharset", "BINARY");
    if (!target_fits) records += pax_record("linkpath", entry.target);
    if (!time_fits) records += pax_record("mtime", decimal_time(entry.mtime_s, entry.mtime_ns));
    if (!path_fits) records += pax_record("path", path);
    if (!size_fits) records += pax_record("size", std::to_string(entry.size));

    std::string out;
    if (!records.empty()) {
        out = ustar_header("././@PaxHeader", 'x', 0644, records.size(), 0, "");
        out += records;
        out += padding(records.size());
    }
    const char type = entry.kind == Kind::directory ? '5' : entry.kind == Kind::symlink ? '2' : '0';
    const std::int64_t seconds = std::clamp<std::int64_t>(entry.mtime_s, 0, most_octal);
    return out + ustar_header(path_fits ? path : "././@LongPath", type, entry.mode & 01777, size_fits ? entry.size : 0, seconds,
                              // Not empty: libarchive takes a link without a name for a file.
                              target_fits ? entry.target : "././@LongSymLink");
}

class Packer {
public:
    void add(const Found& found) {
        if (!S_ISREG(found.info.st_mode)) {
            const Entry entry = entry_of(found);
            if (entry.kind == Kind::other) return leave_out(S_ISLNK(found.info.st_mode) ? Reason::changed : Reason::special, found.path);
            ++(entry.kind == Kind::directory ? done_.directories : done_.symlinks);
            return out_.put(std::string_view(tar_header(entry)));
        }
        const UniqueFd file(::openat(found.directory, found.name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
        struct stat info{};
        if (!file && errno != ENOENT && errno != ELOOP && errno != EACCES && errno != EPERM && errno != ENXIO) fail("pack", found.path, errno);
        if (!file) return leave_out(errno == EACCES || errno == EPERM ? Reason::unreadable : Reason::changed, found.path);
        if (::fstat(file.get(), &info) != 0) fail("pack", found.path, errno);
        if (!S_ISREG(info.st_mode)) return leave_out(Reason::changed, found.path);
        add_file(file.get(), entry_of(Found{found.directory, found.name, found.path, info}));
    }

    void leave_out(Reason reason, const std::string& path) {
        ++done_.left_out;
        if (notes_ == proto::files::max_pack_notes || notes_bytes_ + path.size() > proto::files::max_pack_notes_bytes) return;
        ++notes_;
        notes_bytes_ += path.size();
        report_ += encode(Note{reason, path});
    }

    void finish() {
        out_.put(std::string_view(std::string(2 * tar_block_bytes, '\0')));
        out_.flush();
        write_all(STDERR_FILENO, report_ + encode(done_));
    }

private:
    // As many bytes as its header says, whatever becomes of the file.
    void add_file(int file, const Entry& entry) {
        out_.put(std::string_view(tar_header(entry)));
        std::uint64_t left = entry.size;
        bool short_of = false;
        while (left > 0) {
            const std::size_t want = static_cast<std::size_t>(std::min<std::uint64_t>(left, buffer_.size()));
            ssize_t got = short_of ? 0 : ::read(file, buffer_.data(), want);
            if (got < 0 && errno == EINTR) continue;
            if (got < 0) fail("pack", entry.path, errno);
            if (got == 0) {
                if (!std::exchange(short_of, true)) std::fill(buffer_.begin(), buffer_.end(), '\0');
                got = static_cast<ssize_t>(want);
            }
            out_.put(std::string_view(buffer_).substr(0, static_cast<std::size_t>(got)));
            left -= static_cast<std::uint64_t>(got);
        }
        out_.put(padding(entry.size));
        ++done_.files;
        done_.bytes += entry.size;
        if (short_of) leave_out(Reason::padded, entry.path);
    }

    Output out_{STDOUT_FILENO};
    std::string buffer_ = std::string(256 << 10, '\0');
    std::string report_;
    std::size_t notes_ = 0, notes_bytes_ = 0;
    Done done_;
};

}  // namespace

void pack(const UniqueFd& root, std::vector<std::string> paths) {
    // Each path once, and nothing that another one of them contains. "." contains all.
    std::sort(paths.begin(), paths.end());
    if (std::find(paths.begin(), paths.end(), ".") != paths.end()) paths = {"."};
    std::vector<std::string> tops;
    for (std::string& path : paths) {
        const bool inside = std::any_of(tops.begin(), tops.end(), [&](const std::string& top) { return path == top || path.starts_with(top + "/"); });
        if (!inside) tops.push_back(std::move(path));
    }
    const auto place = [&](Trail& trail, const std::string& path) {
        std::vector<std::string_view> names = components(path);
        const std::string name(names.empty() ? "." : names.back());
        if (!names.empty()) names.pop_back();
        int error = 0;
        if (trail.follow(names, error) < names.size()) fail("pack", path, error);
        return name;
    };
    const auto look_at = [&](Trail& trail, const std::string& name, const std::string& path) {
        struct stat info{};
        if (::fstatat(trail.fd(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) fail("pack", path, errno);
        return info;
    };
    // All are there, or nothing is packed.
    for (const std::string& path : tops) {
        Trail trail(root);
        const std::string name = place(trail, path);
        look_at(trail, name, path);
    }
    Packer packer;
    for (const std::string& path : tops) {
        Trail trail(root);
        const std::string name = place(trail, path);
        const struct stat info = look_at(trail, name, path);
        if (path != ".") packer.add(Found{trail.fd(), name.c_str(), path, info});
        if (!S_ISDIR(info.st_mode)) continue;
        if (const int error = path == "." ? 0 : trail.enter(name.c_str()); error != 0) fail("pack", path, error);
        walk(trail, WalkOptions{true, true, {}},
             WalkVisitor{[&](const Found& found) { packer.add(found); return true; },
                         [&](Reason reason, const std::string& where) { packer.leave_out(reason, where); }});
    }
    packer.finish();
}

}  // namespace pyro::guest::files
