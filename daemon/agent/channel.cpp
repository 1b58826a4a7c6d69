#include "daemon/agent/channel.hpp"

#include "daemon/io/event.hpp"
#include "daemon/io/task_group.hpp"

#include <algorithm>
#include <cerrno>
#include <deque>
#include <map>
#include <sys/random.h>

namespace pyro::agent {

using wire::Frame;
using wire::FrameType;
using wire::Output;

namespace {

constexpr std::size_t channel_read_size = 256 << 10;
constexpr std::size_t channel_batch = 128 << 10;         // bytes written at once; a kill waits behind no more than this
constexpr std::size_t merged_chunk = 256 << 10;
constexpr std::size_t ordered_chunks = 4096;             // beyond, only the order within each stream is kept: a chunk costs memory
constexpr std::uint64_t acknowledge_every = wire::output_window / 4;
constexpr std::uint64_t stale_limit = 64 << 20;          // bytes of an older connection before the guest's hello
constexpr std::size_t control_limit = 16 << 20;          // queued by callers while the guest does not read

std::uint64_t draw_connection() {
    std::uint64_t number = 0;
    while (number == 0)
        if (::getrandom(&number, sizeof number, 0) != sizeof number && errno != EINTR) throw Error::from_errno("draw a random number");
    return number;
}

Error broke_protocol(const std::string& what) {
    return Error(ErrorCode::guest_failed, "the guest broke its protocol: " + what, "the guest's kernel or agent was tampered with; start a new VM");
}

std::size_t index_of(Output which) { return which == Output::out ? 0 : 1; }

}  // namespace

struct SessionState {
    SessionState(io::Executor executor, std::uint32_t number)
        : id(number), output_event(executor), input_event(executor), started_event(executor), exited_event(executor) {}

    struct Stream {
        std::uint64_t received = 0, taken = 0, acknowledged = 0;
        bool ended = false;
    };

    std::uint32_t id;
    std::array<Stream, 2> streams;
    std::deque<Chunk> chunks;
    std::optional<Chunk> handed_out;  // without its bytes; acknowledged with the next read
    std::string input;                // [input_base, ...): kept until the guest has it
    std::uint64_t input_base = 0, input_sent = 0;
    bool input_closed = false;        // by the guest
    bool input_end = false, input_end_sent = false;
    bool started = false;
    std::optional<ExitStatus> status;
    bool from_before = false;         // of an earlier connection
    bool adoptable = false;           // still waiting for its owner
    bool abandoned = false;           // its owner went: kill, then release
    io::Event output_event, input_event, started_event, exited_event;

    // The chunk that more bytes of a stream may be put into.
    Chunk* extensible(Output which, std::size_t more) {
        const bool many = chunks.size() >= ordered_chunks;
        auto last = chunks.rbegin();
        while (many && last != chunks.rend() && last->stream != which) ++last;  // few: this one is extended, too
        const bool fits = last != chunks.rend() && last->stream == which && (many || last->bytes.size() + more <= merged_chunk);
        return fits ? &*last : nullptr;
    }
    // The guest was never told of it: whoever ran it ended before it was.
    void never_arrived() {
        for (Stream& one : streams) one.ended = true;
        status.emplace();
        status->kind = ExitStatus::Kind::not_started;
        status->exit_code = 126;
        status->error = "it never reached the guest";
        wake();
    }
    std::uint64_t input_queued() const { return input_base + input.size(); }
    void wake() {
        output_event.set(), input_event.set(), started_event.set(), exited_event.set();
    }
};

struct ChannelState : std::enable_shared_from_this<ChannelState> {
    ChannelState(io::Executor executor_, io::Stream connected)
        : executor(executor_), stream(std::move(connected)), connection(draw_connection()), decoder(connection), group(executor),
          work(executor), hello_event(executor), ready_event(executor), synced_event(executor), counted_event(executor), frozen_event(executor), gone_event(executor) {}

