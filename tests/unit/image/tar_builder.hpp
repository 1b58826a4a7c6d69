// Tars made byte by byte, so that they can be as wrong as a test needs.
#pragma once
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>

#include "common/unique_fd.hpp"

namespace pyro::test {

struct Member {
    std::string path;
    char type = '0';  // '0' file, '1' hard link, '2' symlink, '3' char, '4' block, '5' directory, '6' fifo
    std::string content;
    std::string target;
    unsigned mode = 0644;
    unsigned uid = 0, gid = 0;
    long mtime = 1700000000;
    unsigned major = 0, minor = 0;
    std::string pax;  // records, made with pax_record()
};

inline std::string pax_record(const std::string& key, const std::string& value) {
    std::size_t size = key.size() + value.size() + 3;
    std::string length = std::to_string(size);
    while (length.size() + key.size() + value.size() + 3 != size) {
        size = length.size() + key.size() + value.size() + 3;
        length = std::to_string(size);
    }
    return length + " " + key + "=" + value + "\n";
}

class TarBuilder {
public:
    TarBuilder& add(const Member& member) {
        std::string pax = member.pax;
        if (member.path.size() > 100)
            pax += pax_record("path", member.path);
        if (member.target.size() > 100)
            pax += pax_record("linkpath", member.target);
        if (!pax.empty()) {
            Member extended;
            extended.path = "pax";
            header(extended, 'x', pax.size());
            body(pax);
        }
        header(member, member.type, member.content.size());
        body(member.content);
        return *this;
    }
    TarBuilder& file(const std::string& path, const std::string& content, unsigned mode = 0644) {
        Member member;
        member.path = path, member.content = content, member.mode = mode;
        return add(member);
    }
    TarBuilder& directory(const std::string& path, unsigned mode = 0755) {
        Member member;
        member.path = path, member.type = '5', member.mode = mode;
        return add(member);
    }
    TarBuilder& symlink(const std::string& path, const std::string& target) {
        Member member;
        member.path = path, member.type = '2', member.target = target, member.mode = 0777;
        return add(member);
    }
    TarBuilder& hard_link(const std::string& path, const std::string& target) {
        Member member;
        member.path = path, member.type = '1', member.target = target;
        return add(member);
    }
    TarBuilder& raw(const std::string& bytes) {
        bytes_ += bytes;
        return *this;
    }

    std::string bytes() const { return bytes_ + std::string(1024, '\0'); }
    std::string unfinished() const { return bytes_; }

private:
    void header(const Member& m, char type, std::size_t size) {
        char h[512] = {};
        std::memcpy(h, m.path.data(), std::min<std::size_t>(100, m.path.size()));
        std::snprintf(h + 100, 8, "%07o", m.mode);
        std::snprintf(h + 108, 8, "%07o", m.uid);
        std::snprintf(h + 116, 8, "%07o", m.gid);
        std::snprintf(h + 124, 12, "%011lo", static_cast<unsigned long>(size));
        std::snprintf(h + 136, 12, "%011lo", static_cast<unsigned long>(m.mtime));
        std::memset(h + 148, ' ', 8);
        h[156] = type;
        std::memcpy(h + 157, m.target.data(), std::min<std::size_t>(100, m.target.size()));
        std::memcpy(h + 257, "ustar\00000", 8);
        std::snprintf(h + 329, 8, "%07o", m.major);
        std::snprintf(h + 337, 8, "%07o", m.minor);
        unsigned sum = 0;
        for (const char c : h)
            sum += static_cast<unsigned char>(c);
        std::snprintf(h + 148, 8, "%06o", sum);
        bytes_.append(h, sizeof h);
    }
    void body(const std::string& content) {
        bytes_ += content;
        bytes_.append((512 - content.size() % 512) % 512, '\0');
    }
    std::string bytes_;
};

inline UniqueFd file_with(const std::string& bytes) {
    UniqueFd file(::memfd_create("test", MFD_CLOEXEC));
    write_all(file.get(), bytes);
    ::lseek(file.get(), 0, SEEK_SET);
    return file;
}

}  // namespace pyro::test
