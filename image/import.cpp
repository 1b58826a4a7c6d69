#include "image/import.hpp"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <vector>

#include "common/digest.hpp"
#include "common/unique_fd.hpp"
#include "image/manifest.hpp"
#include "image/tree.hpp"

namespace pyro::image {
namespace {

using nlohmann::json;

constexpr const char* import_spool = "stream";
constexpr const char* blob_name = "blob.part";
constexpr std::size_t max_import_document = 4u << 20, max_import_entries = 100'000;
constexpr std::uint64_t max_unpacked_ratio = 200, ratio_begins = 256u << 20;
constexpr const char* oci_manifest_type = "application/vnd.oci.image.manifest.v1+json";
constexpr const char* oci_config_type = "application/vnd.oci.image.config.v1+json";
constexpr const char* usual_path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

[[noreturn]] void import_refused(const std::string& why, const std::string& hint = "make it anew, or name what it is with --format") {
    throw Error(ErrorCode::invalid_argument, "it cannot be imported: " + why, hint);
}

struct FreeImportArchive { void operator()(archive* a) const noexcept { archive_read_free(a); } };
using ImportArchive = std::unique_ptr<archive, FreeImportArchive>;

std::string import_reason(archive* a) {
    const char* text = archive_error_string(a);
    return text ? text : "unknown reason";
}

// One level of gzip or zstd, or none.
void accept_packing(archive* a) {
    archive_read_support_filter_gzip(a);
    archive_read_support_filter_zstd(a);
}

// The stream as it is handed over: kept, counted and hashed.
Digest spool(int stream, int directory, std::uint64_t limit, Events& events, std::uint64_t& bytes) {
    const UniqueFd file(::openat(directory, import_spool, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!file)
        throw Error::from_errno("keep what is imported");
    Sha256 hash;
    std::string buffer(256u << 10, '\0');
    bytes = 0;
    while (true) {
        const ssize_t n = ::read(stream, buffer.data(), buffer.size());
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            throw Error::from_errno("read what is imported");
        if (n == 0)
            break;
        bytes += static_cast<std::uint64_t>(n);
        if (bytes > limit)
            throw Error(ErrorCode::quota_exceeded, "what is imported is larger than the " + std::to_string(limit >> 20) + " MiB that an image may have",
                        "raise environments.max_image_mib in pyrod.toml");
        const std::string_view piece(buffer.data(), static_cast<std::size_t>(n));
        hash.update(piece);
        write_all(file.get(), piece);
        events.progress("import", "", bytes, 0);
    }
    if (bytes == 0)
        import_refused("it is empty", "name a file that holds an image");
    return hash.finish();
}

// What it is that can be told from its beginning, and is nothing to read here.
void refuse_by_head(std::string_view head) {
    const auto unpack = [](const char* what, const char* with) {
        import_refused(std::string("it is packed with ") + what, std::string("unpack it first: ") + with + " FILE | pyro env import NAME -");
    };
    if (head.starts_with(std::string_view("\xfd" "7zXZ\0", 6)))
        unpack("xz", "xz -dc");
    if (head.starts_with("BZh"))
        unpack("bzip2", "bzip2 -dc");
    if (head.starts_with("QFI\xfb") || head.starts_with("PK\x03\x04") || head.starts_with("hsqs") ||
        (head.size() >= 0x43a && head.substr(0x438, 2) == "\x53\xef"))
        import_refused("it is a disk image or another kind of archive", "give a tar of the root file system: tar -C DIR -c . | pyro env import NAME -");
}

struct ImportEntry {
    std::string path;  // without "./" and doubled slashes
    mode_t type = 0;
    std::string link;  // where a link leads, from the top
    archive* data = nullptr;
};

// "./a//b" is "a/b"; nothing where it leads up and out.
std::optional<std::string> lexical_path(std::string_view text) {
    std::vector<std::string_view> parts;
    while (!text.empty()) {
        const std::size_t slash = text.find('/');
        const std::string_view part = text.substr(0, slash);
        text.remove_prefix(slash == std::string_view::npos ? text.size() : slash + 1);
        if (part.empty() || part == ".")
            continue;
        if (part == "..") {
            if (parts.empty())
                return std::nullopt;
            parts.pop_back();
        } else {
            parts.push_back(part);
        }
    }
    std::string out;
    for (const std::string_view part : parts)
        out += (out.empty() ? "" : "/") + std::string(part);
    return out;
}

// Every entry of the tar, until `visit` has seen enough and says false.
void each_entry(int directory, const std::function<bool(const ImportEntry&)>& visit) {
    const UniqueFd file(::openat(directory, import_spool, O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!file)
        throw Error::from_errno("open what is imported");
    const ImportArchive tar(archive_read_new());
    if (!tar)
        throw Error::from_errno("start libarchive", ENOMEM);
    accept_packing(tar.get());
    archive_read_support_format_tar(tar.get());
    if (archive_read_open_fd(tar.get(), file.get(), 256u << 10) != ARCHIVE_OK)
        import_refused("it is no tar archive: " + import_reason(tar.get()));
    for (std::size_t count = 0;; ++count) {
        archive_entry* raw = nullptr;
        const int status = archive_read_next_header(tar.get(), &raw);
        if (status == ARCHIVE_EOF) {
            if (count == 0)
                import_refused("it is no tar archive, or one without files");
            return;
        }
        if (status < ARCHIVE_WARN)
            import_refused((count == 0 ? "it is no tar archive: " : "the archive is damaged: ") + import_reason(tar.get()));
        const char* name = archive_entry_pathname(raw);
        if (!name)
            import_refused("it has an entry with an unreadable name");
        const std::optional<std::string> path = lexical_path(name);
        if (!path)
            import_refused("its entry " + printable(name) + " leads out of it");
        ImportEntry entry;
        entry.path = *path;
        entry.type = archive_entry_filetype(raw);
        if (const char* target = archive_entry_hardlink(raw)) {
            entry.type = AE_IFLNK;
            entry.link = lexical_path(target).value_or("");
        } else if (const char* leads = entry.type == AE_IFLNK ? archive_entry_symlink(raw) : nullptr) {
            entry.link = lexical_path(entry.path + "/../" + leads).value_or("");
        }
        entry.data = tar.get();
        if (!visit(entry))
            return;
    }
}

std::string_view next_piece(archive* data) {
    const void* bytes = nullptr;
    std::size_t size = 0;
    la_int64_t offset = 0;
    const int status = archive_read_data_block(data, &bytes, &size, &offset);
    if (status == ARCHIVE_EOF)
        return {};
    if (status != ARCHIVE_OK)
        import_refused("the archive is damaged: " + import_reason(data));
    return {static_cast<const char*>(bytes), size};
}

std::string small_entry(const ImportEntry& entry) {
    std::string text;
    for (std::string_view piece = next_piece(entry.data); !piece.empty(); piece = next_piece(entry.data)) {
        if (text.size() + piece.size() > max_import_document)
            import_refused("its " + printable(entry.path) + " is too large");
        text += piece;
    }
    return text;
}

// By what lies at the top. Of a root file system the first few entries say so.
std::string detected_format(int directory) {
    static const std::set<std::string, std::less<>> of_a_root{"bin", "boot", "dev", "etc", "home", "lib", "lib64", "media", "mnt", "opt",
                                                              "proc", "root", "run", "sbin", "srv", "sys", "tmp", "usr", "var"};
    bool layout = false, index = false, saved = false, root = false;
    std::size_t count = 0;
    each_entry(directory, [&](const ImportEntry& entry) {
        if (++count > max_import_entries)
            return false;
        layout |= entry.path == "oci-layout";
        index |= entry.path == "index.json";
        saved |= entry.path == "manifest.json";
        root |= of_a_root.contains(entry.path.substr(0, entry.path.find('/')));
        return !root;
    });
    if (root)
        return "rootfs";
    return layout && index ? "oci-archive" : saved ? "docker-archive" : "rootfs";
}

struct Stored {
    Digest digest;
    std::uint64_t size = 0;
    std::string head;  // its first bytes
};

// The files of an image archive: blobs in the directory, by digest; documents in memory.
struct Unpacked {
    std::map<std::string, Stored> files;
    std::map<std::string, std::string> links, documents;

    const Stored* find(std::string path) const {
        for (int hops = 0; hops < 8; ++hops) {
            if (const auto file = files.find(path); file != files.end())
                return &file->second;
            const auto link = links.find(path);
            if (link == links.end())
                return nullptr;
            path = link->second;
        }
        return nullptr;
    }
};

Stored store_blob(int directory, const ImportEntry& entry, std::uint64_t limit) {
    Stored out;
    Sha256 hash;
    {
        const UniqueFd file(::openat(directory, blob_name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
        if (!file)
            throw Error::from_errno("keep a blob of the image");
        for (std::string_view piece = next_piece(entry.data); !piece.empty(); piece = next_piece(entry.data)) {
            out.size += piece.size();
            if (out.size > limit)
                throw Error(ErrorCode::quota_exceeded, "the image is larger than the " + std::to_string(limit >> 20) + " MiB that one may have",
                            "raise environments.max_image_mib in pyrod.toml");
            if (out.head.size() < 4)
                out.head += piece.substr(0, 4 - out.head.size());
            hash.update(piece);
            write_all(file.get(), piece);
        }
    }
    out.digest = hash.finish();
    if (::renameat(directory, blob_name, directory, out.digest.hex().c_str()) != 0)
        throw Error::from_errno("keep a blob of the image");
    return out;
}

Unpacked unpack_archive(int directory, bool oci, std::uint64_t limit, Events& events) {
    Unpacked out;
    std::uint64_t total = 0;
    each_entry(directory, [&](const ImportEntry& entry) {
        if (out.files.size() + out.links.size() + out.documents.size() >= max_import_entries)
            import_refused("it has too many files for an image archive");
        if (entry.type == AE_IFLNK) {
            out.links[entry.path] = entry.link;
        } else if (entry.type == AE_IFREG && (entry.path == "index.json" || entry.path == "oci-layout" || entry.path == "manifest.json")) {
            out.documents[entry.path] = small_entry(entry);
        } else if (entry.type == AE_IFREG && (!oci || entry.path.starts_with("blobs/"))) {
            const Stored stored = store_blob(directory, entry, limit - total);
            constexpr std::string_view blobs = "blobs/sha256/";
            if (entry.path.starts_with(blobs) && entry.path.substr(blobs.size()) != stored.digest.hex())
                throw Error(ErrorCode::environment_invalid, "the image's " + printable(entry.path) + " has the digest " + stored.digest.str(),
                            "the archive is damaged: make it anew");
            total += stored.size;
            out.files[entry.path] = stored;
            events.progress("import", "", total, 0);
        }
        return true;
    });
    return out;
}

std::string blob_text(int directory, const Digest& digest) {
    const UniqueFd file(::openat(directory, digest.hex().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!file)
        throw Error::from_errno("open a document of the image");
    std::string text = read_up_to(file.get(), max_import_document + 1);
    if (text.size() > max_import_document)
        import_refused("a document of the image is too large");
    return text;
}

void keep_document(int directory, const Digest& digest, std::string_view text) {
    const UniqueFd file(::openat(directory, digest.hex().c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!file)
        throw Error::from_errno("keep a document of the image");
    write_all(file.get(), text);
}

json config_answer(const ImageConfig& config) {
    return {{"user", config.user}, {"working_dir", config.working_dir}, {"env", config.env}, {"cmd", config.cmd}, {"entrypoint", config.entrypoint}};
}

json answer_of(const Digest& manifest_digest, std::size_t manifest_size, const Digest& config_digest, std::size_t config_size, const ImageConfig& config,
               const json& layers) {
    return {{"manifest_digest", manifest_digest.str()}, {"manifest_size", manifest_size}, {"config_digest", config_digest.str()}, {"config_size", config_size},
            {"layers", layers}, {"config", config_answer(config)}};
}

// The one that is named, or the only one. `names` are what each may be called by.
std::size_t chosen(const std::vector<std::vector<std::string>>& names, const std::string& tag) {
    std::string known;
    std::size_t found = names.size(), fitting = 0;
    for (std::size_t i = 0; i < names.size(); ++i) {
        bool fits = tag.empty();
        for (const std::string& name : names[i]) {
            fits |= name == tag || name.ends_with("/" + tag) || (tag.find(':') == std::string::npos && name.ends_with(":" + tag));
            if (known.size() < 300)
                known += (known.empty() ? "" : ", ") + printable(name);
        }
        if (fits)
            found = i, ++fitting;
    }
    const std::string hint = known.empty() ? std::string("its images have no names: make an archive of one") : "it has: " + known;
    if (fitting == 0)
        throw Error(ErrorCode::not_found, "it has no image " + (tag.empty() ? std::string("at all") : printable(tag)), hint);
    if (fitting > 1)
        import_refused("it holds " + std::to_string(fitting) + " images" + (tag.empty() ? "" : " of that name"), hint + "; choose one: --tag TAG");
    return found;
}

json parsed_document(const Unpacked& archive, const char* name) {
    const auto found = archive.documents.find(name);
    json document = found == archive.documents.end() ? json() : json::parse(found->second, nullptr, false);
    if (document.is_discarded() || document.is_null())
        import_refused(std::string("its ") + name + " is missing or no JSON");
    return document;
}

const Stored& needed_blob(const Unpacked& archive, const Descriptor& wanted, const char* what) {
    const Stored* found = archive.find("blobs/sha256/" + wanted.digest.hex());
    if (!found)
        import_refused(std::string("the ") + what + " " + wanted.digest.str() + " is missing in it");
    if (found->size != wanted.size)
        import_refused(std::string("the ") + what + " " + wanted.digest.str() + " has " + std::to_string(found->size) + " bytes, not " + std::to_string(wanted.size));
    return *found;
}

json import_layout(int directory, const std::string& tag, std::uint64_t limit, Events& events) {
    const Unpacked archive = unpack_archive(directory, true, limit, events);
    const json index = parsed_document(archive, "index.json");
    const json listed = index.is_object() ? index.value("manifests", json::array()) : json::array();
    if (!listed.is_array() || listed.size() > 4096)
        import_refused("its index.json lists no images");
    // Images for several platforms may be listed side by side: then the list itself is the image.
    std::vector<std::vector<std::string>> names;
    bool platforms = tag.empty() && listed.size() > 1;
    for (const json& one : listed) {
        std::vector<std::string> own;
        if (one.is_object() && one.contains("annotations") && one["annotations"].is_object())
            for (const char* key : {"org.opencontainers.image.ref.name", "io.containerd.image.name"})
                if (const auto name = one["annotations"].find(key); name != one["annotations"].end() && name->is_string())
                    own.push_back(name->get<std::string>());
        platforms &= own.empty() && one.is_object() && one.contains("platform");
        names.push_back(std::move(own));
    }
    Descriptor wanted;
    if (platforms) {
        wanted = select_platform(index.dump());
    } else {
        const json& one = listed.at(chosen(names, tag));
        try {
            wanted.media_type = one.value("mediaType", "");
            wanted.digest = Digest::parse(one.at("digest").get<std::string>());
            wanted.size = one.at("size").get<std::uint64_t>();
        } catch (const json::exception&) {
            import_refused("its index.json lists something that is no manifest");
        }
    }
    needed_blob(archive, wanted, "manifest");
    std::string body = blob_text(directory, wanted.digest);
    for (int depth = 0; is_index(wanted.media_type, body); ++depth) {
        if (depth == 4)
            import_refused("its indexes lead in a circle");
        wanted = select_platform(body);
        needed_blob(archive, wanted, "manifest");
        body = blob_text(directory, wanted.digest);
    }
    const Manifest manifest = parse_manifest(body);
    needed_blob(archive, manifest.config, "image configuration");
    const ImageConfig config = parse_config(blob_text(directory, manifest.config.digest), manifest.layers.size());
    json layers = json::array();
    for (std::size_t i = 0; i < manifest.layers.size(); ++i) {
        needed_blob(archive, manifest.layers[i], "layer");
        layers.push_back({{"digest", manifest.layers[i].digest.str()}, {"diff_id", config.diff_ids[i].str()}, {"size", manifest.layers[i].size}});
    }
    return answer_of(wanted.digest, body.size(), manifest.config.digest, manifest.config.size, config, layers);
}

std::string layer_media_type(std::string_view head) {
    const char* packing = head.starts_with("\x1f\x8b") ? "+gzip" : head.starts_with("\x28\xb5\x2f\xfd") ? "+zstd" : "";
    return std::string("application/vnd.oci.image.layer.v1.tar") + packing;
}

json write_manifest(int directory, const Digest& config_digest, std::size_t config_size, const ImageConfig& config, const json& layers) {
    json listed = json::array(), told = json::array();
    for (const json& layer : layers) {
        listed.push_back({{"mediaType", layer.at("media_type")}, {"digest", layer.at("digest")}, {"size", layer.at("size")}});
        told.push_back({{"digest", layer.at("digest")}, {"diff_id", layer.at("diff_id")}, {"size", layer.at("size")}});
    }
    const json manifest = {{"schemaVersion", 2}, {"mediaType", oci_manifest_type}, {"layers", listed},
                           {"config", {{"mediaType", oci_config_type}, {"digest", config_digest.str()}, {"size", config_size}}}};
    const std::string text = manifest.dump();
    const Digest digest = Digest::of(text);
    keep_document(directory, digest, text);
    return answer_of(digest, text.size(), config_digest, config_size, config, told);
}

json import_saved(int directory, const std::string& tag, std::uint64_t limit, Events& events) {
    const Unpacked archive = unpack_archive(directory, false, limit, events);
    const json images = parsed_document(archive, "manifest.json");
    if (!images.is_array() || images.size() > 4096)
        import_refused("its manifest.json is no list of images");
    std::vector<std::vector<std::string>> names;
    for (const json& image : images) {
        std::vector<std::string> own;
        if (image.is_object() && image.contains("RepoTags") && image["RepoTags"].is_array())
            for (const json& name : image["RepoTags"])
                if (name.is_string())
                    own.push_back(name.get<std::string>());
        names.push_back(std::move(own));
    }
    const json& image = images.at(chosen(names, tag));
    std::vector<std::string> paths;
    std::string config_path;
    try {
        config_path = lexical_path(image.at("Config").get<std::string>()).value_or("");
        for (const json& layer : image.at("Layers"))
            paths.push_back(lexical_path(layer.get<std::string>()).value_or(""));
    } catch (const json::exception&) {
        import_refused("its manifest.json does not name a configuration and layers");
    }
    const Stored* described = archive.find(config_path);
    if (!described)
        import_refused("its configuration " + printable(config_path) + " is missing in it");
    const ImageConfig config = parse_config(blob_text(directory, described->digest), paths.size());
    json layers = json::array();
    for (std::size_t i = 0; i < paths.size(); ++i) {
        const Stored* layer = archive.find(paths[i]);
        if (!layer)
            import_refused("its layer " + printable(paths[i]) + " is missing in it");
        layers.push_back({{"digest", layer->digest.str()}, {"diff_id", config.diff_ids[i].str()}, {"size", layer->size}, {"media_type", layer_media_type(layer->head)}});
    }
    return write_manifest(directory, described->digest, described->size, config, layers);
}

// What the packed stream unpacks to.
Digest unpacked_digest(int directory, std::uint64_t packed, std::uint64_t limit, Events& events) {
    const UniqueFd file(::openat(directory, import_spool, O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!file)
        throw Error::from_errno("open what is imported");
    const ImportArchive stream(archive_read_new());
    if (!stream)
        throw Error::from_errno("start libarchive", ENOMEM);
    accept_packing(stream.get());
    archive_read_support_format_raw(stream.get());
    archive_entry* entry = nullptr;
    if (archive_read_open_fd(stream.get(), file.get(), 256u << 10) != ARCHIVE_OK || archive_read_next_header(stream.get(), &entry) != ARCHIVE_OK)
        import_refused("it cannot be unpacked: " + import_reason(stream.get()));
    Sha256 hash;
    std::uint64_t done = 0;
    for (std::string_view piece = next_piece(stream.get()); !piece.empty(); piece = next_piece(stream.get())) {
        done += piece.size();
        if (done > limit * 4 || (done > ratio_begins && done / max_unpacked_ratio > packed))
            throw Error(ErrorCode::environment_invalid, "it unpacks to too much", "check what it is");
        hash.update(piece);
        events.progress("unpack", "", done, 0);
    }
    return hash.finish();
}

json import_root(int directory, const Digest& stream, std::uint64_t bytes, std::string_view head, const json& config, std::uint64_t limit, Events& events) {
    each_entry(directory, [](const ImportEntry&) { return false; });  // it is a tar, or that is said now
    const std::string type = layer_media_type(head);
    const Digest plain = type.ends_with(".tar") ? stream : unpacked_digest(directory, bytes, limit, events);
    if (::renameat(directory, import_spool, directory, stream.hex().c_str()) != 0)
        throw Error::from_errno("keep the root file system");
    const json layers = json::array({json{{"digest", stream.str()}, {"diff_id", plain.str()}, {"size", bytes}, {"media_type", type}}});
    return describe_image(directory, config, layers);
}

}  // namespace

json describe_image(int directory, const json& config, const json& layers) {
    ImageConfig out;
    out.user = config.value("user", "");
    out.working_dir = config.value("working_dir", "");
    out.env = config.value("env", std::vector<std::string>());
    out.cmd = config.value("cmd", std::vector<std::string>());
    out.entrypoint = config.value("entrypoint", std::vector<std::string>());
    bool path = false;
    for (const std::string& variable : out.env)
        path |= variable.starts_with("PATH=");
    if (!path)
        out.env.insert(out.env.begin(), usual_path);
    json ids = json::array();
    for (const json& layer : layers)
        ids.push_back(layer.at("diff_id"));
    const json document = {{"os", "linux"}, {"architecture", "amd64"}, {"rootfs", {{"type", "layers"}, {"diff_ids", ids}}},
                           {"config", {{"User", out.user}, {"WorkingDir", out.working_dir}, {"Env", out.env}, {"Cmd", out.cmd}, {"Entrypoint", out.entrypoint}}}};
    const std::string text = document.dump(-1, ' ', false, json::error_handler_t::replace);
    const Digest digest = Digest::of(text);
    keep_document(directory, digest, text);
    return write_manifest(directory, digest, text.size(), out, layers);
}

json import_image(const json& request, Events& events) {
    const int directory = request.at("directory_fd").get<int>();
    const std::uint64_t limit = request.at("max_bytes").get<std::uint64_t>();
    const std::string tag = request.value("tag", "");
    std::string format = request.value("format", "");
    std::uint64_t bytes = 0;
    const Digest stream = spool(request.at("stream_fd").get<int>(), directory, limit, events, bytes);
    std::string head;
    {
        const UniqueFd file(::openat(directory, import_spool, O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
        if (!file)
            throw Error::from_errno("open what is imported");
        head = read_up_to(file.get(), 2048);
    }
    refuse_by_head(head);
    if (format.empty())
        format = detected_format(directory);
    if (format == "rootfs" && !tag.empty())
        throw Error(ErrorCode::invalid_argument, "a root file system has no tags", "leave --tag out");
    if (format != "rootfs" && request.contains("config"))
        throw Error(ErrorCode::invalid_argument, "an image has settings of its own; only a root file system can be given some",
                    "leave --user, --workdir, --env, --entrypoint and --cmd out");
    json answer;
    try {
        if (format == "rootfs")
            answer = import_root(directory, stream, bytes, head, request.value("config", json::object()), limit, events);
        else if (format == "oci-archive")
            answer = import_layout(directory, tag, limit, events);
        else if (format == "docker-archive")
            answer = import_saved(directory, tag, limit, events);
        else
            throw Error(ErrorCode::invalid_argument, "there is no format " + printable(format));
    } catch (const Error& error) {  // the documents' reader speaks of registries
        if (error.code() != ErrorCode::environment_invalid)
            throw;
        throw Error(error.code(), error.message(), "the archive is damaged or no image: make it anew");
    }
    ::unlinkat(directory, import_spool, 0);
    answer["format"] = format;
    return answer;
}

}  // namespace pyro::image
