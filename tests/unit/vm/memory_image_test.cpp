#include "common/error.hpp"
#include "common/sparse_digest.hpp"
#include "daemon/vm/memory_image.hpp"
#include "tests/support/catch.hpp"

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

using namespace pyro;
using namespace pyro::vm;

namespace {

constexpr std::uint64_t mib = 1 << 20;
const std::stop_token never;

struct Folder {
    Folder() {
        char name[] = "/tmp/pyro-image-test-XXXXXX";
        path = ::mkdtemp(name);
    }
    ~Folder() { std::filesystem::remove_all(path); }
    std::string path;
};

struct stat info_of(int fd) {
    struct stat info{};
    REQUIRE(::fstat(fd, &info) == 0);
    return info;
}

void put(const UniqueFd& fd, const std::string& text, std::uint64_t at) {
    REQUIRE(::pwrite(fd.get(), text.data(), text.size(), static_cast<off_t>(at)) == static_cast<ssize_t>(text.size()));
}

std::string get(int fd, std::size_t count, std::uint64_t at) {
    std::string out(count, '?');
    REQUIRE(::pread(fd, out.data(), count, static_cast<off_t>(at)) == static_cast<ssize_t>(count));
    return out;
}

// A guest that used little of its memory: its first bytes, some across a page and a 64 KiB border, its last.
UniqueFd memory() {
    UniqueFd out = unsealed_memfd("test", 64 * mib);
    put(out, "first", 0);
    put(out, std::string(3 * mib, 'm'), 10 * mib + 65000);
    put(out, "last", 64 * mib - 4);
    return out;
}

std::optional<ErrorCode> code_of(const std::function<void()>& act) {
    try {
        act();
    } catch (const Error& e) {
        return e.code();
    }
    return std::nullopt;
}

}  // namespace

TEST_CASE("a sealed memory file cannot be changed by anybody who has it open") {
    const UniqueFd file = memory();
    REQUIRE((info_of(file.get()).st_mode & 0777) == 0666);
    void* mapped = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    REQUIRE(mapped != MAP_FAILED);
    REQUIRE_THROWS_AS(seal(file), Error);  // somebody could still write
    put(file, "First", 0);
    REQUIRE(::munmap(mapped, 4096) == 0);

    const UniqueFd before = open_file("/proc/self/fd/" + std::to_string(file.get()), O_RDWR);
    seal(file);
    const UniqueFd after = open_file("/proc/self/fd/" + std::to_string(file.get()), O_RDWR);
    for (const int fd : {file.get(), before.get(), after.get()}) {
        const auto refused = [](long result) { return result == -1 && errno == EPERM; };
        REQUIRE(refused(::pwrite(fd, "x", 1, 0)));
        REQUIRE(refused(::ftruncate(fd, 1)));
        REQUIRE(refused(::ftruncate(fd, 128 * mib)));
        REQUIRE(refused(::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096)));
        REQUIRE(refused(::fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK)));
        REQUIRE(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
        void* view = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0);
        REQUIRE(view != MAP_FAILED);
        REQUIRE(::mprotect(view, 4096, PROT_READ | PROT_WRITE) == -1);
        REQUIRE(::munmap(view, 4096) == 0);
        // What a clone does: its changes are its own.
        auto* own = static_cast<char*>(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
        REQUIRE(own != MAP_FAILED);
        own[0] = 'x';
        REQUIRE(::munmap(own, 4096) == 0);
    }
    REQUIRE(get(file.get(), 5, 0) == "First");
}

TEST_CASE("a memory goes to a file and back with its content and its holes") {
    const Folder folder;
    const std::string path = folder.path + "/memory";
    const UniqueFd file = memory();
    const Digest digest = copy_out(file, path, never);
    REQUIRE(digest == sparse_digest(file.get()));
    const UniqueFd stored = open_file(path, O_RDONLY);
    REQUIRE(sparse_digest(stored.get()) == digest);
    const struct stat on_disk = info_of(stored.get());
    REQUIRE(on_disk.st_size == 64 * mib);
    REQUIRE(on_disk.st_blocks * 512 < 8 * static_cast<off_t>(mib));
    REQUIRE((on_disk.st_mode & 07777) == 0600);
    REQUIRE(code_of([&] { copy_out(file, path, never); }));  // never over what is there

    const UniqueFd back = copy_in(path, "again", digest, never);
    REQUIRE(info_of(back.get()).st_size == 64 * mib);
    REQUIRE(info_of(back.get()).st_blocks * 512 < 8 * static_cast<off_t>(mib));
    REQUIRE(sparse_digest(back.get()) == digest);
    REQUIRE(get(back.get(), 5, 0) == "first");
    REQUIRE(get(back.get(), 2, 10 * mib + 64999) == std::string("\0m", 2));
    REQUIRE(get(back.get(), 4, 64 * mib - 4) == "last");
    REQUIRE(::fcntl(back.get(), F_GET_SEALS) == (F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL));
}

TEST_CASE("an empty memory is one too") {
    const Folder folder;
    const UniqueFd file = unsealed_memfd("empty", 0);
    const Digest digest = copy_out(file, folder.path + "/empty", never);
    REQUIRE(info_of(copy_in(folder.path + "/empty", "empty", digest, never).get()).st_size == 0);
}

TEST_CASE("a file that is not what was written is never a memory") {
    const Folder folder;
    const std::string path = folder.path + "/memory";
    const Digest digest = copy_out(memory(), path, never);
    const auto read = [&] { copy_in(path, "test", digest, never); };
    REQUIRE_FALSE(code_of(read));
    const auto change = GENERATE(as<std::string>(), "a bit", "a byte in a hole", "shorter", "longer", "nothing", "another");
    INFO(change);
    {
        const UniqueFd file = open_file(path, O_RDWR);
        if (change == "a bit") put(file, "l", 10 * mib + 70000);
        if (change == "a byte in a hole") put(file, "x", 40 * mib);
        if (change == "shorter") REQUIRE(::ftruncate(file.get(), 64 * mib - 1) == 0);
        if (change == "longer") REQUIRE(::ftruncate(file.get(), 64 * mib + 1) == 0);
        if (change == "nothing") REQUIRE(::ftruncate(file.get(), 0) == 0);
    }
    if (change == "another") std::ofstream(path) << "garbage";
    REQUIRE(code_of(read) == ErrorCode::failed_precondition);
}

TEST_CASE("what is missing, or only a link, is not read, and both ways stop when they are told") {
    const Folder folder;
    const std::string path = folder.path + "/memory";
    const Digest digest = copy_out(memory(), path, never);
    REQUIRE(code_of([&] { copy_in(folder.path + "/none", "test", digest, never); }) == ErrorCode::not_found);
    std::filesystem::create_symlink(path, folder.path + "/link");
    REQUIRE(code_of([&] { copy_in(folder.path + "/link", "test", digest, never); }));
    std::stop_source stopped;
    stopped.request_stop();
    REQUIRE_THROWS_AS(copy_in(path, "test", digest, stopped.get_token()), Cancelled);
    REQUIRE_THROWS_AS(copy_out(memory(), folder.path + "/other", stopped.get_token()), Cancelled);
}
