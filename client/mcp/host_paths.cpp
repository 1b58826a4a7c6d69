#include "client/mcp/host_paths.hpp"

#include "client/seed/tar_stream.hpp"
#include "common/error.hpp"

#include <fcntl.h>
#include <linux/openat2.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>

namespace pyro::shim {

using client::seed::printable;

namespace {

struct Root {
    UniqueFd fd;
    std::string given, real;
};

std::string proc_path(int fd) { return "/proc/self/fd/" + std::to_string(fd); }

std::string real_path(int fd) {
    std::string path(PATH_MAX, '\0');
    const ssize_t n = ::readlink(proc_path(fd).c_str(), path.data(), path.size());
    if (n < 0) throw Error::from_errno("look at a directory");
    path.resize(static_cast<std::size_t>(n));
    return path;
}

std::vector<Root> opened(const std::vector<std::string>& paths) {
    std::vector<Root> roots;
    for (const std::string& path : paths) {
        UniqueFd fd(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
        if (!fd) continue;  // what is not there holds nothing
        std::string real = real_path(fd.get());
        roots.push_back({std::move(fd), path, std::move(real)});
    }
    return roots;
}

// The part of `path` behind `directory`; "." for that itself.
std::optional<std::string> behind(const std::string& path, const std::string& directory) {
    const std::string whole = directory == "/" ? "" : directory;
    if (path == whole || path == directory) return ".";
    if (!path.starts_with(whole + "/")) return std::nullopt;
    std::string rest = path.substr(whole.size());
    rest.erase(0, std::min(rest.find_first_not_of('/'), rest.size()));
    return rest.empty() ? "." : rest;
}

[[noreturn]] void outside(const std::string& path, const std::vector<Root>& roots) {
    std::string names;
    for (const Root& root : roots) names += (names.empty() ? "" : ", ") + printable(root.given);
    throw Error(ErrorCode::failed_precondition, printable(path) + " is not below a directory that this server was given",
                names.empty() ? "it was given none; whoever starts it can name some: --project-path, --allow-path" : "name a path below " + names).with_detail("path", printable(path));
}

// Beneath a directory, through links that stay there.
UniqueFd try_open(int directory, const std::string& path, int flags) {
    open_how how{};
    how.flags = static_cast<unsigned>(flags | O_CLOEXEC);
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
    constexpr int attempts = 100;  // a rename anywhere makes the kernel unsure of ".."
    for (int i = 0; i < attempts; ++i) {
        UniqueFd fd(static_cast<int>(::syscall(SYS_openat2, directory, path.c_str(), &how, sizeof how)));
        if (fd || errno != EAGAIN) return fd;
    }
    return {};
}

struct Place {
    UniqueFd fd;
    const Root* root;
};

Place open_below(const std::vector<Root>& roots, const std::string& path, const std::string& shown, int flags) {
    int error = 0;
    for (const Root& root : roots) {
        std::vector<std::string> names;
        if (!path.starts_with('/')) names.push_back(path);
        else
            for (const std::string* start : {&root.given, &root.real})
                if (auto rest = behind(path, *start)) names.push_back(*rest);
        for (const std::string& name : names) {
            if (UniqueFd fd = try_open(root.fd.get(), name, flags)) return {std::move(fd), &root};
            if (error == 0 || error == EXDEV) error = errno;
        }
        if (!path.starts_with('/')) break;
    }
    if (error == 0 || error == EXDEV) outside(shown, roots);
    throw Error::from_errno("open " + printable(shown), error).with_hint(error == ENOENT ? "look at how it is spelled; of what is to be written the directory must be there" : "name another path")
        .with_detail("path", printable(shown));
}

void check_path(const std::string& path) {
    if (path.empty() || path.find('\0') != std::string::npos) throw Error(ErrorCode::invalid_argument, "the path is empty, or none", "name a file or directory");
}

[[noreturn]] void refused(const std::string& shown, const std::string& why, const std::string& hint) {
    throw Error(ErrorCode::failed_precondition, printable(shown) + " is not written: " + why, hint).with_detail("path", printable(shown));
}

}  // namespace

bool is_git_name(std::string_view name) { return name.size() == 4 && ::strncasecmp(name.data(), ".git", 4) == 0; }

bool leads_into_git(std::string_view path) {
    while (!path.empty()) {
        const std::size_t end = std::min(path.find('/'), path.size());
        if (is_git_name(path.substr(0, end))) return true;
        path.remove_prefix(std::min(end + 1, path.size()));
    }
    return false;
}

HostPaths::Found HostPaths::source(const std::string& path) const {
    check_path(path);
    const std::vector<Root> roots = opened(roots_());
    if (roots.empty()) outside(path, roots);
    Place place = open_below(roots, path, path, O_PATH);
    std::string shown = real_path(place.fd.get());
    std::string opens = proc_path(place.fd.get());
    return {std::move(place.fd), std::move(opens), std::move(shown)};
}

HostPaths::Found HostPaths::destination(const std::string& path) const {
    check_path(path);
    const std::vector<Root> roots = opened(roots_());
    if (roots.empty()) outside(path, roots);
    std::string whole = path;
    while (whole.size() > 1 && whole.ends_with('/')) whole.pop_back();
    for (const Root& root : roots)
        if (whole == root.given || whole == root.real) refused(path, "it is a directory that this server was given", "name a file or directory in it");
    const std::size_t slash = whole.rfind('/');
    const std::string leaf = slash == std::string::npos ? whole : whole.substr(slash + 1);
    const std::string directory = slash == std::string::npos ? "." : slash == 0 ? "/" : whole.substr(0, slash);
    if (leaf.empty() || leaf == "." || leaf == "..") refused(path, "it names no file", "name a file or directory below one of the server's");
    Place place = open_below(roots, directory, path, O_PATH | O_DIRECTORY);
    const std::string real = real_path(place.fd.get());
    const std::string full = (real == "/" ? "" : real) + "/" + leaf;
    for (const Root& root : roots) {
        if (behind(root.real, full)) refused(path, "it is, or is above, a directory that this server was given", "name a file or directory in it");
        const auto rest = behind(full, root.real);
        if (!rest) continue;
        if (leads_into_git(*rest)) refused(path, "it is in a .git, whose files git would obey", "name a path outside of it");
        if (rest->starts_with('.')) refused(path, "it is, or is in, a dot file at the top of " + printable(root.given), "name a path without a leading dot");
    }
    struct stat info {};
    if (::fstatat(place.fd.get(), leaf.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(info.st_mode))
        refused(path, "it is a symbolic link", "name what it points to, or another path");
    std::string opens = proc_path(place.fd.get()) + "/" + leaf;
    return {std::move(place.fd), std::move(opens), full};
}

}  // namespace pyro::shim
