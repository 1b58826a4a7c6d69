// The project that workspaces are seeded from where a call names nothing else. Looked at when it is needed, never before.
#pragma once
#include "client/mcp/options.hpp"
#include "client/seed/packing.hpp"

#include <functional>
#include <memory>
#include <optional>
#include <stop_token>

namespace pyro::shim {

class ProjectSource {
public:
    explicit ProjectSource(const ServeOptions& options) : options_(options) {}

    struct Taken {
        std::string path, shown;
        std::optional<client::seed::SourceKind> kind;
        bool cached = false;  // one that stays: what it was packed to may be remembered
        std::shared_ptr<client::seed::TemporaryDirectory> clone = {};
    };
    // Nothing where there is none, with the reason in `why`. Throws where one was named that is not there. `enter` is told of
    // what takes long.
    std::optional<Taken> take(std::string& why, const std::function<void(std::string)>& enter, std::stop_token stop) const;
    // The directory below which a call may name paths, if there is one.
    std::optional<std::string> root() const;

private:
    const ServeOptions& options_;
};

}  // namespace pyro::shim
