#include "daemon/vm/process_memory.hpp"
#include "tests/support/catch.hpp"

#include <cstring>

#include <sys/mman.h>
#include <unistd.h>

using namespace pyro;
using namespace pyro::vm;

namespace {

constexpr std::size_t mapped = 32 << 20;
constexpr std::size_t others = 8 << 20;  // what else happens in this process: a sanitizer keeps what is freed

// A mapping that is shared with a file in memory until it is written, as a clone's memory is.
struct Mapping {
    explicit Mapping(int protection) {
        const int file = ::memfd_create("test", MFD_CLOEXEC);
        REQUIRE(::ftruncate(file, mapped) == 0);
        at = static_cast<char*>(::mmap(nullptr, mapped, protection, MAP_PRIVATE, file, 0));
        ::close(file);
        REQUIRE(at != MAP_FAILED);
        for (std::size_t i = 0; i < mapped; i += 4096) sum = sum + at[i];  // reading makes nothing private
    }
    ~Mapping() { ::munmap(at, mapped); }
    void write() { std::memset(at, 1, mapped); }
    char* at;
    volatile int sum = 0;
};

ProcessMemory mine() {
    const auto memory = process_memory(supervise::identify(::getpid()).value());
    REQUIRE(memory);
    return *memory;
}

bool about(std::int64_t bytes, std::size_t wanted) {
    return bytes > static_cast<std::int64_t>(wanted) - static_cast<std::int64_t>(others) && bytes < static_cast<std::int64_t>(wanted + others);
}

}  // namespace

TEST_CASE("private memory is what was written, and translated code is counted apart") {
    mine();  // what reading takes itself
    Mapping data(PROT_READ | PROT_WRITE), code(PROT_READ | PROT_WRITE | PROT_EXEC);
    const ProcessMemory before = mine();
    data.write();
    const ProcessMemory with_data = mine();
    CHECK(about(with_data.private_bytes - before.private_bytes, mapped));
    CHECK(with_data.code_bytes == before.code_bytes);
    code.write();
    const ProcessMemory with_code = mine();
    CHECK(about(with_code.code_bytes - with_data.code_bytes, mapped));
    CHECK(about(with_code.private_bytes - with_data.private_bytes, 0));
}

TEST_CASE("the memory of a process that is gone, or is another one by now, is nobody's") {
    supervise::ProcessIdentity me = supervise::identify(::getpid()).value();
    ++me.start_time;
    CHECK_FALSE(process_memory(me));
    me.pid = 1 << 22;  // more than a pid can be
    CHECK_FALSE(process_memory(me));
}
