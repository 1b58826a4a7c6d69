// Seeds and syncs: what a workspace is filled from.
#pragma once
#include "client/seed/fingerprint.hpp"
#include "client/transfer/transfer.hpp"
#include "proto/workspace.hpp"

namespace pyro::client {

// A directory, archive or checkout of this host on its way into a workspace, as a stream. It is looked at, and refused, at once.
class HostSource {
public:
    // `cache`: what is known of sources that were packed before; a directory of "" is none. `shown`: what messages call it, where
    // that is not its path. `kind`: as PackOptions has it.
    HostSource(const std::string& path, seed::PackedCache cache, std::string shown = {}, std::optional<seed::SourceKind> kind = {});

    proto::SeedInfo info() const;                        // as far as it is known yet
    std::optional<Digest> digest() const;                // of the stream, where it was packed before
    void connect(Streams& streams) { upload_.connect(streams); }
    // After the call: what was taken. Remembers it.
    const seed::Packed& taken();

private:
    void pack(const seed::Sink& sink, std::stop_token stop);

    std::string path_, shown_;
    seed::PackedCache cache_;
    seed::SourceKind kind_;
    timespec began_{};
    std::optional<seed::Fingerprint> before_, after_;
    std::optional<seed::Packed> packed_;                 // found in the cache, then what was packed
    bool found_ = false;
    Upload upload_;
};

}  // namespace pyro::client
