// What the tests of seeds share: directories of their own, real programs, trees as text, users without rights.
#pragma once
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "client/seed/pack.hpp"
#include "client/seed/unpack.hpp"
#include "common/unique_fd.hpp"
#include "tests/support/catch.hpp"

namespace pyro::test {

using namespace client::seed;

struct Site {
    Site() {
        path = std::filesystem::temp_directory_path().string() + "/pyro-seed-test-XXXXXX";
        REQUIRE(::mkdtemp(path.data()));
        path = std::filesystem::canonical(path).string();
        ::chmod(path.c_str(), 0755);
        // Everything temporary in there too, so that a test sees what is left behind.
        std::filesystem::create_directory(path + "/tmp");
        ::chmod((path + "/tmp").c_str(), 01777);
        ::setenv("TMPDIR", (path + "/tmp").c_str(), 1);
    }
    ~Site() {
        ::unsetenv("TMPDIR");
        std::error_code failed;
        std::filesystem::remove_all(path, failed);
        if (!failed)
            return;
        // Whoever is not root must be allowed into a directory to empty it.
        for (const char* directory : {"in/closed", "out/closed", "tmp/out/closed", "there/closed", "untarred/closed"})
            ::chmod((path + "/" + directory).c_str(), 0700);
        std::filesystem::remove_all(path, failed);
    }
    Site(const Site&) = delete;
    Site& operator=(const Site&) = delete;
    std::string operator/(const std::string& name) const { return path + "/" + name; }
    bool nothing_left() const { return std::filesystem::is_empty(path + "/tmp"); }

