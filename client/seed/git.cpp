#include "client/seed/git.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "client/seed/packing.hpp"

namespace pyro::client::seed {
namespace {

constexpr std::size_t small_file = 1 << 20;
constexpr std::size_t packed_refs_limit = 256u << 20;
constexpr std::size_t output_limit = 16u << 20;

[[noreturn]] void checkout_invalid(const std::string& why, const std::string& hint) {
    throw Error(ErrorCode::failed_precondition, why, hint);
}

// A process that is ended and reaped whatever happens.
class Child {
public:
    explicit Child(pid_t pid) : pid_(pid) {}
    ~Child() {
        if (pid_ > 0) {
            ::kill(pid_, SIGKILL);
            reap();
        }
    }
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;
    void kill() const noexcept { ::kill(pid_, SIGKILL); }
    // Until it has ended; its pid stays its own.
    void wait() const noexcept {
        siginfo_t info;
        while (::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT) != 0 && errno == EINTR)
            ;
    }
    int reap() noexcept {
        int status = 0;
        while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR)
            ;
        pid_ = -1;
        return status;
    }

private:
    pid_t pid_;
};

bool is_object_name(std::string_view text) {
    return (text.size() == 40 || text.size() == 64) && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// git check-ref-format's rules.
bool valid_ref(std::string_view name) {
    if (!name.starts_with("refs/") || name.size() > 1024 || name.ends_with('/') || name.ends_with('.') ||
        name.find("..") != name.npos || name.find("//") != name.npos || name.find("@{") != name.npos ||
        name.find("/.") != name.npos || name.find(".lock/") != name.npos || name.ends_with(".lock"))
        return false;
    return std::all_of(name.begin(), name.end(), [](char c) {
        return static_cast<unsigned char>(c) > 0x20 && c != 0x7f && !std::strchr("~^:?*[\\", c);
    });
}

std::string trimmed(std::string text) {
    while (!text.empty() && (text.back() == '\n' || text.back() == '\r'))
        text.pop_back();
    return text;
}

// A regular file beneath `directory`, through no link; nothing where there is none.
UniqueFd open_plain(int directory, const std::string& directory_name, const std::string& name) {
    UniqueFd fd = try_open_beneath(directory, name, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    if (!fd && (errno == ENOENT || errno == ENOTDIR))
        return {};
    if (!fd && errno == ELOOP)
        checkout_invalid(printable(directory_name + "/" + name) + " is a link, which is not followed", "make it a file of its own, or clone the repository");
    if (!fd)
        throw Error::from_errno("open " + printable(directory_name + "/" + name)).with_hint("make it readable for you");
    struct stat info {};
    if (::fstat(fd.get(), &info) != 0 || S_ISDIR(info.st_mode))
        return {};
    if (!S_ISREG(info.st_mode))
        checkout_invalid(printable(directory_name + "/" + name) + " is " + special_kind(info), "clone the repository");
    return fd;
}

std::optional<std::string> read_plain_file(int directory, const std::string& directory_name, const std::string& name, std::size_t limit = small_file) {
    const UniqueFd fd = open_plain(directory, directory_name, name);
    if (!fd)
        return std::nullopt;
    std::string text = read_up_to(fd.get(), limit + 1);
    if (text.size() > limit)
        checkout_invalid(printable(directory_name + "/" + name) + " is larger than " + std::to_string(limit) + " bytes", "clone the repository");
    return text;
}

std::string real_path(const std::string& path) {
    const std::unique_ptr<char, void (*)(void*)> real(::realpath(path.c_str(), nullptr), &std::free);
    if (!real)
        throw Error::from_errno("find " + printable(path));
    return real.get();
}

// Where it is at this moment: the kernel's word, with no name of the path looked up again.
std::string path_of(int fd) {
    std::string path(PATH_MAX, '\0');
    const ssize_t n = ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), path.data(), path.size());
    if (n < 0)
        throw Error::from_errno("look at a directory");
    path.resize(static_cast<std::size_t>(n));
    return path;
}

std::string resolved(const std::string& base, const std::string& path) { return path.starts_with('/') ? path : base + "/" + path; }
std::string parent_of(const std::string& path) { return path.substr(0, path.rfind('/')); }

bool same_place(const std::string& a, const struct stat& b) {
    struct stat info {};
    return ::lstat(a.c_str(), &info) == 0 && same_file(info, b);
}

