// `pyro-guest files` alone, for builds with sanitizers, which the static agent is not built with.
#include "guest/files/files.hpp"

int main(int count, char** arguments) { return pyro::guest::files::run(count - 2, arguments + 2); }
