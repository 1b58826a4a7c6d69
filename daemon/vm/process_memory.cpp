#include "daemon/vm/process_memory.hpp"

#include "common/error.hpp"
#include "common/unique_fd.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <string>

#include <fcntl.h>
#include <sys/fsuid.h>
#include <sys/stat.h>

namespace pyro::vm {
namespace {

constexpr std::string_view private_dirty = "Private_Dirty:";

// The permissions of a mapping, "rwxp", where this line begins one: "7f0000000000-7f0000021000 rw-p 00000000 00:00 0".
std::string_view permissions_in(std::string_view line) {
    const std::size_t space = line.find(' ');
    if (space == std::string_view::npos || line.substr(0, space).find('-') == std::string_view::npos) return {};
    return line.substr(space + 1, 4);
}

std::int64_t kib_in(std::string_view text) {
    const std::size_t digits = text.find_first_not_of(' ');
    std::int64_t kib = 0;
    if (digits != std::string_view::npos) std::from_chars(text.data() + digits, text.data() + text.size(), kib);
    return kib;
}

}  // namespace

ProcessMemory sum_smaps(std::string_view smaps) {
    ProcessMemory sum;
    bool is_code = false;
    while (!smaps.empty()) {
        const std::string_view line = smaps.substr(0, smaps.find('\n'));
        smaps.remove_prefix(std::min(line.size() + 1, smaps.size()));
        // Nothing of QEMU but the buffer it translates into may be both written and executed.
        if (const std::string_view permissions = permissions_in(line); !permissions.empty()) is_code = permissions.starts_with("rwx");
        if (line.starts_with(private_dirty)) (is_code ? sum.code_bytes : sum.private_bytes) += kib_in(line.substr(private_dirty.size())) << 10;
    }
    return sum;
}

namespace {

// With the user's own eyes, as this one thread: the daemon need not be able to look into every process of the host.
std::string read_as_owner(const std::string& process, const char* name) {
    struct stat info{};
    if (::stat(process.c_str(), &info) != 0) throw Error::from_errno("look at " + process);
    const int gid = ::setfsgid(info.st_gid), uid = ::setfsuid(info.st_uid);
    const UniqueFd fd(::open((process + name).c_str(), O_RDONLY | O_CLOEXEC));
    const int failed = errno;
    ::setfsuid(static_cast<uid_t>(uid));
    ::setfsgid(static_cast<gid_t>(gid));
    errno = failed;
    if (!fd) throw Error::from_errno("read " + process + name);
    return read_up_to(fd.get(), 64u << 20);
}

}  // namespace

std::optional<ProcessMemory> process_memory(const supervise::ProcessIdentity& process) {
    try {
        const ProcessMemory sum = sum_smaps(read_as_owner("/proc/" + std::to_string(process.pid), "/smaps"));
        // What was read is that process's only if it still is that one.
        if (supervise::identify(process.pid) == process) return sum;
    } catch (const Error&) {
        // It has ended.
    }
    return std::nullopt;
}

}  // namespace pyro::vm
