// Images of this host on their way to the daemon: archives, root file systems, OCI layouts in a directory.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "client/transfer/transfer.hpp"
#include "common/digest.hpp"
#include "common/unique_fd.hpp"

namespace pyro::client {

// What a reference to a file of this host says: oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME].
struct HostImage {
    std::string format;  // as it is written before the colon
    std::string path, tag;
    // What the environment made of it is called where nobody named it: the same for the same place.
    std::string given_name() const;
};
std::optional<HostImage> host_image(const std::string& reference);

// It is looked at, and refused, at once; read by the user's own rights, when the daemon asks for it. "-" is standard input.
class ImageUpload {
public:
    // `tag`: of a layout, which image; empty: its only one.
    ImageUpload(const std::string& path, const std::string& format, const std::string& tag);

    const std::optional<Digest>& digest() const { return digest_; }  // of a layout's manifest, where it is known
    void connect(Streams& streams) { upload_.connect(streams); }

private:
    void read_layout(const std::string& tag);
    void produce(const seed::Sink& sink, std::stop_token stop) const;

    std::string path_;
    UniqueFd file_;                   // of a stream
    std::vector<std::string> blobs_;  // of a layout, hex, sorted
    std::optional<Digest> digest_;
    Upload upload_;
};

}  // namespace pyro::client
