// A merged tree unpacked into a directory, by a process without privileges and for one user.
#pragma once
#include <memory>
#include <string>

#include "image/content_store.hpp"

namespace pyro::image {

// Content is kept in a spool directory until the tree is known, then everything is made by name below `directory`, which
// must be empty. No path of the image is ever resolved by the kernel through a link: names are made in directories opened
// one by one without following. Owners, setuid, setgid and devices are left out; what the calling user makes is his.
class DirectoryImage final : public ContentStore {
public:
    explicit DirectoryImage(int directory);  // does not own it
    ~DirectoryImage() override;

    void begin() override;
    void write(std::uint64_t offset, std::string_view bytes) override;
    ContentId end() override;
    void discard(ContentId content) override;

    void finish(const Tree& tree);  // once

private:
    class Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace pyro::image
