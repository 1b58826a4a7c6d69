#include "guest/agent/agent.hpp"

#include "common/error.hpp"
#include "guest/agent/machine.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utility>

namespace pyro::guest {

namespace wire = proto::agent;
using wire::Frame;
using wire::FrameType;
using wire::Output;

namespace {

// One write to the port is one buffer of at most 32 KiB in its driver.
constexpr std::size_t port_write = 32 << 10;
// One read of the port is one buffer of 4 KiB in its driver; we take all it has (512 KiB) before we look at any: what a
// command gets in one piece wakes it up once.
constexpr std::size_t port_read = 64 << 10;
constexpr std::size_t read_budget = 512 << 10;
// Input frames of this size go by pages.
constexpr std::size_t moved_by_pages = 16 << 10;

// So much output is a frame written from where it is kept; less is gathered with what else there is to say.
constexpr std::size_t written_in_place = 8 << 10;

// The largest ExitStatus, both ends of output, and their frames.
constexpr std::size_t reserved_for_events = 1536;

// Tags of the epoll set: an exec's descriptors have its number in the upper half.
enum Tag : std::uint64_t { tag_port = 16, tag_children, tag_listener, tag_wake, tag_standby, tag_thaw };

// The C library's copy uses vector registers, whose emulation is several times slower than the string instructions'.
void copy_bytes(char* to, const char* from, std::size_t count) {
    std::size_t words = count / 8, rest = count % 8;
    asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(rest) : : "memory");
}

char output_tag(Output which) { return static_cast<char>(which); }

}  // namespace

Agent::Agent(Surroundings surroundings) : surroundings_(std::move(surroundings)), epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      out_(std::make_unique<char[]>(port_write)) {
    sigset_t children;
    ::sigemptyset(&children);
    ::sigaddset(&children, SIGCHLD);
    ::sigprocmask(SIG_BLOCK, &children, nullptr);
    ::signal(SIGPIPE, SIG_IGN);
    keep_own_program();
    if (int ends[2]; ::pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0) {
        staged_.out = UniqueFd(ends[0]), staged_.in = UniqueFd(ends[1]);
        ::fcntl(ends[1], F_SETPIPE_SZ, 1 << 20);
    }
    children_ = UniqueFd(::signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK));
    wake_ = UniqueFd(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    thaw_ = UniqueFd(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    if (!epoll_ || !children_ || !wake_ || !thaw_) throw Error::from_errno("set up the event loop");
    const auto add = [this](int fd, std::uint32_t events, std::uint64_t tag) {
        epoll_event event{};
        event.events = events;
        event.data.u64 = tag;
        if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) throw Error::from_errno("watch a descriptor");
    };
    add(children_.get(), EPOLLIN, tag_children);
    add(wake_.get(), EPOLLIN, tag_wake);
    add(thaw_.get(), EPOLLIN, tag_thaw);
    if (surroundings_.listener) add(surroundings_.listener.get(), EPOLLIN, tag_listener);
    read_boot_id();
    if (surroundings_.port) use_port(std::move(surroundings_.port));
}

Agent::~Agent() = default;

void Agent::read_boot_id() {
    boot_id_ = read_small_file("/proc/sys/kernel/random/boot_id");
    while (!boot_id_.empty() && boot_id_.back() == '\n') boot_id_.pop_back();
}

void Agent::use_port(UniqueFd port) {
    port_ = std::move(port);
    out_at_ = out_end_ = 0;
    epoll_event event{};
    // Edges: a port whose host is away reports a hang-up for as long as it lasts.
    event.events = EPOLLIN | EPOLLOUT | EPOLLET;
    event.data.u64 = tag_port;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, port_.get(), &event) != 0) throw Error::from_errno("watch the port");
    readable_ = writable_ = true;
    // QEMU looks for input when its main loop turns, and the opening of the port does not make it turn: bytes the host sent
    // before could lie there for as long as nothing else happens in this guest. One timer expiring is something.
    itimerspec once{};
    once.it_value.tv_nsec = 1'000'000;
    ::timerfd_settime(wake_.get(), 0, &once, nullptr);
}

void Agent::watch(int fd, bool writable, std::uint32_t exec, Source source) {
    epoll_event event{};
    event.events = writable ? EPOLLOUT : EPOLLIN;
    event.data.u64 = static_cast<std::uint64_t>(exec) << 32 | static_cast<std::uint32_t>(source);
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) throw Error::from_errno("watch a stream");
}

