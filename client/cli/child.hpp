// Other programs, and this one again, as a user starts them: fork, exec, the wall clock around.
#pragma once
#include "client/lib/signals.hpp"
#include "common/unique_fd.hpp"

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

namespace pyro::client {

using Milliseconds = std::chrono::duration<double, std::milli>;

// One process, in a group of its own, so that a terminal's Ctrl-C comes to us alone. Ended and collected before this goes.
class Child {
public:
    struct Files {
        int in = -1, out = -1, err = -1;  // -1: /dev/null
    };
    // `words` begin with the program: a path, or a name that PATH has. Throws if it cannot be executed. With `environment` ("K=V"
    // each) that instead of ours.
    Child(const std::vector<std::string>& words, Files files, const std::vector<std::string>* environment = nullptr, const std::string& directory = {});
    ~Child();
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;

    // Its end, as a shell would say it. What interrupts us is passed on to it, and thrown as Interrupted once it has ended;
    // without `signals` nothing interrupts.
    int wait(Signals* signals);
    // Whether `fd` can be read, or is at its end, before the process has ended. Interruptible too.
    bool readable_before_end(int fd, Signals& signals);
    // Until `fd` can be read or is at its end, or the time is over: false. Interruptible too.
    bool readable_until(int fd, std::chrono::steady_clock::time_point until, Signals& signals);

private:
    void pass_on(Signals& signals);

    pid_t pid_ = -1;
    UniqueFd handle_;
    std::optional<int> interrupted_by_;
};

struct Finished {
    int status = 0;
    std::string out, err;  // the first MiB of each
    Milliseconds wall{};
};
// With `input` as its standard input, else with an empty one.
Finished run_program(const std::vector<std::string>& words, Signals* signals, int input = -1);

// The last line of a program's complaints, for people.
std::string last_line(const std::string& text);

bool is_on_path(const std::string& program);

struct Pipe {
    Pipe();
    UniqueFd read, write;  // CLOEXEC
};

}  // namespace pyro::client
