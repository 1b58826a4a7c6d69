#include "daemon/vm/vm_uids.hpp"

#include "common/error.hpp"

#include <charconv>
#include <cerrno>
#include <sstream>
#include <vector>

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

namespace pyro::vm {
namespace {

std::vector<std::string> colon_fields(const std::string& line) {
    std::vector<std::string> out;
    std::istringstream in(line);
    for (std::string field; std::getline(in, field, ':');) out.push_back(field);
    return out;
}

std::optional<std::uint64_t> number_in(const std::string& text) {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc() && end == text.data() + text.size() && !text.empty() ? std::optional(value) : std::nullopt;
}

std::string read_if_there(const char* path) {
    return ::access(path, F_OK) == 0 ? read_file(path) : std::string();
}

// One system call, where a walk over /proc would be hundreds.
bool has_processes(uid_t uid) {
    errno = 0;
    return ::getpriority(PRIO_USER, uid) != -1 || errno != ESRCH;
}

struct flock byte_lock(uid_t uid, short type) {
    struct flock lock{};
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    lock.l_start = uid;
    lock.l_len = 1;
    return lock;
}

}  // namespace

Accounts Accounts::of_host() {
    return {read_if_there("/etc/passwd"), read_if_there("/etc/group"), read_if_there("/etc/subuid"), read_if_there("/etc/subgid")};
}

std::optional<std::string> overlap(uid_t first, uid_t last, const Accounts& accounts) {
    const auto single = [&](const std::string& text, const char* what) -> std::optional<std::string> {
        std::istringstream in(text);
        for (std::string line; std::getline(in, line);) {
            const auto fields = colon_fields(line);
            const auto id = fields.size() > 2 ? number_in(fields[2]) : std::nullopt;
            if (id && *id >= first && *id <= last) return std::string(what) + " " + fields[0] + " (" + fields[2] + ")";
        }
        return std::nullopt;
    };
    const auto range = [&](const std::string& text, const char* file) -> std::optional<std::string> {
        std::istringstream in(text);
        for (std::string line; std::getline(in, line);) {
            const auto fields = colon_fields(line);
            if (fields.size() < 3) continue;
            const auto start = number_in(fields[1]), count = number_in(fields[2]);
            if (start && count && *count > 0 && *start <= last && *start + *count > first) return "the line " + line + " of " + file;
        }
        return std::nullopt;
    };
    if (auto found = single(accounts.passwd, "account")) return found;
    if (auto found = single(accounts.group, "group")) return found;
    if (auto found = range(accounts.subuid, "/etc/subuid")) return found;
    return range(accounts.subgid, "/etc/subgid");
}

struct VmUids::Claims {
    Claims(state::Store& s, UniqueFd fd) : store(s), lock_file(std::move(fd)) {}
    state::Store& store;
    UniqueFd lock_file;

    // Open-file-description locks: they belong to this daemon, not to a thread, and go with it.
    bool lock(uid_t uid) {
        struct flock lock = byte_lock(uid, F_WRLCK);
        if (::fcntl(lock_file.get(), F_OFD_SETLK, &lock) == 0) return true;
        if (errno == EAGAIN || errno == EACCES) return false;
        throw Error::from_errno("lock a uid for a VM");
    }
    void unlock(uid_t uid) noexcept {
        struct flock lock = byte_lock(uid, F_UNLCK);
        ::fcntl(lock_file.get(), F_OFD_SETLK, &lock);
    }
};

VmUids::Lease& VmUids::Lease::operator=(Lease&& other) noexcept {
    if (this != &other) {
        release();
        claims_ = std::exchange(other.claims_, nullptr);
        uid_ = std::exchange(other.uid_, 0);
    }
    return *this;
}

void VmUids::Lease::release() noexcept {
    const auto claims = std::exchange(claims_, nullptr);
    const uid_t uid = std::exchange(uid_, 0);
    if (!claims) return;
    try {
        claims->store.release_uid(uid);
    } catch (const Error&) {
        // The store says so itself (write_failure); the lease is taken back at the next start.
    }
    claims->unlock(uid);
}

VmUids::VmUids(state::Store& store, uid_t first, uid_t last, const std::string& lock_file, const Accounts& accounts)
    : store_(store), first_(first), last_(last) {
    if (first == 0 || last < first) throw Error(ErrorCode::invalid_argument, "the range of uids for VMs is empty or begins with root");
    if (const auto conflict = overlap(first, last, accounts))
        throw Error(ErrorCode::failed_precondition,
                    "the uids for VMs, " + std::to_string(first) + "-" + std::to_string(last) + ", overlap " + *conflict,
                    "choose another range: guest.uid_first and guest.uid_last in the configuration");
    claims_ = std::make_shared<Claims>(store, open_file(lock_file, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
}

VmUids::Lease VmUids::claim(uid_t owner_uid, const std::string& machine_id) {
    const auto usable = [&](uid_t uid) {
        if (has_processes(uid) || !claims_->lock(uid)) return false;
        if (!has_processes(uid)) return true;  // looked at again under the lock
        claims_->unlock(uid);
        return false;
    };
    const uid_t uid = store_.lease_uid(owner_uid, machine_id, first_, last_, usable);
    return Lease(claims_, uid);
}

VmUids::Lease VmUids::again(uid_t uid) {
    // Held by no other daemon: its process runs, so nobody could claim it meanwhile.
    if (!claims_->lock(uid)) throw Error(ErrorCode::internal, "uid " + std::to_string(uid) + " of a running VM is held by another daemon");
    return Lease(claims_, uid);
}

}  // namespace pyro::vm