    io::Executor executor;
    io::Stream stream;
    std::uint64_t connection;
    wire::FrameDecoder decoder;
    io::TaskGroup group;
    io::Event work, hello_event, ready_event, synced_event, counted_event, frozen_event, gone_event;
    std::string control;  // whole frames
    std::map<std::uint32_t, std::shared_ptr<SessionState>> sessions;
    std::uint32_t next_id = 1;
    std::uint32_t next_turn = 0;
    bool resumed = false;
    bool closed = false;
    std::optional<Hello> hello;
    std::uint64_t starts = 0;
    std::optional<wire::Failure> readiness;  // of the last start
    std::uint64_t syncs_asked = 0, syncs_done = 0;
    std::uint64_t counts_asked = 0, counts_done = 0;
    std::uint64_t freezes_asked = 0, freezes_done = 0;
    std::string freeze_failure;        // of the last one
    std::uint32_t left_processes = 0;  // by the last answer
    std::optional<Error> failure;
    std::uint64_t progress = 0;
    std::uint64_t discarded_before_hello = 0;

    void send(FrameType type, std::uint32_t stream_id, std::uint64_t offset, std::string_view payload = {}) {
        if (closed || failure) return;
        if (control.size() > control_limit) return fail(Error(ErrorCode::guest_failed, "the guest does not read its channel"));
        wire::append_frame(control, connection, type, stream_id, offset, payload);
        work.set();
    }

    void check() const {
        if (failure) throw Error(*failure);
        if (closed) throw Error(ErrorCode::unavailable, "the channel to the guest is closed");
    }

    void fail(Error error) {
        if (!failure) failure = std::move(error);
        for (auto& [id, session] : sessions) session->wake();
        hello_event.set(), ready_event.set(), synced_event.set(), counted_event.set(), frozen_event.set(), gone_event.set(), work.set();
    }

