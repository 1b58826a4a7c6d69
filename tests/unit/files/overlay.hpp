// A workspace as it is in a machine: an overlay whose layers are of two file systems.
#pragma once
#include "tests/unit/files/files_process.hpp"

#include <cstring>
#include <sched.h>
#include <sys/mount.h>

namespace pyro::test {

// Files and links as git sees them: of permissions the owner's to execute, and no directories.
struct GitFile {
    char type = 'f';  // 'x', 'l', or 's' for what git does not know
    std::string content;
    bool operator==(const GitFile&) const = default;
};
using GitTree = std::map<std::string, GitFile>;

inline GitTree git_tree(const fs::path& top) {
    GitTree files;
    for (auto entry = fs::recursive_directory_iterator(top); entry != fs::recursive_directory_iterator(); ++entry) {
        if (entry->path().filename() == ".git") {
            entry.disable_recursion_pending();
            continue;
        }
        const std::string name = entry->path().lexically_relative(top).string();
        const auto status = entry->symlink_status();
        if (fs::is_symlink(status)) files[name] = {'l', fs::read_symlink(entry->path()).string()};
        else if (fs::is_regular_file(status)) files[name] = {(status.permissions() & fs::perms::owner_exec) == fs::perms::none ? 'f' : 'x', slurp(entry->path())};
        else if (!fs::is_directory(status)) files[name] = {'s', ""};
    }
    return files;
}

inline std::string git_differences(const GitTree& one, const GitTree& other) {
    std::string said;
    for (const auto& [path, file] : one) {
        const auto found = other.find(path);
        if (found == other.end()) said += "only in the first: " + path + "\n";
        else if (!(found->second == file)) said += path + ": " + file.type + " " + file.content.substr(0, 40) + " and " + found->second.type + " " + found->second.content.substr(0, 40) + "\n";
    }
    for (const auto& [path, file] : other)
        if (!one.contains(path)) said += "only in the second: " + path + "\n";
    return said;
}

struct Difference {
    std::string patch;
    std::vector<wire::Change> changes;
    std::vector<wire::Note> notes;
    wire::Done done;
    const wire::Change& of(const std::string& path) const {
        for (const wire::Change& change : changes)
            if (change.path == path) return change;
        FAIL("no change of " << path);
        throw 0;
    }
};

// Root only. `lower` is for the test to fill while the overlay is not mounted.
class Overlay : public Tree {
public:
    Overlay() {
        static const bool own = ::unshare(CLONE_NEWNS) == 0 && ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
        REQUIRE(own);
        for (const char* layer : {"base", "disk"}) {
            fs::create_directory(top / layer);
            REQUIRE(::mount("none", (top / layer).c_str(), "tmpfs", MS_STRICTATIME, "mode=755") == 0);
        }
        lower = top / "base/lower";
        fs::create_directory(lower);
    }
    ~Overlay() {
        unmount();
        for (const char* layer : {"base", "disk"}) ::umount2((top / layer).c_str(), MNT_DETACH);
    }
    // With nothing in the upper directory.
    void mount(const std::string& options = "xino=off") {
        unmount();
        const fs::path fresh = top / "disk" / std::to_string(++count_);
        upper = fresh / "upper";
        fs::create_directories(upper);
        fs::create_directories(fresh / "work");
        const std::string all = "lowerdir=" + lower.string() + ",upperdir=" + upper.string() + ",workdir=" + (fresh / "work").string()
                                + ",redirect_dir=off,index=off,metacopy=off," + options;
        const int error = ::mount("none", ws.c_str(), "overlay", 0, all.c_str()) == 0 ? 0 : errno;
        INFO("overlayfs cannot be mounted: " << std::strerror(error) << ": " << all);
        REQUIRE(error == 0);
        mounted_ = true;
    }
    void base(const std::string& path, std::string_view content, mode_t mode = 0644) const {
        fs::create_directories((lower / path).parent_path());
        std::ofstream(lower / path, std::ios::binary) << content;
        ::chmod((lower / path).c_str(), mode);
    }
    Outcome run_diff(std::vector<std::string> options = {}) const {
        options.insert(options.begin(), {"diff", "--upper", upper.string(), "--lower", lower.string()});
        return run(options);
    }
    Difference diff(std::vector<std::string> options = {}) const {
        const Outcome outcome = run_diff(std::move(options));
        INFO(outcome.err);
        REQUIRE(outcome.status == 0);
        Difference difference;
        difference.patch = outcome.out;
        wire::Decoder decoder(wire::Decoder::Stream::changes);
        decoder.feed(outcome.err);
        while (auto record = decoder.next()) {
            if (auto* change = std::get_if<wire::Change>(&*record)) difference.changes.push_back(*change);
            else if (auto* note = std::get_if<wire::Note>(&*record)) difference.notes.push_back(*note);
            else difference.done = std::get<wire::Done>(*record);
        }
        decoder.finish();
        CHECK(difference.done.files == difference.changes.size());
        CHECK(difference.done.bytes == difference.patch.size());
        return difference;
    }
    // What git makes of the lower directory with the patch.
    GitTree by_git(const std::string& patch) const {
        const fs::path copy = top / "base/copy", file = top / "base/patch";
        fs::remove_all(copy);
        REQUIRE(run_program({"cp", "-a", lower.string(), copy.string()}).status == 0);
        if (!patch.empty()) {
            std::ofstream(file, std::ios::binary) << patch;
            for (const char* check : {"--check", "--whitespace=nowarn"}) {
                const Outcome outcome = run_program({"env", "-i", "PATH=/usr/bin:/bin", "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1", "GIT_CEILING_DIRECTORIES=" + top.string(),
                                                     "git", "-C", copy.string(), "apply", check, file.string()});
                INFO(outcome.err << "\n" << patch.substr(0, 4000));
                CHECK(outcome.status == 0);
            }
        }
        return git_tree(copy);
    }

    fs::path lower, upper;

private:
    void unmount() {
        if (mounted_) ::umount2(ws.c_str(), MNT_DETACH);
        mounted_ = false;
    }
    int count_ = 0;
    bool mounted_ = false;
};

inline std::vector<wire::Change> changes_of(std::string_view bytes) {
    std::vector<wire::Change> changes;
    wire::Decoder decoder(wire::Decoder::Stream::changes);
    decoder.feed(bytes);
    while (auto record = decoder.next())
        if (auto* change = std::get_if<wire::Change>(&*record)) changes.push_back(*change);
    decoder.finish();
    return changes;
}

inline std::vector<wire::Rejection> rejections_of(std::string_view bytes) {
    std::vector<wire::Rejection> rejections;
    wire::Decoder decoder(wire::Decoder::Stream::rejections);
    decoder.feed(bytes);
    while (auto record = decoder.next())
        if (auto* rejection = std::get_if<wire::Rejection>(&*record)) rejections.push_back(*rejection);
    decoder.finish();
    return rejections;
}

}  // namespace pyro::test
