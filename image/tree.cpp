#include "image/tree.hpp"

#include <deque>

namespace pyro::image {
namespace {

constexpr std::size_t max_path = 4096, max_name = 255, max_depth = 512, max_target = 4095, max_links_followed = 40;
constexpr std::uint64_t max_link_steps = 100'000'000;  // a minute's work: a target may have two thousand, and each entry forty targets
constexpr std::uint32_t max_hard_links = 60000;  // ext4 takes 65000
constexpr std::string_view whiteout_prefix = ".wh.", whiteout_meta = ".wh..wh.", whiteout_opaque = ".wh..wh..opq";

[[noreturn]] void refuse_entry(std::string_view path, const std::string& why) {
    throw Error(ErrorCode::environment_invalid, "entry " + printable(path) + " " + why,
                "the image is damaged or hostile: use another one, or tell whoever publishes it");
}

std::vector<std::string> split_path(std::string_view entry, std::string_view path, TreeRules rules) {
    if (path.empty())
        refuse_entry(entry, "has an empty name");
    if (path.front() == '/' && rules == TreeRules::plain)
        refuse_entry(entry, "is an absolute path");
    if (path.size() > max_path)
        refuse_entry(entry, "has a path longer than " + std::to_string(max_path) + " bytes");
    std::vector<std::string> parts;
    for (std::size_t at = 0; at <= path.size();) {
        const std::size_t end = std::min(path.find('/', at), path.size());
        const std::string_view part = path.substr(at, end - at);
        at = end + 1;
        if (part.empty() || part == ".")
            continue;
        if (part == "..")
            refuse_entry(entry, "leaves the tree by \"..\"");
        if (part.size() > max_name)
            refuse_entry(entry, "has a name longer than " + std::to_string(max_name) + " bytes");
        if (part.find('\0') != std::string_view::npos)
            refuse_entry(entry, "has a zero byte in its name");
        parts.emplace_back(part);
    }
    if (parts.size() > max_depth)
        refuse_entry(entry, "lies more than " + std::to_string(max_depth) + " directories deep");
    return parts;
}

}  // namespace

std::string printable(std::string_view text) {
    static constexpr char hex[] = "0123456789abcdef";
    std::string out = "\"";
    for (const char c : text.substr(0, 160)) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte < 0x20 || byte >= 0x7f || c == '"' || c == '\\')
            out += std::string("\\x") + hex[byte >> 4] + hex[byte & 15];
        else
            out += c;
    }
    return out + (text.size() > 160 ? "...\"" : "\"");
}

Tree::Tree(TreeLimits limits, std::function<void(ContentId)> discard, TreeRules rules)
    : limits_(limits), discard_(std::move(discard)), rules_(rules) {
    inodes_.emplace_back().links = 1;
}

void Tree::begin_layer() {
    ++layer_;
    linked_.clear();
    hidden_.clear();
}

void Tree::end_layer() {
    std::vector<std::string> markers;
    for (const auto& [name, child] : inodes_[0].children)
        if (rules_ == TreeRules::layers && name.starts_with(whiteout_meta))
            markers.push_back(name);
    for (const std::string& name : markers)
        unlink(0, name);
}

InodeId Tree::add(Inode inode) {
    inodes_.push_back(std::move(inode));
    return static_cast<InodeId>(inodes_.size() - 1);
}

// Walks from the root, following links within the tree. With `create`, what is missing is made as tar does.
InodeId Tree::resolve_directory(const std::string& entry, const std::vector<std::string>& parts, bool create, bool& missing) {
    std::deque<std::string> todo(parts.begin(), parts.end());
    std::vector<InodeId> path{0};
    std::size_t followed = 0, from_link = 0;  // the first `from_link` parts to do come from a link's target
    while (!todo.empty()) {
        if (path.size() > max_depth)
            refuse_entry(entry, "lies more than " + std::to_string(max_depth) + " directories deep");
        const std::string part = std::move(todo.front());
        todo.pop_front();
        const bool of_link = from_link > 0;
        from_link -= of_link;
        link_steps_ += of_link;
        if (link_steps_ > max_link_steps)
            refuse_entry(entry, "lies behind symlinks that lead through too many directories in all");
        if (part == "..") {  // only from a link's target; at the root it stays there
            if (path.size() > 1)
                path.pop_back();
            continue;
        }
        const InodeId here = path.back();
        const auto child = inodes_[here].children.find(part);
        if (child == inodes_[here].children.end()) {
            if (!create) {
                missing = true;
                return 0;
            }
            if (of_link)
                refuse_entry(entry, "lies below a symlink that leads nowhere");
            if (++entries_ > limits_.max_entries)
                refuse_entry(entry, "is one too many: the limit is " + std::to_string(limits_.max_entries));
            Inode directory;
            directory.links = 1;
            directory.layer = layer_;
            const InodeId made = add(std::move(directory));
            inodes_[here].children.emplace(part, made);
            path.push_back(made);
            continue;
        }
        const Inode& inode = inodes_[child->second];
        if (inode.type == FileType::directory) {
            path.push_back(child->second);
        } else if (inode.type == FileType::symlink) {
            if (rules_ == TreeRules::plain)
                refuse_entry(entry, "lies below the symlink " + printable(part));
            if (++followed > max_links_followed)
                refuse_entry(entry, "lies below a loop of symlinks");
            if (inode.target.front() == '/')
                path.assign(1, 0);
            std::vector<std::string> steps;
            const std::string& target = inode.target;
            for (std::size_t at = 0; at <= target.size();) {
                const std::size_t end = std::min(target.find('/', at), target.size());
                if (end > at && target.compare(at, end - at, ".") != 0)
                    steps.push_back(target.substr(at, end - at));
                at = end + 1;
            }
            todo.insert(todo.begin(), steps.begin(), steps.end());
            from_link += steps.size();
        } else {
            refuse_entry(entry, "lies below " + printable(part) + ", which is not a directory");
        }
    }
    return path.back();
}

