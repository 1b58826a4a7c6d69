#include "daemon/vm/quota.hpp"

#include "common/error.hpp"

#include <unistd.h>

namespace pyro::vm {
namespace {

std::int64_t host_memory_mib() {
    return static_cast<std::int64_t>(::sysconf(_SC_PHYS_PAGES)) * ::sysconf(_SC_PAGESIZE) >> 20;
}

void check_limit(std::int64_t would_be, std::int64_t limit, const char* what, const char* unit, const char* cure) {
    if (would_be <= limit) return;
    throw Error(ErrorCode::quota_exceeded,
                std::string(what) + " would be " + std::to_string(would_be) + unit + ", the limit is " + std::to_string(limit) + unit, cure)
        .with_detail("limit", std::to_string(limit));
}

constexpr const char* own_cure = "delete a VM you no longer need (pyro vm list), or ask for less memory";
constexpr const char* host_cure = "wait until others' VMs end, ask for less memory, or have [limits] in pyrod.toml raised";

}  // namespace

struct Quota::Books {
    Usage total;
    std::map<uid_t, Usage> users;
};

Quota::Quota(QuotaLimits limits) : books_(std::make_shared<Books>()) { set_limits(limits); }

void Quota::set_limits(QuotaLimits limits) {
    limits_ = limits;
    if (limits_.mem_mib == 0) limits_.mem_mib = host_memory_mib() * 4 / 5;
    if (limits_.mem_mib_per_user == 0) limits_.mem_mib_per_user = host_memory_mib() / 2;
}

Quota::Usage Quota::total() const noexcept { return books_->total; }

Quota::Usage Quota::of(uid_t owner) const noexcept {
    const auto it = books_->users.find(owner);
    return it == books_->users.end() ? Usage() : it->second;
}

Quota::Reservation Quota::reserve(uid_t owner, std::int64_t mem_mib) {
    const Usage mine = of(owner);
    check_limit(mine.machines + 1, limits_.machines_per_user, "your VMs", "", own_cure);
    check_limit(mine.mem_mib + mem_mib, limits_.mem_mib_per_user, "the memory of your VMs", " MiB", own_cure);
    check_limit(books_->total.machines + 1, limits_.machines, "the VMs of this host", "", host_cure);
    check_limit(books_->total.mem_mib + mem_mib, limits_.mem_mib, "the memory of this host's VMs", " MiB", host_cure);
    return count(owner, mem_mib);
}

Quota::Reservation Quota::count(uid_t owner, std::int64_t mem_mib) {
    for (Usage* usage : {&books_->total, &books_->users[owner]}) {
        ++usage->machines;
        usage->mem_mib += mem_mib;
    }
    Reservation out;
    out.books_ = books_;
    out.owner_ = owner;
    out.mem_mib_ = mem_mib;
    return out;
}

Quota::Reservation& Quota::Reservation::operator=(Reservation&& other) noexcept {
    if (this != &other) {
        release();
        books_ = std::move(other.books_);
        owner_ = other.owner_;
        mem_mib_ = other.mem_mib_;
    }
    return *this;
}

void Quota::Reservation::release() noexcept {
    const auto books = std::move(books_);
    if (!books) return;
    const auto mine = books->users.find(owner_);
    for (Usage* usage : {&books->total, &mine->second}) {
        --usage->machines;
        usage->mem_mib -= mem_mib_;
    }
    if (mine->second.machines == 0) books->users.erase(mine);
}

}  // namespace pyro::vm
