#include "daemon/workspace/exec.hpp"

#include "common/error.hpp"
#include "proto/codec.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <csignal>
#include <ctime>

#include <fcntl.h>
#include <sys/stat.h>

namespace pyro::workspace {
namespace {

using nlohmann::json;
using proto::ExecState;

constexpr std::uint64_t pace_window = 1 << 20;  // less than a journal's tail: who keeps pace finds everything there
constexpr std::size_t max_record = 4 << 20;     // a command line may be long
constexpr std::chrono::seconds kill_patience{5};

std::string record_path(const std::string& directory) { return directory + "/record.json"; }

ExecRecord decode(const std::string& text) {
    const json parsed = json::parse(text);
    ExecRecord record;
    record.info = proto::from_wire<proto::ExecInfo>(parsed.at("info"), proto::Unknown::ignore);
    record.number = parsed.at("number");
    record.timeout_seconds = parsed.at("timeout_seconds");
    record.has_stdin = parsed.at("has_stdin");
    return record;
}

}  // namespace

Exec::Exec(io::Executor executor, std::string directory, ExecRecord record, Journal out, Journal err)
    : executor_(executor), directory_(std::move(directory)), record_(std::move(record)), out_(std::move(out)), err_(std::move(err)),
      changed_(executor), started_(executor), taken_(executor), tasks_(executor) {}

std::shared_ptr<Exec> Exec::create(io::Executor executor, std::string directory, ExecRecord record, std::uint64_t journal_bytes) {
    if (::mkdir(directory.c_str(), 0700) != 0) throw Error::from_errno("make " + directory);
    Journal out = Journal::create(directory + "/out", journal_bytes / 2), err = Journal::create(directory + "/err", journal_bytes / 2);
    std::shared_ptr<Exec> exec(new Exec(std::move(executor), std::move(directory), std::move(record), std::move(out), std::move(err)));
    exec->save();
    return exec;
}

std::shared_ptr<Exec> Exec::open(io::Executor executor, std::string directory) {
    ExecRecord record;
    try {
        record = decode(read_file(record_path(directory), max_record));
    } catch (const json::exception&) {
        throw Error(ErrorCode::failed_precondition, record_path(directory) + " is damaged");
    }
    Journal out = Journal::open(directory + "/out"), err = Journal::open(directory + "/err");
    std::shared_ptr<Exec> exec(new Exec(std::move(executor), std::move(directory), std::move(record), std::move(out), std::move(err)));
    if (exec->ended()) exec->close_journals();
    if (exec->ended()) exec->started_.set();
    return exec;
}

// Not synced: what a host's crash takes of it, it takes of the machine too.
void Exec::save() const {
    const json text{{"info", proto::to_wire(record_.info)}, {"number", record_.number}, {"timeout_seconds", record_.timeout_seconds}, {"has_stdin", record_.has_stdin}};
    const std::string path = record_path(directory_), fresh = path + ".new";
    {
        const UniqueFd file = open_file(fresh, O_WRONLY | O_CREAT | O_TRUNC);
        write_all(file.get(), text.dump(-1, ' ', false, json::error_handler_t::replace));
    }
    if (::rename(fresh.c_str(), path.c_str()) != 0) throw Error::from_errno("write " + path);
}

proto::ExecInfo Exec::info() const {
    proto::ExecInfo info = record_.info;
    info.stdout_total = static_cast<std::int64_t>(out_.total());
    info.stderr_total = static_cast<std::int64_t>(err_.total());
    info.stdout_elided = static_cast<std::int64_t>(out_.elided());
    info.stderr_elided = static_cast<std::int64_t>(err_.elided());
    return info;
}

void Exec::run(std::shared_ptr<agent::ExecSession> session, std::function<void()> ended) {
    session_ = std::move(session);
    ended_ = std::move(ended);
    tasks_.spawn(take_output());
    tasks_.spawn(watch());
}

bool Exec::too_far_ahead() {
    std::erase_if(paces_, [](const auto& pace) { return pace.expired(); });
    return std::ranges::any_of(paces_, [&](const auto& weak) {
        const auto pace = weak.lock();
        return out_.total() > pace->out + pace_window || err_.total() > pace->err + pace_window;
    });
}

io::Task<void> Exec::take_output() {
    const auto self = shared_from_this();
    const std::stop_token stop = tasks_.token();
    const std::shared_ptr<agent::ExecSession> session = session_;
    agent::ExitStatus status;
    std::string lost;
    try {
        for (;;) {
            // To ask for the next is to say that the last is safe: it is in the journal by then.
            const std::optional<agent::Chunk> chunk = co_await session->read(stop);
            if (!chunk) break;
            (chunk->stream == proto::agent::Output::out ? out_ : err_).append(chunk->bytes);
            changed_.set();
            for (taken_.reset(); too_far_ahead(); taken_.reset()) co_await taken_.wait(stop);
        }
        status = co_await session->exited(stop);
    } catch (const Error& e) {
        lost = e.message();
    }
    if (ended()) co_return;  // a guest that was killed for not answering
    if (lost.empty()) end(status);
    else lose(lost);
}

// When it starts, and whether it ends in its time.
io::Task<void> Exec::watch() {
    const auto self = shared_from_this();
    const std::stop_token stop = tasks_.token();
    const std::shared_ptr<agent::ExecSession> session = session_;
    try {
        co_await session->started(stop);
        if (record_.info.state == ExecState::starting) record_.info.state = ExecState::running;
        started_.set();
        changed_.set();
        if (record_.timeout_seconds == 0) co_return;
        const std::int64_t left = record_.info.started_at + record_.timeout_seconds - std::time(nullptr);
        // The wall clock is only for who finds it running: for everybody else the time counts from here.
        const bool found = left < record_.timeout_seconds - 1;
        io::Deadline deadline(executor_, std::chrono::seconds(found ? std::max<std::int64_t>(left, 0) : record_.timeout_seconds), stop);
        bool late = false;
        try {
            co_await session->exited(deadline.token());
        } catch (const Cancelled&) {
            if (!deadline.expired()) throw;
            late = true;
        }
        if (!late) co_return;
        record_.info.timed_out = true;
        session->kill();
        io::Deadline patience(executor_, kill_patience, stop);
        try {
            co_await session->exited(patience.token());
        } catch (const Cancelled&) {
            if (!patience.expired()) throw;
            late = false;
        }
        if (!late && !ended()) lose("the guest did not answer when the command was to be killed");
    } catch (const Error&) {
        // take_output() says it.
        started_.set();
    }
}

void Exec::end(const agent::ExitStatus& status) {
    using Kind = agent::ExitStatus::Kind;
    proto::ExecInfo& info = record_.info;
    info.state = ExecState::exited;
    info.oom = status.oom;
    info.duration_ms = static_cast<std::int64_t>(status.duration_ns / 1'000'000);
    if (!info.timed_out && status.kind == Kind::signalled) info.signal = status.signal;
    if (!info.timed_out && status.kind != Kind::signalled) info.exit_code = status.exit_code;
    if (status.kind == Kind::not_started) info.exec_error = status.error;
    over();
}

void Exec::lose(const std::string& why) {
    if (ended()) return;
    record_.info.state = ExecState::lost;
    record_.info.exec_error = why;
    over();
}

void Exec::over() {
    try {
        save();
    } catch (const Error&) {
        // A full disk: the next daemon finds it running, and its guest without it.
    }
    session_.reset();
    close_journals();
    started_.set();
    changed_.set();
    if (const auto tell = std::exchange(ended_, {})) tell();
}

agent::ExecSession& Exec::session() const {
    if (session_) return *session_;
    throw Error(ErrorCode::failed_precondition, "the command " + id() + " has ended", "its output: pyro workspace logs " + record_.info.workspace_id + " --exec " + id());
}

io::Task<void> Exec::write_stdin(std::string bytes, std::stop_token stop) {
    session();
    const std::shared_ptr<agent::ExecSession> kept = session_;
    co_await kept->write_stdin(std::move(bytes), stop);
}

void Exec::close_stdin() { session().close_stdin(); }
void Exec::resize(std::uint16_t cols, std::uint16_t rows) { session().resize(cols, rows); }

void Exec::signal(int number) {
    if (number == SIGKILL) return cancel();
    session().signal(number);
}

void Exec::cancel() {
    session().kill();
    record_.info.cancelled = true;
}

io::Task<void> Exec::started(std::stop_token stop) {
    const auto self = shared_from_this();
    co_await started_.wait(stop);
}

io::Task<void> Exec::wait_end(std::stop_token stop) {
    const auto self = shared_from_this();
    while (!ended()) {
        changed_.reset();
        co_await changed_.wait(stop);
    }
}

io::Task<void> Exec::wait(std::uint64_t out, std::uint64_t err, std::stop_token stop) {
    const auto self = shared_from_this();
    while (!ended() && out_.total() <= out && err_.total() <= err) {
        changed_.reset();
        co_await changed_.wait(stop);
    }
}

std::shared_ptr<Exec::Pace> Exec::keep_pace() {
    auto pace = std::make_shared<Pace>();
    paces_.push_back(pace);
    return pace;
}

io::Task<void> Exec::leave() {
    const auto self = shared_from_this();
    tasks_.stop();
    co_await tasks_.join();
}

}  // namespace pyro::workspace
