// Entries of layers, made of a fuzzer's bytes: few names, so that they meet each other.
#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "image/tree.hpp"

namespace pyro::fuzz {

class Bytes {
public:
    Bytes(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}
    bool empty() const { return at_ == size_; }
    std::uint8_t byte() { return empty() ? 0 : data_[at_++]; }
    std::uint32_t number(unsigned bytes) {
        std::uint32_t value = 0;
        for (unsigned i = 0; i < bytes; ++i)
            value = value << 8 | byte();
        return value;
    }
    std::string text(std::size_t length) {
        const std::size_t take = std::min(length, size_ - at_);
        std::string out(reinterpret_cast<const char*>(data_ + at_), take);
        at_ += take;
        return out;
    }

private:
    const std::uint8_t* data_;
    std::size_t size_, at_ = 0;
};

inline std::string path_of(Bytes& bytes) {
    static constexpr std::string_view names[] = {"a", "b", "c", "d", "e", "l", "..", ".", "", ".wh.a", ".wh.b", ".wh.l", ".wh..wh..opq", ".wh..wh.plnk", "lost+found"};
    std::string path = bytes.byte() % 16 == 0 ? "/" : "";
    for (int parts = bytes.byte() % 4; parts >= 0; --parts) {
        const std::uint8_t which = bytes.byte();
        path += which < 240 ? std::string(names[which % std::size(names)]) : which < 250 ? bytes.text(which - 238) : std::string(which + 2, 'n');
        if (parts > 0)
            path += "/";
    }
    return path;
}

inline image::Entry entry_of(Bytes& bytes) {
    image::Entry entry;
    image::Inode& inode = entry.attributes;
    const std::uint8_t kind = bytes.byte();
    entry.path = path_of(bytes);
    inode.mode = static_cast<std::uint16_t>(bytes.number(2) & 07777);
    if (kind & 0x80) {
        inode.uid = bytes.number(4) & 0xfffffffe, inode.gid = bytes.number(4) & 0xfffffffe;
        inode.mtime = static_cast<std::int64_t>(static_cast<std::int32_t>(bytes.number(4))) + (static_cast<std::int64_t>(bytes.byte() & 3) << 32);
        inode.mtime_nsec = bytes.number(4) % 1000000000;
        for (int xattrs = bytes.byte() % 4; xattrs > 0; --xattrs) {
            static constexpr std::string_view spaces[] = {"user.", "trusted.", "security."};
            std::string name(spaces[bytes.byte() % 3]);
            name += static_cast<char>('a' + bytes.byte() % 26);
            const std::size_t size = bytes.number(2) % 4000;
            inode.xattrs[name] = std::string(size, static_cast<char>(bytes.byte()));
        }
    }
    using image::FileType;
    switch (kind & 7) {
        case 0: case 1: inode.type = FileType::regular; break;
        case 2: inode.type = FileType::directory; break;
        case 3:
            inode.type = FileType::symlink;
            inode.target = bytes.byte() % 8 == 0 ? std::string(bytes.number(2) % 4200, 't') : path_of(bytes);
            inode.size = inode.target.size();
            break;
        case 4: inode.type = FileType::fifo; break;
        case 5:
        case 6:
            inode.type = (kind & 7) == 5 ? FileType::character_device : FileType::block_device;
            inode.major = bytes.number(2) & 0xfff, inode.minor = bytes.number(3) & 0xfffff;
            break;
        case 7:
            inode.type = FileType::regular;
            entry.is_hard_link = true;
            entry.link_target = path_of(bytes);
            break;
    }
    return entry;
}

}  // namespace pyro::fuzz
