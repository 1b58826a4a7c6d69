// A Git checkout: the tracked files as they are in the working tree, and a new `.git` that holds HEAD alone.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "client/seed/git.hpp"
#include "client/seed/packing.hpp"

namespace pyro::client::seed {
namespace {

constexpr std::size_t in_memory = 1 << 20;   // larger files are copied to a temporary one before they are sent
constexpr std::int64_t git_time = 315532800;  // 1980: one time for all of .git, for the same bytes each time

struct Member {
    enum class Kind { tracked, sparse, submodule, made, made_directory };
    std::string path;
    Kind kind = Kind::tracked;
    std::string text, file;  // of what is made: its content, or the file that holds it
};

// Canonical order: '/' before every other byte, and none of the others is 0.
bool before(const Member& a, const Member& b) {
    const auto rank = [](char c) { return c == '/' ? 0u : static_cast<unsigned char>(c); };
    return std::lexicographical_compare(a.path.begin(), a.path.end(), b.path.begin(), b.path.end(),
                                        [&](char x, char y) { return rank(x) < rank(y); });
}

bool beneath(std::string_view path, std::string_view directory) {
    return path.size() > directory.size() && path.starts_with(directory) && path[directory.size()] == '/';
}

// "Git", "GIT" and the like are refused by git itself, on every file system.
bool is_git(std::string_view name) {
    return name.size() == 4 && name[0] == '.' && (name[1] | 0x20) == 'g' && (name[2] | 0x20) == 'i' && (name[3] | 0x20) == 't';
}

void check_tracked(std::string_view path) {
    const auto refuse = [&] {
        throw Error(ErrorCode::invalid_argument, "the index tracks " + printable(path) + ", which no checkout can have", "it is damaged or hostile: clone the repository");
    };
    try {
        if (path.empty() || relative_path(path) != path)
            refuse();
    } catch (const Error&) {
        refuse();
    }
    for (std::size_t at = 0; at <= path.size();) {
        const std::size_t end = std::min(path.find('/', at), path.size());
        if (is_git(path.substr(at, end - at)))
            refuse();
        at = end + 1;
    }
}

class CheckoutPacking {
public:
    CheckoutPacking(const std::string& path, Packing& packing)
        : packing_(packing), git_(temporary_.path(), packing.options.stop), repository_(Repository::find(path, git_)) {
        packing.packed.root = repository_.top.empty() ? "/" : repository_.top;
        packing.packed.commit = repository_.commit;
        if (repository_.head_ref.starts_with("refs/heads/"))
            packing.packed.branch = repository_.head_ref.substr(11);
    }

    void run() {
        borrow(repository_, temporary_.path());
        list_tracked();
        make_git();
        std::sort(members_.begin(), members_.end(), before);
        for (const Member& member : members_) {
            if (!absent_.empty() && beneath(member.path, absent_)) {
                packing_.skip(member.path, absent_reason_);
                continue;
            }
            if (!directories_to(member))
                continue;
            if (member.kind == Member::Kind::made || member.kind == Member::Kind::made_directory)
                send_made(member);
            else
                send_working(member);
        }
    }

private:
    void bound_entries(std::size_t count) const {
        if (count > packing_.options.limits.entries)
            throw Error(ErrorCode::invalid_argument, printable(packing_.packed.root) + " has more than " +
                        std::to_string(packing_.options.limits.entries) + " tracked files", "name a smaller repository");
    }

    // "H 100644 0123... 0\tpath"
    void list_tracked() {
        git_.records({"ls-files", "-z", "-t", "--stage"}, -1, '\0', [&](std::string_view record) {
            const std::size_t tab = record.find('\t');
            if (tab == record.npos || tab < 8)
                throw Error(ErrorCode::internal, "git ls-files says " + printable(record), "see whether `git fsck` finds the repository whole");
            const std::string_view path = record.substr(tab + 1);
            check_tracked(path);
            if (!members_.empty() && members_.back().path == path)
                return;  // another side of a conflict
            const bool submodule = record.substr(2, 6) == "160000", sparse = record.front() == 'S';
            members_.push_back({std::string(path), submodule ? Member::Kind::submodule : sparse ? Member::Kind::sparse : Member::Kind::tracked, {}, {}});
            bound_entries(members_.size());
            if (sparse)
                sparse_ += std::string(path) + '\0';
        });
    }

