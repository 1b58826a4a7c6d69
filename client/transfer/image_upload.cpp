#include "client/transfer/image_upload.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "common/error.hpp"
#include "common/image_ref.hpp"

namespace pyro::client {

namespace {

using nlohmann::json;

constexpr std::size_t max_layout_document = 4u << 20, max_layout_blobs = 4096;

bool is_there(const std::string& path) {
    struct stat info {};
    return ::stat(path.c_str(), &info) == 0;
}

[[noreturn]] void no_layout(const std::string& path, const std::string& why) {
    throw Error(ErrorCode::invalid_argument, seed::printable(path) + " is no OCI layout: " + why,
                "a root file system goes in as a tar: tar -C DIR -c . | pyro env import NAME -");
}

// What an image of a layout needs, found from the top. Whatever is odd is left for the daemon to say.
class Reach {
public:
    Reach(const std::string& path, std::string tag) : path_(path), tag_(std::move(tag)) {}

    std::optional<Digest> manifest;
    std::set<std::string> blobs;

    void from_index() {
        const json index = document(path_ + "/index.json");
        const json listed = index.is_object() ? index.value("manifests", json::array()) : json::array();
        std::vector<json> named;
        for (const json& one : listed)
            if (one.is_object() && (tag_.empty() || name_of(one) == tag_)) named.push_back(one);
        for (const json& one : named) follow(one, named.size() == 1, 0);
    }

private:
    static std::string name_of(const json& descriptor) {
        const json notes = descriptor.value("annotations", json::object());
        return notes.is_object() && notes.contains("org.opencontainers.image.ref.name") && notes["org.opencontainers.image.ref.name"].is_string()
                   ? notes["org.opencontainers.image.ref.name"].get<std::string>() : std::string();
    }

    static json document(const std::string& file) {
        return json::parse(read_file(file, max_layout_document), nullptr, false);
    }

    void follow(const json& descriptor, bool alone, int depth) {
        if (depth > 4 || !descriptor.is_object() || !descriptor.contains("digest") || !descriptor["digest"].is_string()) return;
        const Digest digest = Digest::parse(descriptor["digest"].get<std::string>());
        if (blobs.size() >= max_layout_blobs || !blobs.insert(digest.hex()).second) return;
        const json body = document(path_ + "/blobs/sha256/" + digest.hex());
        if (!body.is_object()) return;
        if (body.contains("manifests") && body["manifests"].is_array()) {
            for (const json& one : body["manifests"]) {
                const json platform = one.is_object() ? one.value("platform", json::object()) : json::object();
                if (platform.is_object() && platform.value("os", "") == "linux" && platform.value("architecture", "") == "amd64") return follow(one, alone, depth + 1);
            }
            return;
        }
        if (alone) manifest = digest;
        const auto add = [&](const json& blob) {
            if (blob.is_object() && blob.contains("digest") && blob["digest"].is_string()) blobs.insert(Digest::parse(blob["digest"].get<std::string>()).hex());
        };
        if (body.contains("config")) add(body["config"]);
        if (body.contains("layers") && body["layers"].is_array())
            for (const json& layer : body["layers"]) add(layer);
    }

    const std::string& path_;
    std::string tag_;
};

}  // namespace

std::string HostImage::given_name() const {
    std::error_code ignored;
    const std::filesystem::path whole = std::filesystem::weakly_canonical(path, ignored);
    std::string slug;
    for (const char c : whole.filename().string() + (tag.empty() ? "" : "." + tag)) {
        const char low = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
        slug += (low >= 'a' && low <= 'z') || (low >= '0' && low <= '9') || low == '.' ? low : '-';
    }
    if (slug.size() > 48) slug.resize(48);
    return "@" + format + "." + slug + "." + Digest::of(format + "\n" + whole.string() + "\n" + tag).hex().substr(0, 8);
}

std::optional<HostImage> host_image(const std::string& reference) {
    const auto is = [&](const char* form) { return reference.starts_with(form); };
    if (!is("oci:") && !is("oci-archive:") && !is("docker-archive:")) return std::nullopt;
    ImageSource source = ImageSource::parse(reference);
    return HostImage{reference.substr(0, reference.find(':')), std::move(source.path), std::move(source.name)};
}

ImageUpload::ImageUpload(const std::string& path, const std::string& format, const std::string& tag)
    : path_(path), upload_([this](const seed::Sink& sink, std::stop_token stop) { produce(sink, stop); }) {
    if (path == "-") {
        if (::isatty(STDIN_FILENO)) throw Error(ErrorCode::invalid_argument, "standard input is a terminal", "pipe an archive into it, or name a file");
        file_ = UniqueFd(::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3));
        if (!file_) throw Error::from_errno("read standard input");
        return;
    }
    try {
        file_ = open_file(path, O_RDONLY | O_NOCTTY);
    } catch (Error& e) {
        throw e.with_hint("name an archive or an OCI layout of yours, or - for standard input");
    }
    struct stat info {};
    if (::fstat(file_.get(), &info) != 0) throw Error::from_errno("look at " + path);
    if (S_ISDIR(info.st_mode)) {
        if (format == "rootfs" || format == "docker-archive" || !is_there(path + "/oci-layout") || !is_there(path + "/index.json"))
            no_layout(path, "it has no oci-layout and index.json");
        file_.reset();
        read_layout(tag);
    } else if (format == "oci") {
        no_layout(path, "it is no directory");
    }
}

void ImageUpload::read_layout(const std::string& tag) {
    Reach reach(path_, tag);
    try {
        reach.from_index();
    } catch (const json::exception&) {
        no_layout(path_, "its documents are damaged");
    } catch (const Error& e) {
        no_layout(path_, e.message());
    }
    digest_ = reach.manifest;
    blobs_.assign(reach.blobs.begin(), reach.blobs.end());
}

void ImageUpload::produce(const seed::Sink& sink, std::stop_token stop) const {
    std::string buffer(256u << 10, '\0');
    const auto each_piece = [&](int fd, const std::string& name, const auto& take) {
        for (;;) {
            if (stop.stop_requested()) throw Cancelled();
            const ssize_t n = ::read(fd, buffer.data(), buffer.size());
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) throw Error::from_errno("read " + name);
            if (n == 0) return;
            take(std::string_view(buffer.data(), static_cast<std::size_t>(n)));
        }
    };
    if (file_) return each_piece(file_.get(), path_, sink);
    seed::TarWriter tar(sink, stop);
    const auto add = [&](const std::string& name) {
        const UniqueFd file = open_file(path_ + "/" + name, O_RDONLY | O_NOCTTY);
        struct stat info {};
        if (::fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode)) no_layout(path_, "its " + name + " is no file");
        seed::Entry entry;
        entry.path = name;
        entry.mode = 0644;
        entry.size = static_cast<std::uint64_t>(info.st_size);
        tar.begin(entry);
        std::uint64_t left = entry.size;
        each_piece(file.get(), name, [&](std::string_view bytes) {
            if (bytes.size() > left) throw Error(ErrorCode::failed_precondition, seed::printable(name) + " has changed while it was read", "run it again");
            left -= bytes.size();
            tar.data(bytes);
        });
        if (left > 0) throw Error(ErrorCode::failed_precondition, seed::printable(name) + " has changed while it was read", "run it again");
    };
    for (const std::string& hex : blobs_)
        if (is_there(path_ + "/blobs/sha256/" + hex)) add("blobs/sha256/" + hex);  // what is missing the daemon names
    add("index.json");
    add("oci-layout");
    tar.finish();
}

}  // namespace pyro::client
