#include "proto/agent.hpp"

#include "common/error.hpp"

#include <algorithm>
#include <bit>
#include <concepts>
#include <cstring>
#include <type_traits>
#include <utility>

namespace pyro::proto::agent {
namespace {

constexpr std::uint32_t frame_magic = 0x4f525950;  // "PYRO"
constexpr unsigned char first_magic_byte = frame_magic & 0xff;

static_assert(std::endian::native == std::endian::little);  // as the wire is
template <class T>
void put(char* at, T value) {
    std::memcpy(at, &value, sizeof value);
}
template <class T>
T get(const char* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

std::uint32_t header_check(const char* header) {  // FNV-1a over all that precedes it
    std::uint32_t hash = 2166136261u;
    for (std::size_t i = 0; i < header_size - 4; ++i) hash = (hash ^ static_cast<unsigned char>(header[i])) * 16777619u;
    return hash;
}

// Its last byte is not zero, so that padding cannot complete a trailer that was cut.
std::uint32_t trailer_of(std::uint32_t check) { return (~check & 0x00ffffffu) | 0xa5000000u; }

// The codec: one description per record, run by a writer and by a reader.

constexpr std::size_t max_list = 65536;

struct Writer {
    std::string bytes;
    template <std::unsigned_integral T>
    void number(T value) {
        char raw[sizeof(T)];
        put(raw, value);
        bytes.append(raw, sizeof raw);
    }
    void operator()(const std::string& value, std::size_t = 0) {
        number(static_cast<std::uint32_t>(value.size()));
        bytes += value;
    }
    void operator()(bool value) { number(static_cast<std::uint8_t>(value)); }
    template <std::unsigned_integral T>
    void operator()(T value) { number(value); }
    void operator()(std::int32_t value) { number(static_cast<std::uint32_t>(value)); }
    template <class T>
    void list(const std::vector<T>& values, std::size_t) {
        number(static_cast<std::uint32_t>(values.size()));
        for (const T& value : values) describe(*this, value);
    }
    void last(bool value) {
        if (value) number(std::uint8_t{1});
    }
    template <class T>
    void last(const std::optional<T>& value) {
        if (value) describe(*this, *value);
    }
};

struct Reader {
    std::string_view bytes;
    bool good = true;
    template <std::unsigned_integral T>
    T number() {
        if (!good || bytes.size() < sizeof(T)) return good = false, T{};
        const T value = get<T>(bytes.data());
        bytes.remove_prefix(sizeof(T));
        return value;
    }
    void operator()(std::string& value, std::size_t limit) {
        const auto size = number<std::uint32_t>();
        if (!good || size > limit || size > bytes.size()) { good = false; return; }
        value.assign(bytes.substr(0, size));
        bytes.remove_prefix(size);
    }
    void operator()(bool& value) {
        const auto raw = number<std::uint8_t>();
        good = good && raw <= 1;
        value = raw == 1;
    }
    template <std::unsigned_integral T>
    void operator()(T& value) { value = number<T>(); }
    void operator()(std::int32_t& value) { value = static_cast<std::int32_t>(number<std::uint32_t>()); }
    template <class T>
    void list(std::vector<T>& values, std::size_t limit) {
        const auto size = number<std::uint32_t>();
        // Every element takes at least four bytes: what was sent bounds what is allocated.
        if (!good || size > limit || size > bytes.size() / 4) { good = false; return; }
        values.clear();
        values.reserve(size);
        for (std::uint32_t i = 0; i < size && good; ++i) describe(*this, values.emplace_back());
    }
    // Behind everything else: there are more bytes, or it has its default.
    void last(bool& value) {
        value = good && !bytes.empty();
        if (value) good = number<std::uint8_t>() == 1;
    }
    template <class T>
    void last(std::optional<T>& value) {
        value.reset();
        if (good && !bytes.empty()) describe(*this, value.emplace());
    }
};

template <class T, class Record>
concept record_of = std::same_as<std::remove_const_t<T>, Record>;

template <class C, record_of<std::string> T>
void describe(C& c, T& r) { c(r, max_spec); }
template <class C, record_of<Attach::Resume> T>
void describe(C& c, T& r) { c(r.exec), c(r.out), c(r.err); }
template <class C, record_of<Attach> T>
void describe(C& c, T& r) { c.list(r.resume, max_execs); }
template <class C, record_of<Workspace> T>
void describe(C& c, T& r) { c(r.seeded), c(r.user, 256); }
template <class C, record_of<Identity> T>
void describe(C& c, T& r) {
    c(r.hostname, 64), c(r.machine_id, 32), c(r.boot_id, 36), c(r.entropy, 512), c(r.wall_clock_ns), c.list(r.env, max_list), c(r.resolv_conf, 4096);
    c.last(r.workspace);
}
template <class C, record_of<ExecSpec> T>
void describe(C& c, T& r) {
    c.list(r.argv, max_list), c.list(r.env, max_list), c(r.cwd, 4096), c(r.user, 256), c(r.tty), c(r.has_stdin), c(r.cols), c(r.rows);
    c.last(r.builtin);
}
template <class C, record_of<Resize> T>
void describe(C& c, T& r) { c(r.cols), c(r.rows); }
template <class C, record_of<Hello::Exec> T>
void describe(C& c, T& r) { c(r.exec), c(r.out_from), c(r.err_from), c(r.input_taken), c(r.exited); }
template <class C, record_of<Hello> T>
void describe(C& c, T& r) { c(r.generation), c(r.version, 64), c(r.boot_id, 64), c(r.started), c(r.last_exec), c.list(r.execs, max_execs); }
template <class C, record_of<Failure> T>
void describe(C& c, T& r) { c(r.message, 1024); }
template <class C, record_of<Started> T>
void describe(C& c, T& r) { c(r.pid), c(r.wall_clock_ns); }
template <class C, record_of<ExitStatus> T>
void describe(C& c, T& r) {
    auto kind = static_cast<std::uint8_t>(r.kind);
    c(kind);
    if constexpr (!std::is_const_v<T>) {
        c.good = c.good && kind >= 1 && kind <= 3;
        r.kind = static_cast<ExitStatus::Kind>(kind);
    }
    c(r.exit_code), c(r.signal), c(r.oom), c(r.error_number), c(r.error, 1024), c(r.wall_clock_ns), c(r.duration_ns);
}

template <class T>
std::string encode_record(const T& record) {
    Writer writer;
    describe(writer, record);
    return std::move(writer.bytes);
}
template <class T>
bool decode_record(std::string_view bytes, T& record) {
    Reader reader{bytes};
    describe(reader, record);
    return reader.good && reader.bytes.empty();
}

}  // namespace

FrameEnds frame_ends(std::uint64_t connection, FrameType type, std::uint32_t stream, std::uint64_t offset, std::size_t length) {
    PYRO_CHECK(length <= max_payload);
    FrameEnds ends;
    char* const header = ends.header;
    put(header, frame_magic);
    header[4] = static_cast<char>(generation);
    header[5] = static_cast<char>(type);
    header[6] = header[7] = 0;
    put(header + 8, connection);
    put(header + 16, offset);
    put(header + 24, stream);
    put(header + 28, static_cast<std::uint32_t>(length));
    const std::uint32_t check = header_check(header);
    put(header + 32, check);
    put(ends.trailer, trailer_of(check));
    return ends;
}

void append_frame(std::string& to, std::uint64_t connection, FrameType type, std::uint32_t stream, std::uint64_t offset,
                  std::string_view payload) {
    const FrameEnds ends = frame_ends(connection, type, stream, offset, payload.size());
    to.append(ends.header, header_size).append(payload).append(ends.trailer, trailer_size);
}

std::string resynchronisation() { return std::string(max_payload + frame_overhead, '\0'); }

FrameDecoder::FrameDecoder(std::uint64_t connection, bool follow_attach) : connection_(connection), follow_attach_(follow_attach) {}

std::span<char> FrameDecoder::prepare(std::size_t size) {
    // Little is moved at once, so that a stream of frames keeps to the same few pages; much, only for want of room.
    constexpr std::size_t little = 4096;
    if (begin_ > 0 && (end_ - begin_ <= little || buffer_.size() - end_ < size)) {
        std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
        end_ -= begin_;
        begin_ = 0;
    }
    if (buffer_.size() - end_ < size) buffer_.resize(end_ + size);
    return std::span<char>(buffer_).subspan(end_);
}

void FrameDecoder::commit(std::size_t size) {
    PYRO_CHECK(size <= buffer_.size() - end_);
    end_ += size;
}

void FrameDecoder::feed(std::string_view bytes) {
    if (bytes.empty()) return;
    std::memcpy(prepare(bytes.size()).data(), bytes.data(), bytes.size());
    commit(bytes.size());
}

std::optional<Frame> FrameDecoder::next() {
    const auto skip = [this](std::size_t count) { begin_ += count, discarded_ += count; };
    while (begin_ < end_) {
        const char* const at = buffer_.data() + begin_;
        const std::size_t have = end_ - begin_;
        if (const auto* magic = static_cast<const char*>(std::memchr(at, first_magic_byte, have)); magic != at) {
            skip(magic ? static_cast<std::size_t>(magic - at) : have);
            continue;
        }
        if (have < header_size) return std::nullopt;
        const std::uint32_t check = header_check(at);
        const auto spoken = static_cast<std::uint8_t>(at[4]);
        const auto type = static_cast<FrameType>(at[5]);
        const auto connection = get<std::uint64_t>(at + 8);
        const std::size_t length = get<std::uint32_t>(at + 28);
        if (get<std::uint32_t>(at) != frame_magic || get<std::uint32_t>(at + 32) != check || spoken < oldest_generation ||
            spoken > generation || at[6] != 0 || at[7] != 0 || length > max_payload ||
            (connection != connection_ && !(follow_attach_ && type == FrameType::attach))) {
            skip(1);
            continue;
        }
        const std::size_t here = elsewhere_ ? 0 : length;
        const std::size_t size = frame_overhead + here;
        if (have < size) return std::nullopt;
        const bool elsewhere = std::exchange(elsewhere_, false);
        if (get<std::uint32_t>(at + header_size + here) != trailer_of(check)) {
            // Cut and completed by something else. All of it goes: its payload may hold anything, also what looks like
            // a frame, and what was sent to resynchronise is longer than any frame.
            skip(size);
            continue;
        }
        begin_ += size;
        if (type == FrameType::attach) connection_ = connection;
        return Frame{type, get<std::uint32_t>(at + 24), get<std::uint64_t>(at + 16), connection, {at + header_size, here}, elsewhere};
    }
    return std::nullopt;
}

std::optional<FrameDecoder::Begun> FrameDecoder::begun() const {
    if (buffered() < header_size) return std::nullopt;
    const char* const at = buffer_.data() + begin_;
    return Begun{static_cast<FrameType>(at[5]), get<std::uint32_t>(at + 24), get<std::uint64_t>(at + 16), get<std::uint32_t>(at + 28), buffered() - header_size};
}

std::string encode(const Attach& r) { return encode_record(r); }
std::string encode(const Identity& r) { return encode_record(r); }
std::string encode(const ExecSpec& r) { return encode_record(r); }
std::string encode(const Resize& r) { return encode_record(r); }
std::string encode(const Hello& r) { return encode_record(r); }
std::string encode(const Failure& r) { return encode_record(r); }
std::string encode(const Started& r) { return encode_record(r); }
std::string encode(const ExitStatus& r) { return encode_record(r); }

bool decode(std::string_view b, Attach& r) { return decode_record(b, r); }
bool decode(std::string_view b, Identity& r) { return decode_record(b, r); }
bool decode(std::string_view b, ExecSpec& r) { return decode_record(b, r); }
bool decode(std::string_view b, Resize& r) { return decode_record(b, r); }
bool decode(std::string_view b, Hello& r) { return decode_record(b, r); }
bool decode(std::string_view b, Failure& r) { return decode_record(b, r); }
bool decode(std::string_view b, Started& r) { return decode_record(b, r); }
bool decode(std::string_view b, ExitStatus& r) { return decode_record(b, r); }

std::string encode_u32(std::uint32_t value) {
    std::string bytes(4, '\0');
    put(bytes.data(), value);
    return bytes;
}

bool decode_u32(std::string_view bytes, std::uint32_t& value) {
    if (bytes.size() != 4) return false;
    value = get<std::uint32_t>(bytes.data());
    return true;
}

}  // namespace pyro::proto::agent