void Agent::forget(int fd) { ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr); }

void Agent::run() {
    while (!power_off_) {
        try {
            run_once(true);
        } catch (const std::exception& e) {
            log(e.what());  // one frame or one exec went wrong; the others must not
        }
    }
    thaw();
    surroundings_.power_off();
}

void Agent::run_once(bool wait) {
    epoll_event events[64];
    const bool busy = port_ && readable_;
    if (!busy) stand_by_if_idle();
    const int count = ::epoll_wait(epoll_.get(), events, 64, wait && !busy ? -1 : 0);
    for (int i = 0; i < count; ++i) on_event(events[i].data.u64);
    if (port_) read_port();
    if (port_) write_port();
}

void Agent::on_event(std::uint64_t tag) {
    switch (tag) {
        case tag_port: readable_ = writable_ = true; return;
        case tag_children: return reap();
        case tag_standby:
            if (standby_ && !hear(*standby_)) drop_standby();
            else if (standby_ && standby_->waits) forget(standby_->start.get());
            return;
        case tag_wake: {
            std::uint64_t expirations;
            if (::read(wake_.get(), &expirations, sizeof expirations) < 0) return;
            readable_ = true;
            return;
        }
        case tag_thaw: return thaw();
        case tag_listener: {
            UniqueFd connection(::accept4(surroundings_.listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
            if (connection) use_port(std::move(connection));
            return;
        }
        default: break;
    }
    const auto exec = execs_.find(static_cast<std::uint32_t>(tag >> 32));
    if (exec == execs_.end()) return;  // released by an earlier event of this round
    switch (static_cast<Source>(tag & 0xffffffff)) {
        case Source::input: return exec->second->on_writable();
        case Source::start: return exec->second->on_start();
        case Source::out: return exec->second->on_readable(Source::out);
        case Source::err: return exec->second->on_readable(Source::err);
    }
}

void Agent::reap() {
    signalfd_siginfo ignored[8];
    while (::read(children_.get(), ignored, sizeof ignored) > 0) {}
    int status = 0;
    for (pid_t pid; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;) {
        if (standby_ && standby_->pid == pid) drop_standby();
        for (auto& [number, exec] : execs_)
            if (exec->pid() == pid) {
                exec->on_exit(status);
                break;
            }
    }
    remove_left_cgroups();
}

// Nothing runs: now it keeps nobody waiting. Once for each start and each command that was released: one that somebody in the
// guest ends is not made again and again.
void Agent::stand_by_if_idle() {
    if (!standby_due_ || !started_ || !execs_.empty() || standby_) return;
    standby_due_ = false;
    try {
        standby_ = stand_by(make_cgroup());
        watch(standby_->start.get(), false, 0, static_cast<Source>(tag_standby));
    } catch (const Error& e) {
        log(e.message());  // a command forks for itself
    }
}

// With its descriptors it loses its order, and ends.
void Agent::drop_standby() {
    if (!standby_->waits) forget(standby_->start.get());
    if (!standby_->cgroup.empty()) left_cgroups_.push_back(standby_->cgroup);
    standby_.reset();
}

Standby Agent::take_standby() {
    if (!standby_->waits) forget(standby_->start.get());
    Standby taken = std::move(*standby_);
    standby_.reset();
    return taken;
}

std::string Agent::make_cgroup() {
    if (!surroundings_.own_cgroups) return {};
    std::string path = std::string(exec_cgroups) + "/exec-" + std::to_string(++cgroups_made_);
    // Where this fails, whoever opens it says so.
    if (::mkdir(path.c_str(), 0755) != 0) log("create " + path + ": " + std::strerror(errno));
    return path;
}

void Agent::remove_left_cgroups() {
    std::erase_if(left_cgroups_, [](const std::string& path) { return ::rmdir(path.c_str()) == 0 || errno == ENOENT; });
}

std::uint32_t Agent::count_left() const {
    std::uint32_t count = 0;
    for (const std::string& path : left_cgroups_) {
        const std::string pids = read_small_file(path + "/cgroup.procs");
        count += static_cast<std::uint32_t>(std::count(pids.begin(), pids.end(), '\n'));
    }
    return count;
}

void Agent::read_port() {
    for (std::size_t budget = read_budget; readable_ && budget > 0;) {
        const std::size_t limit = bytes_to_read(budget);
        if (staged_.missing > 0) {
            budget -= stage(budget);
            continue;
        }
        read_bytes(limit);
        budget -= std::min(budget, limit);
        take_frames();
    }
    deliver_staged();
    if (std::exchange(gone_, false)) port_.reset();
}

void Agent::read_bytes(std::size_t limit) {
    while (readable_ && limit > 0) {
        std::span<char> space = decoder_.prepare(std::min(limit, port_read));
        space = space.first(std::min(limit, space.size()));
        const ssize_t n = ::read(port_.get(), space.data(), space.size());
        if (n > 0) {
            decoder_.commit(static_cast<std::size_t>(n));
            limit -= static_cast<std::size_t>(n);
        } else if (n == 0 || errno != EINTR) {
            readable_ = false;  // 0: the host is away; its return is an edge
            gone_ = n == 0 && surroundings_.listener;
        }
    }
}

// Up to the next frame that could go by pages, if one is in sight; whether it does is decided when its header is there and nothing else.
std::size_t Agent::bytes_to_read(std::size_t budget) {
    if (!staged_.in || staged_.missing > 0) return budget;
    if (decoder_.payload_is_elsewhere()) return wire::trailer_size + wire::header_size - (decoder_.buffered() - wire::header_size);
    if (staged_.in_step && decoder_.buffered() < wire::header_size) return wire::header_size - decoder_.buffered();
    const std::optional<wire::FrameDecoder::Begun> begun = decoder_.begun();
    if (!begun || begun->type != FrameType::input) return budget;
    const auto exec = execs_.find(begun->stream);
    if (exec == execs_.end()) return budget;
    if (staged_.whole > 0 && staged_.exec != begun->stream) deliver_staged();
    if (!exec->second->takes_pages(begun->offset, begun->length, staged_.whole)) return budget;
    if (begun->have == 0 && begun->length >= moved_by_pages) {
        decoder_.payload_elsewhere(true);
        staged_.exec = begun->stream, staged_.missing = begun->length;
    }
    return begun->length + wire::trailer_size + wire::header_size - begun->have;
}

std::size_t Agent::stage(std::size_t budget) {
    const ssize_t n = ::splice(port_.get(), nullptr, staged_.in.get(), nullptr, std::min(budget, staged_.missing), SPLICE_F_NONBLOCK);
    if (n > 0) {
        staged_.begun += static_cast<std::size_t>(n), staged_.missing -= static_cast<std::size_t>(n);
        return static_cast<std::size_t>(n);
    }
    if (n < 0 && errno == EINTR) return 0;
    if (n == 0) {
        readable_ = false;
        gone_ = static_cast<bool>(surroundings_.listener);
    } else if (errno == EAGAIN) {
        pollfd port{port_.get(), POLLIN, 0};
        if (::poll(&port, 1, 0) == 0) readable_ = false;
        else if (staged_.whole > 0) deliver_staged();  // the pipe is full
        else unstage();                                // of pieces so small that one frame fills it
    } else {
        unstage();
        staged_.in.reset();  // a kernel that does not know how
    }
    return 0;
}

void Agent::unstage() {
    deliver_staged();
    const std::span<char> space = decoder_.prepare(staged_.begun);
    for (std::size_t done = 0; done < staged_.begun;) {
        const ssize_t n = ::read(staged_.out.get(), space.data() + done, staged_.begun - done);
        PYRO_CHECK(n > 0 || errno == EINTR);
        if (n > 0) done += static_cast<std::size_t>(n);
    }
    decoder_.commit(staged_.begun);
    decoder_.payload_elsewhere(false);
    staged_.begun = staged_.missing = 0;
    staged_.in_step = false;
}

void Agent::deliver_staged() {
    const std::size_t count = std::exchange(staged_.whole, 0);
    if (count == 0) return;
    const auto exec = execs_.find(staged_.exec);
    if (exec == execs_.end()) return discard_staged(count);
    exec->second->take_pages(staged_.out.get(), count);
}

void Agent::discard_staged(std::size_t count) {
    char nowhere[4096];
    while (count > 0) {
        const ssize_t n = ::read(staged_.out.get(), nowhere, std::min(count, sizeof nowhere));
        PYRO_CHECK(n > 0 || errno == EINTR);
        if (n > 0) count -= static_cast<std::size_t>(n);
    }
}

void Agent::take_frames() {
    const auto guarded = [](const auto& act) {
        try {
            act();
        } catch (const std::exception& e) {
            log(e.what());
        }
    };
    while (const std::optional<Frame> frame = decoder_.next()) {
        staged_.in_step = frame->type == FrameType::input;
        if (frame->elsewhere) {
            staged_.whole += std::exchange(staged_.begun, 0);
            continue;
        }
        deliver_staged();
        guarded([&] { on_frame(*frame); });
    }
    if (staged_.begun > 0 && !decoder_.payload_is_elsewhere()) {  // it was no frame
        deliver_staged();
        discard_staged(std::exchange(staged_.begun, 0));
    }
    for (auto& [number, exec] : execs_) guarded([&exec = exec] { exec->deliver_input(); });  // before the decoder's buffer changes
}

void Agent::write_port() {
    while (writable_) {
        if (out_at_ == out_end_) {
            out_at_ = out_end_ = 0;
            const bool wrote = write_in_place();
            if (out_end_ == 0) fill();
            if (!wrote && out_end_ == 0) return;
        }
        out_at_ += write_some({out_.get() + out_at_, out_end_ - out_at_});
    }
}

std::size_t Agent::write_some(std::string_view bytes) {
    while (writable_ && !bytes.empty()) {
        const ssize_t n = ::write(port_.get(), bytes.data(), bytes.size());
        if (n > 0) return static_cast<std::size_t>(n);
        if (n == 0 || errno != EINTR) writable_ = false;  // full, or the host is away
    }
    return 0;
}

// Each copy under emulation costs as much as half of the way through the port.
bool Agent::write_in_place() {
    if (hello_pending_ || decoder_.connection() == 0) return false;
    bool wrote = false;
    auto at = execs_.upper_bound(next_in_place_);
    for (std::size_t left = execs_.size(); left > 0 && !wrote; --left, ++at) {
        if (at == execs_.end()) at = execs_.begin();
        next_in_place_ = at->first;
        for (const Output which : {Output::out, Output::err})
            if (write_in_place(*at->second, which)) wrote = true;
    }
    return wrote;
}

bool Agent::write_in_place(Exec& exec, Output which) {
    Exec::Output& output = exec.output(which);
    const std::string_view bytes = output.ring.at(output.sent, port_write - wire::frame_overhead - 1);
    if (bytes.size() < written_in_place || exec.started_pending || out_end_ > 0) return false;
    const wire::FrameEnds ends = wire::frame_ends(decoder_.connection(), FrameType::output, exec.number(), output.sent, bytes.size() + 1);
    std::array<char, wire::header_size + 1> head;
    std::copy_n(ends.header, wire::header_size, head.begin());
    head.back() = output_tag(which);
    std::size_t written = 0;
    output.ring.with_ends(bytes, {head.data(), head.size()}, {ends.trailer, wire::trailer_size}, [&](std::string_view frame) {
        written = write_some(frame);
        if (written == 0) return;
        out_end_ = frame.size() - written;  // of a socket; the port's driver takes all or nothing
        copy_bytes(out_.get(), frame.data() + written, out_end_);
    });
    if (written > 0) output.sent += bytes.size();
    return written > 0;
}

std::size_t Agent::out_room() const noexcept {
    const std::size_t left = port_write - out_end_;
    return left > wire::frame_overhead ? left - wire::frame_overhead : 0;
}

void Agent::send(FrameType type, std::uint32_t stream, std::uint64_t offset, std::string_view head, std::string_view bytes) {
    PYRO_CHECK(head.size() + bytes.size() <= out_room());
    const wire::FrameEnds ends = wire::frame_ends(decoder_.connection(), type, stream, offset, head.size() + bytes.size());
    for (const std::string_view piece : {std::string_view(ends.header, wire::header_size), head, bytes, std::string_view(ends.trailer, wire::trailer_size)}) {
        copy_bytes(out_.get() + out_end_, piece.data(), piece.size());
        out_end_ += piece.size();
    }
}

void Agent::fill() {
    if (decoder_.connection() == 0) return;  // nobody asked yet
    if (hello_pending_) {
        hello_pending_ = false;
        wire::Hello hello;
        hello.generation = wire::generation;
        hello.version = PYRO_VERSION;
        hello.boot_id = boot_id_;
        hello.started = started_;
        hello.last_exec = last_exec_;
        for (auto& [number, exec] : execs_)
            hello.execs.push_back({number, exec->output(Output::out).ring.begin(), exec->output(Output::err).ring.begin(), exec->input_taken(),
                                   exec->status().has_value()});
        send(FrameType::hello, 0, 0, wire::encode(hello));
    }
    if (ready_pending_) {
        ready_pending_ = false;
        send(FrameType::ready, 0, start_number_, wire::encode(wire::Failure{failure_.substr(0, 1024)}));
    }
    // Whoever asks is about to save this guest: with a standby that waits.
    if (synced_pending_ && (!standby_ || standby_->waits)) {
        synced_pending_ = false;
        send(FrameType::synced, 0, 0, {});
    }
    if (count_answered_ != count_asked_) {
        count_answered_ = count_asked_;
        send(FrameType::counted, 0, count_asked_, wire::encode_u32(count_left()));
    }
    if (freeze_answer_) {
        send(FrameType::frozen, 0, *freeze_answer_, wire::encode(wire::Failure{freeze_failure_.substr(0, 1024)}));
        freeze_answer_.reset();
    }
    // Everybody once around, beginning after whoever came first last time.
    const auto serve = [this](Exec& exec) {
        if (exec.started_pending) {
            exec.started_pending = false;
            send(FrameType::started, exec.number(), 0, wire::encode(*exec.started()));
        }
        if (exec.input_ack_pending) {
            exec.input_ack_pending = false;
            const char closed = exec.input_closed() ? 1 : 0;
            send(FrameType::input_ack, exec.number(), exec.input_taken(), {&closed, 1});
        }
        for (const Output which : {Output::out, Output::err}) fill_output(exec, which);
        if (exec.exit_deliverable()) {
            exec.exit_pending = false;
            send(FrameType::exited, exec.number(), 0, wire::encode(*exec.status()));
        }
    };
    auto at = execs_.upper_bound(next_turn_);
    for (std::size_t left = execs_.size(); left > 0 && out_room() > port_write / 2; --left) {
        if (at == execs_.end()) at = execs_.begin();
        next_turn_ = at->first;
        serve(*at->second);
        ++at;
    }
}

void Agent::fill_output(Exec& exec, Output which) {
    Exec::Output& output = exec.output(which);
    const char tag = output_tag(which);
    const std::string_view bytes = output.ring.at(output.sent, written_in_place);
    // Room is left for the frames of the events that may follow.
    if (!bytes.empty() && bytes.size() < written_in_place && out_room() > reserved_for_events + bytes.size()) {
        send(FrameType::output, exec.number(), output.sent, {&tag, 1}, bytes);
        output.sent += bytes.size();
    }
    if (output.end_pending && output.ended() && output.sent == output.ring.end()) {
        output.end_pending = false;
        send(FrameType::output_end, exec.number(), output.sent, {&tag, 1});
    }
}

void Agent::on_frame(const Frame& frame) {
    switch (frame.type) {
        case FrameType::attach: return on_attach(frame);
        case FrameType::start: return on_start(frame);
        case FrameType::exec_part:
        case FrameType::exec: return on_exec(frame);
        case FrameType::shutdown: power_off_ = true; return;
        case FrameType::sync:
            stand_by_if_idle();
            ::sync();
            synced_pending_ = true;
            return;
        case FrameType::count: count_asked_ = frame.offset; return;
        case FrameType::freeze: return on_freeze(frame);
        case FrameType::thaw: return thaw();
        default: break;
    }
    const auto found = execs_.find(frame.stream);
    if (found == execs_.end()) return;
    Exec& exec = *found->second;
    switch (frame.type) {
        case FrameType::input: return exec.take_input(frame.offset, frame.payload);
        case FrameType::input_end: return exec.end_input(frame.offset);
        case FrameType::resize: {
            wire::Resize size;
            if (wire::decode(frame.payload, size)) exec.resize(size.cols, size.rows);
            return;
        }
        case FrameType::signal: {
            std::uint32_t number = 0;
            if (wire::decode_u32(frame.payload, number) && number < NSIG) exec.signal(static_cast<int>(number));
            return;
        }
        case FrameType::kill: return exec.kill();
        case FrameType::ack:
            if (frame.payload.size() == 1 && (frame.payload[0] == output_tag(Output::out) || frame.payload[0] == output_tag(Output::err)))
                exec.acknowledge(static_cast<Output>(frame.payload[0]), frame.offset);
            return;
        case FrameType::release:
            if (exec.pid() != 0) return;  // it has not ended: its end must be told
            if (!exec.cgroup().empty()) left_cgroups_.push_back(exec.cgroup());
            execs_.erase(found);
            standby_due_ = true;
            return remove_left_cgroups();
        default: return;
    }
}

// A host that dies meanwhile must not leave the guest standing: it goes on by itself.
void Agent::on_freeze(const Frame& frame) {
    std::uint32_t seconds = 0;
    if (!wire::decode_u32(frame.payload, seconds) || seconds == 0) return;
    freeze_answer_ = frame.offset;
    freeze_failure_.clear();
    try {
        if (!surroundings_.freeze || !entered_) throw Error(ErrorCode::failed_precondition, "there is no disk to freeze");
        if (!frozen_) surroundings_.freeze(true);
        frozen_ = true;
        itimerspec until{};
        until.it_value.tv_sec = seconds;
        ::timerfd_settime(thaw_.get(), 0, &until, nullptr);
    } catch (const Error& e) {
        freeze_failure_ = e.message();
    }
}

void Agent::thaw() noexcept {
    const itimerspec never{};
    ::timerfd_settime(thaw_.get(), 0, &never, nullptr);
    if (!std::exchange(frozen_, false)) return;
    try {
        surroundings_.freeze(false);
    } catch (const Error& e) {
        log(e.message());  // somebody in the guest did it before
    }
}

void Agent::on_attach(const Frame& frame) {
    wire::Attach attach;
    if (!wire::decode(frame.payload, attach)) return;
    thaw();
    freeze_answer_.reset();
    out_at_ = out_end_ = 0;
    spec_.clear(), spec_of_ = 0;
    hello_pending_ = true;
    ready_pending_ = synced_pending_ = false;
    count_asked_ = count_answered_ = 0;
    for (auto& [number, exec] : execs_) {
        const auto resume = std::find_if(attach.resume.begin(), attach.resume.end(), [n = number](const auto& r) { return r.exec == n; });
        if (resume == attach.resume.end()) exec->resume(0, 0);
        else exec->resume(resume->out, resume->err);
    }
}

void Agent::on_start(const Frame& frame) {
    wire::Identity identity;
    failure_.clear();
    // Until it is confirmed, nothing runs: a guest restored from an image would do so as somebody else.
    started_ = false;
    start_number_ = frame.offset;
    if (!wire::decode(frame.payload, identity)) {
        failure_ = "the identity is malformed";
    } else {
        try {
            if (!entered_) surroundings_.enter();
            entered_ = true;
            surroundings_.apply(identity);
            if (!identity.boot_id.empty()) boot_id_ = identity.boot_id;
            base_env_ = std::move(identity.env);
            started_ = standby_due_ = true;
        } catch (const Error& e) {
            failure_ = e.message();
            log(failure_);
        }
    }
    ready_pending_ = true;
}

void Agent::on_exec(const Frame& frame) {
    if (execs_.contains(frame.stream)) return;  // told again after a reconnection
    if (frame.stream == 0) return;
    if (frame.stream != spec_of_ || frame.offset == 0) spec_.clear(), spec_of_ = frame.stream;
    if (frame.offset != spec_.size() || spec_.size() + frame.payload.size() > wire::max_spec) return;
    spec_.append(frame.payload);
    if (frame.type == FrameType::exec_part) return;
    wire::ExecSpec spec;
    const bool good = wire::decode(spec_, spec);
    spec_.clear(), spec_of_ = 0;
    if (execs_.size() >= wire::max_execs) return;  // the host counts them too
    last_exec_ = std::max(last_exec_, frame.stream);
    Exec& exec = *execs_.emplace(frame.stream, std::make_unique<Exec>(frame.stream, static_cast<Poll&>(*this))).first->second;
    if (!started_) exec.fail(126, 0, failure_.empty() ? "the guest was not started" : failure_);
    else if (!good) exec.fail(126, EINVAL, "the command is malformed");
    else if (!standby_) exec.start(spec, base_env_, make_cgroup());
    else if (Exec::may_use_standby(spec)) exec.start(spec, base_env_, take_standby());
    else exec.start(spec, base_env_, take_standby().cgroup);  // that process ends, its cgroup is as good
}

}  // namespace pyro::guest
