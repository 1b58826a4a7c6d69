// Trees to work on, and the real program (or tar) at work on them.
#pragma once
#include "common/unique_fd.hpp"
#include "proto/files.hpp"
#include "tests/support/catch.hpp"

#include <atomic>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace pyro::test {

namespace fs = std::filesystem;
namespace wire = proto::files;

inline UniqueFd memory_file(std::string_view content = {}) {
    UniqueFd file(::memfd_create("test", MFD_CLOEXEC));
    REQUIRE(file);
    write_all(file.get(), content);
    ::lseek(file.get(), 0, SEEK_SET);
    return file;
}

inline std::string content_of(const UniqueFd& file) {
    ::lseek(file.get(), 0, SEEK_SET);
    return read_up_to(file.get(), std::size_t{1} << 30);
}

// A program with these descriptors as its 0, 1 and 2.
inline pid_t start(const std::vector<std::string>& arguments, int in, int out, int err, uid_t uid = 0) {
    std::vector<char*> words;
    for (const std::string& word : arguments) words.push_back(const_cast<char*>(word.c_str()));
    words.push_back(nullptr);
    // The way to it may be closed to another user: a checkout in a home directory.
    const UniqueFd program(words[0][0] == '/' ? ::open(words[0], O_PATH | O_CLOEXEC) : -1);
    const pid_t pid = ::fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        ::dup2(in, 0), ::dup2(out, 1), ::dup2(err, 2);
        if (uid != 0 && (::setgid(uid) != 0 || ::setuid(uid) != 0)) ::_exit(126);
        ::setenv("LC_ALL", "C.UTF-8", 1);
        if (program) ::syscall(SYS_execveat, program.get(), "", words.data(), environ, AT_EMPTY_PATH);
        ::execvp(words[0], words.data());
        ::_exit(127);
    }
    return pid;
}

