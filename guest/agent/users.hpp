// Who a command runs as, by the guest's own /etc/passwd and /etc/group. Read by hand: a static program cannot use NSS.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

namespace pyro::guest {

struct User {
    uid_t uid = 0;
    gid_t gid = 0;
    std::vector<gid_t> groups;  // supplementary
    std::string name;           // empty when the uid has no entry
    std::string home = "/";
    std::string shell = "/bin/sh";
};

// `wanted` is a name or uid, optionally ":" and a group's name or gid; empty is root. A number needs no entry. Nothing when
// a name is unknown; `error` says which. With an explicit group there are no supplementary ones, as with other container tools.
std::optional<User> find_user(std::string_view wanted, std::string_view passwd, std::string_view group, std::string& error);

}  // namespace pyro::guest