// The names in a directory beneath `parent`, with the kernel's word on what they are; false where there is no such directory.
bool list(int parent, const std::string& name, const std::function<void(std::string_view, unsigned char)>& item) {
    UniqueFd fd(::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!fd && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP))
        return false;
    if (!fd)
        throw Error::from_errno("open " + printable(name) + " of the repository");
    const std::unique_ptr<DIR, int (*)(DIR*)> listing(::fdopendir(fd.get()), &::closedir);
    if (!listing)
        throw Error::from_errno("list " + printable(name) + " of the repository");
    const int directory = fd.release();
    while (true) {
        errno = 0;
        const dirent* entry = ::readdir(listing.get());
        if (!entry && errno != 0)
            throw Error::from_errno("list " + printable(name) + " of the repository");
        if (!entry)
            return true;
        const std::string_view found = entry->d_name;
        if (found == "." || found == "..")
            continue;
        unsigned char type = entry->d_type;
        struct stat info {};
        if (type == DT_UNKNOWN && ::fstatat(directory, entry->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0)
            type = static_cast<unsigned char>(IFTODT(info.st_mode));
        item(found, type);
    }
}

void make_directory(const std::string& path) {
    if (::mkdir(path.c_str(), 0700) != 0)
        throw Error::from_errno("make " + path);
}

void write_file(const std::string& path, std::string_view text) {
    write_all(open_file(path, O_WRONLY | O_CREAT | O_EXCL, 0600).get(), text);
}

void link_to(const std::string& target, const std::string& path) {
    if (::symlink(target.c_str(), path.c_str()) != 0)
        throw Error::from_errno("make " + path);
}

void copy_index(const Repository& repository, const std::string& name, const std::string& directory) {
    const UniqueFd from = open_plain(repository.git_fd.get(), repository.git_directory, name);
    if (!from)
        return;
    const UniqueFd to = open_file(directory + "/" + name, O_WRONLY | O_CREAT | O_EXCL, 0600);
    while (true) {
        const ssize_t n = ::sendfile(to.get(), from.get(), nullptr, 64u << 20);
        if (n < 0)
            throw Error::from_errno("copy the index of " + printable(repository.top));
        if (n == 0)
            return;
    }
}

// Behind the options of git itself.
std::string subcommand(const std::vector<std::string>& arguments) {
    std::size_t at = 0;
    while (at + 2 < arguments.size() && arguments[at] == "-c")
        at += 2;
    return arguments[at];
}

}  // namespace

std::vector<std::string> Git::environment() const {
    // Nothing of the caller's environment but the way to git: no GIT_* variable, no configuration of the user or the system, no
    // editor, pager, prompt, credential helper, proxy or protocol.
    const char* path = std::getenv("PATH");
    std::vector<std::string> variables{
        std::string("PATH=") + (path && *path ? path : "/usr/local/bin:/usr/bin:/bin"), "XDG_CONFIG_HOME=" + directory_,
        "LC_ALL=C", "GIT_DIR=" + directory_, "GIT_WORK_TREE=" + (work_tree_.empty() ? directory_ + "/worktree" : work_tree_),
        "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_CONFIG_GLOBAL=/dev/null",
        "GIT_ATTR_NOSYSTEM=1", "GIT_NO_REPLACE_OBJECTS=1", "GIT_NO_LAZY_FETCH=1", "GIT_OPTIONAL_LOCKS=0", "GIT_TERMINAL_PROMPT=0",
        "GIT_PAGER=cat", "GIT_EDITOR=false", "GIT_ASKPASS=false", "GIT_LFS_SKIP_SMUDGE=1"};
    if (work_tree_.empty()) {
        variables.insert(variables.end(), {"HOME=" + directory_, "GIT_ALLOW_PROTOCOL=", "GIT_SSH_COMMAND=false"});
        return variables;
    }
    variables.insert(variables.end(), {"GIT_ALLOW_PROTOCOL=file:git:http:https:ssh", "GIT_SSH_COMMAND=ssh -oBatchMode=yes"});
    for (const char* name : {"HOME", "SSH_AUTH_SOCK", "http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"})
        if (const char* value = std::getenv(name))
            variables.push_back(std::string(name) + "=" + value);
    return variables;
}

