// Where the content of regular files goes while layers are read.
#pragma once
#include <cstdint>
#include <string_view>

#include "image/tree.hpp"

namespace pyro::image {

// One file at a time: begin, any number of writes with rising offsets, end. Gaps read as zeros.
class ContentStore {
public:
    virtual ~ContentStore() = default;
    virtual void begin() = 0;
    virtual void write(std::uint64_t offset, std::string_view bytes) = 0;
    virtual ContentId end() = 0;
    virtual void discard(ContentId content) = 0;
};

}  // namespace pyro::image