    UniqueFd input(std::string_view text) const {
        UniqueFd fd = unlinked_temporary();
        write_all(fd.get(), text);
        ::lseek(fd.get(), 0, SEEK_SET);
        return fd;
    }

    void make(std::string path, std::string text, std::string file = {}) {
        members_.push_back({".git/" + std::move(path), Member::Kind::made, std::move(text), std::move(file)});
    }
    void make_directory(std::string path) { members_.push_back({".git/" + std::move(path), Member::Kind::made_directory, {}, {}}); }

    void make_git() {
        const std::string& commit = repository_.commit;
        make("HEAD", (repository_.head_ref.empty() ? commit : "ref: " + repository_.head_ref) + "\n");
        make("config", std::string("[core]\n\trepositoryformatversion = ") + (repository_.sha256 ? "1" : "0") +
                           "\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n" +
                           (repository_.sha256 ? "[extensions]\n\tobjectformat = sha256\n" : ""));
        for (const char* directory : {"objects/info", "objects/pack", "refs/heads", "refs/tags"})
            make_directory(directory);
        if (commit.empty())
            return;
        if (!repository_.head_ref.empty())
            make("packed-refs", "# pack-refs with: peeled fully-peeled sorted \n" + commit + " " + repository_.head_ref + "\n");

        const std::string text = commit_text();
        const std::string tree = text.substr(5, commit.size());
        if (text.find("\nparent ") < text.find("\n\n"))
            make("shallow", commit + "\n");
        std::vector<std::string> objects{commit, tree};
        std::uint64_t listed = 0;
        git_.records({"ls-tree", "-r", "-t", "-z", "--full-tree", tree}, -1, '\0', [&](std::string_view record) {
            bound_entries(++listed);  // before git makes an index of it: a few small objects can say billions
            const std::size_t tab = record.find('\t');
            if (tab == record.npos || tab < 12 + commit.size())
                throw Error(ErrorCode::internal, "git ls-tree says " + printable(record), "see whether `git fsck` finds the repository whole");
            check_tracked(record.substr(tab + 1));
            if (!record.starts_with("160000"))
                objects.emplace_back(record.substr(tab - commit.size(), commit.size()));
        });
        std::sort(objects.begin(), objects.end());
        objects.erase(std::unique(objects.begin(), objects.end()), objects.end());
        std::string names;
        for (const std::string& object : objects)
            names += object + "\n";
        const UniqueFd wanted = input(names);
        check_objects(wanted.get());
        ::lseek(wanted.get(), 0, SEEK_SET);
        // Packed anew, without the deltas there are: how the host's repository happens to be packed would show in the stream.
        const std::string pack = git_.run({"pack-objects", "-q", "--no-reuse-object", "--window=0", "--threads=1", "--compression=1",
                                           temporary_.path() + "/pack"}, wanted.get());
        const std::string name = "pack-" + pack.substr(0, pack.find('\n'));
        for (const char* suffix : {".pack", ".idx"})
            make("objects/pack/" + name + suffix, {}, temporary_.path() + "/" + name + suffix);
        make_index(tree);
    }

    std::string commit_text() {
        const std::string& commit = repository_.commit;
        const std::string answer = git_.run({"cat-file", "--batch"}, input(commit + "\n").get());
        const std::size_t line = std::min(answer.find('\n'), answer.size() - 1);
        if (answer.ends_with(" missing\n"))
            missing(commit);
        if (!answer.starts_with(commit + " commit ") || !answer.substr(line + 1).starts_with("tree "))
            throw Error(ErrorCode::failed_precondition, "HEAD of " + printable(packing_.packed.root) + " is no commit: " + printable(answer.substr(0, line)),
                        "check out a branch");
        return answer.substr(line + 1);
    }

