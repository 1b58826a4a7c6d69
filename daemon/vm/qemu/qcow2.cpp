#include "daemon/vm/qemu/qcow2.hpp"

namespace pyro::vm::qemu {
namespace {

constexpr std::uint64_t cluster_bits = 16;
constexpr std::uint64_t cluster = 1u << cluster_bits;
constexpr std::uint64_t table_entry = 8;

void put(std::string& image, std::size_t at, std::uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) image[at + static_cast<std::size_t>(i)] = static_cast<char>(value >> (8 * (bytes - 1 - i)));
}

constexpr std::uint64_t divide_up(std::uint64_t a, std::uint64_t b) { return (a + b - 1) / b; }

}  // namespace

// Layout: header | refcount table | first refcount block | L1 table. All in the first few clusters, so one block of
// 32768 16-bit counts covers them; QEMU adds the rest as it writes.
std::string empty_qcow2(std::uint64_t virtual_size) {
    const std::uint64_t per_l2 = cluster / table_entry * cluster;  // 512 MiB
    const std::uint64_t l1_entries = divide_up(virtual_size, per_l2);
    const std::uint64_t l1_clusters = divide_up(l1_entries * table_entry, cluster);
    const std::uint64_t used = 3 + l1_clusters;
    std::string image(used * cluster, '\0');
    put(image, 0, 0x514649fb, 4);          // "QFI\xfb"
    put(image, 4, 3, 4);                   // version
    put(image, 20, cluster_bits, 4);
    put(image, 24, virtual_size, 8);
    put(image, 36, l1_entries, 4);
    put(image, 40, 3 * cluster, 8);        // L1 table
    put(image, 48, 1 * cluster, 8);        // refcount table
    put(image, 56, 1, 4);                  // its clusters
    put(image, 96, 4, 4);                  // refcounts of 2^4 bits
    put(image, 100, 104, 4);               // header length
    put(image, cluster, 2 * cluster, 8);   // the first refcount block
    for (std::uint64_t i = 0; i < used; ++i) put(image, 2 * cluster + 2 * i, 1, 2);
    return image;
}

}  // namespace pyro::vm::qemu