void Git::run(const std::vector<std::string>& arguments, int input, const Sink& output) const {
    std::vector<std::string> variables = environment();
    std::vector<std::string> words{"git", "--no-pager"};
    words.insert(words.end(), arguments.begin(), arguments.end());
    const auto pointers = [](std::vector<std::string>& strings) {
        std::vector<char*> out;
        for (std::string& text : strings)
            out.push_back(text.data());
        out.push_back(nullptr);
        return out;
    };
    const std::vector<char*> argv = pointers(words), envp = pointers(variables);

    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0)
        throw Error::from_errno("make a pipe");
    UniqueFd read_end(ends[0]), write_end(ends[1]);
    const UniqueFd complaints = unlinked_temporary(), nothing = open_file("/dev/null", O_RDONLY);

    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    const std::unique_ptr<posix_spawn_file_actions_t, int (*)(posix_spawn_file_actions_t*)> free_actions(&actions, &::posix_spawn_file_actions_destroy);
    posix_spawn_file_actions_addchdir_np(&actions, directory_.c_str());
    posix_spawn_file_actions_adddup2(&actions, input >= 0 ? input : nothing.get(), 0);
    posix_spawn_file_actions_adddup2(&actions, write_end.get(), 1);
    posix_spawn_file_actions_adddup2(&actions, complaints.get(), 2);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    const std::unique_ptr<posix_spawnattr_t, int (*)(posix_spawnattr_t*)> free_attributes(&attributes, &::posix_spawnattr_destroy);
    sigset_t none, usual;
    sigemptyset(&none);
    sigemptyset(&usual);
    sigaddset(&usual, SIGPIPE);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &usual);
    // A group of its own: Ctrl-C is for the caller, who then stops git.
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    pid_t pid = -1;
    if (const int failure = ::posix_spawnp(&pid, "git", &actions, &attributes, argv.data(), envp.data()))
        throw Error(ErrorCode::failed_precondition, std::string("git cannot be started: ") + std::strerror(failure),
                    "install git, or name the directory as a plain one");
    Child child(pid);
    write_end.reset();
    {
        const std::stop_callback on_stop(stop_, [&] { child.kill(); });
        std::array<char, 64 << 10> buffer;
        while (true) {
            const ssize_t n = ::read(read_end.get(), buffer.data(), buffer.size());
            if (n < 0 && errno == EINTR)
                continue;
            if (n < 0)
                throw Error::from_errno("read what git says");
            if (n == 0)
                break;
            output({buffer.data(), static_cast<std::size_t>(n)});
        }
        child.wait();
    }
    const int status = child.reap();
    if (stop_.stop_requested())
        throw Cancelled();
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return;
    ::lseek(complaints.get(), 0, SEEK_SET);
    throw Error(ErrorCode::failed_precondition, "git " + subcommand(arguments) + " failed: " + printable(trimmed(read_up_to(complaints.get(), 4096))),
                "see whether `git fsck` finds the repository whole");
}

std::string Git::run(const std::vector<std::string>& arguments, int input) const {
    std::string all;
    run(arguments, input, [&](std::string_view bytes) {
        if (all.size() + bytes.size() > output_limit)
            checkout_invalid("git " + subcommand(arguments) + " says more than " + std::to_string(output_limit) + " bytes", "see what the commit of HEAD looks like");
        all += bytes;
    });
    return all;
}

void Git::records(const std::vector<std::string>& arguments, int input, char end, const std::function<void(std::string_view)>& record) const {
    std::string rest;
    run(arguments, input, [&](std::string_view bytes) {
        for (std::size_t at; (at = bytes.find(end)) != bytes.npos; bytes.remove_prefix(at + 1)) {
            if (rest.empty()) {
                record(bytes.substr(0, at));
                continue;
            }
            rest += bytes.substr(0, at);
            record(rest);
            rest.clear();
        }
        rest += bytes;
        if (rest.size() > small_file)
            checkout_invalid("the repository has a name longer than " + std::to_string(small_file) + " bytes", "it is damaged or hostile");
    });
    if (!rest.empty())
        record(rest);
}

