#include "image/disk_layers.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string>

#include "common/error.hpp"

namespace pyro::image {
namespace {

[[noreturn]] void disk_invalid(const std::string& why) {
    throw Error(ErrorCode::environment_invalid, "the machine's disk cannot be read: " + why, "reset or delete the workspace");
}

// Zeros beyond the end.
void read_padded(int fd, std::uint64_t offset, char* to, std::size_t size) {
    while (size > 0) {
        const ssize_t n = ::pread(fd, to, size, static_cast<off_t>(offset));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            throw Error::from_errno("read the machine's disk");
        if (n == 0) {
            std::memset(to, 0, size);
            return;
        }
        to += n, offset += static_cast<std::uint64_t>(n), size -= static_cast<std::size_t>(n);
    }
}

std::uint64_t big_endian(const char* at, int bytes) {
    std::uint64_t out = 0;
    for (int i = 0; i < bytes; ++i)
        out = out << 8 | static_cast<unsigned char>(at[i]);
    return out;
}

class Qcow2 {
public:
    explicit Qcow2(int fd) : fd_(fd) {
        char header[104];
        read_padded(fd, 0, header, sizeof header);
        if (std::memcmp(header, "QFI\xfb", 4) != 0 || big_endian(header + 4, 4) != 3)
            disk_invalid("a layer is no qcow2 image of version 3");
        cluster_bits_ = static_cast<unsigned>(big_endian(header + 20, 4));
        size_ = big_endian(header + 24, 8);
        const std::uint64_t l1_entries = big_endian(header + 36, 4), l1_offset = big_endian(header + 40, 8);
        // Dirty (1) tells of counts of references alone, which reading does not need.
        if (big_endian(header + 8, 8) != 0 || big_endian(header + 32, 4) != 0 || big_endian(header + 60, 4) != 0 || (big_endian(header + 72, 8) & ~1ull) != 0)
            disk_invalid("a layer has features that pyro's disks do not have");
        if (cluster_bits_ < 9 || cluster_bits_ > 21 || size_ > (64ull << 40))
            disk_invalid("a layer has impossible sizes");
        const std::uint64_t per_l2 = entries_per_table() << cluster_bits_;
        if (l1_entries < (size_ + per_l2 - 1) / per_l2 || l1_entries > (32u << 20) / 8 || l1_offset % cluster() != 0)
            disk_invalid("a layer has an impossible table");
        l1_ = table(l1_offset, l1_entries);
    }

    std::uint64_t cluster() const { return 1ull << cluster_bits_; }
    std::uint64_t size() const { return size_; }

    enum class State { absent, zero, data };
    State find(std::uint64_t offset, std::uint64_t& host) {
        if (offset >= size_)
            return State::zero;
        const std::uint64_t number = offset >> cluster_bits_, in_l1 = number / entries_per_table();
        const std::uint64_t at = l1_.at(in_l1) & offset_mask;
        if (at == 0)
            return State::absent;
        if (!l2_at_ || *l2_at_ != at) {
            if (at % cluster() != 0)
                disk_invalid("a table is not where tables are");
            l2_ = table(at, entries_per_table());
            l2_at_ = at;
        }
        const std::uint64_t entry = l2_.at(number % entries_per_table());
        if (entry & (1ull << 62))
            disk_invalid("it is compressed");
        if (entry & 1)
            return State::zero;
        host = entry & offset_mask;
        if (host == 0)
            return State::absent;
        if (host % cluster() != 0)
            disk_invalid("a cluster is not where clusters are");
        host += offset & (cluster() - 1);
        return State::data;
    }
    int fd() const { return fd_; }

private:
    static constexpr std::uint64_t offset_mask = 0x00fffffffffffe00ull;
    std::uint64_t entries_per_table() const { return cluster() / 8; }
    std::vector<std::uint64_t> table(std::uint64_t offset, std::uint64_t entries) const {
        std::string raw(entries * 8, '\0');
        read_padded(fd_, offset, raw.data(), raw.size());
        std::vector<std::uint64_t> out(entries);
        for (std::size_t i = 0; i < entries; ++i)
            out[i] = big_endian(raw.data() + 8 * i, 8);
        return out;
    }

    int fd_;
    unsigned cluster_bits_ = 16;
    std::uint64_t size_ = 0;
    std::vector<std::uint64_t> l1_, l2_;
    std::optional<std::uint64_t> l2_at_;
};

struct Layers {
    std::vector<Qcow2> written;
    int raw = -1;

    void read(std::uint64_t offset, char* to, std::size_t size) {
        while (size > 0) {
            std::uint64_t piece = written.empty() ? size : written.front().cluster();
            for (const Qcow2& layer : written)
                piece = std::min(piece, layer.cluster());
            if (!written.empty())
                piece -= offset & (piece - 1);
            const std::size_t now = static_cast<std::size_t>(std::min<std::uint64_t>(piece, size));
            read_piece(offset, to, now);
            to += now, offset += now, size -= now;
        }
    }

private:
    void read_piece(std::uint64_t offset, char* to, std::size_t size) {
        for (Qcow2& layer : written) {
            std::uint64_t host = 0;
            const Qcow2::State state = layer.find(offset, host);
            if (state == Qcow2::State::absent)
                continue;
            if (state == Qcow2::State::zero)
                std::memset(to, 0, size);
            else
                read_padded(layer.fd(), host, to, size);
            return;
        }
        if (raw >= 0)
            read_padded(raw, offset, to, size);
        else
            std::memset(to, 0, size);
    }
};

}  // namespace

ReadAt open_disk(const std::vector<DiskLayer>& layers) {
    auto disk = std::make_shared<Layers>();
    for (const DiskLayer& layer : layers) {
        if (disk->raw >= 0)
            throw Error(ErrorCode::invalid_argument, "nothing is below a raw layer");
        if (layer.qcow2)
            disk->written.emplace_back(layer.fd);
        else
            disk->raw = layer.fd;
    }
    return [disk](std::uint64_t offset, char* to, std::size_t size) { disk->read(offset, to, size); };
}

}  // namespace pyro::image