    [[noreturn]] void missing(std::string_view object) const {
        throw Error(ErrorCode::failed_precondition, printable(packing_.packed.root) + " lacks the object " + printable(object) + " of HEAD",
                    "a repository that borrows or defers objects (alternates, partial clones) must have those of HEAD itself: clone it, "
                    "or run `git repack -a -d` in it");
    }

    void check_objects(int names) {
        std::uint64_t bytes = 0;
        git_.records({"cat-file", "--batch-check", "--buffer"}, names, '\n', [&](std::string_view record) {
            const std::size_t space = record.rfind(' ');
            if (record.ends_with(" missing"))
                missing(record.substr(0, space));
            const std::uint64_t size = std::strtoull(std::string(record.substr(space + 1)).c_str(), nullptr, 10);
            const std::uint64_t limit = packing_.options.limits.bytes;
            if (size > limit || bytes > limit - size)
                throw Error(ErrorCode::invalid_argument, "HEAD of " + printable(packing_.packed.root) + " has more than " + std::to_string(limit) +
                            " bytes of files", "name a smaller repository");
            bytes += size;
        });
    }

    // The index of HEAD: what the user has staged is in the working tree as well.
    void make_index(const std::string& tree) {
        const std::string index = temporary_.path() + "/index";
        ::unlink(index.c_str());
        git_.run({"read-tree", tree});
        if (!sparse_.empty()) {
            // What is sparse and staged, but not in HEAD, is in neither: it cannot be marked.
            std::string known;
            git_.records({"ls-files", "-z"}, -1, '\0', [&](std::string_view path) {
                if (std::binary_search(sparse_sorted().begin(), sparse_sorted().end(), path))
                    known += std::string(path) + '\0';
            });
            if (!known.empty())
                git_.run({"update-index", "-z", "--skip-worktree", "--stdin"}, input(known).get());
        }
        make("index", {}, index);
    }

    const std::vector<std::string_view>& sparse_sorted() {
        if (sparse_paths_.empty()) {
            for (std::string_view rest = sparse_; !rest.empty(); rest.remove_prefix(rest.find('\0') + 1))
                sparse_paths_.push_back(rest.substr(0, rest.find('\0')));
            std::sort(sparse_paths_.begin(), sparse_paths_.end());
        }
        return sparse_paths_;
    }

    // The directories above a member, where they are not there yet. False where one is missing: the member is then told as skipped.
    bool directories_to(const Member& member) {
        const bool made = member.path.starts_with(".git/");
        for (std::size_t slash = member.path.find('/'); slash != std::string::npos; slash = member.path.find('/', slash + 1)) {
            const std::string directory = member.path.substr(0, slash);
            if (directory == last_directory_ || beneath(last_directory_, directory))
                continue;
            if (made) {
                begin_made(directory, EntryType::directory, 0755, 0);
            } else {
                const UniqueFd fd = try_open_beneath(repository_.top_fd.get(), directory, O_PATH | O_NOFOLLOW);
                struct stat info {};
                if (!fd || ::fstat(fd.get(), &info) != 0 || !S_ISDIR(info.st_mode)) {
                    const int error = fd ? ENOTDIR : errno;
                    absent_ = directory;
                    absent_reason_ = error == ENOENT ? "deleted, with its directory" : error == ENOTDIR || error == ELOOP
                        ? "in the place of its directory is something else" : std::string("cannot be read: ") + std::strerror(error);
                    packing_.skip(member.path, absent_reason_);
                    return false;
                }
                packing_.begin(entry_of(directory, info));
            }
            last_directory_ = directory;
        }
        return true;
    }

    void begin_made(const std::string& path, EntryType type, unsigned mode, std::uint64_t size) {
        Entry entry;
        entry.path = path;
        entry.type = type;
        entry.mode = mode;
        entry.mtime = git_time;
        entry.size = size;
        packing_.begin(entry);
    }

