// What must hold of a merged tree, whatever was merged.
#pragma once
#include <cstdint>
#include <map>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "image/content_store.hpp"
#include "image/tree.hpp"

namespace pyro::fuzz {

// Keeps no content, only what is alive; anything out of order is a bug of the caller.
class CountingStore : public image::ContentStore {
public:
    void begin() override {
        PYRO_CHECK(!open_);
        open_ = true;
        position_ = 0;
    }
    void write(std::uint64_t offset, std::string_view bytes) override {
        PYRO_CHECK(open_);
        if (offset < position_)
            throw Error(ErrorCode::environment_invalid, "a sparse file's pieces overlap", "the image is damaged or hostile");
        position_ = offset + bytes.size();
    }
    image::ContentId end() override {
        PYRO_CHECK(open_);
        open_ = false;
        alive_.insert(next_);
        return next_++;
    }
    void discard(image::ContentId content) override { PYRO_CHECK(alive_.erase(content) == 1); }
    bool alive(image::ContentId content) const { return alive_.contains(content); }
    std::size_t living() const { return alive_.size(); }

private:
    bool open_ = false;
    std::uint64_t position_ = 0;
    image::ContentId next_ = 0;
    std::set<image::ContentId> alive_;
};

inline void check_tree(const image::Tree& tree, const CountingStore& store) {
    std::map<image::InodeId, std::uint32_t> names{{0, 1}};
    std::set<image::ContentId> reached;
    std::vector<std::pair<image::InodeId, std::size_t>> todo{{0, 0}};
    while (!todo.empty()) {
        const auto [id, depth] = todo.back();
        todo.pop_back();
        PYRO_CHECK(depth <= 513);
        for (const auto& [name, child] : tree.at(id).children) {
            PYRO_CHECK(!name.empty() && name.size() <= 255 && name != "." && name != "..");
            PYRO_CHECK(name.find('/') == std::string::npos && name.find('\0') == std::string::npos);
            const image::Inode& node = tree.at(child);
            const bool first = ++names[child] == 1;
            if (node.type == image::FileType::directory) {
                PYRO_CHECK(first);
                todo.emplace_back(child, depth + 1);
            }
            PYRO_CHECK(node.type == image::FileType::directory || node.children.empty());
            if (node.content != image::no_content) {
                PYRO_CHECK(node.type == image::FileType::regular && store.alive(node.content));
                reached.insert(node.content);
            }
        }
    }
    for (const auto& [id, count] : names)
        PYRO_CHECK(tree.at(id).links == count);
    PYRO_CHECK(reached.size() == store.living());  // nothing is kept that nobody can reach
}

}  // namespace pyro::fuzz
