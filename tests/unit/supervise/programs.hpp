// Programs to start in tests of supervision, and what they say.
#pragma once
#include "daemon/io/stream.hpp"
#include "daemon/supervise/supervisor.hpp"
#include "tests/support/catch.hpp"

#include <fcntl.h>
#include <unistd.h>

namespace supervise_test {

using namespace pyro;

inline const std::stop_token never;
inline const std::function<void(const supervise::ProcessIdentity&)> no_record;
inline const std::string instance = "test-" + std::to_string(::getpid());

inline std::pair<UniqueFd, UniqueFd> make_test_pipe() {
    int fds[2];
    REQUIRE(::pipe2(fds, O_CLOEXEC) == 0);
    return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

inline supervise::Command shell(const std::string& script) {
    supervise::Command c;
    c.path = "/bin/sh";
    c.argv = {"sh", "-c", script};
    c.env = {"PATH=/usr/bin:/bin"};
    return c;
}

struct Output {
    std::string text;
    supervise::ExitStatus status;
};

inline io::Task<std::string> read_all(UniqueFd fd) {
    io::Executor executor = co_await io::this_executor();
    io::Stream stream(executor, std::move(fd));
    std::string out, chunk(4096, '\0');
    for (;;) {
        const std::size_t n = co_await stream.read_some(chunk, std::stop_token());
        if (n == 0) co_return out;
        out.append(chunk, 0, n);
    }
}

inline io::Task<Output> output_of(supervise::Supervisor& supervisor, supervise::Command command) {
    auto [read_end, write_end] = make_test_pipe();
    command.fds.push_back({std::move(write_end), 1});
    supervise::Scope scope;
    scope.name = "one";
    auto process = co_await supervisor.spawn(std::move(command), scope, no_record);
    Output out;
    out.text = co_await read_all(std::move(read_end));
    out.status = co_await process->wait(never);
    co_await supervisor.remove("one", never);
    co_return out;
}

inline bool is_root() {
    if (::geteuid() == 0) return true;
    WARN("not root: changing user is not tested");
    return false;
}

}  // namespace supervise_test
