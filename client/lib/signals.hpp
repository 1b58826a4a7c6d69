// Signals as something to poll for, while an object of this type lives; their earlier handling comes back with its end.
#pragma once
#include "common/unique_fd.hpp"

#include <csignal>
#include <initializer_list>
#include <optional>
#include <utility>
#include <vector>

namespace pyro::client {

// One at a time in a process. A signal that was ignored at the start (nohup, background jobs) stays ignored.
class Signals {
public:
    explicit Signals(std::initializer_list<int> which);
    ~Signals();
    Signals(const Signals&) = delete;
    Signals& operator=(const Signals&) = delete;

    int fd() const noexcept { return read_.get(); }  // readable while take() has something
    std::optional<int> take() noexcept;              // the next signal that came

private:
    UniqueFd read_, write_;
    std::vector<std::pair<int, struct sigaction>> before_;
};

}  // namespace pyro::client
