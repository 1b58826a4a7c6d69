#include "common/patch/lines.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

namespace pyro::patch {
namespace {

using Index = std::int32_t;
constexpr Index unreached = std::numeric_limits<Index>::min() / 2;

// Equal lines become equal numbers. By sorting, because no choice of lines makes that slow.
void number_lines(const std::vector<std::string_view>& before, const std::vector<std::string_view>& after, std::vector<Index>& a,
                  std::vector<Index>& b) {
    std::vector<std::pair<std::string_view, std::size_t>> all;
    all.reserve(before.size() + after.size());
    for (std::string_view line : before) all.emplace_back(line, all.size());
    for (std::string_view line : after) all.emplace_back(line, all.size());
    std::sort(all.begin(), all.end());
    a.resize(before.size());
    b.resize(after.size());
    Index number = 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
        if (i > 0 && all[i].first != all[i - 1].first) ++number;
        (all[i].second < a.size() ? a[all[i].second] : b[all[i].second - a.size()]) = number;
    }
}

// Myers' O(ND) comparison in linear space: find where a shortest edit crosses the middle, go on with the two parts.
class Comparison {
public:
    Comparison(std::vector<Index> a, std::vector<Index> b, std::uint64_t work)
        : a_(std::move(a)), b_(std::move(b)), work_(work), offset_(static_cast<Index>(b_.size()) + 1),
          forward_(a_.size() + b_.size() + 3), backward_(forward_.size()), deleted(a_.size()), added(b_.size()) {}

    void run() { compare({0, static_cast<Index>(a_.size()), 0, static_cast<Index>(b_.size())}); }

private:
    struct Box { Index a0, a1, b0, b1; };
    struct Point { Index a, b; };

    void compare(Box box) {
        for (;;) {
            while (box.a0 < box.a1 && box.b0 < box.b1 && a_[at(box.a0)] == b_[at(box.b0)]) ++box.a0, ++box.b0;
            while (box.a0 < box.a1 && box.b0 < box.b1 && a_[at(box.a1 - 1)] == b_[at(box.b1 - 1)]) --box.a1, --box.b1;
            std::optional<Point> cut;
            if (box.a0 < box.a1 && box.b0 < box.b1) cut = middle(box);
            if (!cut) {
                std::fill(deleted.begin() + box.a0, deleted.begin() + box.a1, 1);
                std::fill(added.begin() + box.b0, added.begin() + box.b1, 1);
                return;
            }
            const Box first{box.a0, cut->a, box.b0, cut->b}, second{cut->a, box.a1, cut->b, box.b1};
            // The larger part in the loop: the recursion's depth is logarithmic.
            const bool first_smaller = first.a1 - first.a0 + first.b1 - first.b0 < second.a1 - second.a0 + second.b1 - second.b0;
            compare(first_smaller ? first : second);
            box = first_smaller ? second : first;
        }
    }

    // Both sides of the box have lines, and their first and last lines differ. On diagonal k (= x - y) `forward` has the furthest x
    // that d edits from the start reach, `backward` the same from the end, counted from there.
    std::optional<Point> middle(const Box& box) {
        const Index n = box.a1 - box.a0, m = box.b1 - box.b0, delta = n - m;
        const auto patience = static_cast<Index>(std::max(256.0, std::sqrt(static_cast<double>(n) + m)));
        forward(0 + 1) = backward(0 + 1) = 0;
        forward(-1) = backward(-1) = unreached;
        for (Index d = 0;; ++d) {
            const Index low = d <= m ? -d : d - 2 * m, high = d <= n ? d : 2 * n - d;
            if (d > 0 && d <= m) forward(-d - 1) = backward(-d - 1) = unreached;
            if (d > 0 && d <= n) forward(d + 1) = backward(d + 1) = unreached;
            Point furthest{0, 0};
            for (Index k = low; k <= high; k += 2) {
                const Index x = step(forward_, k, n, m, [&](Index i, Index j) { return a_[at(box.a0 + i)] == b_[at(box.b0 + j)]; });
                if (x == unreached) continue;
                if (delta % 2 != 0 && delta - k > -d && delta - k < d && x + backward(delta - k) >= n)
                    return Point{box.a0 + x, box.b0 + x - k};
                if (x + x - k > furthest.a + furthest.b) furthest = {x, x - k};
            }
            for (Index k = low; k <= high; k += 2) {
                const Index x = step(backward_, k, n, m, [&](Index i, Index j) { return a_[at(box.a1 - 1 - i)] == b_[at(box.b1 - 1 - j)]; });
                if (x == unreached) continue;
                if (delta % 2 == 0 && delta - k >= -d && delta - k <= d && x + forward(delta - k) >= n)
                    return Point{box.a1 - x, box.b1 - x + k};
            }
            if (work_ == 0) return std::nullopt;
            if (d >= patience) return Point{box.a0 + furthest.a, box.b0 + furthest.b};
        }
    }

    template <class Equal>
    Index step(std::vector<Index>& reached, Index k, Index n, Index m, Equal equal) {
        Index& here = reached[at(k + offset_)];
        const Index right = reached[at(k - 1 + offset_)] + 1, down = reached[at(k + 1 + offset_)];
        Index x = unreached;
        if (right >= 0 && right <= n) x = right;
        if (down > x && down - k <= m) x = down;
        const Index start = x;
        if (x != unreached)
            while (x < n && x - k < m && equal(x, x - k)) ++x;
        work_ -= std::min<std::uint64_t>(work_, static_cast<std::uint64_t>(x - start) + 1);
        return here = x;
    }

    static std::size_t at(Index i) { return static_cast<std::size_t>(i); }
    Index& forward(Index k) { return forward_[at(k + offset_)]; }
    Index& backward(Index k) { return backward_[at(k + offset_)]; }

    const std::vector<Index> a_, b_;
    std::uint64_t work_;
    const Index offset_;
    std::vector<Index> forward_, backward_;

public:
    std::vector<char> deleted, added;
};

}  // namespace

std::vector<std::string_view> split_lines(std::string_view text) {
    std::vector<std::string_view> lines;
    while (!text.empty()) {
        const std::size_t length = std::min(text.find('\n'), text.size() - 1) + 1;
        lines.push_back(text.substr(0, length));
        text.remove_prefix(length);
    }
    return lines;
}

LineDiff diff_lines(const std::vector<std::string_view>& before, const std::vector<std::string_view>& after, std::uint64_t work) {
    std::vector<Index> a, b;
    number_lines(before, after, a, b);
    // A line that the other side does not have at all is none of the comparison's business: a rewritten file costs nothing.
    std::vector<char> in_a(a.size() + b.size()), in_b(in_a.size());
    for (Index line : a) in_a[static_cast<std::size_t>(line)] = 1;
    for (Index line : b) in_b[static_cast<std::size_t>(line)] = 1;
    const auto shared = [&](Index line) { return in_a[static_cast<std::size_t>(line)] && in_b[static_cast<std::size_t>(line)]; };
    const auto only_shared = [&](const std::vector<Index>& lines) {
        std::vector<Index> kept;
        std::copy_if(lines.begin(), lines.end(), std::back_inserter(kept), shared);
        return kept;
    };
    Comparison comparison(only_shared(a), only_shared(b), work);
    comparison.run();
    const auto spread = [&](const std::vector<Index>& lines, const std::vector<char>& changed) {
        std::vector<char> flags;
        auto next = changed.begin();
        for (Index line : lines) flags.push_back(shared(line) ? *next++ : char{1});
        return flags;
    };
    return {spread(a, comparison.deleted), spread(b, comparison.added)};
}

}  // namespace pyro::patch
