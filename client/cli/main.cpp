#include "client/cli/commands.hpp"

#include <fcntl.h>
#include <unistd.h>

int main(int argc, char** argv) {
    // A standard stream that was closed must not become a socket.
    for (int fd = 0; fd <= 2; ++fd)
        if (::fcntl(fd, F_GETFD) < 0 && ::open("/dev/null", O_RDWR) != fd) return pyro::client::status::pyro_failed;
    ::signal(SIGPIPE, SIG_IGN);
    const std::vector<std::string> args(argv + (argc > 0 ? 1 : 0), argv + argc);
    if (!args.empty() && args.front() == "__complete") return pyro::client::complete_command(args);
    return pyro::client::cli_main(args);
}
