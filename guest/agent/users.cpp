#include "guest/agent/users.hpp"

#include <array>
#include <charconv>

namespace pyro::guest {
namespace {

template <std::size_t N>
bool split(std::string_view line, std::array<std::string_view, N>& fields) {
    for (std::size_t i = 0; i < N; ++i) {
        const std::size_t colon = line.find(':');
        if (colon == std::string_view::npos && i + 1 < N) return false;
        fields[i] = line.substr(0, i + 1 < N ? colon : line.find(':'));
        line.remove_prefix(colon == std::string_view::npos ? line.size() : colon + 1);
    }
    return true;
}

template <std::size_t N, class F>
void each_entry(std::string_view text, F&& visit) {
    while (!text.empty()) {
        const std::size_t end = text.find('\n');
        std::array<std::string_view, N> fields;
        if (split(text.substr(0, end), fields)) visit(fields);
        text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    }
}

std::optional<unsigned> number_of(std::string_view text) {
    unsigned value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (text.empty() || error != std::errc{} || end != text.data() + text.size() || value == static_cast<unsigned>(-1)) return std::nullopt;
    return value;
}

}  // namespace

std::optional<User> find_user(std::string_view wanted, std::string_view passwd, std::string_view group, std::string& error) {
    const std::size_t colon = wanted.find(':');
    std::string_view who = wanted.substr(0, colon);
    if (who.empty()) who = "0";
    const std::optional<unsigned> by_number = number_of(who);

    User user;
    bool found = false;
    each_entry<7>(passwd, [&](const auto& f) {  // name:password:uid:gid:comment:home:shell
        const auto uid = number_of(f[2]), gid = number_of(f[3]);
        if (found || !uid || !gid || (f[0] != who && uid != by_number)) return;
        found = true;
        user.name = f[0];
        user.uid = *uid;
        user.gid = *gid;
        if (!f[5].empty()) user.home = f[5];
        if (!f[6].empty()) user.shell = f[6];
    });
    if (!found) {
        if (!by_number) {
            error = "the image has no user " + std::string(who);
            return std::nullopt;
        }
        user.uid = *by_number;
        if (user.uid == 0) user.name = "root", user.home = "/root";
    }

    if (colon != std::string_view::npos) {
        const std::string_view name = wanted.substr(colon + 1);
        std::optional<unsigned> gid;
        each_entry<4>(group, [&](const auto& f) { if (!gid && f[0] == name) gid = number_of(f[2]); });
        if (!gid) gid = number_of(name);
        if (!gid) {
            error = "the image has no group " + std::string(name);
            return std::nullopt;
        }
        user.gid = *gid;
        return user;
    }
    if (user.name.empty()) return user;
    each_entry<4>(group, [&](const auto& f) {  // name:password:gid:members
        const auto gid = number_of(f[2]);
        if (!gid || *gid == user.gid || user.groups.size() >= 1024) return;
        for (std::string_view members = f[3]; !members.empty();) {
            const std::size_t comma = members.find(',');
            if (members.substr(0, comma) == user.name) {
                user.groups.push_back(*gid);
                return;
            }
            members.remove_prefix(comma == std::string_view::npos ? members.size() : comma + 1);
        }
    });
    return user;
}

}  // namespace pyro::guest
