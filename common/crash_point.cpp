#include "common/crash_point.hpp"

#include <cstdlib>
#include <cstring>

#include <unistd.h>

namespace pyro {

void crash_point(const char* name) noexcept {
    static const char* const wanted = std::getenv("PYRO_CRASH_AT");
    if (wanted && std::strcmp(wanted, name) == 0) ::_exit(99);
}

}  // namespace pyro
