#include "client/cli/commands.hpp"

#include <cerrno>
#include <unistd.h>

namespace pyro::client {

std::string own_path() {
    std::string self(4096, '\0');
    const ssize_t n = ::readlink("/proc/self/exe", self.data(), self.size());
    if (n <= 0) throw Error::from_errno("find this program's folder");
    self.resize(static_cast<std::size_t>(n));
    return self;
}

void become_mcp(const std::vector<std::string>& args) {
    const std::string self = own_path();
    std::string program = self.substr(0, self.rfind('/') + 1) + "pyro-mcp";
    std::vector<char*> argv{program.data()};
    std::vector<std::string> words(args);
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    ::signal(SIGPIPE, SIG_DFL);
    ::execv(program.c_str(), argv.data());
    const int why = errno;
    if (why == ENOENT) throw Error(ErrorCode::failed_precondition, "pyro-mcp is not part of this installation", "it belongs beside " + self);
    throw Error::from_errno("start " + program, why);
}

}  // namespace pyro::client
