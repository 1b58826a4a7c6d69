// What is in an ext4 image, read back by libext2fs: ext4-tree IMAGE, one JSON line for each name. Bytes are in hexadecimal.
#include <ext2fs/ext2fs.h>
#undef clamp

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "common/digest.hpp"

namespace {

using nlohmann::json;

[[noreturn]] void fail(const std::string& what, errcode_t code) {
    std::fprintf(stderr, "ext4-tree: %s: error %ld\n", what.c_str(), static_cast<long>(code));
    std::exit(1);
}

void check(errcode_t code, const std::string& what) {
    if (code)
        fail(what, code);
}

std::string hex(std::string_view bytes) {
    static constexpr char digits[] = "0123456789abcdef";
    std::string out;
    for (const char c : bytes) {
        out += digits[static_cast<unsigned char>(c) >> 4];
        out += digits[static_cast<unsigned char>(c) & 15];
    }
    return out;
}

struct Reader {
    ext2_filsys fs = nullptr;
    std::vector<std::pair<std::string, ext2_ino_t>> todo;

    static json time_of(std::uint32_t low, std::uint32_t extra) {
        const std::int64_t seconds = static_cast<std::int32_t>(low) + (static_cast<std::int64_t>(extra & 3) << 32);
        return {seconds, extra >> 2};
    }

    json xattrs(ext2_ino_t ino) {
        ext2_xattr_handle* handle = nullptr;
        check(ext2fs_xattrs_open(fs, ino, &handle), "open attributes");
        check(ext2fs_xattrs_read(handle), "read attributes");
        struct Names {
            std::vector<std::string> all;
        } names;
        const auto take = [](char* name, char*, std::size_t, void* to) {
            static_cast<Names*>(to)->all.emplace_back(name);
            return 0;
        };
        check(ext2fs_xattrs_iterate(handle, take, &names), "list attributes");
        json out = json::object();
        for (const std::string& name : names.all) {
            void* value = nullptr;
            std::size_t size = 0;
            check(ext2fs_xattr_get(handle, name.c_str(), &value, &size), "read attribute " + name);
            out[name] = hex({static_cast<const char*>(value), size});
            ext2fs_free_mem(&value);
        }
        ext2fs_xattrs_close(&handle);
        return out;
    }

    void content(ext2_ino_t ino, const std::function<void(std::string_view)>& take) {
        ext2_file_t file = nullptr;
        check(ext2fs_file_open2(fs, ino, nullptr, 0, &file), "open a file");
        std::string buffer(1 << 20, '\0');
        unsigned got = 0;
        do {
            check(ext2fs_file_read(file, buffer.data(), static_cast<unsigned>(buffer.size()), &got), "read a file");
            take(std::string_view(buffer).substr(0, got));
        } while (got > 0);
        ext2fs_file_close(file);
    }

    void show(const std::string& path, ext2_ino_t ino) {
        ext2_inode_large inode{};
        check(ext2fs_read_inode_full(fs, ino, EXT2_INODE(&inode), sizeof inode), "read an inode");
        json line = {{"path", hex(path)}, {"mode", inode.i_mode & 07777}, {"uid", inode_uid(inode)}, {"gid", inode_gid(inode)},
                     {"mtime", time_of(inode.i_mtime, inode.i_mtime_extra)}, {"ino", ino}, {"links", inode.i_links_count}, {"xattrs", xattrs(ino)}};
        if (LINUX_S_ISDIR(inode.i_mode)) {
            line["type"] = "directory";
            todo.emplace_back(path, ino);
        } else if (LINUX_S_ISREG(inode.i_mode)) {
            pyro::Sha256 hash;
            content(ino, [&hash](std::string_view piece) { hash.update(piece); });
            line["type"] = "file";
            line["size"] = EXT2_I_SIZE(&inode);
            line["allocated"] = ext2fs_inode_i_blocks(fs, EXT2_INODE(&inode)) * 512;
            line["sha256"] = hash.finish().hex();
        } else if (LINUX_S_ISLNK(inode.i_mode)) {
            std::string target;
            if (ext2fs_is_fast_symlink(EXT2_INODE(&inode)))
                target.assign(reinterpret_cast<const char*>(inode.i_block), inode.i_size);
            else
                content(ino, [&target](std::string_view piece) { target += piece; });
            line["type"] = "symlink";
            line["target"] = hex(target);
        } else if (LINUX_S_ISCHR(inode.i_mode) || LINUX_S_ISBLK(inode.i_mode)) {
            line["type"] = LINUX_S_ISCHR(inode.i_mode) ? "character" : "block";
            const std::uint32_t old = inode.i_block[0], now = inode.i_block[1];
            if (old)
                line["device"] = {old >> 8 & 0xff, old & 0xff};
            else
                line["device"] = {now >> 8 & 0xfff, (now & 0xff) | (now >> 12 & 0xfff00)};
        } else {
            line["type"] = LINUX_S_ISFIFO(inode.i_mode) ? "fifo" : "unknown";
        }
        std::puts(line.dump().c_str());
    }

    void walk() {
        show("", EXT2_ROOT_INO);
        while (!todo.empty()) {
            const auto [path, ino] = todo.back();
            todo.pop_back();
            std::vector<std::pair<std::string, ext2_ino_t>> children;
            const auto each = [](ext2_dir_entry* entry, int, int, char*, void* to) {
                const std::string name(entry->name, static_cast<std::size_t>(ext2fs_dirent_name_len(entry)));
                if (name != "." && name != "..")
                    static_cast<std::vector<std::pair<std::string, ext2_ino_t>>*>(to)->emplace_back(name, entry->inode);
                return 0;
            };
            check(ext2fs_dir_iterate(fs, ino, 0, nullptr, each, &children), "read a directory");
            for (const auto& [name, child] : children)
                show(path.empty() ? name : path + "/" + name, child);
        }
    }
};

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2)
        return 2;
    Reader reader;
    check(ext2fs_open(argv[1], EXT2_FLAG_64BITS, 0, 0, unix_io_manager, &reader.fs), std::string("open ") + argv[1]);
    reader.walk();
    ext2fs_close_free(&reader.fs);
    return 0;
}