    std::string path;
};

inline void put(const std::string& path, const std::string& text, unsigned mode = 0644) {
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    ::unlink(path.c_str());
    write_all(open_file(path, O_WRONLY | O_CREAT | O_TRUNC, mode).get(), text);
    ::chmod(path.c_str(), mode);
}
inline std::string text_of(const std::string& path) { return read_file(path); }
inline bool there(const std::string& path) {
    struct stat info {};
    return ::lstat(path.c_str(), &info) == 0;
}
inline void set_time(const std::string& path, std::int64_t seconds, long nanoseconds) {
    const timespec times[2] = {{seconds, nanoseconds}, {seconds, nanoseconds}};
    REQUIRE(::utimensat(AT_FDCWD, path.c_str(), times, AT_SYMLINK_NOFOLLOW) == 0);
}

// A child that runs `act`; its exit status. It never comes back into the test.
inline int in_child(const std::function<int()>& act) {
    const pid_t pid = ::fork();
    if (pid == 0) {
        int status = 120;
        try {
            status = act();
        } catch (const std::exception& error) {
            std::fprintf(stderr, "in the child: %s\n", error.what());
        }
        ::_exit(status);
    }
    int status = 0;
    ::waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}
// The same as a user who owns nothing.
inline int as_nobody(const std::function<int()>& act) {
    return in_child([&] {
        if (::geteuid() == 0 && (::setgroups(0, nullptr) != 0 || ::setresgid(65534, 65534, 65534) != 0 || ::setresuid(65534, 65534, 65534) != 0))
            return 121;
        return act();
    });
}

// A program as users run it, git with their own configuration; what it said.
inline int run(std::vector<std::string> words, const std::string& directory, std::string* said = nullptr) {
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    const pid_t pid = ::fork();
    if (pid == 0) {
        ::close(ends[0]);
        ::dup2(ends[1], 1);
        ::dup2(ends[1], 2);
        ::setenv("GIT_AUTHOR_NAME", "A U Thor", 1), ::setenv("GIT_COMMITTER_NAME", "A U Thor", 1);
        ::setenv("GIT_AUTHOR_EMAIL", "author@example.org", 1), ::setenv("GIT_COMMITTER_EMAIL", "author@example.org", 1);
        ::setenv("GIT_CONFIG_NOSYSTEM", "1", 1), ::setenv("GIT_CONFIG_GLOBAL", "/dev/null", 1);
        ::setenv("GIT_TEST_FSYNC", "0", 1);
        if (::chdir(directory.c_str()) != 0)
            ::_exit(126);
        std::vector<char*> argv;
        for (std::string& word : words)
            argv.push_back(word.data());
        argv.push_back(nullptr);
        ::execvp(argv[0], argv.data());
        ::_exit(127);
    }
    ::close(ends[1]);
    std::string all = read_up_to(ends[0], 64u << 20);
    ::close(ends[0]);
    int status = 0;
    ::waitpid(pid, &status, 0);
    if (said)
        *said = std::move(all);
    else if (status != 0)
        UNSCOPED_INFO(words[0] << ": " << all);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
inline std::string output(const std::vector<std::string>& words, const std::string& directory) {
    std::string said;
    const int status = run(words, directory, &said);
    INFO(words[0] << " " << words[1] << ": " << said);
    REQUIRE(status == 0);
    return said;
}

struct Seed {
    Packed packed;
    std::string stream;
};
inline Seed seed_of(const std::string& path, const PackOptions& options = {}) {
    Seed seed;
    seed.packed = pack(path, [&](std::string_view bytes) { seed.stream += bytes; }, options);
    return seed;
}
inline PackOptions as(SourceKind kind) {
    PackOptions options;
    options.kind = kind;
    return options;
}
template <class Act>
std::string refusal(const Act& act) {
    try {
        act();
    } catch (const Error& error) {
        CHECK_FALSE(error.hint().empty());
        return error.message();
    }
    return "taken";
}
inline std::string seed_refusal(const std::string& path, const PackOptions& options = {}) {
    return refusal([&] { pack(path, [](std::string_view) {}, options); });
}

inline Source source_of(const std::string& stream, std::size_t piece = 100'000) {
    auto at = std::make_shared<std::size_t>(0);
    return [&stream, at, piece]() -> std::string_view {
        const std::string_view next = std::string_view(stream).substr(*at, piece);
        *at += next.size();
        return next;
    };
}

// Name, kind, mode, time and content of everything below a directory; times of directories only where asked for.
using Tree = std::map<std::string, std::string>;
inline Tree tree_of(const std::string& root, bool times = true) {
    Tree tree;
    std::vector<std::string> todo{""};
    while (!todo.empty()) {
        const std::string at = todo.back();
        todo.pop_back();
        DIR* listing = ::opendir((root + at).c_str());
        REQUIRE(listing);
        while (const dirent* item = ::readdir(listing)) {
            const std::string name = item->d_name, path = root + at + "/" + name;
            if (name == "." || name == "..")
                continue;
            struct stat info {};
            REQUIRE(::lstat(path.c_str(), &info) == 0);
            char head[100];
            std::snprintf(head, sizeof head, "%o %ld.%09ld ", info.st_mode, times ? info.st_mtim.tv_sec : 0, times ? info.st_mtim.tv_nsec : 0);
            std::string& line = tree[(at + "/" + name).substr(1)] = head;
            if (S_ISREG(info.st_mode))
                line += Digest::of(read_file(path)).short_form() + " " + std::to_string(info.st_size);
            if (S_ISLNK(info.st_mode))
                line += std::filesystem::read_symlink(path).string();
            if (S_ISDIR(info.st_mode))
                todo.push_back(at + "/" + name);
        }
        ::closedir(listing);
    }
    return tree;
}

// The stream unpacked by GNU tar.
inline std::string untarred(const Site& site, const std::string& stream, const std::string& name = "untarred") {
    put(site / (name + ".tar"), stream);
    std::filesystem::create_directory(site / name);
    CHECK(run({"tar", "-xpf", site / (name + ".tar"), "-C", site / name}, site.path) == 0);
    return site / name;
}

}  // namespace pyro::test
