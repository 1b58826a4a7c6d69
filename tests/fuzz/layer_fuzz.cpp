// A layer as a registry may send it. The first byte says how much of the way in is paved: mutation alone hardly ever hits the
// checksum of a tar's header, or of a compressed stream.
#include <archive.h>
#include <archive_entry.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "common/unique_fd.hpp"
#include "image/layer.hpp"
#include "tree_check.hpp"

namespace {

using namespace pyro;

void mend_checksums(std::string& tar) {
    for (std::size_t at = 0; at + 512 <= tar.size(); at += 512) {
        if (std::memcmp(tar.data() + at + 257, "ustar", 5) != 0)
            continue;
        std::memset(tar.data() + at + 148, ' ', 8);
        unsigned sum = 0;
        for (std::size_t i = 0; i < 512; ++i)
            sum += static_cast<unsigned char>(tar[at + i]);
        std::snprintf(tar.data() + at + 148, 8, "%06o", sum);
    }
}

std::string packed(const std::string& plain, bool zstd) {
    std::string out(plain.size() * 2 + 4096, '\0');
    std::size_t used = 0;
    archive* a = archive_write_new();
    zstd ? archive_write_add_filter_zstd(a) : archive_write_add_filter_gzip(a);
    archive_write_set_format_raw(a);
    archive_write_set_options(a, zstd ? "compression-level=1" : "compression-level=1,!timestamp");
    archive_write_open_memory(a, out.data(), out.size(), &used);
    archive_entry* entry = archive_entry_new();
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_write_header(a, entry);
    archive_write_data(a, plain.data(), plain.size());
    archive_entry_free(entry);
    archive_write_close(a);
    archive_write_free(a);
    return out.substr(0, used);
}

UniqueFd file_of(const std::string& bytes) {
    UniqueFd file(::memfd_create("layer", MFD_CLOEXEC));
    write_all(file.get(), bytes);
    ::lseek(file.get(), 0, SEEK_SET);
    return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0)
        return 0;
    std::string bytes(reinterpret_cast<const char*>(data + 1), size - 1);
    const unsigned how = data[0] & 3;
    if (how > 0)
        mend_checksums(bytes);
    if (how > 1)
        bytes = packed(bytes, how == 3);
    image::TreeLimits limits;
    limits.max_entries = 2000;
    limits.max_total_bytes = 64 << 20;
    fuzz::CountingStore store;
    image::Tree tree(limits, [&store](image::ContentId content) { store.discard(content); });
    try {
        std::uint64_t unpacked = 0;
        for (int layer = 0; layer < 2; ++layer) {  // the second time over its own result: everything is replaced or hidden
            const UniqueFd file = file_of(bytes);
            unpacked += image::apply_layer(file.get(), tree, store, unpacked, [](std::uint64_t) {}).unpacked;
            fuzz::check_tree(tree, store);
        }
    } catch (const Error& error) {
        if (error.code() != ErrorCode::environment_invalid || error.message().empty() || error.hint().empty()) {
            std::fprintf(stderr, "the wrong error: %s: %s\n", std::string(to_string(error.code())).c_str(), error.message().c_str());
            std::abort();
        }
    }
    return 0;
}
