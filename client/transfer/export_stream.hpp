// What an export's stream is a copy of, told from its first entries.
#pragma once
#include "client/seed/unpack.hpp"

namespace pyro::client {

// Whether the tree beneath `prefix` is a directory or a file, by the first entries of the stream; what was read of it is read again.
class ExportStream {
public:
    ExportStream(const seed::Source& rest, std::string prefix) : rest_(rest), prefix_(std::move(prefix)) {}

    seed::Shape shape(std::stop_token stop);
    std::string_view next();

private:
    const seed::Source& rest_;
    std::string prefix_, read_;
    bool again_ = true;
};

// As the stream has it: "/workspace/src/" is "src".
std::string export_prefix(std::string path);

}  // namespace pyro::client