inline int status_of(pid_t pid) {
    int status = 0;
    REQUIRE(::waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

struct Outcome {
    int status;
    std::string out, err;

    bool refused_as(ErrorCode code, std::string_view part = {}) const {
        const Error error = wire::decode_failure(err);
        INFO(status << " " << err);
        CHECK(status == 1);
        CHECK(to_string(error.code()) == to_string(code));
        CHECK_THAT(error.message(), Catch::Matchers::ContainsSubstring(std::string(part)));
        return status == 1 && error.code() == code && error.message().find(part) != std::string::npos;
    }
};

inline Outcome run_program(const std::vector<std::string>& arguments, std::string_view input = {}, uid_t uid = 0) {
    const UniqueFd in = memory_file(input), out = memory_file(), err = memory_file();
    const int status = status_of(start(arguments, in.get(), out.get(), err.get(), uid));
    return Outcome{status, content_of(out), content_of(err)};
}

struct Answer {
    std::vector<wire::Entry> entries;
    std::vector<wire::Note> notes;
    wire::Done done;
    std::vector<std::string> paths() const {
        std::vector<std::string> all;
        for (const wire::Entry& entry : entries) all.push_back(entry.path);
        return all;
    }
};

inline Answer answer_of(std::string_view bytes) {
    Answer answer;
    wire::Decoder decoder;
    decoder.feed(bytes);
    while (auto record = decoder.next()) {
        if (auto* entry = std::get_if<wire::Entry>(&*record)) answer.entries.push_back(*entry);
        else if (auto* note = std::get_if<wire::Note>(&*record)) answer.notes.push_back(*note);
        else answer.done = std::get<wire::Done>(*record);
    }
    decoder.finish();
    return answer;
}

// One thing in a tree, as far as anybody can see it.
struct Thing {
    mode_t mode;
    std::string content;  // or target
    std::int64_t mtime_s;
    long mtime_ns;
    bool operator==(const Thing&) const = default;
    friend std::ostream& operator<<(std::ostream& to, const Thing& thing) {
        return to << std::oct << thing.mode << std::dec << " " << thing.content.size() << " bytes, " << thing.mtime_s << "." << thing.mtime_ns;
    }
};
using Picture = std::map<std::string, Thing>;

// What is in one and not, or otherwise, in the other; empty if they are equal.
inline std::string differences(const Picture& one, const Picture& other) {
    std::ostringstream said;
    for (const auto& [path, thing] : one) {
        const auto found = other.find(path);
        if (found == other.end()) said << "only in the first: " << path << "\n";
        else if (!(found->second == thing)) said << path << ": " << thing << " and " << found->second << "\n";
    }
    for (const auto& [path, thing] : other)
        if (!one.contains(path)) said << "only in the second: " << path << "\n";
    return said.str();
}

inline std::string slurp(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
}

// Everything in `top` and the directory itself.
inline Picture picture_of(const fs::path& top) {
    Picture picture;
    const auto add = [&](const fs::path& path) {
        struct stat info{};
        REQUIRE(::lstat(path.c_str(), &info) == 0);
        const std::string content = S_ISLNK(info.st_mode) ? fs::read_symlink(path).string() : S_ISREG(info.st_mode) ? slurp(path) : "";
        picture[path == top ? "." : path.lexically_relative(top).string()] = Thing{info.st_mode, content, info.st_mtim.tv_sec, info.st_mtim.tv_nsec};
    };
    add(top);
    for (const auto& entry : fs::recursive_directory_iterator(top)) add(entry.path());
    return picture;
}

// `ws` is the root that is worked on; the rest is the test's own.
class Tree {
public:
    explicit Tree(const char* where = "/tmp") {
        std::string name = std::string(where) + "/pyro-files-XXXXXX";
        REQUIRE(::mkdtemp(name.data()));
        top = name;
        ws = top / "ws";
        fs::create_directory(ws);
        ::chmod(top.c_str(), 0755);
    }
    Tree(const Tree&) = delete;
    Tree& operator=(const Tree&) = delete;
    ~Tree() {
        // Deeper than fs::remove_all can go.
        run_program({"rm", "-rf", top.string()});
    }

    Outcome run(std::vector<std::string> arguments, std::string_view input = {}, uid_t uid = 0) const {
        return run_program(command(std::move(arguments)), input, uid);
    }
    std::vector<std::string> command(std::vector<std::string> arguments) const {
        arguments.insert(arguments.begin(), {PYRO_GUEST_PROGRAM, "files"});
        arguments.insert(arguments.begin() + 3, {"--root", ws.string()});
        return arguments;
    }
    // One that works.
    Answer ask(std::vector<std::string> arguments, std::string_view input = {}) const {
        const Outcome outcome = run(std::move(arguments), input);
        INFO(outcome.err);
        REQUIRE(outcome.status == 0);
        return answer_of(outcome.out);
    }
    Picture picture() const { return picture_of(ws); }
    bool is_clean() const {
        for (const auto& entry : fs::directory_iterator(ws))
            if (entry.path().filename().string().starts_with(".pyro-staging-")) return false;
        return true;
    }
    void file(const std::string& path, std::string_view content, mode_t mode = 0644) const {
        fs::create_directories((ws / path).parent_path());
        std::ofstream(ws / path, std::ios::binary) << content;
        ::chmod((ws / path).c_str(), mode);
    }

    fs::path top, ws;
};

// Does something over and over, beside the test.
class Beside {
public:
    explicit Beside(std::function<void()> act) : thread_([this, act = std::move(act)] {
        while (!over_) {
            act();
            ++rounds_;
        }
    }) {}
    ~Beside() {
        over_ = true;
        thread_.join();
    }
    long rounds() const { return rounds_; }

private:
    std::atomic<bool> over_ = false;
    std::atomic<long> rounds_ = 0;
    std::thread thread_;
};

inline bool is_root() { return ::geteuid() == 0; }

// Names that trip up whoever thinks of them as text.
inline std::vector<std::string> odd_names() {
    return {std::string(255, 'n'), "new\nline", "\x01\x1b[31m\x7f", "\xff\xfe\xc3", "\xc3\xbc", " ", "-rf", "--recursive", "a\\b", "*", "$(x)", "'\"",
            std::string(99, 'e') + "\xc3\xa9", "...", ".a", "a:b", "CON"};
}

}  // namespace pyro::test
