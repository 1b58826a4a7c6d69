// The wire between the daemon and the agent inside a guest, declared once for both ends. Pure: no I/O, no allocation
// that the peer could drive past the bounds below, and nothing here throws on what a peer sent.
//
// A frame is a header, at most max_payload bytes, and a trailer:
//
//     magic u32 | generation u8 | type u8 | zero u16 | connection u64 | offset u64 | stream u32 | length u32 | check u32
//     payload
//     trailer u32
//
// all little-endian. `connection` is a random number the host draws for each connection to the channel: frames of an
// older connection, and bytes that only look like frames, are not taken for frames of this one. `check` covers the
// header. The trailer follows from it and tells a whole frame from one whose end was cut off by a lost connection and
// made up by what came next.
//
// `stream` is the exec's number, chosen by the host, never reused in the life of a guest. `offset` is absolute: the
// number of bytes of that stream before the payload, however often the connection was made anew.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pyro::proto::agent {

inline constexpr std::uint8_t generation = 1;           // of this build; the one before it is understood too
inline constexpr std::uint8_t oldest_generation = 1;
inline constexpr std::size_t header_size = 36;
inline constexpr std::size_t trailer_size = 4;
inline constexpr std::size_t frame_overhead = header_size + trailer_size;
inline constexpr std::size_t max_payload = 64 << 10;
inline constexpr std::size_t max_spec = 2 << 20;        // an encoded ExecSpec, which may take several frames
inline constexpr std::size_t max_execs = 512;           // known to one agent at a time, released ones not counted
inline constexpr std::uint64_t output_window = 1 << 20; // bytes of one output stream in flight before an acknowledgement
inline constexpr std::uint64_t input_window = 512 << 10;
inline constexpr char port_name[] = "pyro.agent";       // of the virtio-serial port

enum class FrameType : std::uint8_t {
    // Host to guest.
    attach = 1,     // first frame of a connection: Attach. Everything before it is void.
    start,          // Identity; `offset` is its number. May come again, when a guest was restored from an image.
    exec_part,      // ExecSpec bytes at `offset`, more follow
    exec,           // the last ExecSpec bytes: run it. A number already known is ignored.
    input,          // stdin bytes at `offset`
    input_end,      // stdin ends at `offset`
    resize,         // Resize
    signal,         // payload u32: to the foreground process group of a terminal, else to the main process
    kill,           // everything in the exec's cgroup
    ack,            // payload u8 Output: the host has taken all bytes before `offset`
    release,        // the host knows the end of this exec; the agent forgets it
    shutdown,       // end all commands, unmount, power off
    sync,           // write everything to the disk that is not there yet
    count,          // `offset` is the question's number: how many processes did released execs leave behind?
    freeze,         // u32 seconds; `offset` is the question's number: the root disk's file system is to stand still, in order, for as long
    thaw,           // or until here, or the next attach
    // Guest to host.
    hello = 32,     // answers attach: Hello
    ready,          // answers the start of that number in `offset`: the root is mounted and the identity applied; or Failure
    started,        // Started
    output,         // payload u8 Output, then bytes at `offset`
    output_end,     // payload u8 Output: the stream ends at `offset`
    exited,         // ExitStatus: the main process is gone
    input_ack,      // stdin bytes before `offset` reached the command; payload u8, 1 when it takes no more
    synced,         // answers sync
    counted,        // answers all counts up to the number in `offset`; payload u32
    frozen,         // answers the freeze of that number in `offset`: Failure
};

enum class Output : std::uint8_t { out = 1, err = 2 };

struct Frame {
    FrameType type{};
    std::uint32_t stream = 0;
    std::uint64_t offset = 0;
    std::uint64_t connection = 0;
    std::string_view payload;  // into the decoder's buffer: valid until more is read into that
    bool elsewhere = false;    // its payload went another way
};

// What goes before and after `length` bytes of payload, for who lays the frame out himself.
struct FrameEnds {
    char header[header_size];
    char trailer[trailer_size];
};
FrameEnds frame_ends(std::uint64_t connection, FrameType type, std::uint32_t stream, std::uint64_t offset, std::size_t length);

// Appends one frame. The payload must not be longer than max_payload (a bug of the caller's, checked).
void append_frame(std::string& to, std::uint64_t connection, FrameType type, std::uint32_t stream, std::uint64_t offset,
                  std::string_view payload = {});

// What a host sends before `attach` on a channel that was used before: long enough to complete any frame that was cut.
std::string resynchronisation();

// Bytes in, frames out. Owns a buffer of at most one frame and what was fed beyond it.
class FrameDecoder {
public:
    // Takes frames of this connection only; `attach` is taken from any, and changes the connection where `follow` is set.
    explicit FrameDecoder(std::uint64_t connection = 0, bool follow_attach = false);

    std::span<char> prepare(std::size_t size);  // space to read into; void after any other call
    void commit(std::size_t size);              // that many bytes of it were filled
    void feed(std::string_view bytes);
    std::optional<Frame> next();                // call until it has nothing, before feeding more

