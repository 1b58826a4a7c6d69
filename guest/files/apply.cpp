#include "common/patch/patch.hpp"
#include "guest/files/operations.hpp"
#include "guest/files/staging.hpp"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <map>
#include <unistd.h>

namespace pyro::guest::files {
namespace {

using patch::File;
using patch::FilePatch;
using patch::Mode;
using proto::files::Change;
using proto::files::ChangeKind;
using proto::files::Done;

constexpr std::size_t tree_bytes = 256 << 20;  // of all files that a patch reads

// The tree as it is, and what of it was looked at.
class Originals {
public:
    explicit Originals(const UniqueFd& root) : root_(root) {}

    File lookup(const std::string& path) {
        Trail trail(root_);
        std::vector<std::string_view> names = components(path);
        const std::string name(names.back());
        names.pop_back();
        int error = 0;
        if (trail.follow(names, error) < names.size()) {
            if (error == ENOENT || error == ENOTDIR || error == ELOOP) return {};
            fail("patch", path, error);
        }
        struct stat info{};
        if (::fstatat(trail.fd(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) {
            if (errno == ENOENT) return {};
            fail("patch", path, errno);
        }
        File file;
        if (S_ISDIR(info.st_mode)) {
            file.mode = Mode::directory;
        } else if (S_ISLNK(info.st_mode)) {
            file = {Mode::symlink, std::string(proto::files::max_target_bytes + 1, '\0')};
            const ssize_t length = ::readlinkat(trail.fd(), name.c_str(), file.bytes.data(), file.bytes.size());
            if (length < 0) fail("patch", path, errno);
            file.bytes.resize(static_cast<std::size_t>(length));
        } else if (S_ISREG(info.st_mode)) {
            const UniqueFd fd(open_beneath_at(trail.fd(), name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0));
            if (!fd || ::fstat(fd.get(), &info) != 0) fail("patch", path, errno);
            if (!S_ISREG(info.st_mode)) fail("patch", path, EAGAIN);
            if (static_cast<std::uint64_t>(info.st_size) > left_)
                throw Error(ErrorCode::quota_exceeded, "the patch is for files of more than " + std::to_string(tree_bytes >> 20) + " MiB together",
                            "apply it in parts, by files");
            file = {info.st_mode & 0100 ? Mode::executable : Mode::regular, read_up_to(fd.get(), left_)};
            left_ -= file.bytes.size();
        } else {
            file.mode = Mode::other;
        }
        seen[path] = info;
        return file;
    }

    std::vector<std::string> list(const std::string& path) const {
        Trail trail(root_);
        int error = 0;
        const std::vector<std::string_view> directories = components(path);
        if (trail.follow(directories, error) < directories.size()) fail("look into", path, error);
        Names names;
        if (error = names.read(trail.fd()); error != 0) fail("look into", path, error);
        std::vector<std::string> all;
        for (const Names::Item& item : names.items) all.emplace_back(names.name(item));
        return all;
    }

    std::map<std::string, struct stat> seen;  // what is at a path itself

private:
    const UniqueFd& root_;
    std::size_t left_ = tree_bytes;
};

// Besides what parse() refuses.
void check(const FilePatch& patch) {
    for (const auto& path : {patch.old_path, patch.new_path})
        if (path && is_staging(std::string_view(*path).substr(0, path->find('/'))))
            throw Error(ErrorCode::invalid_argument, "patch line " + std::to_string(patch.line) + ": " + quoted(*path) + " is pyro's own", "leave it out of the patch");
}

// What all patches of one text do to a path.
struct Deed {
    std::string source;  // where its content and owner come from: itself, or what is renamed or copied
    bool renamed = false;
    std::uint64_t added = 0, deleted = 0;
};

std::map<std::string, Deed> deeds_of(const std::vector<FilePatch>& patches) {
    std::map<std::string, Deed> deeds;
    for (const FilePatch& patch : patches) {
        const patch::Stat lines = patch::stat(patch);
        Deed& deed = deeds[patch.path()];
        if (deed.source.empty() || patch.renamed || patch.copied) deed.source = patch.old_path.value_or(patch.path());
        deed.renamed = deed.renamed || patch.renamed;
        deed.added += lines.added;
        deed.deleted += lines.deleted;
    }
    return deeds;
}

// The permission bits of what has no such patch yet: git knows one of them.
mode_t permissions(const File& after, const struct stat* before) {
    const bool executable = after.mode == Mode::executable;
    if (!before || !S_ISREG(before->st_mode)) return executable ? 0755 : 0644;
    const mode_t mode = before->st_mode & 0777;
    if (((mode & 0100) != 0) == executable) return mode;
    return executable ? mode | 0100 | ((mode & 0444) >> 2) : mode & ~mode_t{0111};
}

void write_staged(StagedWay& way, const std::string& path, const File& file, const struct stat* before) {
    std::vector<std::string_view> names = components(path);
    const std::string name(names.back());
    names.pop_back();
    if (const int error = way.go_to(names); error != 0) fail("write", path, error);
    if (file.mode == Mode::symlink) {
        if (::symlinkat(file.bytes.c_str(), way.at.fd(), name.c_str()) != 0) fail("write", path, errno, way.at.fd());
    } else {
        const UniqueFd fd(::openat(way.at.fd(), name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
        if (!fd) fail("write", path, errno, way.at.fd());
        for (std::string_view rest = file.bytes; !rest.empty();) {
            const ssize_t put = ::write(fd.get(), rest.data(), rest.size());
            if (put < 0 && errno == EINTR) continue;
            if (put < 0) fail("write", path, errno, fd.get());
            rest.remove_prefix(static_cast<std::size_t>(put));
        }
        if (::fchmod(fd.get(), permissions(file, before)) != 0) fail("write", path, errno);
    }
    if (!before) way.give(name.c_str(), path);
    else if (::geteuid() == 0 && ::fchownat(way.at.fd(), name.c_str(), before->st_uid, before->st_gid, AT_SYMLINK_NOFOLLOW) != 0)
        fail("give away", path, errno);
}

[[noreturn]] void refuse(const std::vector<patch::Rejection>& rejections) {
    Output out(STDOUT_FILENO);
    std::set<std::string> paths;
    const auto lines = [](const std::vector<std::string>& from) {
        std::vector<std::string> to;
        for (std::size_t i = 0; i < std::min(from.size(), proto::files::max_rejection_lines); ++i)
            to.push_back(from[i].substr(0, proto::files::max_rejection_line_bytes));
        return to;
    };
    for (const patch::Rejection& one : rejections) {
        paths.insert(one.path);
        out.put(proto::files::Rejection{static_cast<std::uint32_t>(one.hunk), static_cast<std::uint32_t>(one.line), one.position, one.path,
                                        one.reason.substr(0, proto::files::max_rejection_reason_bytes), lines(one.expected), lines(one.found)});
    }
    Done done;
    done.more = rejections.size() == proto::files::max_rejections;
    out.put(done);
    out.flush();
    const patch::Rejection& first = rejections.front();
    const std::string where = first.hunk > 0 ? quoted(first.path) + ", hunk " + std::to_string(first.hunk) : quoted(first.path);
    throw Error(ErrorCode::failed_precondition, "the patch does not apply: " + where + ": " + first.reason
                + (rejections.size() > 1 ? "; " + std::to_string(rejections.size()) + " rejections in " + std::to_string(paths.size()) + " files" : "")
                + "; nothing was changed", "make the patch against the files as they are now");
}

Change change_of(const std::string& path, const patch::Change& change, const Deed* deed, const struct stat* before) {
    Change told;
    told.path = path;
    if (deed) told.added = deed->added, told.deleted = deed->deleted;
    const bool was_link = before && S_ISLNK(before->st_mode);
    if (change.after.mode == Mode::absent) told.kind = ChangeKind::deleted;
    else if (deed && deed->renamed) told.kind = ChangeKind::renamed, told.old_path = deed->source;
    else if (!before || S_ISDIR(before->st_mode)) told.kind = ChangeKind::added;
    else if (was_link != (change.after.mode == Mode::symlink)) told.kind = ChangeKind::type;
    else told.kind = told.added + told.deleted == 0 ? ChangeKind::mode : ChangeKind::modified;
    return told;
}

}  // namespace

void apply(const UniqueFd& root, const ApplyOptions& options) {
    const UniqueFd base = staging_base(root, options.staging);
    recover_killed(root, base);
    const std::string text = read_up_to(STDIN_FILENO, proto::files::max_patch_bytes + 1);
    const std::vector<FilePatch> patches = patch::parse(text);
    for (const FilePatch& one : patches) check(one);
    Originals originals(root);
    const patch::Tree tree{[&](const std::string& path) { return originals.lookup(path); }, [&](const std::string& path) { return originals.list(path); }};
    patch::ApplyLimits limits;
    limits.rejections = proto::files::max_rejections;
    limits.bytes = tree_bytes;
    const patch::AppliedAll applied = patch::apply_all(patches, tree, limits);
    if (!applied.rejections.empty()) refuse(applied.rejections);
    if (applied.changes.size() > proto::files::max_changes)
        throw Error(ErrorCode::quota_exceeded, "the patch changes more than " + std::to_string(proto::files::max_changes) + " files", "apply it in parts, by files");

    const std::map<std::string, Deed> deeds = deeds_of(patches);
    const auto deed_of = [&](const std::string& path) {
        const auto found = deeds.find(path);
        return found == deeds.end() ? nullptr : &found->second;
    };
    const auto seen = [&](const std::string& path) {
        const auto found = originals.seen.find(path);
        return found == originals.seen.end() ? nullptr : &found->second;
    };
    std::map<std::string, Change> changes;
    {
        Staging staging(root, base, "the patch");
        StagedWay way(staging.tree(), options.owner);
        Removals removals;
        for (const patch::Change& change : applied.changes) {
            const struct stat* before = seen(change.path);
            const Deed* deed = deed_of(change.path);
            changes[change.path] = change_of(change.path, change, deed, before);
            if (before && !S_ISDIR(before->st_mode)) removals.expected[change.path] = *before;
            if (change.after.mode == Mode::absent) {
                removals.files.insert(change.path);
                continue;
            }
            removals.written.insert(change.path);
            if (before && S_ISDIR(before->st_mode)) removals.directories.insert(change.path);
            const struct stat* source = deed ? seen(deed->source) : nullptr;
            write_staged(way, change.path, change.after, source && !S_ISDIR(source->st_mode) ? source : nullptr);
        }
        staging.apply({}, -1, removals);
    }
    std::set<std::string> renamed;  // told with their new name
    for (const auto& [path, change] : changes)
        if (change.kind == ChangeKind::renamed) renamed.insert(change.old_path);
    Output out(STDOUT_FILENO);
    Done done;
    for (const auto& [path, change] : changes) {
        if (change.kind == ChangeKind::deleted && renamed.contains(path)) continue;
        ++done.files;
        out.put(change);
    }
    out.put(done);
    out.flush();
}

}  // namespace pyro::guest::files
