#include "client/mcp/project.hpp"

#include "client/seed/git.hpp"

#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

namespace pyro::shim {

using client::seed::printable;
using client::seed::SourceKind;

namespace {

// The top of the checkout that the directory is, or is somewhere in.
std::optional<std::string> checkout_of(const std::string& directory) {
    const std::unique_ptr<char, void (*)(void*)> real(::realpath(directory.c_str(), nullptr), &std::free);
    if (!real) return std::nullopt;
    std::string top = real.get();
    struct stat info {};
    while (::lstat((top + "/.git").c_str(), &info) != 0) {
        if (top.empty() || top == "/") return std::nullopt;
        top.resize(top.rfind('/'));
    }
    return top.empty() ? "/" : top;
}

// A home directory may be a checkout too. Nobody means all of it by starting a program somewhere in it.
bool holds_home(const std::string& top) {
    const auto is_above = [&](const char* home) {
        if (!home || !*home) return false;
        const std::unique_ptr<char, void (*)(void*)> real(::realpath(home, nullptr), &std::free);
        return real && (std::string(real.get()) + "/").starts_with(top == "/" ? "/" : top + "/");
    };
    const passwd* account = ::getpwuid(::getuid());
    return is_above(std::getenv("HOME")) || (account && is_above(account->pw_dir));
}

}  // namespace

std::optional<std::string> ProjectSource::root() const {
    if (options_.project == ProjectKind::here) {
        auto top = checkout_of(options_.directory);
        return top && !holds_home(*top) ? top : std::nullopt;
    }
    if (options_.project != ProjectKind::path) return std::nullopt;
    struct stat info {};
    if (::stat(options_.project_path.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) return std::nullopt;
    if (const auto top = checkout_of(options_.project_path); top && !holds_home(*top)) return top;
    return options_.project_path;
}

std::optional<ProjectSource::Taken> ProjectSource::take(std::string& why, const std::function<void(std::string)>& enter, std::stop_token stop) const {
    switch (options_.project) {
        case ProjectKind::none: why = "this server was started without a project"; return std::nullopt;
        case ProjectKind::here: {
            const auto top = checkout_of(options_.directory);
            if (!top) why = printable(options_.directory) + ", where this server was started, is in no Git checkout";
            else if (holds_home(*top)) why = "the checkout " + printable(*top) + ", where this server was started, holds a home directory: --project-path names one in spite of that";
            else return Taken{*top, *top, SourceKind::checkout, true};
            return std::nullopt;
        }
        case ProjectKind::path: {
            const std::string& path = options_.project_path;
            const auto top = checkout_of(path);
            try {
                if (top && (*top == path || !holds_home(*top))) return Taken{*top, *top, SourceKind::checkout, true};
                return Taken{path, path, client::seed::source_kind(path), true};
            } catch (const Error& e) {
                throw Error(e.code(), "the project of this server: " + e.message(), "start it with a --project-path that is there, or give seed_path; an empty one makes an empty workspace");
            }
        }
        case ProjectKind::url: {
            enter("clone");
            const auto directory = std::make_shared<client::seed::TemporaryDirectory>();
            client::seed::clone(options_.repo_url, options_.repo_ref, directory->path(), stop);
            return Taken{directory->path(), options_.repo_url, SourceKind::checkout, false, directory};
        }
    }
    return std::nullopt;
}

}  // namespace pyro::shim
