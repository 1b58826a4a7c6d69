// How many machines there may be, and how much memory they may have together.
#pragma once
#include <cstdint>
#include <map>
#include <memory>

#include <sys/types.h>

namespace pyro::vm {

struct QuotaLimits {
    std::int64_t machines = 256;
    std::int64_t machines_per_user = 64;
    std::int64_t mem_mib = 0;           // of guests; 0: four fifths of the host's
    std::int64_t mem_mib_per_user = 0;  // 0: half of the host's
};

class Quota {
    struct Books;

public:
    class Reservation {  // gives back when destroyed
    public:
        Reservation() = default;
        Reservation(Reservation&& other) noexcept = default;
        Reservation& operator=(Reservation&& other) noexcept;
        ~Reservation() { release(); }
        void release() noexcept;

    private:
        friend class Quota;
        std::shared_ptr<Books> books_;
        uid_t owner_ = 0;
        std::int64_t mem_mib_ = 0;
    };

    explicit Quota(QuotaLimits limits);
    void set_limits(QuotaLimits limits);  // for what is asked for from now on
    // All or nothing; Error(quota_exceeded) with the figure and what to do.
    Reservation reserve(uid_t owner, std::int64_t mem_mib);
    // What already runs counts, also beyond a limit that was lowered.
    Reservation count(uid_t owner, std::int64_t mem_mib);

    struct Usage {
        std::int64_t machines = 0, mem_mib = 0;
    };
    Usage total() const noexcept;
    Usage of(uid_t owner) const noexcept;
    const QuotaLimits& limits() const noexcept { return limits_; }  // with the host's figures in place of 0

private:
    QuotaLimits limits_;
    std::shared_ptr<Books> books_;
};

}  // namespace pyro::vm
