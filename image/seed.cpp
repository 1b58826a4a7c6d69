#include "image/seed.hpp"

#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "image/ext4_image.hpp"
#include "image/layer.hpp"

namespace pyro::image {
namespace {

constexpr const char* anew = "make it anew, and try again";

// What travels: names, content, permissions and times. The workspace's user owns all of it.
void keep_what_travels(Entry& entry) {
    Inode& inode = entry.attributes;
    if (inode.type == FileType::character_device || inode.type == FileType::block_device)
        throw Error(ErrorCode::environment_invalid, "entry " + printable(entry.path) + " is a device");
    if (inode.type == FileType::fifo)
        throw Error(ErrorCode::environment_invalid, "entry " + printable(entry.path) + " is a fifo");
    inode.mode &= inode.type == FileType::directory ? 01777 : 0777;
    inode.uid = inode.gid = 0;
    inode.xattrs.clear();
}

struct SeedCounts {
    std::uint64_t files = 0, directories = 0, symlinks = 0, bytes = 0;
};

SeedCounts count(const Tree& tree) {
    SeedCounts counts;
    std::vector<InodeId> directories{0};
    while (!directories.empty()) {
        const InodeId here = directories.back();
        directories.pop_back();
        for (const auto& [name, id] : tree.at(here).children) {
            const Inode& inode = tree.at(id);
            if (inode.type == FileType::directory) {
                ++counts.directories;
                directories.push_back(id);
            } else if (inode.type == FileType::symlink) {
                ++counts.symlinks;
            } else {
                ++counts.files;
                counts.bytes += inode.size;
            }
        }
    }
    return counts;
}

nlohmann::json make_seed(const nlohmann::json& request, Events& events) {
    const nlohmann::json given = request.value("limits", nlohmann::json::object());
    TreeLimits limits;
    limits.max_entries = given.value("entries", limits.max_entries);
    limits.max_total_bytes = given.value("total_bytes", limits.max_total_bytes);
    const int image = request.at("image_fd").get<int>();
    Ext4Options options;
    options.size_bytes = 0;
    Ext4Image store(image, options);
    Tree tree(limits, [&store](ContentId content) { store.discard(content); }, TreeRules::plain);
    const LayerResult read = apply_layer(request.at("stream_fd").get<int>(), tree, store, 0,
                                         [&](std::uint64_t done) { events.progress("seed", "", done, 0); }, keep_what_travels);
    if (!read.closed)
        throw Error(ErrorCode::environment_invalid, "it ends too early");
    store.finish(tree);
    struct stat info {};
    if (::fstat(image, &info) != 0)
        throw Error::from_errno("look at the seed's image");
    const SeedCounts counts = count(tree);
    return {{"digest", read.diff_id.str()}, {"stream_bytes", read.unpacked}, {"files", counts.files}, {"directories", counts.directories},
            {"symlinks", counts.symlinks}, {"bytes", counts.bytes}, {"size", store.size_bytes()}, {"allocated", info.st_blocks * 512}};
}

}  // namespace

nlohmann::json seed_image(const nlohmann::json& request, Events& events) {
    try {
        return make_seed(request, events);
    } catch (const ImageTooSmall&) {
        throw Error(ErrorCode::invalid_argument, "the seed is refused: it needs more than 64 GiB", "leave out what can be had in the VM");
    } catch (const Error& error) {
        if (error.code() != ErrorCode::environment_invalid)
            throw;
        throw Error(ErrorCode::invalid_argument, "the seed is refused: " + error.message(), anew);
    }
}

}  // namespace pyro::image
