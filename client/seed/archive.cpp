// A tar archive: hostile until proven otherwise. It is read whole before anything is sent, into a tree of names in memory and an
// unlinked file of contents, because its order is not ours, its last word on a name counts, and where its links lead is only
// known when all of it is.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <map>

#include "client/seed/packing.hpp"

namespace pyro::client::seed {
namespace {

// Nodes lie in one deque: freeing a chain of them, however long, takes no stack.
struct Node {
    Node* parent = nullptr;
    std::string name;
    Entry entry;  // without path
    std::uint64_t offset = 0;  // of the content in the spool
    std::map<std::string_view, Node*> children;
};

constexpr std::uint64_t link_steps = 100'000'000;  // components looked at to find where all links of an archive lead

class ArchiveTree {
public:
    explicit ArchiveTree(Packing& packing) : packing_(packing), spool_(unlinked_temporary()) {
        nodes_.emplace_back();
        nodes_.front().entry.type = EntryType::directory;
    }

    void read(TarReader& tar) {
        TarReader::Item item;
        while (tar.next(item)) {
            const std::string shown = printable(item.entry.path);
            const std::string path = relative_path(item.entry.path);
            if (!item.other.empty())
                refuse(shown + " is " + item.other);
            if (path.empty()) {  // the root itself: whoever receives the tree has one
                if (item.hard_link || item.entry.type != EntryType::directory)
                    refuse(shown + " stands in the place of the tree itself");
                continue;
            }
            Node source;
            if (item.hard_link) {
                const Node* target = find(item.entry.target, shown);
                source.entry = target->entry;
                source.offset = target->offset;
                if (source.entry.type == EntryType::file)
                    count(source.entry.size, shown);
            } else {
                source.entry = std::move(item.entry);
                if (source.entry.type == EntryType::symlink)
                    check_target(source.entry.target, shown);
                if (source.entry.type == EntryType::file) {
                    source.offset = spooled_;
                    count(source.entry.size, shown);
                    spool(tar, source.entry.size);
                }
            }
            Node& node = make(path, shown);
            if (!node.children.empty() && source.entry.type != EntryType::directory)
                refuse(shown + " stands in the place of a directory with entries");
            node.entry = std::move(source.entry);
            node.entry.path.clear();
            node.offset = source.offset;
        }
        tar.finish();
    }

    // Only of the finished tree: a later entry can turn an earlier one's path into a link.
    void check_links() {
        for (const Node& node : nodes_)
            if (node.entry.type == EntryType::symlink && leaves(node))
                refuse(printable(path_of(&node)) + " is a link out of the tree: " + printable(node.entry.target));
    }

    void write() {
        struct Level {
            std::map<std::string_view, Node*>::const_iterator next, end;
            std::size_t path_size;
        };
        std::string path;
        std::vector<Level> levels{{nodes_.front().children.begin(), nodes_.front().children.end(), 0}};
        while (!levels.empty()) {
            Level& level = levels.back();
            path.resize(level.path_size);
            if (level.next == level.end) {
                levels.pop_back();
                continue;
            }
            Node& node = *(level.next++)->second;
            if (!path.empty())
                path += '/';
            path += node.name;
            node.entry.path = path;
            node.entry.mode = kept_mode(node.entry.type, node.entry.mode);
            packing_.begin(node.entry);
            node.entry.path = {};
            if (node.entry.type == EntryType::file && !send_range(spool_.get(), node.offset, node.entry.size, packing_.writer))
                throw Error(ErrorCode::internal, "the temporary copy of " + printable(path) + " is cut short", "try again");
            if (node.entry.type == EntryType::directory)
                levels.push_back({node.children.begin(), node.children.end(), path.size()});
        }
    }

private:
    [[noreturn]] void refuse(const std::string& why) const {
        throw Error(ErrorCode::invalid_argument, why, "make the archive anew, of files, directories and links inside the tree alone");
    }

    void count(std::uint64_t size, const std::string& shown) {
        const std::uint64_t limit = packing_.options.limits.bytes;
        if (size > limit || bytes_ > limit - size)
            throw Error(ErrorCode::invalid_argument, "with " + shown + " it unpacks to more than the limit of " + std::to_string(limit) + " bytes",
                        "use a smaller archive");
        bytes_ += size;
    }

    void spool(TarReader& tar, std::uint64_t size) {
        TarReader::Piece piece;
        while (tar.content(piece)) {
            while (!piece.bytes.empty()) {
                const ssize_t n = ::pwrite(spool_.get(), piece.bytes.data(), piece.bytes.size(), static_cast<off_t>(spooled_ + piece.offset));
                if (n < 0 && errno == EINTR)
                    continue;
                if (n <= 0)
                    throw Error::from_errno("unpack into " + temporary_parent()).with_hint("set TMPDIR to a directory with enough room");
                piece.offset += static_cast<std::uint64_t>(n);
                piece.bytes.remove_prefix(static_cast<std::size_t>(n));
            }
        }
        spooled_ += size;
        // Whole, also where it ends in a hole.
        if (::ftruncate(spool_.get(), static_cast<off_t>(spooled_)) != 0)
            throw Error::from_errno("unpack into " + temporary_parent()).with_hint("set TMPDIR to a directory with enough room");
    }

