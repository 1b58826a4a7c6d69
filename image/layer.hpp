// Reading one layer (a tar: plain, gzip or zstd) into a tree.
#pragma once
#include <cstdint>
#include <functional>
#include <string>

#include "common/digest.hpp"
#include "image/content_store.hpp"
#include "image/tree.hpp"

namespace pyro::image {

struct LayerResult {
    Digest diff_id;              // of the tar, unpacked
    std::uint64_t packed = 0, unpacked = 0;
    bool closed = false;         // by the two blocks of zeros that end a tar
};

// Reads the whole stream from fd's current position. `unpacked_before` is what earlier layers took of the limits.
// Throws environment_invalid naming the entry; `progress` hears packed bytes read so far. `change` sees each entry before the
// tree does, and may refuse it.
LayerResult apply_layer(int fd, Tree& tree, ContentStore& store, std::uint64_t unpacked_before,
                        const std::function<void(std::uint64_t)>& progress, const std::function<void(Entry&)>& change = {});

}  // namespace pyro::image
