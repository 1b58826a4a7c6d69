// Layers merged in every order: files, links, whiteouts, each in the place of the other.
#include <cstdio>
#include <cstdlib>

#include "tree_check.hpp"
#include "tree_ops.hpp"

using namespace pyro;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::Bytes bytes(data, size);
    image::TreeLimits limits;
    limits.max_entries = 500;
    fuzz::CountingStore store;
    const auto rules = bytes.byte() % 8 == 0 ? image::TreeRules::plain : image::TreeRules::layers;
    image::Tree tree(limits, [&store](image::ContentId content) { store.discard(content); }, rules);
    tree.begin_layer();
    while (!bytes.empty()) {
        if (bytes.byte() % 8 == 0) {
            tree.end_layer();
            fuzz::check_tree(tree, store);
            tree.begin_layer();
        }
        try {
            image::Entry entry = fuzz::entry_of(bytes);
            const image::Tree::Place place = tree.place(entry);
            if (place.skip)
                continue;
            if (entry.attributes.type == image::FileType::regular && !entry.is_hard_link && bytes.byte() % 2) {
                store.begin();
                entry.attributes.content = store.end();
            }
            tree.insert(place, std::move(entry));
        } catch (const Error& error) {
            if (error.code() != ErrorCode::environment_invalid || error.message().empty() || error.hint().empty())
                std::abort();
            // A refused entry ends the build. Here the rest goes on: what was refused must not have changed what is there.
            fuzz::check_tree(tree, store);
        }
    }
    tree.end_layer();
    tree.make_directories(fuzz::path_of(bytes));
    for (const char* name : {"workspace", "lost+found", "a"})
        tree.ensure_directory(name, 0755);
    fuzz::check_tree(tree, store);
    if (rules == image::TreeRules::layers) {  // what every layer brought goes with an opaque root
        tree.begin_layer();
        image::Entry opaque;
        opaque.path = ".wh..wh..opq";
        opaque.attributes.type = image::FileType::regular;
        try {
            PYRO_CHECK(tree.place(opaque).skip);
        } catch (const Error&) {  // one entry too many
            return 0;
        }
        PYRO_CHECK(tree.root().children.empty() && store.living() == 0);
    }
    return 0;
}