Tree::Place Tree::place(const Entry& entry) {
    if (++entries_ > limits_.max_entries)
        refuse_entry(entry.path, "is one too many: the limit is " + std::to_string(limits_.max_entries));
    const Inode& given = entry.attributes;
    std::vector<std::string> parts = split_path(entry.path, entry.path, rules_);
    std::size_t xattr_bytes = 0;
    for (const auto& [name, value] : given.xattrs)
        xattr_bytes += name.size() + value.size() + 24;
    if (xattr_bytes > 3500)
        refuse_entry(entry.path, "has more extended attributes than fit a block");
    Place place;
    bool missing = false;
    if (parts.empty()) {
        if (given.type != FileType::directory || entry.is_hard_link)
            refuse_entry(entry.path, "is the root but not a directory");
        place.skip = true;
        Inode& root = inodes_[0];
        root.mode = given.mode, root.uid = given.uid, root.gid = given.gid;
        root.mtime = given.mtime, root.mtime_nsec = given.mtime_nsec, root.xattrs = given.xattrs;
        return place;
    }
    place.name = std::move(parts.back());
    parts.pop_back();

    if (rules_ == TreeRules::layers)
        for (std::size_t i = 0; i < parts.size(); ++i)
            if (parts[i].starts_with(whiteout_prefix) && !(i == 0 && parts[i].starts_with(whiteout_meta)))
                refuse_entry(entry.path, "lies below a whiteout");
    if (rules_ == TreeRules::layers && place.name.starts_with(whiteout_prefix)) {
        place.skip = true;
        const std::string hidden = place.name.substr(whiteout_prefix.size());
        const bool opaque = place.name == whiteout_opaque;
        if (!opaque && place.name.starts_with(whiteout_meta))
            return place;  // aufs's own bookkeeping: means nothing here
        if (hidden.empty() || hidden == "." || hidden == "..")
            refuse_entry(entry.path, "is a whiteout of nothing");
        place.parent = resolve_directory(entry.path, parts, false, missing);
        if (missing)
            return place;
        if (opaque) {
            hide_children(place.parent);
        } else if (const auto child = inodes_[place.parent].children.find(hidden); child != inodes_[place.parent].children.end()) {
            if (hide_lower(place.parent, hidden, child->second))
                unlink(place.parent, hidden);
        }
        return place;
    }

    if (entry.is_hard_link) {
        split_path(entry.path, entry.link_target, rules_);  // refuses what leaves the tree; insert() looks it up
    } else if (given.type == FileType::symlink) {
        if (given.target.empty() || given.target.size() > max_target || given.target.find('\0') != std::string::npos)
            refuse_entry(entry.path, "is a symlink with an empty or too long target");
    }
    place.parent = resolve_directory(entry.path, parts, true, missing);
    const auto child = inodes_[place.parent].children.find(place.name);
    if (rules_ == TreeRules::layers && child != inodes_[place.parent].children.end()) {
        const Inode& there = inodes_[child->second];
        const bool both_directories = there.type == FileType::directory && given.type == FileType::directory && !entry.is_hard_link;
        if (!both_directories && (there.layer == layer_ || linked_.contains({place.parent, place.name})))
            refuse_entry(entry.path, "is the second of its layer in that place");
    }
    return place;
}

