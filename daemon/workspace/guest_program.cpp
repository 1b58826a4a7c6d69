#include "daemon/workspace/guest_program.hpp"

#include "common/error.hpp"

namespace pyro::workspace {
namespace {

io::Task<void> feed(std::shared_ptr<agent::ExecSession> session, UploadSource next, std::stop_token stop) {
    for (;;) {
        std::optional<std::string> bytes = co_await next(stop);
        if (!bytes) break;
        co_await session->write_stdin(std::move(*bytes), stop);
    }
    session->close_stdin();
}

io::Task<agent::ExitStatus> take(std::shared_ptr<agent::ExecSession> session, const DownloadSink& sink, GuestAnswer& answer, std::stop_token stop) {
    for (;;) {
        std::optional<agent::Chunk> chunk = co_await session->read(stop);
        if (!chunk) break;
        const bool out = chunk->stream == proto::agent::Output::out;
        if (out && sink) {
            co_await sink(std::move(chunk->bytes), stop);
            continue;
        }
        std::string& kept = out ? answer.out : answer.err;
        if (kept.size() + chunk->bytes.size() > max_guest_answer) throw Error(ErrorCode::guest_failed, "the guest says more than it may", "ask for less: a path, a limit");
        kept += chunk->bytes;
    }
    agent::ExitStatus status = co_await session->exited(stop);
    co_return status;
}

}  // namespace

io::Task<GuestAnswer> run_guest_program(std::shared_ptr<Workspace> workspace, GuestProgram program, std::stop_token stop) {
    const Workspace::Use use(workspace);
    const std::shared_ptr<vm::Machine> machine = co_await workspace->running(stop);
    agent::ExecSpec spec;
    spec.argv = std::move(program.words);
    spec.builtin = true;
    spec.has_stdin = static_cast<bool>(program.input);
    spec.cwd = "/";
    spec.env = {"PATH=/usr/bin:/bin"};
    const std::shared_ptr<agent::ExecSession> session = machine->exec(spec);

    const io::Executor executor = co_await io::this_executor();
    GuestAnswer answer;
    agent::ExitStatus status;
    std::exception_ptr broken, failure;
    std::stop_source ending;
    const std::function<void()> end = [&ending] { ending.request_stop(); };
    const std::stop_callback<std::function<void()>> on_stop(stop, end);
    io::TaskGroup feeding(executor, [&](std::exception_ptr e) {
        broken = std::move(e);
        ending.request_stop();
    });
    const bool may_fail = program.may_fail;
    if (program.input) feeding.spawn(feed(session, std::move(program.input), ending.get_token()));
    try {
        status = co_await take(session, program.output, answer, ending.get_token());
    } catch (...) {
        failure = std::current_exception();
    }
    ending.request_stop();  // a program that ended reads no more
    co_await feeding.join();
    if (failure || broken) session->kill();
    if (broken) std::rethrow_exception(broken);
    std::optional<Error> error;
    try {
        if (failure) std::rethrow_exception(failure);
    } catch (const Error& e) {
        error = e;
    }
    if (error) error = co_await machine->explain(std::move(*error));
    if (error) throw *error;
    if (status.kind != agent::ExitStatus::Kind::exited) {
        if (status.oom) throw Error(ErrorCode::quota_exceeded, "the guest is out of memory", "end processes in the workspace, or create it with more --mem-mib");
        throw Error(ErrorCode::guest_failed, "the guest could not do it: " + (status.error.empty() ? "killed by signal " + std::to_string(status.signal) : status.error),
                    "pyro workspace ps " + workspace->id() + " shows what runs in it");
    }
    if (status.exit_code != 0) answer.failure = proto::files::decode_failure(answer.err);
    if (answer.failure && !may_fail) throw *answer.failure;
    co_return answer;
}

std::vector<proto::files::Record> records_of(std::string_view said, proto::files::Decoder::Stream stream) {
    proto::files::Decoder decoder(stream);
    std::vector<proto::files::Record> out;
    decoder.feed(said);
    while (auto record = decoder.next()) out.push_back(std::move(*record));
    decoder.finish();
    return out;
}

const proto::files::Done& done_of(const std::vector<proto::files::Record>& records) {
    PYRO_CHECK(!records.empty() && std::holds_alternative<proto::files::Done>(records.back()));  // Decoder::finish() saw to it
    return std::get<proto::files::Done>(records.back());
}

}  // namespace pyro::workspace
