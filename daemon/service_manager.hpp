// systemd, where it started this process: the socket it has listened on for us, and what it wants to be told.
#pragma once
#include "common/unique_fd.hpp"
#include "daemon/io/task.hpp"

#include <chrono>
#include <string>
#include <string_view>

namespace pyro {

// Each does nothing, or has nothing to give, where nobody asked. Its variables are gone from the environment once it is made.
class ServiceManager {
public:
    ServiceManager();

    // A listening Unix socket, which it keeps listening on while there is no daemon; none otherwise. Error(failed_precondition)
    // where it is not the one of the configuration.
    UniqueFd take_socket(const std::string& path);

    void ready() const noexcept { tell("READY=1\nSTATUS=Serving"); }
    void reloading() const noexcept;
    void stopping() const noexcept { tell("STOPPING=1\nSTATUS=Ending calls"); }
    // A sign of life, as often as wanted, from the thread that runs this coroutine: until `stop`.
    io::Task<void> give_signs_of_life(std::stop_token stop) const;

private:
    void tell(std::string_view what) const noexcept;

    std::string notify_socket_;
    UniqueFd socket_;
    std::chrono::microseconds watchdog_{0};
};

}  // namespace pyro