    void send_made(const Member& member) {
        if (member.kind == Member::Kind::made_directory) {
            begin_made(member.path, EntryType::directory, 0755, 0);
            last_directory_ = member.path;
            return;
        }
        if (member.file.empty()) {
            begin_made(member.path, EntryType::file, 0644, member.text.size());
            packing_.writer.data(member.text);
            return;
        }
        const UniqueFd fd = open_file(member.file, O_RDONLY);
        struct stat info {};
        if (::fstat(fd.get(), &info) != 0)
            throw Error::from_errno("look at " + member.file);
        const auto size = static_cast<std::uint64_t>(info.st_size);
        begin_made(member.path, EntryType::file, 0644, size);
        if (!send_range(fd.get(), 0, size, packing_.writer))
            throw Error(ErrorCode::internal, member.file + " is cut short", "try again");
    }

    // Everything about a file is known before its header is sent, so that it can still be skipped.
    void send_working(const Member& member) {
        const int top = repository_.top_fd.get();
        const auto skip = [&](std::string reason) { packing_.skip(member.path, std::move(reason)); };
        const auto unreadable = [&](int error) {
            skip(error == ENOENT ? (member.kind == Member::Kind::sparse ? "not checked out (sparse checkout)" : "deleted")
                                 : std::string("cannot be read: ") + std::strerror(error));
        };
        const UniqueFd link = try_open_beneath(top, member.path, O_PATH | O_NOFOLLOW);
        struct stat info {};
        if (member.kind == Member::Kind::submodule) {
            skip("a submodule");
            if (link && ::fstat(link.get(), &info) == 0 && S_ISDIR(info.st_mode)) {
                packing_.begin(entry_of(member.path, info));  // empty, as git leaves it where a submodule is not checked out
                last_directory_ = member.path;
            }
            return;
        }
        if (!link || ::fstat(link.get(), &info) != 0)
            return unreadable(errno);
        if (S_ISDIR(info.st_mode))
            return skip("a directory now");
        if (const char* special = special_kind(info))
            return skip(special);
        if (S_ISLNK(info.st_mode)) {
            Entry entry = entry_of(member.path, info);
            std::optional<std::string> target = read_link(link.get(), "");
            if (!target)
                return unreadable(errno);
            entry.target = std::move(*target);
            return packing_.begin(entry);
        }
        const UniqueFd fd = try_open_beneath(top, member.path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
        struct stat opened {}, after {};
        if (!fd || ::fstat(fd.get(), &opened) != 0)
            return unreadable(errno);
        const auto size = static_cast<std::uint64_t>(opened.st_size);
        UniqueFd copy;
        if (size > in_memory)
            copy = unlinked_temporary();
        std::uint64_t have = 0;
        buffer_.resize(in_memory);
        while (have < size) {
            const std::size_t at = copy ? 0 : have;
            const ssize_t n = ::pread(fd.get(), buffer_.data() + at, std::min<std::uint64_t>(buffer_.size() - at, size - have), static_cast<off_t>(have));
            if (n < 0 && errno == EINTR)
                continue;
            if (n < 0)
                return unreadable(errno);
            if (n == 0)
                break;
            if (copy)
                write_all(copy.get(), {buffer_.data(), static_cast<std::size_t>(n)});
            have += static_cast<std::uint64_t>(n);
        }
        if (have != size || !same_file(info, opened) || ::fstat(fd.get(), &after) != 0 || !unchanged(opened, after))
            return skip("changed while it was read");
        packing_.begin(entry_of(member.path, opened));
        if (!copy)
            packing_.writer.data({buffer_.data(), size});
        else if (!send_range(copy.get(), 0, size, packing_.writer))
            throw Error(ErrorCode::internal, "the temporary copy of " + printable(member.path) + " is cut short", "try again");
    }

    Packing& packing_;
    TemporaryDirectory temporary_;
    Git git_;
    Repository repository_;
    std::vector<Member> members_;
    std::string sparse_;  // paths, each ended by a 0
    std::vector<std::string_view> sparse_paths_;
    std::string last_directory_, absent_, absent_reason_;
    std::string buffer_;
};

}  // namespace

void pack_checkout(const std::string& path, Packing& packing) { CheckoutPacking(path, packing).run(); }

}  // namespace pyro::client::seed
