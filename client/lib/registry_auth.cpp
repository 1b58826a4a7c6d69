#include "client/lib/registry_auth.hpp"

#include "common/unique_fd.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace pyro::client {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

namespace {

constexpr std::size_t max_auth_file = 4u << 20, max_helper_answer = 256u << 10;
constexpr std::string_view docker_hub = "https://index.docker.io/v1/";  // what docker calls docker.io, in files and to helpers

std::string decoded_base64(std::string_view text) {
    std::string out;
    std::uint32_t group = 0;
    int bits = 0;
    for (const char c : text) {
        int digit = -1;
        if (c >= 'A' && c <= 'Z') digit = c - 'A';
        if (c >= 'a' && c <= 'z') digit = c - 'a' + 26;
        if (c >= '0' && c <= '9') digit = c - '0' + 52;
        if (c == '+' || c == '-') digit = 62;
        if (c == '/' || c == '_') digit = 63;
        if (digit < 0) continue;  // padding, line breaks
        group = (group << 6 | static_cast<std::uint32_t>(digit)) & 0xffffff;
        bits += 6;
        if (bits < 8) continue;
        bits -= 8;
        out += static_cast<char>(group >> bits & 0xff);
    }
    return out;
}

// A file's key as references begin. Those with a scheme, and docker's old ones, mean the whole host.
std::string normal_key(std::string key) {
    bool whole_host = false;
    for (const std::string_view scheme : {"https://", "http://"})
        if (key.starts_with(scheme)) {
            key.erase(0, scheme.size());
            whole_host = true;
        }
    while (key.ends_with('/')) key.pop_back();
    const std::string path = key.substr(std::min(key.find('/'), key.size()));
    if (whole_host || path == "/v1" || path == "/v2") key.resize(key.size() - path.size());
    if (key == "index.docker.io" || key == "registry-1.docker.io") key = "docker.io";
    return key;
}

std::string text_of(const json& object, const char* name) {
    const auto found = object.find(name);
    return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

Error helper_error(const std::string& program, const std::string& why, const std::string& server) {
    return Error(ErrorCode::failed_precondition, program + " " + why, "see what it says to: echo " + server + " | " + program + " get");
}

using HelperEnds = std::pair<UniqueFd, UniqueFd>;
HelperEnds pair_of(int (*make)(int*)) {
    int ends[2];
    if (make(ends) != 0) throw Error::from_errno("prepare to ask a credential helper");
    return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// One process; ended and collected before this goes.
class Helper {
public:
    Helper(const std::string& program, int in, int out) {
        std::string name = program, verb = "get";
        char* argv[] = {name.data(), verb.data(), nullptr};
        posix_spawn_file_actions_t actions;
        posix_spawnattr_t attributes;
        ::posix_spawn_file_actions_init(&actions);
        ::posix_spawnattr_init(&attributes);
        ::posix_spawn_file_actions_adddup2(&actions, in, 0);
        ::posix_spawn_file_actions_adddup2(&actions, out, 1);
        sigset_t as_by_default;
        ::sigemptyset(&as_by_default);
        ::sigaddset(&as_by_default, SIGPIPE);
        ::posix_spawnattr_setsigdefault(&attributes, &as_by_default);
        ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
        const int error = ::posix_spawnp(&pid_, program.c_str(), &actions, &attributes, argv, environ);
        ::posix_spawn_file_actions_destroy(&actions);
        ::posix_spawnattr_destroy(&attributes);
        if (error != 0) {
            pid_ = -1;
            throw Error(ErrorCode::failed_precondition, program + " cannot be started: " + Error::from_errno("exec", error).message(),
                        "an auth file names it: install it, or log in without");
        }
        handle_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
    }
    ~Helper() {
        if (pid_ < 0) return;
        ::kill(pid_, SIGKILL);
        while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {}
    }
    Helper(const Helper&) = delete;
    Helper& operator=(const Helper&) = delete;

    int handle() const { return handle_.get(); }
    // Its exit status, once the handle can be read; -1 for one that a signal ended.
    int status() {
        int status = 0;
        while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {}
        pid_ = -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }

private:
    pid_t pid_ = -1;
    UniqueFd handle_;
};

struct HelperAnswer {
    int status = 0;
    std::string text;
};

HelperAnswer ask_helper(const std::string& program, const std::string& server, const CallOptions& options, std::chrono::milliseconds patience) {
    HelperEnds in = pair_of([](int* ends) { return ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends); });
    HelperEnds out = pair_of([](int* ends) { return ::pipe2(ends, O_CLOEXEC); });
    Helper helper(program, in.first.get(), out.second.get());
    in.first.reset();
    out.second.reset();
    // Shorter than any buffer: it does not block. One that has gone without reading is heard of by its status.
    [[maybe_unused]] const ssize_t sent = ::send(in.second.get(), server.data(), server.size(), MSG_NOSIGNAL);
    in.second.reset();

    HelperAnswer answer;
    const Clock::time_point until = Clock::now() + patience;
    bool open = true;
    while (true) {
        enum { output, process, signals, stop, count };
        pollfd fds[count] = {{open ? out.first.get() : -1, POLLIN, 0}, {open ? -1 : helper.handle(), POLLIN, 0},
                             {options.signals ? options.signals->fd() : -1, POLLIN, 0}, {options.stop ? options.stop->fd() : -1, POLLIN, 0}};
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
        const int ready = ::poll(fds, count, static_cast<int>(std::max<std::int64_t>(left, 0)));
        if (ready < 0 && errno != EINTR) throw Error::from_errno("wait for " + program);
        if (ready == 0)
            throw helper_error(program, "has not answered in " + std::to_string(std::chrono::duration_cast<std::chrono::seconds>(patience).count()) + " s and was ended", server);
        if (ready < 0) continue;
        if (fds[stop].revents) throw Cancelled();
        if (fds[signals].revents)
            while (const auto number = options.signals->take())
                if (*number != SIGWINCH && *number != SIGCONT) throw Interrupted(*number);
        if (fds[output].revents) {
            char bytes[4096];
            const ssize_t n = ::read(out.first.get(), bytes, sizeof bytes);
            if (n < 0 && errno != EINTR) throw Error::from_errno("read from " + program);
            if (n == 0) open = false;
            if (n > 0) answer.text.append(bytes, static_cast<std::size_t>(n));
            if (answer.text.size() > max_helper_answer) throw helper_error(program, "answers without end", server);
        }
        if (fds[process].revents) {
            answer.status = helper.status();
            return answer;
        }
    }
}

std::optional<AuthFile::Login> login_of_helper(const std::string& name, const std::string& server, const CallOptions& options, std::chrono::milliseconds patience) {
    const auto harmless = [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '_' || c == '.'; };
    if (name.empty() || name.size() > 64 || !std::all_of(name.begin(), name.end(), harmless))
        throw Error(ErrorCode::failed_precondition, "an auth file names a credential helper that cannot be one", "log in again, or mend the file");
    const std::string program = "docker-credential-" + name;
    const HelperAnswer answer = ask_helper(program, server, options, patience);
    if (answer.status != 0) {
        if (answer.text.find("credentials not found") != std::string::npos) return std::nullopt;
        std::string said = answer.text.substr(0, std::min<std::size_t>(answer.text.find('\n'), 200));
        std::replace_if(said.begin(), said.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
        throw helper_error(program, "failed" + (said.empty() ? std::string() : ": " + said), server);
    }
    const json document = json::parse(answer.text, nullptr, false);
    AuthFile::Login login;
    if (document.is_object()) {
        login.username = text_of(document, "Username");
        login.password = text_of(document, "Secret");
    }
    if (login.username.empty() || login.password.empty()) throw helper_error(program, "gives an answer that holds no credentials", server);
    if (login.username == "<token>") return AuthFile::Login{{}, {}, login.password};
    return login;
}

proto::RegistryCredentials credentials_of(const AuthFile::Login& login, const std::string& registry) {
    proto::RegistryCredentials out;
    out.registry = registry;
    if (!login.identity_token.empty()) {
        out.identity_token = login.identity_token;
    } else {
        out.username = login.username;
        out.password = login.password;
    }
    return out;
}

// The repository, what it is below of, and the registry at last.
std::vector<std::string> keys_for(const ImageRef& reference) {
    std::vector<std::string> out;
    std::string key = reference.registry + "/" + reference.repository;
    while (key.size() > reference.registry.size()) {
        out.push_back(key);
        key.resize(key.rfind('/'));
    }
    out.push_back(reference.registry);
    return out;
}

}  // namespace

AuthFile parse_auth_file(std::string_view text, const std::string& path) {
    const json document = json::parse(text, nullptr, false);
    const auto bad = [&](const std::string& what) { return Error(ErrorCode::failed_precondition, path + " " + what, "mend it, or log in again: podman login or docker login"); };
    if (!document.is_object()) throw bad("is no JSON object");
    AuthFile out;
    const json auths = document.value("auths", json::object()), helpers = document.value("credHelpers", json::object());
    if (!auths.is_object() || !helpers.is_object()) throw bad("has auths or credHelpers that are no JSON objects");
    for (const auto& [key, value] : auths.items()) {
        if (!value.is_object()) throw bad("has an entry of auths that is no JSON object");
        AuthFile::Login login;
        const std::string both = decoded_base64(text_of(value, "auth"));
        const auto colon = both.find(':');
        login.username = colon == std::string::npos ? text_of(value, "username") : both.substr(0, colon);
        login.password = colon == std::string::npos ? text_of(value, "password") : both.substr(colon + 1);
        while (login.password.ends_with('\0')) login.password.pop_back();  // as docker does
        login.identity_token = text_of(value, "identitytoken");
        if (!login.username.empty() || !login.identity_token.empty()) out.logins.emplace(normal_key(key), std::move(login));
    }
    for (const auto& [key, value] : helpers.items())
        if (value.is_string() && !value.get_ref<const std::string&>().empty()) out.helpers.emplace(normal_key(key), value.get<std::string>());
    out.store = text_of(document, "credsStore");
    return out;
}

std::vector<std::string> auth_file_paths(const Environment& environment) {
    const auto value = [&](const char* name) {
        const char* text = environment(name);
        return std::string(text ? text : "");
    };
    if (const std::string only = value("REGISTRY_AUTH_FILE"); !only.empty()) return {only};
    const std::string home = value("HOME");
    std::vector<std::string> out;
    const auto add = [&](const std::string& given, const std::string& beside, const std::string& below) {
        if (!given.empty()) out.push_back(given + "/" + below);
        else if (!beside.empty() && !home.empty()) out.push_back(home + "/" + beside + "/" + below);
    };
    add(value("XDG_RUNTIME_DIR"), "", "containers/auth.json");
    add(value("XDG_CONFIG_HOME"), ".config", "containers/auth.json");
    add(value("DOCKER_CONFIG"), ".docker", "config.json");
    return out;
}

std::optional<proto::RegistryCredentials> find_registry_credentials(const ImageRef& reference, const std::vector<std::string>& files,
                                                                    const CallOptions& options, std::chrono::milliseconds patience) {
    for (const std::string& path : files) {
        const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
        if (!file && (errno == ENOENT || errno == ENOTDIR)) continue;
        if (!file) throw Error::from_errno("open " + path);
        const std::string text = read_up_to(file.get(), max_auth_file + 1);
        if (text.size() > max_auth_file) throw Error(ErrorCode::failed_precondition, path + " is larger than 4 MiB", "this is no auth file");
        if (text.find_first_not_of(" \t\r\n") == std::string::npos) continue;  // podman leaves an empty one
        const AuthFile known = parse_auth_file(text, path);
        const auto of_helper = [&](const std::string& name, const std::string& key) -> std::optional<AuthFile::Login> {
            std::optional<AuthFile::Login> login;
            if (key == "docker.io") login = login_of_helper(name, std::string(docker_hub), options, patience);
            if (!login) login = login_of_helper(name, key, options, patience);
            return login;
        };
        std::optional<AuthFile::Login> login;
        for (const std::string& key : keys_for(reference)) {
            if (const auto helper = known.helpers.find(key); helper != known.helpers.end()) login = of_helper(helper->second, key);
            const auto here = known.logins.find(key);
            if (!login && here != known.logins.end()) login = here->second;
            if (login) break;
        }
        if (!login && !known.store.empty()) login = of_helper(known.store, reference.registry);
        if (login) return credentials_of(*login, reference.registry);
    }
    return std::nullopt;
}

}  // namespace pyro::client