Repository Repository::find(const std::string& path, const Git& git) {
    Repository found;
    struct stat info {};
    found.top = path_of(open_file(path, O_PATH).get());
    while (::lstat((found.top + "/.git").c_str(), &info) != 0) {
        if (found.top.empty())
            throw Error(ErrorCode::invalid_argument, printable(path) + " is in no Git checkout", "name a checkout, or take the directory as a plain one");
        found.top = parent_of(found.top);
    }
    found.top_fd = open_file(found.top.empty() ? "/" : found.top, O_PATH | O_DIRECTORY);
    // A link that was put in its place meanwhile would lead elsewhere.
    if (path_of(found.top_fd.get()) != (found.top.empty() ? "/" : found.top))
        checkout_invalid(printable(found.top) + " was replaced while it was looked at", "try again when nothing changes it");
    const std::string dot_git = found.top + "/.git";
    if (S_ISDIR(info.st_mode)) {
        found.git_directory = found.common_directory = dot_git;
        found.git_fd = try_open_beneath(found.top_fd.get(), ".git", O_RDONLY | O_DIRECTORY);
        if (!found.git_fd)
            throw Error::from_errno("open " + printable(dot_git)).with_hint("make it readable for you");
        if (read_plain_file(found.git_fd.get(), dot_git, "commondir"))
            checkout_invalid(printable(dot_git) + " is part of another repository (commondir), which does not know of it", "clone the repository");
        found.common_fd = found.git_fd.duplicate();
    } else {
        const std::optional<std::string> text = read_plain_file(found.top_fd.get(), found.top, ".git");
        if (!text || !text->starts_with("gitdir: "))
            checkout_invalid(printable(dot_git) + " is no repository", "name a checkout, or take the directory as a plain one");
        try {
            found.git_directory = real_path(resolved(found.top, trimmed(text->substr(8))));
            found.git_fd = open_file(found.git_directory, O_RDONLY | O_DIRECTORY);
        } catch (const Error& e) {
            checkout_invalid(printable(dot_git) + " names a repository that cannot be opened: " + e.message(), "clone the repository, or mend it with `git worktree repair`");
        }
        // Any directory can say that it belongs to a repository. That one must say the same, or a hostile directory would be
        // given whatever else of the user's it names.
        bool known = false;
        if (const auto common = read_plain_file(found.git_fd.get(), found.git_directory, "commondir")) {
            const auto back = read_plain_file(found.git_fd.get(), found.git_directory, "gitdir");
            found.common_directory = real_path(resolved(found.git_directory, trimmed(*common)));
            known = back && same_place(resolved(found.git_directory, trimmed(*back)), info) &&
                    parent_of(parent_of(found.git_directory)) == found.common_directory;
            found.common_fd = open_file(found.common_directory, O_RDONLY | O_DIRECTORY);
        } else {
            found.common_directory = found.git_directory;
            found.common_fd = found.git_fd.duplicate();
            std::string tree;
            try {
                tree = git.run({"config", "--file", found.git_directory + "/config", "--no-includes", "--null", "--get", "core.worktree"});
            } catch (const Error&) {
                tree.clear();  // it says nothing
            }
            if (tree.ends_with('\0'))
                tree.pop_back();
            struct stat top_info {};
            known = !tree.empty() && ::fstat(found.top_fd.get(), &top_info) == 0 && same_place(resolved(found.git_directory, tree), top_info);
        }
        if (!known)
            checkout_invalid(printable(dot_git) + " names the repository " + printable(found.git_directory) + ", which does not know of it",
                             "clone the repository, or mend it with `git worktree repair`");
    }

    const std::optional<std::string> head = read_plain_file(found.git_fd.get(), found.git_directory, "HEAD");
    if (!head)
        checkout_invalid(printable(found.git_directory) + " has no HEAD", "name a checkout, or take the directory as a plain one");
    std::string at = trimmed(*head);
    for (int depth = 0; at.starts_with("ref: "); ++depth) {
        const std::string ref = at.substr(at.find_first_not_of(' ', 4));
        if (!valid_ref(ref) || depth == 5)
            checkout_invalid("HEAD of " + printable(found.top) + " names no possible branch: " + printable(ref), "check out a branch");
        if (ref == "refs/heads/.invalid")
            checkout_invalid(printable(found.top) + " keeps its refs in a format that is not read here", "clone it with --ref-format=files");
        if (found.head_ref.empty())
            found.head_ref = ref;
        at = trimmed(read_plain_file(found.common_fd.get(), found.common_directory, ref).value_or(""));
        if (!at.empty())
            continue;
        const std::string packed = read_plain_file(found.common_fd.get(), found.common_directory, "packed-refs", packed_refs_limit).value_or("");
        const std::size_t line = packed.find(" " + ref + "\n");
        if (line != packed.npos)
            at = packed.substr(packed.rfind('\n', line) + 1, line - packed.rfind('\n', line) - 1);
    }
    if (!at.empty() && !is_object_name(at))
        checkout_invalid("HEAD of " + printable(found.top) + " is no commit: " + printable(at), "check out a branch");
    found.commit = at;
    found.sha256 = at.size() == 64;
    return found;
}

