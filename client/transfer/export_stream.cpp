#include "client/transfer/export_stream.hpp"

#include <utility>

namespace pyro::client {

seed::Shape ExportStream::shape(std::stop_token stop) {
    if (prefix_.empty()) return seed::Shape::tree;
    const seed::Source recorded = [this] {
        const std::string_view bytes = rest_();
        read_ += bytes;
        return bytes;
    };
    seed::TarReader tar(recorded, false, {}, stop);
    for (seed::TarReader::Item item; tar.next(item);) {
        const std::string path = seed::relative_path(item.entry.path);
        if (path == prefix_ && item.entry.type == seed::EntryType::symlink)
            throw Error(ErrorCode::invalid_argument, seed::printable(prefix_) + " is a symbolic link", "name what it points to, or the directory it is in");
        if (path == prefix_ && item.entry.type == seed::EntryType::file) return seed::Shape::file;
        if (path == prefix_ || path.starts_with(prefix_ + "/")) return seed::Shape::tree;
    }
    return seed::Shape::tree;
}

std::string_view ExportStream::next() {
    if (std::exchange(again_, false) && !read_.empty()) return read_;
    return rest_();
}

std::string export_prefix(std::string path) {
    constexpr std::string_view root = "/workspace";
    if (path == root || path.starts_with(std::string(root) + "/")) path.erase(0, root.size());
    while (path.starts_with('/')) path.erase(0, 1);
    return seed::relative_path(path);
}

}  // namespace pyro::client
