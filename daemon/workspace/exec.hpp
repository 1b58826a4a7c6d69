// One command of a workspace: it runs to its end whoever listens, and its output is kept.
#pragma once
#include "daemon/agent/channel.hpp"
#include "daemon/io/task_group.hpp"
#include "daemon/workspace/journal.hpp"
#include "proto/exec.hpp"

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace pyro::workspace {

// What outlives a daemon, as a file of its own.
struct ExecRecord {
    proto::ExecInfo info;             // but for the byte counts, which the journals know
    std::uint32_t number = 0;         // in its guest
    std::int64_t timeout_seconds = 0; // 0: none
    bool has_stdin = false;
};

// Owns the record, both journals and the session. join() comes before it goes.
class Exec : public std::enable_shared_from_this<Exec> {
public:
    // Makes the directory and what is in it. `journal_bytes`: of both streams together.
    static std::shared_ptr<Exec> create(io::Executor executor, std::string directory, ExecRecord record, std::uint64_t journal_bytes);
    // Reads what create() made. Error(failed_precondition) when that is damaged.
    static std::shared_ptr<Exec> open(io::Executor executor, std::string directory);

    const std::string& id() const noexcept { return record_.info.exec_id; }
    const ExecRecord& record() const noexcept { return record_; }
    proto::ExecInfo info() const;
    bool ended() const noexcept { return record_.info.state == proto::ExecState::exited || record_.info.state == proto::ExecState::lost; }
    const Journal& out() const noexcept { return out_; }
    const Journal& err() const noexcept { return err_; }

    // Takes the command's output and its end from now on. `ended`: told once, when it has ended.
    void run(std::shared_ptr<agent::ExecSession> session, std::function<void()> ended);
    // Without a session: nobody knows how it ended.
    void lose(const std::string& why);

    // All throw Error(failed_precondition) when it has ended.
    io::Task<void> write_stdin(std::string bytes, std::stop_token stop);
    void close_stdin();
    void resize(std::uint16_t cols, std::uint16_t rows);
    void signal(int number);
    void cancel();                                  // kills all of its processes

    io::Task<void> started(std::stop_token stop);   // it runs, or never will
    io::Task<void> wait_end(std::stop_token stop);
    // Something came behind these offsets, or it has ended.
    io::Task<void> wait(std::uint64_t out, std::uint64_t err, std::stop_token stop);

    // Whoever holds one is not outrun: the command waits while it is more than a window behind. For a follower that must miss nothing.
    struct Pace {
        std::uint64_t out = 0, err = 0;  // taken so far
    };
    std::shared_ptr<Pace> keep_pace();
    void took() noexcept { taken_.set(); }          // a Pace was moved on, or given up

    // Stops listening without ending the command; the session is kept, since to drop it is to kill.
    io::Task<void> leave();

private:
    Exec(io::Executor executor, std::string directory, ExecRecord record, Journal out, Journal err);
    agent::ExecSession& session() const;
    io::Task<void> take_output();
    io::Task<void> watch();
    bool too_far_ahead();
    void end(const agent::ExitStatus& status);
    void over();
    // A workspace keeps many that ended: they hold no descriptors.
    void close_journals() noexcept { out_.close(), err_.close(); }
    void save() const;

    io::Executor executor_;
    std::string directory_;
    ExecRecord record_;
    Journal out_, err_;
    std::shared_ptr<agent::ExecSession> session_;
    std::function<void()> ended_;
    std::vector<std::weak_ptr<Pace>> paces_;
    io::Event changed_, started_, taken_;
    io::TaskGroup tasks_;
};

}  // namespace pyro::workspace
