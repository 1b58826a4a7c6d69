#include "guest/files/operations.hpp"
#include "guest/files/staging.hpp"
#include "guest/files/tar_reader.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>

namespace pyro::guest::files {
namespace {

using proto::files::Done;

// Entries into the staged tree.
class Unpacker {
public:
    Unpacker(const UniqueFd& tree, std::optional<Owner> owner) : tree_(tree), way_(tree, owner) {}

    void add(const std::string& path, const Member& member, const std::string& target, TarReader& archive) {
        std::vector<std::string_view> names = components(path);
        if (member.type == Member::Type::directory) {
            go_to(names);
            add_values(path, member);
            return;
        }
        const std::string name(names.back());
        names.pop_back();
        go_to(names);
        switch (member.type) {
            case Member::Type::file: add_file(name, path, member, archive); break;
            case Member::Type::symlink: add_symlink(name, path, member); break;
            case Member::Type::hard_link: add_hard_link(name, path, target); break;
            case Member::Type::directory: break;
        }
    }

    // Makes what is missing of it, and goes there.
    void go_to(const std::vector<std::string_view>& names) {
        if (way_.go_to(names) != 0) refuse_twice(joined(at_.path(), names[at_.depth()]), ", or a symbolic link");
    }

    // Of inodes in rising order, the last of each.
    const std::vector<DirectoryValues>& directories() {
        std::reverse(directories_.begin(), directories_.end());
        const auto less = [](const DirectoryValues& a, const DirectoryValues& b) { return a.inode < b.inode; };
        std::stable_sort(directories_.begin(), directories_.end(), less);
        const auto same = [](const DirectoryValues& a, const DirectoryValues& b) { return a.inode == b.inode; };
        directories_.erase(std::unique(directories_.begin(), directories_.end(), same), directories_.end());
        return directories_;
    }

    Done done;

private:
    [[noreturn]] void refuse_twice(const std::string& path, const std::string& why) {
        throw Error(ErrorCode::invalid_argument, "the archive is refused: " + quoted(path) + " is a directory in it and something else too" + why,
                    "make it anew; nothing of it was taken");
    }

    // Of the directory we are in.
    void add_values(const std::string& path, const Member& member) {
        struct stat info{};
        if (::fstatat(at_.fd(), ".", &info, 0) != 0) fail("unpack", path, errno);
        directories_.push_back(DirectoryValues{info.st_ino, member.mode, member.mtime});
        ++done.directories;
    }

    // An earlier entry of that name goes. False if there is none.
    bool clear(const std::string& name, const std::string& path) {
        if (::unlinkat(at_.fd(), name.c_str(), 0) == 0) return true;
        if (errno == EISDIR) refuse_twice(path, "");
        if (errno != ENOENT) fail("unpack", path, errno);
        return false;
    }

    void add_file(const std::string& name, const std::string& path, const Member& member, TarReader& archive) {
        const auto create = [&] {
            return UniqueFd(::openat(at_.fd(), name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, member.mode));
        };
        UniqueFd file = create();
        if (!file && errno == EEXIST && clear(name, path)) file = create();
        if (!file) fail("unpack", path, errno, tree_.get());
        way_.give(name.c_str(), path);
        std::uint64_t at = 0;
        bool hole = false;
        for (std::string_view bytes = archive.content(); !bytes.empty(); bytes = archive.content()) hole = put(file.get(), at, bytes, path);
        if (hole && ::ftruncate(file.get(), static_cast<off_t>(member.size)) != 0) fail("unpack", path, errno, tree_.get());
        const timespec times[2] = {{0, UTIME_OMIT}, member.mtime};
        if (::futimens(file.get(), times) != 0) fail("set the time of", path, errno);
        ++done.files;
        done.bytes += member.size;
    }