void Tree::insert(const Place& place, Entry entry) {
    PYRO_CHECK(!place.skip);
    const auto existing = inodes_[place.parent].children.find(place.name);
    const bool exists = existing != inodes_[place.parent].children.end();

    if (entry.is_hard_link) {
        std::vector<std::string> parts = split_path(entry.path, entry.link_target, rules_);
        const std::string shown = printable(entry.link_target);
        if (parts.empty())
            refuse_entry(entry.path, "is a hard link to the root");
        const std::string name = std::move(parts.back());
        parts.pop_back();
        bool missing = false;
        const InodeId directory = resolve_directory(entry.path, parts, false, missing);
        const auto found = missing ? inodes_[0].children.end() : inodes_[directory].children.find(name);
        if (missing || found == inodes_[directory].children.end())
            refuse_entry(entry.path, "is a hard link to " + shown + ", which is not there");
        const InodeId target = found->second;
        if (inodes_[target].type == FileType::directory)
            refuse_entry(entry.path, "is a hard link to " + shown + ", which is a directory");
        if (inodes_[target].links >= max_hard_links)
            refuse_entry(entry.path, "is one hard link too many to " + shown);
        if (inodes_[target].layer != layer_)
            linked_.emplace(place.parent, place.name);
        if (exists && existing->second == target)
            return;
        ++inodes_[target].links;
        if (exists)
            unlink(place.parent, place.name);
        inodes_[place.parent].children.emplace(place.name, target);
        return;
    }

    entry.attributes.layer = layer_;
    if (exists && inodes_[existing->second].type == FileType::directory && entry.attributes.type == FileType::directory) {
        Inode& directory = inodes_[existing->second];
        entry.attributes.children = std::move(directory.children);
        entry.attributes.links = 1;
        directory = std::move(entry.attributes);
        return;
    }
    if (exists)
        unlink(place.parent, place.name);
    entry.attributes.links = 1;
    const InodeId id = add(std::move(entry.attributes));
    inodes_[place.parent].children.emplace(place.name, id);
}

void Tree::unlink(InodeId parent, const std::string& name) {
    const auto child = inodes_[parent].children.find(name);
    const InodeId id = child->second;
    inodes_[parent].children.erase(child);
    drop(id);
}

// Iterative: a tree may be as deep as its limits allow.
void Tree::drop(InodeId id) {
    std::vector<InodeId> todo{id};
    while (!todo.empty()) {
        Inode& inode = inodes_[todo.back()];
        todo.pop_back();
        if (--inode.links > 0)
            continue;
        for (const auto& [name, child] : inode.children)
            todo.push_back(child);
        if (inode.content != no_content)
            discard_(inode.content);
        inode = Inode();
    }
}

// A whiteout hides what lower layers put there, never what its own layer did. True if nothing of this layer remains.
bool Tree::hide_lower(InodeId parent, const std::string& name, InodeId id) {
    if (inodes_[id].type == FileType::directory) {
        hide_children(id);
        return inodes_[id].children.empty() && inodes_[id].layer != layer_;
    }
    return inodes_[id].layer != layer_ && !linked_.contains({parent, name});
}

void Tree::hide_children(InodeId directory) {
    if (!hidden_.insert(directory).second)
        return;
    std::vector<std::string> hidden;
    for (const auto& [name, child] : inodes_[directory].children)  // hiding below changes the maps below, not this one
        if (hide_lower(directory, name, child))
            hidden.push_back(name);
    for (const std::string& name : hidden)
        unlink(directory, name);
}

void Tree::ensure_directory(std::string_view name, std::uint16_t mode) {
    Inode& root = inodes_[0];
    const auto child = root.children.find(name);
    if (child != root.children.end()) {
        if (inodes_[child->second].type == FileType::directory)
            return;
        if (inodes_[child->second].type == FileType::symlink && name != "lost+found")
            return;  // /run -> var/run: as the image wants it
        unlink(0, std::string(name));
    }
    Inode directory;
    directory.mode = mode;
    directory.links = 1;
    directory.mtime = inodes_[0].mtime;
    const InodeId id = add(std::move(directory));
    inodes_[0].children.emplace(std::string(name), id);
}

void Tree::make_directories(std::string_view path) {
    bool missing = false;
    try {
        resolve_directory(std::string(path), split_path(path, path, rules_), true, missing);
    } catch (const Error&) {  // a command that is to start there says so
    }
}

const Inode* Tree::find(std::string_view path) const {
    InodeId here = 0;
    for (const std::string& part : split_path(path, path, rules_)) {
        const auto child = inodes_[here].children.find(part);
        if (child == inodes_[here].children.end())
            return nullptr;
        here = child->second;
    }
    return &inodes_[here];
}

}  // namespace pyro::image
