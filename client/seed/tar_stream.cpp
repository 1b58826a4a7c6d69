#include "client/seed/tar_stream.hpp"

#include <archive.h>
#include <archive_entry.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

namespace pyro::client::seed {
namespace {

constexpr std::size_t block = 512;
constexpr std::size_t batch = 256 << 10;
constexpr std::uint64_t octal11 = std::uint64_t{1} << 33;  // what eleven octal digits cannot say

bool plain_field(std::string_view text) {
    return text.size() <= 100 && std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
}

// "27 path=name\n": the number counts itself.
std::string pax_record(std::string_view key, std::string_view value) {
    const std::size_t rest = key.size() + value.size() + 3;
    std::size_t size = rest + 1;
    while (std::to_string(size).size() + rest != size)
        size = std::to_string(size).size() + rest;
    return std::to_string(size) + " " + std::string(key) + "=" + std::string(value) + "\n";
}

void octal(char* field, std::size_t digits, std::uint64_t value) {
    for (std::size_t i = digits; i-- > 0; value >>= 3)
        field[i] = static_cast<char>('0' + (value & 7));
}

[[noreturn]] void tar_invalid(const std::string& why) {
    throw Error(ErrorCode::invalid_argument, why, "it is damaged or hostile: make it anew with tar, and name files of the tree alone");
}

std::string tar_reason(archive* a) {
    const char* text = archive_error_string(a);
    return text ? printable(text) : "unknown reason";
}

}  // namespace

std::string printable(std::string_view name) {
    constexpr std::size_t ends = 100;
    std::string shown;
    const auto add = [&](std::string_view part) {
        for (const char c : part) {
            if (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f) {
                shown += c;
                continue;
            }
            char escaped[5];
            std::snprintf(escaped, sizeof escaped, "\\x%02x", static_cast<unsigned>(static_cast<unsigned char>(c)));
            shown += escaped;
        }
    };
    if (name.size() <= 2 * ends + 3)
        return add(name), shown;
    add(name.substr(0, ends));
    shown += "...";
    add(name.substr(name.size() - ends));
    return shown;
}

std::string relative_path(std::string_view raw) {
    const auto refuse = [&](const char* why) { tar_invalid(printable(raw) + " " + why); };
    if (raw.starts_with('/'))
        refuse("is an absolute name");
    std::string path;
    for (std::size_t at = 0; at < raw.size();) {
        const std::size_t end = std::min(raw.find('/', at), raw.size());
        const std::string_view part = raw.substr(at, end - at);
        at = end + 1;
        if (part.empty() || part == ".")
            continue;
        if (part == "..")
            refuse("leads out of the tree by ..");
        if (part.size() > max_component)
            refuse("has a component that is longer than 255 bytes");
        if (!path.empty())
            path += '/';
        path += part;
    }
    if (path.size() > max_path)
        refuse("is longer than 65536 bytes");
    return path;
}

TarWriter::TarWriter(Sink sink, std::stop_token stop) : sink_(std::move(sink)), stop_(std::move(stop)) { buffer_.reserve(batch); }

void TarWriter::begin(const Entry& entry) {
    pad();
    const std::string name = entry.type == EntryType::directory ? entry.path + "/" : entry.path;
    const std::string_view target = entry.type == EntryType::symlink ? std::string_view(entry.target) : std::string_view();
    const std::uint64_t size = entry.type == EntryType::file ? entry.size : 0;
    const bool plain_time = entry.mtime >= 0 && static_cast<std::uint64_t>(entry.mtime) < octal11;
    std::string pax;
    if (!plain_field(target))
        pax += pax_record("linkpath", target);
    if (entry.mtime_nsec != 0 && entry.mtime >= 0) {
        char fraction[12];
        std::snprintf(fraction, sizeof fraction, ".%09u", static_cast<unsigned>(entry.mtime_nsec % 1'000'000'000));
        pax += pax_record("mtime", std::to_string(entry.mtime) + fraction);
    } else if (!plain_time) {
        pax += pax_record("mtime", std::to_string(entry.mtime));
    }
    if (!plain_field(name))
        pax += pax_record("path", name);
    if (size >= octal11)
        pax += pax_record("size", std::to_string(size));
    if (!pax.empty()) {
        header("pax", {}, 'x', 0644, 0, pax.size());
        append(pax);
        append_zeros((block - pax.size() % block) % block);
    }
    const char type = entry.type == EntryType::directory ? '5' : entry.type == EntryType::symlink ? '2' : '0';
    header(plain_field(name) ? std::string_view(name) : "pax", plain_field(target) ? target : "pax", type,
           entry.type == EntryType::symlink ? 0777 : kept_mode(entry.type, entry.mode), plain_time ? entry.mtime : 0,
           size < octal11 ? size : 0);
    pending_ = size;
    padding_ = (block - size % block) % block;
}

void TarWriter::header(std::string_view name, std::string_view target, char type, unsigned mode, std::int64_t mtime, std::uint64_t size) {
    if (stop_.stop_requested())
        throw Cancelled();
    char h[block] = {};
    std::memcpy(h, name.data(), name.size());
    octal(h + 100, 7, mode);
    octal(h + 108, 7, 0);
    octal(h + 116, 7, 0);
    octal(h + 124, 11, size);
    octal(h + 136, 11, static_cast<std::uint64_t>(mtime));
    std::memset(h + 148, ' ', 8);
    h[156] = type;
    if (!target.empty())
        std::memcpy(h + 157, target.data(), target.size());
    std::memcpy(h + 257, "ustar\0" "00", 8);
    octal(h + 329, 7, 0);
    octal(h + 337, 7, 0);
    unsigned sum = 0;
    for (const char c : h)
        sum += static_cast<unsigned char>(c);
    octal(h + 148, 6, sum);
    h[154] = '\0';
    append({h, block});
}

void TarWriter::data(std::string_view bytes) {
    PYRO_CHECK(bytes.size() <= pending_);
    pending_ -= bytes.size();
    append(bytes);
}

void TarWriter::zeros(std::uint64_t count) {
    PYRO_CHECK(count <= pending_);
    pending_ -= count;
    append_zeros(count);
}

Digest TarWriter::finish() {
    pad();
    append_zeros(2 * block);
    flush();
    return hash_.finish();
}

void TarWriter::pad() {
    PYRO_CHECK(pending_ == 0);
    append_zeros(std::exchange(padding_, 0));
}

void TarWriter::append(std::string_view bytes) {
    while (!bytes.empty()) {
        const std::size_t n = std::min(bytes.size(), batch - buffer_.size());
        buffer_ += bytes.substr(0, n);
        bytes.remove_prefix(n);
        if (buffer_.size() == batch)
            flush();
    }
}

void TarWriter::append_zeros(std::uint64_t count) {
    while (count > 0) {
        const std::size_t n = std::min<std::uint64_t>(count, batch - buffer_.size());
        buffer_.append(n, '\0');
        count -= n;
        if (buffer_.size() == batch)
            flush();
    }
}

void TarWriter::flush() {
    if (stop_.stop_requested())
        throw Cancelled();
    hash_.update(buffer_);
    sink_(buffer_);
    written_ += buffer_.size();
    buffer_.clear();
}

// libarchive converts names between the archive's character set and the locale's, and in a UTF-8 locale it even
// normalises them. In the locale C it hands out the bytes as they are.
class TarReader::InLocale {
public:
    explicit InLocale(locale_t locale) : before_(uselocale(locale)) {}
    ~InLocale() { uselocale(before_); }
    InLocale(const InLocale&) = delete;
    InLocale& operator=(const InLocale&) = delete;

private:
    locale_t before_;
};

void TarReader::FreeArchive::operator()(archive* a) const noexcept { archive_read_free(a); }

TarReader::TarReader(Source source, bool packed, const Limits& limits, std::stop_token stop)
    : source_(std::move(source)), limits_(limits), stop_(std::move(stop)), locale_(newlocale(LC_ALL_MASK, "C", nullptr)),
      tar_(archive_read_new()) {
    if (!locale_ || !tar_)
        throw Error::from_errno("start libarchive", ENOMEM);
    const InLocale scope(locale_.get());
    head_ = source_();
    head_pending_ = true;
    packed_ = head_.size();
    if (head_.empty())
        tar_invalid("it is empty: no tar archive");
    const bool gzip = head_.starts_with("\x1f\x8b"), zstd = head_.starts_with("\x28\xb5\x2f\xfd");
    if (packed && (gzip || zstd)) {
        decompressor_.reset(archive_read_new());
        if (!decompressor_)
            throw Error::from_errno("start libarchive", ENOMEM);
        if (gzip)
            archive_read_support_filter_gzip(decompressor_.get());
        else
            archive_read_support_filter_zstd(decompressor_.get());
        archive_read_support_format_raw(decompressor_.get());
        archive_entry* entry = nullptr;
        check(decompressor_.get(), archive_read_open(decompressor_.get(), this, nullptr, &TarReader::read_packed, nullptr), "it cannot be unpacked");
        check(decompressor_.get(), archive_read_next_header(decompressor_.get(), &entry), "it cannot be unpacked");
        if (archive_filter_count(decompressor_.get()) > 2)  // libarchive undoes whatever it finds; one of the two is the file itself
            tar_invalid("it is packed more than once");
    }
    archive_read_support_format_tar(tar_.get());
    check(tar_.get(), archive_read_open(tar_.get(), this, nullptr, &TarReader::read_plain, nullptr),
          packed ? "it is no tar archive, plain or packed with gzip or zstd" : "it is no tar stream");
}

TarReader::~TarReader() = default;

void TarReader::check(archive* a, int status, const std::string& doing) {
    if (kept_)
        std::rethrow_exception(std::exchange(kept_, nullptr));
    // A warning is about a name that the locale cannot say, and the bytes are what is wanted.
    if (status < ARCHIVE_WARN)
        tar_invalid(doing + ": " + tar_reason(a));
}

std::string_view TarReader::next_packed() {
    if (stop_.stop_requested())
        throw Cancelled();
    if (std::exchange(head_pending_, false))
        return head_;
    const std::string_view piece = source_();
    packed_ += piece.size();
    return piece;
}

std::string_view TarReader::next_plain() {
    std::string_view piece;
    if (!decompressor_) {
        piece = next_packed();
    } else {
        const void* data = nullptr;
        std::size_t size = 0;
        la_int64_t offset = 0;
        const int status = archive_read_data_block(decompressor_.get(), &data, &size, &offset);
        if (status != ARCHIVE_EOF) {
            check(decompressor_.get(), status, "it is cut short or damaged");
            piece = {static_cast<const char*>(data), size};
        }
    }
    unpacked_ += piece.size();
    if (decompressor_ && unpacked_ > limits_.ratio_from && unpacked_ / limits_.ratio > packed_)
        tar_invalid("it unpacks to more than " + std::to_string(limits_.ratio) + " times its size");
    // Files are counted by whoever takes them; this bounds headers, and what later entries replace.
    if (unpacked_ > limits_.bytes + (limits_.entries << 11))
        tar_invalid("it unpacks to more than the limit of " + std::to_string(limits_.bytes) + " bytes");
    if (piece.size() >= 2 * block)
        tail_ = piece.substr(piece.size() - 2 * block);
    else if (tail_ += piece; tail_.size() > 2 * block)
        tail_.erase(0, tail_.size() - 2 * block);
    return piece;
}

long TarReader::deliver(archive* a, std::string_view (TarReader::*more)(), const void** buffer) {
    try {
        const std::string_view piece = (this->*more)();
        *buffer = piece.data();
        return static_cast<long>(piece.size());
    } catch (...) {
        kept_ = std::current_exception();
        archive_set_error(a, EIO, "read failed");
        return -1;
    }
}

long TarReader::read_packed(archive* a, void* self, const void** buffer) {
    return static_cast<TarReader*>(self)->deliver(a, &TarReader::next_packed, buffer);
}

long TarReader::read_plain(archive* a, void* self, const void** buffer) {
    return static_cast<TarReader*>(self)->deliver(a, &TarReader::next_plain, buffer);
}

bool TarReader::next(Item& item) {
    const InLocale scope(locale_.get());
    archive_entry* raw = nullptr;
    const int status = archive_read_next_header(tar_.get(), &raw);
    if (status == ARCHIVE_EOF && !kept_)
        return false;
    check(tar_.get(), status, "it cannot be read further after " + current_);
    item = {};
    Entry& entry = item.entry;
    if (const char* path = archive_entry_pathname(raw))
        entry.path = path;
    else
        tar_invalid("the entry after " + current_ + " has no name that can be read");
    current_ = printable(entry.path);
    entry.mode = static_cast<unsigned>(archive_entry_perm(raw)) & 07777u;
    entry.mtime = archive_entry_mtime(raw);
    entry.mtime_nsec = static_cast<std::uint32_t>(std::clamp<long>(archive_entry_mtime_nsec(raw), 0, 999'999'999));
    size_ = 0;
    if (const char* target = archive_entry_hardlink(raw)) {
        item.hard_link = true;
        entry.target = target;
        return true;
    }
    switch (archive_entry_filetype(raw)) {
        case AE_IFDIR: entry.type = EntryType::directory; break;
        case AE_IFLNK: {
            entry.type = EntryType::symlink;
            const char* target = archive_entry_symlink(raw);
            entry.target = target ? target : "";
            break;
        }
        case AE_IFREG: {
            const la_int64_t size = archive_entry_size(raw);
            if (size < 0)
                tar_invalid(current_ + " has an impossible size");
            entry.size = size_ = static_cast<std::uint64_t>(size);
            break;
        }
        case AE_IFIFO: item.other = "a fifo"; break;
        case AE_IFCHR: case AE_IFBLK: item.other = "a device"; break;
        default: item.other = "of a kind no file system has";
    }
    return true;
}

bool TarReader::content(Piece& piece) {
    const void* data = nullptr;
    std::size_t length = 0;
    la_int64_t offset = 0;
    const int status = archive_read_data_block(tar_.get(), &data, &length, &offset);
    if (status == ARCHIVE_EOF && !kept_)
        return false;
    check(tar_.get(), status, "it is cut short or damaged inside " + current_);
    piece.offset = static_cast<std::uint64_t>(offset);
    piece.bytes = {static_cast<const char*>(data), length};
    if (offset < 0 || piece.offset > size_ || length > size_ - piece.offset)
        tar_invalid(current_ + " has bytes beyond its size");
    return true;
}

bool TarReader::finish() {
    while (!next_plain().empty())
        ;
    return tail_.size() == 2 * block && tail_.find_first_not_of('\0') == std::string::npos;
}

}  // namespace pyro::client::seed