    // Blocks of zeros become holes. True if the last one did.
    bool put(int file, std::uint64_t& at, std::string_view bytes, const std::string& path) {
        constexpr std::uint64_t block = 4096;
        const auto zeros = [](std::string_view part) { return part[0] == '\0' && std::memcmp(part.data(), part.data() + 1, part.size() - 1) == 0; };
        const auto first_part = [&](std::string_view of, std::uint64_t offset) { return of.substr(0, block - offset % block); };
        bool hole = false;
        while (!bytes.empty()) {
            std::size_t run = 0;
            hole = zeros(first_part(bytes, at));
            while (run < bytes.size() && zeros(first_part(bytes.substr(run), at + run)) == hole) run += first_part(bytes.substr(run), at + run).size();
            for (std::size_t written = 0; !hole && written < run;) {
                const ssize_t n = ::pwrite(file, bytes.data() + written, run - written, static_cast<off_t>(at + written));
                if (n < 0 && errno == EINTR) continue;
                if (n < 0) fail("unpack", path, errno, file);
                written += static_cast<std::size_t>(n);
            }
            at += run;
            bytes.remove_prefix(run);
        }
        return hole;
    }

    void add_symlink(const std::string& name, const std::string& path, const Member& member) {
        const auto create = [&] { return ::symlinkat(member.target.c_str(), at_.fd(), name.c_str()) == 0; };
        if (!create() && !(errno == EEXIST && clear(name, path) && create())) fail("unpack", path, errno, tree_.get());
        way_.give(name.c_str(), path);
        const timespec times[2] = {{0, UTIME_OMIT}, member.mtime};
        if (::utimensat(at_.fd(), name.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0) fail("set the time of", path, errno);
        ++done.symlinks;
    }

    void add_hard_link(const std::string& name, const std::string& path, const std::string& target) {
        Trail to(tree_);
        std::vector<std::string_view> names = components(target);
        const std::string target_name(names.empty() ? "." : names.back());
        if (!names.empty()) names.pop_back();
        int error = 0;
        struct stat info{};
        if (to.follow(names, error) < names.size() || ::fstatat(to.fd(), target_name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(info.st_mode))
            throw Error(ErrorCode::invalid_argument, "the archive is refused: the hard link " + quoted(path) + " leads to " + quoted(target)
                        + ", which is no file before it in the archive", "make it anew; nothing of it was taken");
        if (target == path) return;
        const auto create = [&] { return ::linkat(to.fd(), target_name.c_str(), at_.fd(), name.c_str(), 0) == 0; };
        if (!create() && !(errno == EEXIST && clear(name, path) && create())) fail("unpack", path, errno, tree_.get());
        ++done.hard_links;
    }

    const UniqueFd& tree_;
    StagedWay way_;
    Trail& at_ = way_.at;
    std::vector<DirectoryValues> directories_;
};

}  // namespace

void unpack(const UniqueFd& root, const UnpackOptions& options) {
    const UniqueFd base = staging_base(root, options.staging);
    recover_killed(root, base);
    Done done;
    {
        Staging staging(root, base, "the archive");
        Unpacker to(staging.tree(), options.owner);
        TarReader archive(STDIN_FILENO);
        const auto inside = [&](const std::string& path) {
            std::string whole = path == "." ? options.dest : joined(options.dest, path);
            if (whole.size() > proto::files::max_path_bytes) fail("unpack", whole, ENAMETOOLONG);
            return whole;
        };
        // The destination is there afterwards, whatever the archive holds.
        to.go_to(components(options.dest));
        while (const auto member = archive.next())
            to.add(inside(member->path), *member, member->type == Member::Type::hard_link ? inside(member->target) : "", archive);
        const auto depth = static_cast<std::ptrdiff_t>(components(options.dest).size());
        staging.apply(to.directories(), options.replace_all ? depth : -1);
        done = to.done;
    }
    Output out(STDOUT_FILENO);
    out.put(done);
    out.flush();
}

void recover(const UniqueFd& root, const std::string& staging) {
    const UniqueFd base = staging_base(root, staging);
    Done done;
    done.directories = recover_killed(root, base);
    Output out(STDOUT_FILENO);
    out.put(done);
    out.flush();
}

}  // namespace pyro::guest::files
