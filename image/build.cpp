#include "image/build.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <vector>

#include "common/sparse_digest.hpp"
#include "image/directory_image.hpp"
#include "image/ext4_image.hpp"
#include "image/layer.hpp"

namespace pyro::image {
namespace {

constexpr std::size_t max_layers = 127;
constexpr std::uint32_t most_inodes = 1024;  // bytes for each
// What a guest expects to mount on or write to.
constexpr std::pair<const char*, std::uint16_t> mount_points[] = {
    {"workspace", 0755}, {"proc", 0555}, {"sys", 0555}, {"dev", 0755}, {"run", 0755}, {"tmp", 01777}};

struct LayerSource {
    int fd;
    Digest digest, diff_id;
    std::uint64_t size;
};

std::vector<LayerSource> layers_of(const nlohmann::json& request) {
    std::vector<LayerSource> layers;
    for (const nlohmann::json& layer : request.at("layers")) {
        LayerSource source;
        source.fd = layer.at("fd").get<int>();
        if (const std::string digest = layer.value("digest", ""); !digest.empty())
            source.digest = Digest::parse(digest);
        if (const std::string diff = layer.value("diff_id", ""); !diff.empty())
            source.diff_id = Digest::parse(diff);
        source.size = layer.value("size", std::uint64_t{0});
        layers.push_back(std::move(source));
    }
    if (layers.empty() || layers.size() > max_layers)
        throw Error(ErrorCode::invalid_argument, "an image has 1 to " + std::to_string(max_layers) + " layers");
    return layers;
}

TreeLimits limits_of(const nlohmann::json& request) {
    const nlohmann::json given = request.value("limits", nlohmann::json::object());
    TreeLimits limits;
    limits.max_entries = given.value("entries", limits.max_entries);
    limits.max_total_bytes = given.value("total_bytes", limits.max_total_bytes);
    limits.max_ratio = std::max<std::uint64_t>(1, given.value("ratio", limits.max_ratio));
    return limits;
}

nlohmann::json merge(const std::vector<LayerSource>& layers, const std::string& working_dir, Tree& tree, ContentStore& store, Events& events) {
    nlohmann::json report = nlohmann::json::array();
    std::uint64_t total = 0, before = 0, unpacked = 0;
    for (const LayerSource& layer : layers)
        total += layer.size;
    for (std::size_t i = 0; i < layers.size(); ++i) {
        const LayerSource& layer = layers[i];
        LayerResult result;
        try {
            result = apply_layer(layer.fd, tree, store, unpacked,
                                 [&](std::uint64_t done) { events.progress("build", "", before + done, total); });
            if (!layer.diff_id.empty() && result.diff_id != layer.diff_id)
                throw Error(ErrorCode::environment_invalid, "unpacks to " + result.diff_id.str() + " but the image says " + layer.diff_id.str(),
                            "the image is damaged: pull it again, or use another one");
        } catch (Error& error) {
            error.add_context("layer " + std::to_string(i + 1) + (layer.digest.empty() ? "" : " (" + layer.digest.str().substr(0, 19) + ")"));
            throw;
        }
        unpacked += result.unpacked;
        before += layer.size;
        report.push_back({{"digest", layer.digest.empty() ? "" : layer.digest.str()}, {"diff_id", result.diff_id.str()}, {"unpacked", result.unpacked}});
    }
    for (const auto& [name, mode] : mount_points)
        tree.ensure_directory(name, mode);
    if (!working_dir.empty())
        tree.make_directories(working_dir);
    return report;
}

void rewind_layers(const std::vector<LayerSource>& layers) {
    for (const LayerSource& layer : layers)
        if (::lseek(layer.fd, 0, SEEK_SET) < 0)
            throw Error(ErrorCode::failed_precondition, "the content needs a larger disk than was asked for", "ask for a larger disk");
}

}  // namespace

nlohmann::json build_image(const nlohmann::json& request, Events& events) {
    const std::vector<LayerSource> layers = layers_of(request);
    const TreeLimits limits = limits_of(request);
    const std::string working_dir = request.value("working_dir", "");
    const int image = request.at("image_fd").get<int>();
    Ext4Options options;
    options.size_bytes = request.value("disk_bytes", options.size_bytes);
    if (options.size_bytes < (64u << 20) || options.size_bytes > (16ull << 40))
        throw Error(ErrorCode::invalid_argument, "disk_bytes must be from 64 MiB to 16 TiB");
    while (true) {
        try {
            Ext4Image store(image, options);
            Tree tree(limits, [&store](ContentId content) { store.discard(content); });
            nlohmann::json layer_report = merge(layers, working_dir, tree, store, events);
            store.finish(tree);
            events.progress("verify", "", 0, options.size_bytes);
            const Digest digest = sparse_digest(image);
            struct stat info {};
            if (::fstat(image, &info) != 0)
                throw Error::from_errno("look at the root image");
            return {{"size", options.size_bytes}, {"digest", digest.str()}, {"allocated", info.st_blocks * 512},
                    {"entries", tree.entries()}, {"layers", std::move(layer_report)}};
        } catch (const ImageTooSmall& small) {
            // The content is bounded by the limits, so this ends.
            if (small.inodes && options.bytes_per_inode > most_inodes)
                options.bytes_per_inode = most_inodes;
            else
                options.size_bytes *= 2;
            // Twice the content and a block for each name; only files that are nearly all holes take more.
            if (options.size_bytes > 2 * (limits.max_total_bytes + 4096 * limits.max_entries) + (1ull << 30))
                throw Error(ErrorCode::environment_invalid, "the image takes more of a disk than its layers may have content",
                            "the image is hostile or far too large: use another one");
            rewind_layers(layers);
        }
    }
}

nlohmann::json unpack_image(const nlohmann::json& request, Events& events) {
    const std::vector<LayerSource> layers = layers_of(request);
    DirectoryImage store(request.at("directory_fd").get<int>());
    Tree tree(limits_of(request), [&store](ContentId content) { store.discard(content); });
    nlohmann::json layer_report = merge(layers, request.value("working_dir", ""), tree, store, events);
    store.finish(tree);
    return {{"entries", tree.entries()}, {"layers", std::move(layer_report)}};
}

}  // namespace pyro::image
