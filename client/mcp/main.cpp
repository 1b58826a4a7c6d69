#include "client/mcp/shim.hpp"

#include <cstdio>

int main(int argc, char** argv) {
    using namespace pyro;
    try {
        const shim::CommandLine line = shim::parse_command_line({argv + (argc > 0 ? 1 : 0), argv + argc});
        if (line.what != shim::CommandLine::What::serve) {
            std::fputs(line.what == shim::CommandLine::What::help ? shim::help_text : "pyro-mcp " PYRO_VERSION "\n", stdout);
            return 0;
        }
        shim::Shim shim(line.options);
        mcp::Server server(shim::server_options(shim.options));
        shim::add_everything(server, shim);
        return server.serve_stdio();
    } catch (const Error& e) {
        std::fprintf(stderr, "pyro-mcp: %s%s%s\n", e.message().c_str(), e.hint().empty() ? "" : "\n", e.hint().c_str());
        return e.code() == ErrorCode::invalid_argument ? 2 : 125;
    } catch (const std::exception& e) {
        std::fprintf(stderr, "pyro-mcp: %s\n", e.what());
        return 125;
    }
}