    // The frame that next() has nothing of but its header and `have` bytes of what follows.
    struct Begun {
        FrameType type{};
        std::uint32_t stream = 0;
        std::uint64_t offset = 0;
        std::size_t length = 0, have = 0;
    };
    std::optional<Begun> begun() const;
    // That frame's payload, of which nothing came here, goes another way (or not): after the header comes the trailer. Void
    // when next() passes over the frame, because the trailer is not the header's.
    void payload_elsewhere(bool is) noexcept { elsewhere_ = is; }
    bool payload_is_elsewhere() const noexcept { return elsewhere_; }

    std::uint64_t connection() const noexcept { return connection_; }
    std::uint64_t discarded() const noexcept { return discarded_; }  // bytes that were no part of a frame
    std::size_t buffered() const noexcept { return end_ - begin_; }

private:
    std::vector<char> buffer_;
    std::size_t begin_ = 0, end_ = 0;
    std::uint64_t connection_;
    std::uint64_t discarded_ = 0;
    bool follow_attach_;
    bool elsewhere_ = false;
};

// Payloads. Each decodes strictly: every bound holds, nothing is missing, nothing is left over. Identity's `workspace` and
// ExecSpec's `builtin` came later: they are the last bytes of a record that has them, and no bytes of one that has not, so
// that guests of an older daemon go on to be understood.

struct Attach {
    struct Resume { std::uint32_t exec = 0; std::uint64_t out = 0, err = 0; };  // the host has what is before these offsets
    std::vector<Resume> resume;
};

// A guest with one has an overlay at /workspace when it is ready: what is written there lies on the root disk, in
// /.pyro/workspace/upper, on top of the baseline, which is mounted at /.pyro/workspace/lower.
struct Workspace {
    bool seeded = false;              // the baseline is the second disk; else it is empty
    std::string user;                 // as ExecSpec's: owns /workspace and what the baseline holds
};

struct Identity {
    std::string hostname;             // empty: keep
    std::string machine_id;           // 32 hex digits, or empty
    std::string boot_id;              // as the kernel spells one, 8-4-4-4-12 hex digits; empty: keep
    std::string entropy;              // stirred into the kernel's pool and credited
    std::uint64_t wall_clock_ns = 0;  // since 1970; 0: keep
    std::vector<std::string> env;     // NAME=value, for every command, under its own
    std::string resolv_conf;          // empty: keep
    std::optional<Workspace> workspace;  // nothing: none is mounted, and the second disk is not opened
};

struct ExecSpec {
    std::vector<std::string> argv;
    std::vector<std::string> env;  // NAME=value
    std::string cwd;               // empty: the user's home, else /
    std::string user;              // name, uid, name:group, uid:gid; empty: root
    bool tty = false;
    bool has_stdin = true;         // false: /dev/null (without a terminal)
    std::uint16_t cols = 80, rows = 24;
    bool builtin = false;          // argv are words of the agent's own program, which runs them as root, whatever `user` says
};

struct Resize { std::uint16_t cols = 0, rows = 0; };

struct Hello {
    struct Exec {
        std::uint32_t exec = 0;
        std::uint64_t out_from = 0, err_from = 0;  // the first bytes still kept
        std::uint64_t input_taken = 0;
        bool exited = false;
    };
    std::uint8_t generation = 0;
    std::string version;
    std::string boot_id;      // another one: not the guest that was left
    bool started = false;     // an Identity was applied
    std::uint32_t last_exec = 0;  // the highest number ever used
    std::vector<Exec> execs;  // not yet released
};

struct Failure { std::string message; };  // empty: none

struct Started {
    std::uint32_t pid = 0;
    std::uint64_t wall_clock_ns = 0;
};

struct ExitStatus {
    enum class Kind : std::uint8_t { exited = 1, signalled, not_started };
    Kind kind = Kind::exited;
    std::uint8_t exit_code = 0;      // not_started: 126 or 127
    std::uint8_t signal = 0;
    bool oom = false;                // the kernel killed a process of this exec for want of memory
    std::int32_t error_number = 0;   // not_started: the guest's errno
    std::string error;               // not_started: what failed
    std::uint64_t wall_clock_ns = 0;
    std::uint64_t duration_ns = 0;
};

std::string encode(const Attach&);
std::string encode(const Identity&);
std::string encode(const ExecSpec&);
std::string encode(const Resize&);
std::string encode(const Hello&);
std::string encode(const Failure&);
std::string encode(const Started&);
std::string encode(const ExitStatus&);

[[nodiscard]] bool decode(std::string_view, Attach&);
[[nodiscard]] bool decode(std::string_view, Identity&);
[[nodiscard]] bool decode(std::string_view, ExecSpec&);
[[nodiscard]] bool decode(std::string_view, Resize&);
[[nodiscard]] bool decode(std::string_view, Hello&);
[[nodiscard]] bool decode(std::string_view, Failure&);
[[nodiscard]] bool decode(std::string_view, Started&);
[[nodiscard]] bool decode(std::string_view, ExitStatus&);

std::string encode_u32(std::uint32_t value);
[[nodiscard]] bool decode_u32(std::string_view bytes, std::uint32_t& value);

}  // namespace pyro::proto::agent