void clone(const std::string& url, const std::string& ref, const std::string& directory, std::stop_token stop) {
    if (url.empty() || url.starts_with('-') || ref.starts_with('-'))
        throw Error(ErrorCode::invalid_argument, printable(url + " " + ref) + " names no repository", "give a URL and a branch, tag or commit");
    make_directory(directory + "/.git");
    const Git git(directory + "/.git", directory, std::move(stop));
    git.run({"init", "--quiet", "--template="});
    const std::vector<std::string> safe{"-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "core.attributesFile=/dev/null", "-c", "gc.auto=0"};
    const auto run = [&](std::vector<std::string> words) {
        words.insert(words.begin(), safe.begin(), safe.end());
        git.run(words);
    };
    try {
        run({"fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--no-write-commit-graph", url, ref.empty() ? "HEAD" : ref});
        run({"checkout", "--quiet", "--detach", "FETCH_HEAD"});
    } catch (const Error& e) {
        throw Error(e.code(), "cannot clone " + printable(url) + (ref.empty() ? "" : " at " + printable(ref)) + ": " + e.message(),
                    "see whether `git ls-remote " + printable(url) + "` works without a prompt");
    }
}

void borrow(const Repository& repository, const std::string& directory) {
    write_file(directory + "/HEAD", "ref: refs/heads/none\n");
    write_file(directory + "/config",
               std::string("[core]\n\trepositoryformatversion = ") + (repository.sha256 ? "1" : "0") +
                   "\n\tbare = false\n\tfsmonitor = false\n\thooksPath = /dev/null\n\tattributesFile = /dev/null\n\tbigFileThreshold = 16m\n"
                   "\tfsync = none\n\tmultiPackIndex = false\n\tcommitGraph = false\n[gc]\n\tauto = 0\n[pack]\n\twriteReverseIndex = false\n[protocol]\n\tallow = never\n" +
                   (repository.sha256 ? "[extensions]\n\tobjectFormat = sha256\n" : ""));
    make_directory(directory + "/refs");
    make_directory(directory + "/worktree");  // empty, for a git that insists on one
    // What git writes goes into objects of our own. Theirs are borrowed by directories: a pack that a `git gc` replaces meanwhile is
    // then found in its new place.
    const std::string objects = directory + "/borrowed", theirs = repository.common_directory + "/objects";
    make_directory(objects);
    make_directory(directory + "/objects");
    make_directory(directory + "/objects/info");
    make_directory(directory + "/objects/pack");
    write_file(directory + "/objects/info/alternates", objects + "\n");
    const auto no_link = [](const std::string& path, unsigned char type, unsigned char wanted) {
        if (type != wanted)
            checkout_invalid(printable(path) + " is " + (type == DT_LNK ? "a link, which is not followed" : "of the wrong kind"), "clone the repository");
    };
    if (!repository.commit.empty()) {
        const int common = repository.common_fd.get();
        const bool there = list(common, "objects", [&](std::string_view name, unsigned char type) {
            if (name.size() != 2 || name.find_first_not_of("0123456789abcdef") != name.npos)
                return;
            const std::string loose = "objects/" + std::string(name);
            no_link(repository.common_directory + "/" + loose, type, DT_DIR);
            list(common, loose, [&](std::string_view object, unsigned char object_type) {
                no_link(repository.common_directory + "/" + loose + "/" + std::string(object), object_type, DT_REG);
            });
            link_to(theirs + "/" + std::string(name), objects + "/" + std::string(name));
        });
        if (!there)
            checkout_invalid(printable(theirs) + " is no directory of its own", "clone the repository");
        if (list(common, "objects/pack", [&](std::string_view name, unsigned char type) {
                no_link(theirs + "/pack/" + std::string(name), type, DT_REG);
            }))
            link_to(theirs + "/pack", objects + "/pack");
    }
    copy_index(repository, "index", directory);
    list(repository.git_fd.get(), ".", [&](std::string_view name, unsigned char) {  // the other part of a split index
        if (name.starts_with("sharedindex."))
            copy_index(repository, std::string(name), directory);
    });
}

}  // namespace pyro::client::seed
