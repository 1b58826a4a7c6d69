// bench: podman, docker and runsc beside pyro.
#include "client/cli/bench.hpp"

#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <unistd.h>

namespace pyro::client {

namespace {

namespace fs = std::filesystem;

using Words = std::vector<std::string>;

Words joined(Words words, const Words& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

std::string why_not(const Finished& done, const std::string& what) {
    const std::string line = last_line(done.err);
    return what + ": " + (line.empty() ? "exit status " + std::to_string(done.status) : line);
}

std::string own_name(const std::string& runtime) { return "pyro-bench-" + std::to_string(::getpid()) + "-" + runtime; }

// Programs that must be there, and a command that fails where the runtime cannot work at all.
struct Needs {
    Words programs, check;
};
Needs needs_of(const std::string& name) {
    if (name == "docker") return {{"docker"}, {"docker", "info"}};
    if (name == "runsc") return {{"runsc", "podman"}, {"runsc", "--version"}};  // it makes no container of a tree by itself; podman does
    return {{"podman"}, {"podman", "--version"}};
}

}  // namespace

OtherRuntimes::OtherRuntimes(const std::vector<std::string>& wanted, const std::vector<std::string>& own, std::vector<std::string> command,
                             Signals& signals, const std::function<void(const std::string&)>& say)
    : command_(std::move(command)), signals_(signals) {
    std::vector<std::string> there;
    for (const std::string& name : wanted) {
        const Needs needs = needs_of(name);
        std::string reason;
        for (const std::string& program : needs.programs)
            if (reason.empty() && !is_on_path(program)) reason = program + " is not installed";
        if (reason.empty())
            if (const Finished done = run_program(needs.check, &signals_); done.status != 0) reason = why_not(done, "does not work here");
        if (reason.empty()) there.push_back(name);
        else left_out_.push_back({name, reason});
    }
    if (there.empty()) return;
    try {
        std::string reason;
        say("taking the root out of the environment");
        try {
            unpack(own);
        } catch (const Error& e) {
            reason = "the environment's root could not be unpacked: " + e.message();
        }
        for (const std::string& name : there) {
            say("trying " + name);
            if (reason.empty()) prepare(name);
            else left_out_.push_back({name, reason});
        }
    } catch (...) {
        clean_up();
        throw;
    }
}

OtherRuntimes::~OtherRuntimes() { clean_up(); }

void OtherRuntimes::unpack(const std::vector<std::string>& own) {
    std::string name = (fs::temp_directory_path() / "pyro-bench-XXXXXX").string();
    if (!::mkdtemp(name.data())) throw Error::from_errno("make a directory in " + fs::temp_directory_path().string());
    tree_ = name;
    Pipe archive;
    Child from(joined(own, {"tar", "-C", "/", "--one-file-system", "-c", "."}), {-1, archive.write.get(), -1});
    archive.write.reset();
    const Finished to = run_program({"tar", "-C", tree_, "-x"}, &signals_, archive.read.get());
    archive.read.reset();
    const int status = from.wait(&signals_);
    if (to.status != 0) throw Error(ErrorCode::internal, why_not(to, "tar"));
    if (status != 0) throw Error(ErrorCode::guest_failed, "tar in the VM ended with status " + std::to_string(status));
}

void OtherRuntimes::prepare(const std::string& name) {
    const std::string container = own_name(name);
    Runtime runtime;
    runtime.name = name;
    Words start;
    if (name == "docker") {
        start = {"docker"};
        runtime.clean_up = {{"docker", "rm", "--force", container}, {"docker", "rmi", "--force", container}};
    } else {
        start = name == "podman" ? Words{"podman"} : Words{"podman", "--runtime", name};
        runtime.clean_up = {{"podman", "rm", "--force", "--ignore", container}};
    }
    runtime.version = last_line(run_program({name == "runsc" ? "runsc" : start.front(), "--version"}, &signals_).out);
    start = joined(start, {"run", "--rm", "--network=none", "--name", container});
    runtime.run = joined(joined(start, name == "docker" ? Words{container} : Words{"--rootfs", tree_}), command_);
    tried_.push_back(runtime);
    if (name == "docker") {
        Pipe archive;
        Child from({"tar", "-C", tree_, "-c", "."}, {-1, archive.write.get(), -1});
        archive.write.reset();
        const Finished import = run_program({"docker", "import", "-", container}, &signals_, archive.read.get());
        archive.read.reset();
        from.wait(&signals_);
        if (import.status != 0) {
            left_out_.push_back({name, why_not(import, "docker import")});
            return;
        }
    }
    const Finished trial = run_program(runtime.run, &signals_);
    if (trial.status == 0) usable_.push_back(std::move(runtime));
    else left_out_.push_back({name, why_not(trial, "does not work here")});
}

// Whatever interrupted us: this is done to its end.
void OtherRuntimes::clean_up() noexcept {
    for (const Runtime& runtime : tried_)
        for (const Words& words : runtime.clean_up) {
            try {
                run_program(words, nullptr);
            } catch (const std::exception&) {
                // The next one all the same.
            }
        }
    std::error_code ignored;
    if (!tree_.empty()) fs::remove_all(tree_, ignored);
}

}  // namespace pyro::client
