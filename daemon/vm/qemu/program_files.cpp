#include "daemon/vm/qemu/program_files.hpp"

#include "common/error.hpp"
#include "daemon/io/stream.hpp"

#include <filesystem>
#include <sstream>

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

namespace pyro::vm::qemu {
namespace {

namespace fs = std::filesystem;

constexpr const char* loader = "/lib64/ld-linux-x86-64.so.2";  // the platform ABI's: https://gitlab.com/x86-psABIs/x86-64-ABI
constexpr const char* loader_cache = "/etc/ld.so.cache";
constexpr int asked_fd = 3;

// The loader's words, which are lines "name => path (address)" or "path (address)". It is not told the program's name but
// handed the file: the way there need not be open to whom it runs as.
io::Task<std::string> ask_loader(supervise::Supervisor& supervisor, std::string file, supervise::Credentials as) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw Error::from_errno("make a pipe");
    UniqueFd read_end(ends[0]), write_end(ends[1]);
    supervise::Command command;
    command.path = loader;
    command.argv = {loader, "--list", "/proc/self/fd/" + std::to_string(asked_fd)};
    command.fds.push_back({open_file(file, O_RDONLY), asked_fd});
    command.fds.push_back({std::move(write_end), 1});
    command.as = std::move(as);
    command.unshare_flags = CLONE_NEWNET;
    command.dies_with_daemon = true;
    supervise::Scope scope;
    scope.name = "loader";
    const std::function<void(const supervise::ProcessIdentity&)> unrecorded;
    const io::Executor executor = co_await io::this_executor();
    const auto process = co_await supervisor.spawn(std::move(command), scope, unrecorded);
    io::Stream said(executor, std::move(read_end));
    std::string out, chunk(4096, '\0');
    for (;;) {
        const std::size_t n = co_await said.read_some(chunk, std::stop_token());
        if (n == 0) break;
        out.append(chunk, 0, n);
    }
    co_await process->wait(std::stop_token());
    co_await supervisor.remove("loader", std::stop_token());
    co_return out;
}

io::Task<std::vector<std::string>> libraries(supervise::Supervisor& supervisor, std::string file, supervise::Credentials as) {
    const std::string said = co_await ask_loader(supervisor, file, std::move(as));
    std::vector<std::string> out;
    std::istringstream lines(said);
    for (std::string line; std::getline(lines, line);) {
        std::istringstream words(line);
        for (std::string word; words >> word;)
            if (word.starts_with('/')) out.push_back(word);
        if (line.ends_with("not found"))
            throw Error(ErrorCode::failed_precondition, file + " lacks a library:" + line, "install it, or another QEMU");
    }
    co_return out;
}

bool is_script(const std::string& file) {
    const UniqueFd fd = open_file(file, O_RDONLY);
    return read_up_to(fd.get(), 2) == "#!";
}

}  // namespace

io::Task<std::vector<std::string>> program_files(supervise::Supervisor& supervisor, std::string program, supervise::Credentials as) {
    std::vector<std::string> out;
    out.push_back(program);
    if (is_script(program)) co_return out;
    const std::vector<std::string> own = co_await libraries(supervisor, program, as);
    out.insert(out.end(), own.begin(), own.end());
    // Where distributions build the emulator as a module, it lies beside the libraries.
    for (const std::string& library : own) {
        if (!fs::path(library).filename().string().starts_with("libc.so")) continue;
        const std::string module = fs::canonical(library).parent_path() / "qemu/accel-tcg-x86_64.so";
        if (!fs::exists(module)) continue;
        const std::vector<std::string> more = co_await libraries(supervisor, module, as);
        out.push_back(module);
        out.insert(out.end(), more.begin(), more.end());
    }
    // Where QEMU looks for its firmware: beside itself, and where it was built for.
    const std::string beside = fs::path(program).parent_path().parent_path() / "share";
    for (const std::string& share : {beside, std::string("/usr/share")})
        for (const char* name : {"/qemu", "/seabios"})
            if (fs::is_directory(share + name)) out.push_back(share + name);
    if (fs::exists(loader_cache)) out.push_back(loader_cache);
    co_return out;
}

}  // namespace pyro::vm::qemu
