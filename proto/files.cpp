#include "proto/files.hpp"

#include <array>

namespace pyro::proto::files {
namespace {

[[noreturn]] void refuse_record(std::string why) {
    throw Error(ErrorCode::guest_failed, "the guest's answer about files makes no sense: " + std::move(why),
                "something in the guest interferes with pyro's own program there; reset the workspace");
}

enum class RecordType : std::uint8_t { entry = 1, note, done, change, rejection };

class RecordWriter {
public:
    explicit RecordWriter(RecordType type) {
        number<std::uint32_t>(0);
        number(static_cast<std::uint8_t>(type));
    }
    template <class T>
    void number(T value) {
        const auto bits = static_cast<std::uint64_t>(value);
        for (std::size_t i = 0; i < sizeof(T); ++i) out_.push_back(static_cast<char>(bits >> (8 * i) & 0xff));
    }
    void text(std::string_view bytes) {
        number(static_cast<std::uint32_t>(bytes.size()));
        out_ += bytes;
    }
    std::string take() && {
        const std::size_t length = out_.size() - 4;
        PYRO_CHECK(length <= max_record_bytes);
        for (std::size_t i = 0; i < 4; ++i) out_[i] = static_cast<char>(length >> (8 * i) & 0xff);
        return std::move(out_);
    }

private:
    std::string out_;
};

class RecordReader {
public:
    explicit RecordReader(std::string_view body) : rest_(body) {}
    template <class T>
    T number() {
        const std::string_view bytes = take(sizeof(T));
        std::uint64_t value = 0;
        for (std::size_t i = 0; i < sizeof(T); ++i) value |= std::uint64_t{static_cast<unsigned char>(bytes[i])} << (8 * i);
        return static_cast<T>(value);
    }
    std::string text() { return std::string(take(number<std::uint32_t>())); }
    void end() const {
        if (!rest_.empty()) refuse_record("a record is longer than what it says");
    }

private:
    std::string_view take(std::size_t count) {
        if (rest_.size() < count) refuse_record("a record is shorter than what it says");
        const std::string_view bytes = rest_.substr(0, count);
        rest_.remove_prefix(count);
        return bytes;
    }
    std::string_view rest_;
};

bool is_control(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

std::string path_of(RecordReader& from) {
    std::string path = from.text();
    if (!is_path(path)) refuse_record("a path that is none");
    return path;
}

Entry decode_entry(RecordReader from) {
    Entry entry;
    const auto kind = from.number<std::uint8_t>();
    if (kind < 1 || kind > static_cast<std::uint8_t>(Kind::other)) refuse_record("no kind of file " + std::to_string(kind));
    entry.kind = static_cast<Kind>(kind);
    entry.mode = from.number<std::uint32_t>();
    entry.size = from.number<std::uint64_t>();
    entry.mtime_s = from.number<std::int64_t>();
    entry.mtime_ns = from.number<std::uint32_t>();
    entry.path = path_of(from);
    entry.target = from.text();
    from.end();
    if (entry.mode > 07777) refuse_record("permission bits beyond 07777");
    if (entry.size > INT64_MAX || (entry.kind != Kind::file && entry.size != 0)) refuse_record("a size that cannot be");
    if (entry.mtime_ns > 999'999'999) refuse_record("a second with more nanoseconds than it has");
    const bool has_target = !entry.target.empty();
    if (has_target != (entry.kind == Kind::symlink) || entry.target.size() > max_target_bytes || entry.target.find('\0') != std::string::npos)
        refuse_record("the target of a symbolic link");
    return entry;
}

Reason reason_of(std::uint8_t number) {
    if (number < 1 || number > static_cast<std::uint8_t>(Reason::in_the_way)) refuse_record("no reason " + std::to_string(number));
    return static_cast<Reason>(number);
}

Note decode_note(RecordReader from) {
    Note note;
    note.reason = reason_of(from.number<std::uint8_t>());
    note.path = path_of(from);
    from.end();
    return note;
}

Done decode_done(RecordReader from) {
    Done done;
    for (std::uint64_t* value : {&done.files, &done.directories, &done.symlinks, &done.hard_links, &done.bytes, &done.left_out})
        *value = from.number<std::uint64_t>();
    const auto more = from.number<std::uint8_t>();
    from.end();
    if (more > 1) refuse_record("neither more nor all");
    done.more = more == 1;
    return done;
}

bool is_patched_path(std::string_view path) { return is_path(path) && path != "." && path.size() <= max_patch_path_bytes; }

Change decode_change(RecordReader from) {
    Change change;
    const auto kind = from.number<std::uint8_t>();
    if (kind < 1 || kind > static_cast<std::uint8_t>(ChangeKind::type)) refuse_record("no kind of change " + std::to_string(kind));
    change.kind = static_cast<ChangeKind>(kind);
    if (const auto note = from.number<std::uint8_t>(); note != 0) change.note = reason_of(note);
    const auto binary = from.number<std::uint8_t>();
    change.binary = binary == 1;
    change.added = from.number<std::uint64_t>();
    change.deleted = from.number<std::uint64_t>();
    change.path = from.text();
    change.old_path = from.text();
    from.end();
    if (binary > 1) refuse_record("neither binary nor text");
    // A line has at least one byte.
    if (change.added > max_patch_bytes || change.deleted > max_patch_bytes) refuse_record("more lines than a patch can have");
    if ((change.added > 0 || change.deleted > 0) && (change.note || change.binary || change.kind == ChangeKind::mode)) refuse_record("lines of what has none");
    if (!is_patched_path(change.path)) refuse_record("a changed path that is none");
    const bool renamed = change.kind == ChangeKind::renamed;
    if (renamed ? !is_patched_path(change.old_path) || change.old_path == change.path : !change.old_path.empty()) refuse_record("a renamed path that is none");
    return change;
}

std::vector<std::string> decode_lines(RecordReader& from) {
    const auto count = from.number<std::uint8_t>();
    if (count > max_rejection_lines) refuse_record("too many lines of a rejected hunk");
    std::vector<std::string> lines(count);
    for (std::string& line : lines) {
        line = from.text();
        if (line.size() > max_rejection_line_bytes || line.find('\n') != std::string::npos) refuse_record("a line that is none");
    }
    return lines;
}

Rejection decode_rejection(RecordReader from) {
    Rejection rejection;
    rejection.hunk = from.number<std::uint32_t>();
    rejection.line = from.number<std::uint32_t>();
    rejection.position = from.number<std::uint64_t>();
    rejection.path = from.text();
    rejection.reason = from.text();
    rejection.expected = decode_lines(from);
    rejection.found = decode_lines(from);
    from.end();
    if (!is_patched_path(rejection.path)) refuse_record("a rejected path that is none");
    if (rejection.reason.empty() || rejection.reason.size() > max_rejection_reason_bytes) refuse_record("a rejection without its reason");
    if (rejection.hunk == 0 && (rejection.position > 0 || !rejection.expected.empty() || !rejection.found.empty())) refuse_record("lines of no hunk");
    for (char& c : rejection.reason)
        if (is_control(c)) c = '?';
    return rejection;
}

void encode_lines(RecordWriter& to, const std::vector<std::string>& lines) {
    to.number(static_cast<std::uint8_t>(lines.size()));
    for (const std::string& line : lines) to.text(line);
}

}  // namespace

std::string_view to_string(ChangeKind kind) {
    constexpr std::array words{std::string_view{"added"}, std::string_view{"modified"}, std::string_view{"deleted"},
                               std::string_view{"renamed"}, std::string_view{"mode"}, std::string_view{"type"}};
    return words[static_cast<std::size_t>(kind) - 1];
}

std::string_view to_string(Reason reason) {
    constexpr std::array words{std::string_view{"neither file, directory nor symbolic link"}, std::string_view{"a mount point"},
                               std::string_view{"not readable by this user"}, std::string_view{"changed while it was read"},
                               std::string_view{"paths too long"}, std::string_view{"became shorter while it was read"}, std::string_view{"too large to be shown"},
                               std::string_view{"no room left in the patch"}, std::string_view{"something that is not in the patch is in its way"}};
    return words[static_cast<std::size_t>(reason) - 1];
}

bool is_path(std::string_view path) {
    if (path == ".") return true;
    if (path.empty() || path.size() > max_path_bytes || path.find('\0') != std::string_view::npos) return false;
    while (true) {
        const std::string_view name = path.substr(0, path.find('/'));
        if (name.empty() || name.size() > max_name_bytes || name == "." || name == "..") return false;
        if (name.size() == path.size()) return true;
        path.remove_prefix(name.size() + 1);
    }
}

std::string encode(const Record& record) {
    if (const auto* entry = std::get_if<Entry>(&record)) {
        RecordWriter to(RecordType::entry);
        to.number(static_cast<std::uint8_t>(entry->kind));
        to.number(entry->mode);
        to.number(entry->size);
        to.number(entry->mtime_s);
        to.number(entry->mtime_ns);
        to.text(entry->path);
        to.text(entry->target);
        return std::move(to).take();
    }
    if (const auto* note = std::get_if<Note>(&record)) {
        RecordWriter to(RecordType::note);
        to.number(static_cast<std::uint8_t>(note->reason));
        to.text(note->path);
        return std::move(to).take();
    }
    if (const auto* change = std::get_if<Change>(&record)) {
        RecordWriter to(RecordType::change);
        to.number(static_cast<std::uint8_t>(change->kind));
        to.number(change->note ? static_cast<std::uint8_t>(*change->note) : std::uint8_t{0});
        to.number(static_cast<std::uint8_t>(change->binary));
        to.number(change->added);
        to.number(change->deleted);
        to.text(change->path);
        to.text(change->old_path);
        return std::move(to).take();
    }
    if (const auto* rejection = std::get_if<Rejection>(&record)) {
        RecordWriter to(RecordType::rejection);
        to.number(rejection->hunk);
        to.number(rejection->line);
        to.number(rejection->position);
        to.text(rejection->path);
        to.text(rejection->reason);
        encode_lines(to, rejection->expected);
        encode_lines(to, rejection->found);
        return std::move(to).take();
    }
    const Done& done = std::get<Done>(record);
    RecordWriter to(RecordType::done);
    for (const std::uint64_t value : {done.files, done.directories, done.symlinks, done.hard_links, done.bytes, done.left_out}) to.number(value);
    to.number(static_cast<std::uint8_t>(done.more));
    return std::move(to).take();
}

void Decoder::feed(std::string_view bytes) {
    buffer_.erase(0, taken_);
    taken_ = 0;
    buffer_ += bytes;
}

void Decoder::in_order(const std::string& path) {
    if (path <= last_path_) refuse_record("entries out of order");
    last_path_ = path;
}

std::optional<Record> Decoder::next() {
    const std::string_view pending = std::string_view(buffer_).substr(taken_);
    if (done_ && !pending.empty()) refuse_record("something behind its end");
    if (pending.size() < 4) return std::nullopt;
    const auto length = RecordReader(pending).number<std::uint32_t>();
    if (length < 1 || length > max_record_bytes) refuse_record("a record of " + std::to_string(length) + " bytes");
    if (pending.size() - 4 < length) return std::nullopt;
    RecordReader body(pending.substr(5, length - 1));
    taken_ += 4 + std::size_t{length};
    const auto type = static_cast<RecordType>(pending[4]);
    const auto only_in = [&](Stream stream) {
        if (stream_ != stream) refuse_record("a record of another operation");
    };
    switch (type) {
        case RecordType::entry: {
            only_in(Stream::entries);
            Entry entry = decode_entry(body);
            in_order(entry.path);
            return entry;
        }
        case RecordType::note:
            if (stream_ == Stream::rejections) refuse_record("a record of another operation");
            return decode_note(body);
        case RecordType::change: {
            only_in(Stream::changes);
            Change change = decode_change(body);
            in_order(change.path);
            if (++count_ > max_changes) refuse_record("too many changes");
            return change;
        }
        case RecordType::rejection:
            only_in(Stream::rejections);
            if (++count_ > max_rejections) refuse_record("too many rejections");
            return decode_rejection(body);
        case RecordType::done: {
            const Done done = decode_done(body);
            done_ = true;
            return done;
        }
    }
    refuse_record("a record of no known type");
}

void Decoder::finish() const {
    if (!done_ || taken_ != buffer_.size()) refuse_record("it ends too early");
}

std::string encode_failure(const Error& error) {
    // Cut where it is too long: the beginning says what happened.
    constexpr std::size_t half = (max_failure_bytes - 64) / 2;
    std::string bytes;
    for (const std::string& text : {std::string(to_string(error.code())), error.message().substr(0, half), error.hint().substr(0, half)}) {
        for (const char c : text) bytes.push_back(c == '\0' ? '?' : c);
        bytes.push_back('\0');
    }
    return bytes;
}

Error decode_failure(std::string_view bytes) {
    std::array<std::string, 3> texts;
    const auto garbled = [] {
        return Error(ErrorCode::guest_failed, "the guest's file operation failed and did not say why",
                     "it may have been killed, or be out of memory; try again, or reset the workspace");
    };
    if (bytes.size() > max_failure_bytes) return garbled();
    for (std::string& text : texts) {
        const std::size_t end = bytes.find('\0');
        if (end == std::string_view::npos) return garbled();
        for (const char c : bytes.substr(0, end)) text.push_back(is_control(c) ? '?' : c);
        bytes.remove_prefix(end + 1);
    }
    const ErrorCode code = error_code_from(texts[0]);
    if (!bytes.empty() || texts[1].empty() || to_string(code) != texts[0]) return garbled();
    return Error(code, texts[1], texts[2]);
}

std::size_t utf8_sequence(std::string_view text) {
    if (text.empty()) return 0;
    const auto at = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned first = at(0);
    if (first < 0x80) return 1;
    const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
    std::uint32_t point = first & (0xffu >> (length + 1));
    for (std::size_t i = 1; i < length; ++i) {
        if ((at(i) & 0xc0) != 0x80) return 0;
        point = point << 6 | (at(i) & 0x3f);
    }
    const bool overlong = (length == 3 && point < 0x800) || (length == 4 && point < 0x10000);
    return overlong || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff) ? 0 : length;
}

}  // namespace pyro::proto::files
