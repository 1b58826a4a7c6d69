// A uid of its own for every VM, so that a VMM that was taken over meets nothing that is another's.
#pragma once
#include "common/unique_fd.hpp"
#include "daemon/state/store.hpp"

#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace pyro::vm {

// The account databases that a range of VM uids must not touch; the texts of /etc/passwd, group, subuid and subgid.
struct Accounts {
    std::string passwd, group, subuid, subgid;
    static Accounts of_host();
};
// What in them overlaps first..last, "account alice (2000001)"; nothing when the range is free.
std::optional<std::string> overlap(uid_t first, uid_t last, const Accounts& accounts);

// Uids first..last, shared with every other daemon of the host: who uses one holds a lock on the byte of that number in
// `lock_file`. A uid comes back to use oldest first, and only when no process has it any more.
class VmUids {
    struct Claims;

public:
    class Lease {  // gives the uid back when destroyed; keep it until every process of the uid is gone
    public:
        Lease() = default;
        Lease(Lease&& other) noexcept : claims_(std::exchange(other.claims_, nullptr)), uid_(std::exchange(other.uid_, 0)) {}
        Lease& operator=(Lease&& other) noexcept;
        ~Lease() { release(); }
        uid_t uid() const noexcept { return uid_; }  // 0: none
        void release() noexcept;
        void keep() noexcept { claims_.reset(), uid_ = 0; }  // the VM goes on without this daemon

    private:
        friend class VmUids;
        Lease(std::shared_ptr<Claims> claims, uid_t uid) : claims_(std::move(claims)), uid_(uid) {}
        std::shared_ptr<Claims> claims_;
        uid_t uid_ = 0;
    };

    // Error(failed_precondition) when the range overlaps an account or a subordinate range.
    VmUids(state::Store& store, uid_t first, uid_t last, const std::string& lock_file, const Accounts& accounts = Accounts::of_host());
    Lease claim(uid_t owner_uid, const std::string& machine_id);
    Lease again(uid_t uid);  // for a machine found running

private:
    state::Store& store_;
    std::shared_ptr<Claims> claims_;
    uid_t first_, last_;
};

}  // namespace pyro::vm
