// pyro-image: the worker that touches what registries send. One request in, events out, nothing kept.
#include <clocale>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <sys/prctl.h>
#include <csignal>

#include "image/bootstrap.hpp"
#include "image/build.hpp"
#include "image/commit.hpp"
#include "image/fetch.hpp"
#include "image/import.hpp"
#include "image/protocol.hpp"
#include "image/sandbox.hpp"
#include "image/seed.hpp"

#if defined(__SANITIZE_ADDRESS__)
// The leak check wants to trace the process, which its own sandbox forbids.
extern "C" const char* __asan_default_options() { return "detect_leaks=0"; }
#endif

namespace {

using namespace pyro;

int run(const char* command) {
    image::Events events(1);
    try {
        const nlohmann::json request = image::read_request(0);
        image::Sandbox sandbox;
        if (std::strcmp(command, "fetch") == 0) {
            image::FetchJob job(request);
            sandbox.network = true;
            sandbox.writable_directories = {request.at("directory_fd").get<int>()};
            sandbox.max_file_bytes = request.value("max_bytes", std::uint64_t{64} << 30);
            enter_sandbox(sandbox);
            events.result(job.run(events));
        } else if (std::strcmp(command, "build") == 0) {
            enter_sandbox(sandbox);
            events.result(image::build_image(request, events));
        } else if (std::strcmp(command, "seed") == 0) {
            enter_sandbox(sandbox);
            events.result(image::seed_image(request, events));
        } else if (std::strcmp(command, "import") == 0) {
            sandbox.writable_directories = {request.at("directory_fd").get<int>()};
            sandbox.max_file_bytes = request.at("max_bytes").get<std::uint64_t>();
            enter_sandbox(sandbox);
            events.result(image::import_image(request, events));
        } else if (std::strcmp(command, "commit") == 0) {
            sandbox.writable_directories = {request.at("directory_fd").get<int>()};
            enter_sandbox(sandbox);
            events.result(image::commit_image(request, events));
        } else if (std::strcmp(command, "packages") == 0) {
            enter_sandbox(sandbox);
            events.result(image::list_packages(request));
        } else if (std::strcmp(command, "bootstrap") == 0) {
            events.result(image::bootstrap(request, events));
        } else if (std::strcmp(command, "unpack") == 0) {
            sandbox.writable_directories = {request.at("directory_fd").get<int>()};
            sandbox.max_files = 1024;  // one for each level of a deep tree
            enter_sandbox(sandbox);
            events.result(image::unpack_image(request, events));
        } else {
            throw Error(ErrorCode::invalid_argument, std::string("unknown subcommand ") + command);
        }
        return 0;
    } catch (const Error& error) {
        events.error(error);
    } catch (const nlohmann::json::exception& error) {
        events.error(Error(ErrorCode::invalid_argument, std::string("the request does not fit: ") + error.what()));
    } catch (const std::bad_alloc&) {
        events.error(Error(ErrorCode::environment_invalid, "the image needs more memory than the worker may have", "use a smaller image"));
    }
    return 1;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        std::fputs("pyro-image is started by pyrod: pyro-image fetch|import|commit|build|packages|unpack|seed|bootstrap, request on standard input\n", stderr);
        return 2;
    }
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    // Names in archives are bytes; only a UTF-8 locale lets libarchive hand out those it has in UTF-8.
    std::setlocale(LC_CTYPE, "C.UTF-8");
    try {
        return run(argv[1]);
    } catch (const std::exception& error) {  // the daemon is gone, or has closed its end
        std::fprintf(stderr, "pyro-image: %s\n", error.what());
        return 1;
    }
}
