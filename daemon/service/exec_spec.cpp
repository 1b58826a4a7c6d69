#include "daemon/service/exec_spec.hpp"

#include "common/error.hpp"

namespace pyro::service {

void check_command(const proto::VmCommand& request) {
    if (request.command && !request.argv.empty())
        throw Error(ErrorCode::invalid_argument, "argv and command exclude each other", "give the command once: argv as it is, or command for /bin/sh");
    if (!request.argv.empty() && request.argv.front().empty())
        throw Error(ErrorCode::invalid_argument, "argv[0] is empty", "name the program to run");
    for (const auto& [name, value] : request.env)
        if (name.empty() || name.find('=') != std::string::npos)
            throw Error(ErrorCode::invalid_argument, "env: '" + name + "' is no name of a variable", "use NAME=value");
}

agent::ExecSpec exec_spec(const proto::VmCommand& request, const env::EnvironmentManifest& image) {
    agent::ExecSpec spec;
    if (!request.argv.empty()) {
        spec.argv = request.argv;
    } else if (request.command) {
        spec.argv = {"/bin/sh", "-lc", *request.command};
    } else {
        spec.argv = image.entrypoint;
        spec.argv.insert(spec.argv.end(), image.cmd.begin(), image.cmd.end());
        if (spec.argv.empty() && request.tty) spec.argv = {"/bin/sh"};
        if (spec.argv.empty())
            throw Error(ErrorCode::invalid_argument, "the image names no command to run", "say what to run: pyro run ENV -- CMD");
    }
    std::map<std::string, std::string> env{{"PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}};
    for (const std::string& variable : image.env)
        if (const std::size_t equals = variable.find('='); equals != std::string::npos && equals > 0)
            env[variable.substr(0, equals)] = variable.substr(equals + 1);
    if (request.tty) env.emplace("TERM", "xterm");
    for (const auto& [name, value] : request.env) env[name] = value;
    for (const auto& [name, value] : env) spec.env.push_back(name + "=" + value);
    const bool from_root = image.working_dir.starts_with('/');
    spec.cwd = request.workdir ? *request.workdir : from_root ? image.working_dir : "/" + image.working_dir;
    spec.user = request.user ? *request.user : image.user;
    spec.tty = request.tty;
    spec.has_stdin = request.interactive;
    spec.cols = static_cast<std::uint16_t>(request.cols);
    spec.rows = static_cast<std::uint16_t>(request.rows);
    return spec;
}

}  // namespace pyro::service
