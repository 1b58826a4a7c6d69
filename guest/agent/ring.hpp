// Bytes of one stream, addressed by their absolute offset: kept from the first one still needed to the last one known.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace pyro::guest {

// Holds [begin, end), at most `capacity` bytes. Memory grows with the backlog, in powers of two.
class Ring {
public:
    static constexpr std::size_t margin = 64;  // what with_ends() may lay before, or behind

    explicit Ring(std::size_t capacity) : capacity_(capacity) {}

    std::uint64_t begin() const noexcept { return begin_; }
    std::uint64_t end() const noexcept { return end_; }
    std::size_t size() const noexcept { return static_cast<std::size_t>(end_ - begin_); }
    std::size_t room() const noexcept { return capacity_ - size(); }

    // A contiguous piece of free space, at most `wanted` bytes, empty only when there is no room; then commit what was filled.
    std::span<char> prepare(std::size_t wanted) {
        wanted = std::min(wanted, room());
        if (size() + wanted > space_) grow(size() + wanted);
        const std::size_t at = index(end_);
        return {bytes() + at, std::min(wanted, space_ - at)};
    }
    void commit(std::size_t size) noexcept { end_ += size; }

    void append(std::string_view bytes) {  // no more than room()
        while (!bytes.empty()) {
            const std::span<char> space = prepare(bytes.size());
            std::memcpy(space.data(), bytes.data(), space.size());
            commit(space.size());
            bytes.remove_prefix(space.size());
        }
    }

    // Counts bytes that went another way. Only while it is empty.
    void skip(std::size_t count) noexcept { begin_ = end_ += count; }

    // The contiguous bytes at `offset`, at most `limit`; empty at the end.
    std::string_view at(std::uint64_t offset, std::size_t limit) const noexcept {
        if (offset < begin_ || offset >= end_) return {};
        const std::size_t from = index(offset);
        return {bytes() + from, std::min({limit, static_cast<std::size_t>(end_ - offset), space_ - from})};
    }

    // Lends `piece`, of at(), with `head` right before it and `tail` right behind, each within the margin: what was there
    // comes back when `use` returns.
    template <class Use>
    void with_ends(std::string_view piece, std::string_view head, std::string_view tail, const Use& use) {
        char* const front = bytes() + (piece.data() - bytes()) - head.size();
        char* const back = front + head.size() + piece.size();
        std::array<char, margin> before, behind;
        std::memcpy(before.data(), front, head.size()), std::memcpy(behind.data(), back, tail.size());
        std::memcpy(front, head.data(), head.size()), std::memcpy(back, tail.data(), tail.size());
        use(std::string_view(front, head.size() + piece.size() + tail.size()));
        std::memcpy(front, before.data(), head.size()), std::memcpy(back, behind.data(), tail.size());
    }

    // Forgets what is before `offset`; beyond the end, it forgets all there is.
    void drop_before(std::uint64_t offset) noexcept { begin_ = std::clamp(offset, begin_, end_); }

private:
    char* bytes() noexcept { return buffer_.get() + margin; }
    const char* bytes() const noexcept { return buffer_.get() + margin; }
    std::size_t index(std::uint64_t offset) const noexcept { return space_ == 0 ? 0 : static_cast<std::size_t>(offset & (space_ - 1)); }

    void grow(std::size_t needed) {
        std::size_t size = std::max<std::size_t>(space_, 4096);
        while (size < needed) size *= 2;
        auto bigger = std::make_unique_for_overwrite<char[]>(size + 2 * margin);
        for (std::uint64_t offset = begin_; offset < end_;) {
            const std::string_view piece = at(offset, static_cast<std::size_t>(end_ - offset));
            for (std::size_t done = 0; done < piece.size();) {
                const std::size_t to = static_cast<std::size_t>((offset + done) & (size - 1));
                const std::size_t count = std::min(piece.size() - done, size - to);
                std::memcpy(bigger.get() + margin + to, piece.data() + done, count);
                done += count;
            }
            offset += piece.size();
        }
        buffer_.swap(bigger);
        space_ = size;
    }

    std::size_t capacity_;
    std::size_t space_ = 0;  // for bytes: all of the buffer but its margins
    std::unique_ptr<char[]> buffer_ = std::make_unique_for_overwrite<char[]>(2 * margin);
    std::uint64_t begin_ = 0, end_ = 0;
};

}  // namespace pyro::guest