    // The node with this path, with the directories above it.
    Node& make(std::string_view path, const std::string& shown) {
        Node* at = &nodes_.front();
        while (true) {
            const std::size_t slash = path.find('/');
            const std::string_view name = path.substr(0, slash);
            auto found = at->children.find(name);
            if (found == at->children.end()) {
                if (nodes_.size() > packing_.options.limits.entries)
                    throw Error(ErrorCode::invalid_argument, "it has more than the limit of " +
                                std::to_string(packing_.options.limits.entries) + " entries", "use a smaller archive");
                Node& node = nodes_.emplace_back();
                node.parent = at;
                node.name = name;
                node.entry.type = EntryType::directory;
                node.entry.mode = 0755;
                found = at->children.emplace(node.name, &node).first;
            }
            at = found->second;
            if (slash == std::string_view::npos)
                return *at;
            if (at->entry.type != EntryType::directory)
                refuse(shown + " lies under " + printable(path_of(at)) + ", which is a " +
                       (at->entry.type == EntryType::symlink ? "link" : "file"));
            path.remove_prefix(slash + 1);
        }
    }

    const Node* find(const std::string& target, const std::string& shown) const {
        std::string path;
        try {
            path = relative_path(target);
        } catch (const Error&) {
            refuse(shown + " is a hard link out of the tree: " + printable(target));
        }
        const Node* at = &nodes_.front();
        for (std::size_t from = 0; from < path.size();) {
            const std::size_t end = std::min(path.find('/', from), path.size());
            const auto found = at->children.find(std::string_view(path).substr(from, end - from));
            if (found == at->children.end())
                refuse(shown + " is a hard link to " + printable(target) + ", which is not in the archive before it");
            at = found->second;
            from = end + 1;
        }
        if (at->entry.type == EntryType::directory)
            refuse(shown + " is a hard link to a directory: " + printable(target));
        return at;
    }

    void check_target(const std::string& target, const std::string& shown) const {
        if (target.empty() || target.size() > max_target)
            refuse(shown + " is a link with " + (target.empty() ? "no target" : "a target longer than 4095 bytes"));
    }

    // Walks the target as a kernel would, through the archive's own links. What is not there cannot be a link: behind it
    // names only count.
    bool leaves(const Node& link) {
        std::vector<std::string_view> todo;  // the next at the end
        const auto push = [&](std::string_view target) {
            while (!target.empty()) {
                const std::size_t slash = target.rfind('/');
                const std::string_view name = slash == std::string_view::npos ? target : target.substr(slash + 1);
                target = target.substr(0, slash == std::string_view::npos ? 0 : slash);
                if (!name.empty() && name != ".")
                    todo.push_back(name);
            }
        };
        if (link.entry.target.starts_with('/'))
            return true;
        push(link.entry.target);
        const Node* at = link.parent;
        std::uint64_t missing = 0;  // components below `at` that are not there
        for (int links = 1; !todo.empty();) {
            if (++steps_ > link_steps)
                refuse("its links are too tangled to follow");
            const std::string_view name = todo.back();
            todo.pop_back();
            if (name == "..") {
                if (missing > 0)
                    --missing;
                else if (!(at = at->parent))
                    return true;
                continue;
            }
            const auto found = missing > 0 ? at->children.end() : at->children.find(name);
            if (missing > 0 || found == at->children.end()) {
                ++missing;
                continue;
            }
            if (found->second->entry.type != EntryType::symlink) {
                at = found->second;
                continue;
            }
            if (++links > 40)  // the kernel's own limit: this link leads nowhere
                return false;
            if (found->second->entry.target.starts_with('/'))
                return true;
            push(found->second->entry.target);
        }
        return false;
    }

    static std::string path_of(const Node* node) {
        std::vector<const Node*> chain;
        for (; node->parent; node = node->parent)
            chain.push_back(node);
        std::string path;
        for (auto at = chain.rbegin(); at != chain.rend(); ++at)
            path += (path.empty() ? "" : "/") + (*at)->name;
        return path;
    }

    Packing& packing_;
    UniqueFd spool_;
    std::deque<Node> nodes_;  // the first is the root
    std::uint64_t spooled_ = 0, bytes_ = 0, steps_ = 0;
};

}  // namespace

void pack_archive(const std::string& path, Packing& packing) {
    const UniqueFd file = open_file(path, O_RDONLY | O_NOCTTY | O_NONBLOCK);
    struct stat before {}, after {};
    if (::fstat(file.get(), &before) != 0)
        throw Error::from_errno("look at " + printable(path));
    if (!S_ISREG(before.st_mode))
        throw Error(ErrorCode::invalid_argument, printable(path) + " is no file", "name a tar archive");
    std::string buffer(256 << 10, '\0');
    const Source source = [&]() -> std::string_view {
        ssize_t n;
        do
            n = ::read(file.get(), buffer.data(), buffer.size());
        while (n < 0 && errno == EINTR);
        if (n < 0)
            throw Error::from_errno("read");
        return {buffer.data(), static_cast<std::size_t>(n)};
    };
    try {
        TarReader tar(source, true, packing.options.limits, packing.options.stop);
        ArchiveTree tree(packing);
        tree.read(tar);
        if (::fstat(file.get(), &after) != 0 || !unchanged(before, after))
            throw Error(ErrorCode::failed_precondition, "it changed while it was read", "try again when nothing changes it");
        tree.check_links();
        tree.write();
    } catch (Error& error) {
        throw error.add_context(printable(path));
    }
}

}  // namespace pyro::client::seed