    void next_batch(std::string& batch);
    io::Task<void> write_frames(std::shared_ptr<ChannelState> self);
    io::Task<void> read_frames(std::shared_ptr<ChannelState> self);
    void on_frame(const Frame& frame);
    void on_hello(const Frame& frame);
    void on_output(SessionState& session, const Frame& frame);
    void release(SessionState& session) {
        send(FrameType::release, session.id, 0);
        sessions.erase(session.id);
    }
    std::shared_ptr<SessionState> add_session(std::uint32_t id) {
        auto session = std::make_shared<SessionState>(executor, id);
        sessions.emplace(id, session);
        next_id = std::max(next_id, id + 1);
        return session;
    }
};

// What goes out next: commands first, then acknowledgements, then stdin, a piece from each exec in turn.
void ChannelState::next_batch(std::string& batch) {
    batch = control;
    control.clear();
    for (auto& [id, session] : sessions)
        for (std::size_t i = 0; i < 2; ++i) {
            auto& s = session->streams[i];
            if (s.taken - s.acknowledged < acknowledge_every) continue;
            s.acknowledged = s.taken;
            const char which = static_cast<char>(i == 0 ? Output::out : Output::err);
            wire::append_frame(batch, connection, FrameType::ack, id, s.taken, {&which, 1});
        }
    if (resumed && !hello) return;  // the guest's hello says where its input goes on
    for (bool any = true; any && batch.size() < channel_batch;) {
        any = false;
        auto at = sessions.upper_bound(next_turn);
        for (std::size_t left = sessions.size(); left > 0 && batch.size() < channel_batch; --left, ++at) {
            if (at == sessions.end()) at = sessions.begin();
            SessionState& s = *at->second;
            next_turn = s.id;
            const std::size_t from = static_cast<std::size_t>(s.input_sent - s.input_base);
            const std::size_t size = std::min(wire::max_payload, s.input.size() - from);
            if (size > 0) {
                wire::append_frame(batch, connection, FrameType::input, s.id, s.input_sent, std::string_view(s.input).substr(from, size));
                s.input_sent += size;
                any = true;
            }
            if (s.input_end && !s.input_end_sent && s.input_sent == s.input_queued()) {
                s.input_end_sent = true;
                wire::append_frame(batch, connection, FrameType::input_end, s.id, s.input_sent);
            }
        }
    }
}

io::Task<void> ChannelState::write_frames(std::shared_ptr<ChannelState> self) {
    const std::stop_token stop = group.token();
    std::string batch;  // one buffer for all of them: memory of this size is otherwise mapped and given back each time
    try {
        while (!failure) {
            next_batch(batch);
            if (batch.empty()) {
                work.reset();
                co_await work.wait(stop);
                continue;
            }
            co_await stream.write_from(batch, stop);
        }
    } catch (const Error&) {
        // The other end is gone. What it said before can still be read, and the reader finds the end.
    }
    self.reset();
}

io::Task<void> ChannelState::read_frames(std::shared_ptr<ChannelState> self) {
    const std::stop_token stop = group.token();
    try {
        while (!failure) {
            std::span<char> space = decoder.prepare(channel_read_size);
            space = space.first(std::min(space.size(), channel_read_size));
            const std::size_t count = co_await stream.read_some(space, stop);
            if (count == 0) throw Error(ErrorCode::guest_failed, "the guest went away");
            decoder.commit(count);
            while (const std::optional<Frame> frame = decoder.next()) {
                ++progress;
                on_frame(*frame);
            }
            if (decoder.discarded() - discarded_before_hello > (hello ? 0 : stale_limit)) throw broke_protocol("bytes that are no frame");
        }
    } catch (const Error& e) {
        fail(e);
    }
    self.reset();
}

void ChannelState::on_hello(const Frame& frame) {
    Hello said;
    if (!wire::decode(frame.payload, said)) throw broke_protocol("a malformed hello");
    if (hello) throw broke_protocol("a second hello");
    if (said.generation < wire::oldest_generation || said.generation > wire::generation)
        throw Error(ErrorCode::guest_failed, "the guest's agent speaks generation " + std::to_string(said.generation) + ", this daemon " +
                        std::to_string(wire::oldest_generation) + " to " + std::to_string(wire::generation), "create the VM anew");
    if (resumed) {
        for (const auto& exec : said.execs) {
            const auto known = sessions.find(exec.exec);
            const bool ours = known != sessions.end();
            SessionState& s = ours ? *known->second : *add_session(exec.exec);
            if (!ours) {
                s.from_before = s.adoptable = true;
                s.streams[0].received = s.streams[0].taken = s.streams[0].acknowledged = exec.out_from;
                s.streams[1].received = s.streams[1].taken = s.streams[1].acknowledged = exec.err_from;
            }
            s.input_base = s.input_sent = exec.input_taken;
        }
        for (auto& [id, session] : sessions) {
            const bool listed = std::any_of(said.execs.begin(), said.execs.end(), [n = id](const auto& e) { return e.exec == n; });
            if (session->from_before && !listed) session->never_arrived();
        }
    }
    next_id = std::max(next_id, said.last_exec + 1);
    hello = std::move(said);
    discarded_before_hello = decoder.discarded();
    hello_event.set();
    work.set();
}

void ChannelState::on_output(SessionState& session, const Frame& frame) {
    if (frame.payload.empty() || (frame.payload[0] != static_cast<char>(Output::out) && frame.payload[0] != static_cast<char>(Output::err)))
        throw broke_protocol("output of no stream");
    const auto which = static_cast<Output>(frame.payload[0]);
    auto& stream_state = session.streams[index_of(which)];
    if (frame.offset != stream_state.received || stream_state.ended) throw broke_protocol("output that does not follow");
    if (frame.type == FrameType::output_end) {
        stream_state.ended = true;
    } else {
        const std::string_view bytes = frame.payload.substr(1);
        if (stream_state.received + bytes.size() > stream_state.acknowledged + wire::output_window) throw broke_protocol("more output than was asked for");
        stream_state.received += bytes.size();
        if (session.abandoned) {
            stream_state.taken = stream_state.received;
            work.set();
        } else if (Chunk* last = session.extensible(which, bytes.size())) {
            last->bytes += bytes;
        } else if (!bytes.empty()) {
            session.chunks.push_back(Chunk{which, std::string(bytes), frame.offset});
        }
    }
    session.output_event.set();
}

void ChannelState::on_frame(const Frame& frame) {
    if (frame.type == FrameType::hello) return on_hello(frame);
    if (!hello) throw broke_protocol("something before its hello");
    if (frame.type == FrameType::ready) {
        wire::Failure said;
        if (!wire::decode(frame.payload, said)) throw broke_protocol("a malformed answer to start");
        if (frame.offset > starts) throw broke_protocol("an answer to a start it was not sent");
        if (frame.offset < starts) return;
        readiness = std::move(said);
        ready_event.set();
        return;
    }
    if (frame.type == FrameType::synced) {
        if (++syncs_done > syncs_asked) throw broke_protocol("an answer to a sync it was not sent");
        synced_event.set();
        return;
    }
    if (frame.type == FrameType::counted) {
        if (frame.offset > counts_asked || frame.offset <= counts_done || !wire::decode_u32(frame.payload, left_processes)) throw broke_protocol("a count it was not asked for");
        counts_done = frame.offset;
        counted_event.set();
        return;
    }
    if (frame.type == FrameType::frozen) {
        wire::Failure said;
        if (frame.offset > freezes_asked || frame.offset <= freezes_done || !wire::decode(frame.payload, said)) throw broke_protocol("a freeze it was not asked for");
        freezes_done = frame.offset;
        freeze_failure = std::move(said.message);
        frozen_event.set();
        return;
    }
    const auto found = sessions.find(frame.stream);
    if (found == sessions.end()) return;  // released while this was on its way
    const std::shared_ptr<SessionState> session = found->second;
    switch (frame.type) {
        case FrameType::started: {
            wire::Started said;
            if (!wire::decode(frame.payload, said)) throw broke_protocol("a malformed start");
            session->started = true;
            session->started_event.set();
            return;
        }
        case FrameType::output:
        case FrameType::output_end: return on_output(*session, frame);
        case FrameType::input_ack: {
            if (frame.payload.size() != 1 || frame.offset < session->input_base || frame.offset > session->input_sent)
                throw broke_protocol("an acknowledgement of input it was not sent");
            session->input.erase(0, static_cast<std::size_t>(frame.offset - session->input_base));
            session->input_base = frame.offset;
            session->input_closed = frame.payload[0] == 1;
            session->input_event.set();
            work.set();
            return;
        }
        case FrameType::exited: {
            ExitStatus said;
            if (!wire::decode(frame.payload, said)) throw broke_protocol("a malformed exit status");
            session->status = std::move(said);
            if (session->abandoned) return release(*session);
            session->wake();
            return;
        }
        default: throw broke_protocol("a frame of an unknown type");
    }
}

// --- ExecSession

ExecSession::ExecSession(std::shared_ptr<ChannelState> channel, std::shared_ptr<SessionState> state)
    : channel_(std::move(channel)), state_(std::move(state)) {}

ExecSession::~ExecSession() {
    if (channel_->closed || channel_->failure) return;
    if (state_->status) {
        channel_->release(*state_);
        return;
    }
    state_->abandoned = true;
    state_->chunks.clear();
    for (auto& s : state_->streams) s.taken = s.received;
    channel_->send(FrameType::kill, state_->id, 0);
}

std::uint32_t ExecSession::id() const noexcept { return state_->id; }

io::Task<std::optional<Chunk>> ExecSession::read(std::stop_token stop) {
    const std::shared_ptr<SessionState> state = state_;
    if (state->handed_out) {
        auto& s = state->streams[index_of(state->handed_out->stream)];
        s.taken = state->handed_out->offset;
        state->handed_out.reset();
        if (s.taken - s.acknowledged >= acknowledge_every) channel_->work.set();
    }
    while (state->chunks.empty()) {
        if (state->status || (state->streams[0].ended && state->streams[1].ended)) co_return std::nullopt;
        channel_->check();
        state->output_event.reset();
        co_await state->output_event.wait(stop);
    }
    Chunk chunk = std::move(state->chunks.front());
    state->chunks.pop_front();
    state->handed_out = Chunk{chunk.stream, {}, chunk.offset + chunk.bytes.size()};
    co_return std::move(chunk);
}

io::Task<void> ExecSession::write_stdin(std::string bytes, std::stop_token stop) {
    const std::shared_ptr<SessionState> state = state_;
    if (state->input_end) throw Error(ErrorCode::invalid_argument, "the command's standard input was already closed");
    for (std::size_t done = 0; done < bytes.size();) {
        channel_->check();
        if (state->input_closed || state->status) co_return;
        const std::size_t room = static_cast<std::size_t>(wire::input_window) - state->input.size();
        if (room == 0) {
            state->input_event.reset();
            co_await state->input_event.wait(stop);
            continue;
        }
        const std::size_t size = std::min(room, bytes.size() - done);
        state->input.append(bytes, done, size);
        done += size;
        channel_->work.set();
    }
}

void ExecSession::close_stdin() {
    state_->input_end = true;
    channel_->work.set();
}

void ExecSession::resize(std::uint16_t cols, std::uint16_t rows) {
    wire::Resize size;
    size.cols = cols, size.rows = rows;
    channel_->send(FrameType::resize, state_->id, 0, wire::encode(size));
}

void ExecSession::signal(int number) { channel_->send(FrameType::signal, state_->id, 0, wire::encode_u32(static_cast<std::uint32_t>(number))); }
void ExecSession::kill() { channel_->send(FrameType::kill, state_->id, 0); }

io::Task<void> ExecSession::started(std::stop_token stop) {
    const std::shared_ptr<SessionState> state = state_;
    while (!state->started && !state->status) {
        channel_->check();
        co_await state->started_event.wait(stop);
    }
}

io::Task<ExitStatus> ExecSession::exited(std::stop_token stop) {
    const std::shared_ptr<SessionState> state = state_;
    while (!state->status) {
        channel_->check();
        co_await state->exited_event.wait(stop);
    }
    co_return ExitStatus(*state->status);
}

// --- Channel

Channel::Channel(io::Executor executor, io::Stream connected, std::optional<Resumption> resumption)
    : state_(std::make_shared<ChannelState>(executor, std::move(connected))) {
    wire::Attach attach;
    if (resumption) {
        state_->resumed = true;
        state_->control = wire::resynchronisation();
        attach.resume = std::move(resumption->execs);
        for (const auto& resume : attach.resume) {
            const auto session = state_->add_session(resume.exec);
            session->from_before = session->adoptable = true;
            session->streams[0].received = session->streams[0].taken = session->streams[0].acknowledged = resume.out;
            session->streams[1].received = session->streams[1].taken = session->streams[1].acknowledged = resume.err;
        }
    }
    state_->send(FrameType::attach, 0, 0, wire::encode(attach));
    state_->group.spawn(state_->write_frames(state_));
    state_->group.spawn(state_->read_frames(state_));
}

Channel::~Channel() = default;

void Channel::start(const Identity& identity) {
    state_->check();
    state_->readiness.reset();
    state_->ready_event.reset();
    state_->send(FrameType::start, 0, ++state_->starts, wire::encode(identity));
}

std::shared_ptr<ExecSession> Channel::exec(const ExecSpec& spec) {
    state_->check();
    const std::string encoded = wire::encode(spec);
    if (encoded.size() > wire::max_spec)
        throw Error(ErrorCode::invalid_argument, "the command and its environment take " + std::to_string(encoded.size()) + " bytes, more than " +
                        std::to_string(wire::max_spec), "write long data to a file or to the command's standard input");
    if (state_->resumed && !state_->hello) throw Error(ErrorCode::failed_precondition, "the guest has not yet said which commands it knows");
    if (state_->sessions.size() >= wire::max_execs)
        throw Error(ErrorCode::quota_exceeded, "the guest runs " + std::to_string(wire::max_execs) + " commands already", "wait for one to end");
    const auto session = state_->add_session(state_->next_id);
    for (std::size_t at = 0; at < encoded.size(); at += wire::max_payload) {
        const bool last = at + wire::max_payload >= encoded.size();
        state_->send(last ? FrameType::exec : FrameType::exec_part, session->id, at, std::string_view(encoded).substr(at, wire::max_payload));
    }
    return std::make_shared<ExecSession>(state_, session);
}

std::shared_ptr<ExecSession> Channel::adopt(std::uint32_t id) {
    const auto found = state_->sessions.find(id);
    if (found == state_->sessions.end() || !found->second->adoptable) return nullptr;
    found->second->adoptable = false;
    return std::make_shared<ExecSession>(state_, found->second);
}

io::Task<Hello> Channel::hello(std::stop_token stop) {
    const std::shared_ptr<ChannelState> state = state_;
    while (!state->hello) {
        state->check();
        co_await state->hello_event.wait(stop);
    }
    co_return Hello(*state->hello);
}

io::Task<void> Channel::ready(std::stop_token stop) {
    const std::shared_ptr<ChannelState> state = state_;
    while (!state->readiness) {
        state->check();
        co_await state->ready_event.wait(stop);
    }
    if (!state->readiness->message.empty()) throw Error(ErrorCode::guest_failed, "the guest could not start: " + state->readiness->message);
}

io::Task<void> Channel::sync(std::stop_token stop) {
    const std::shared_ptr<ChannelState> state = state_;
    state->send(FrameType::sync, 0, 0);
    const std::uint64_t wanted = ++state->syncs_asked;
    while (state->syncs_done < wanted) {
        state->check();
        state->synced_event.reset();
        co_await state->synced_event.wait(stop);
    }
}

io::Task<void> Channel::freeze(std::chrono::seconds most, std::stop_token stop) {
    const std::shared_ptr<ChannelState> state = state_;
    const std::uint64_t number = ++state->freezes_asked;
    state->send(FrameType::freeze, 0, number, wire::encode_u32(static_cast<std::uint32_t>(most.count())));
    while (state->freezes_done < number) {
        state->check();
        state->frozen_event.reset();
        co_await state->frozen_event.wait(stop);
    }
    if (!state->freeze_failure.empty()) throw Error(ErrorCode::guest_failed, "the guest could not hold its disk still: " + state->freeze_failure);
}

void Channel::thaw() { state_->send(FrameType::thaw, 0, 0); }

io::Task<std::uint32_t> Channel::count_left(std::stop_token stop) {
    const std::shared_ptr<ChannelState> state = state_;
    const std::uint64_t number = ++state->counts_asked;
    state->send(FrameType::count, 0, number);
    while (state->counts_done < number) {
        state->check();
        state->counted_event.reset();
        co_await state->counted_event.wait(stop);
    }
    co_return state->left_processes;
}

io::Task<void> Channel::shutdown(std::stop_token stop) {
    const std::shared_ptr<ChannelState> state = state_;
    state->send(FrameType::shutdown, 0, 0);
    co_await state->gone_event.wait(stop);
}

io::Task<void> Channel::gone(std::stop_token stop) {
    const std::shared_ptr<ChannelState> state = state_;
    co_await state->gone_event.wait(stop);
}

io::Task<void> Channel::close() {
    const std::shared_ptr<ChannelState> state = state_;
    state->closed = true;
    state->group.stop();
    state->stream.close();
    co_await state->group.join();
    for (auto& [id, session] : state->sessions) session->wake();
    state->hello_event.set(), state->ready_event.set(), state->synced_event.set(), state->counted_event.set(), state->frozen_event.set(), state->gone_event.set();
}

std::uint64_t Channel::progress() const noexcept { return state_->progress; }
const std::optional<Error>& Channel::failure() const noexcept { return state_->failure; }

}  // namespace pyro::agent
