#include "common/log.hpp"

#include "common/unique_fd.hpp"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

namespace pyro::log {
namespace {

constexpr std::size_t longest_value = 4096;

// What a peer, a guest or a registry said may be in it.
std::string printable(std::string_view text) {
    std::string out(text.substr(0, longest_value));
    for (char& c : out)
        if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) > 0x7e) c = '?';
    return out;
}

// systemd says which file standard error was when it started us; a shell in between may have put another there.
bool stderr_is_the_journals() {
    const char* said = std::getenv("JOURNAL_STREAM");
    struct stat info{};
    return said && ::fstat(2, &info) == 0 && std::to_string(info.st_dev) + ":" + std::to_string(info.st_ino) == said;
}

UniqueFd connect_to_journal() {
    if (!stderr_is_the_journals()) return UniqueFd();
    UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::string_view("/run/systemd/journal/socket").copy(address.sun_path, sizeof address.sun_path - 1);
    if (fd && ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) fd.reset();
    return fd;
}

// Of the journal's native protocol the form that carries any value: name, newline, length as 64 bits little endian, value, newline.
void append(std::string& datagram, std::string_view name, std::string_view value) {
    datagram += name;
    datagram += '\n';
    for (int shift = 0; shift < 64; shift += 8) datagram += static_cast<char>(static_cast<std::uint64_t>(value.size()) >> shift & 0xff);
    datagram += value;
    datagram += '\n';
}

bool send_to_journal(Level level, const std::string& text, const std::vector<Field>& fields) {
    static const UniqueFd journal = connect_to_journal();
    if (!journal) return false;
    std::string datagram;
    append(datagram, "MESSAGE", text);
    append(datagram, "PRIORITY", std::to_string(static_cast<int>(level)));
    append(datagram, "SYSLOG_IDENTIFIER", "pyrod");
    for (const Field& field : fields)
        if (!field.value.empty()) append(datagram, field.name, printable(field.value));
    // A journal that is behind keeps nobody waiting.
    return ::send(journal.get(), datagram.data(), datagram.size(), MSG_DONTWAIT | MSG_NOSIGNAL) == static_cast<ssize_t>(datagram.size());
}

}  // namespace

void say(Level level, std::string_view text, const std::vector<Field>& fields) noexcept {
    try {
        const std::string line = printable(text);
        if (send_to_journal(level, line, fields) || level == Level::info) return;
        std::fprintf(stderr, "pyrod: %s\n", line.c_str());
    } catch (const std::exception& e) {
        std::fprintf(stderr, "pyrod: a line of the log is missing: %s\n", e.what());
    }
}

}  // namespace pyro::log
