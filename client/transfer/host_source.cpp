#include "client/transfer/host_source.hpp"

#include "client/transfer/new_file.hpp"

#include <fcntl.h>

namespace pyro::client {

namespace {

// A source must be there, and readable, before anything is made.
seed::SourceKind looked_at(const std::string& path, std::optional<seed::SourceKind> asked) {
    const seed::SourceKind kind = asked ? *asked : seed::source_kind(path);
    open_file(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    return kind;
}

}  // namespace

HostSource::HostSource(const std::string& path, seed::PackedCache cache, std::string shown, std::optional<seed::SourceKind> kind)
    : path_(path), shown_(shown.empty() ? path : std::move(shown)), cache_(std::move(cache)), kind_(looked_at(path, kind)),
      upload_([this](const seed::Sink& sink, std::stop_token stop) { pack(sink, stop); }, [this] { if (before_) after_ = seed::fingerprint(path_, kind_); }) {
    ::clock_gettime(CLOCK_REALTIME, &began_);
    if (cache_.enabled()) before_ = seed::fingerprint(path_, kind_);
    if (before_) packed_ = cache_.find(path_, kind_, *before_);
    found_ = packed_.has_value();
}

std::optional<Digest> HostSource::digest() const { return found_ ? std::optional(packed_->key) : std::nullopt; }

proto::SeedInfo HostSource::info() const {
    static_assert(static_cast<int>(proto::SeedSource::checkout) == static_cast<int>(seed::SourceKind::checkout));
    proto::SeedInfo info;
    info.source = static_cast<proto::SeedSource>(kind_);
    info.path = valid_utf8(shown_);
    if (info.path.size() > 4096) info.path.resize(4096);
    if (!packed_) return info;
    info.files = static_cast<std::int64_t>(packed_->files);
    info.bytes = static_cast<std::int64_t>(packed_->bytes);
    info.skipped = static_cast<std::int64_t>(packed_->skipped_count);
    if (!packed_->commit.empty()) info.commit = packed_->commit;
    if (!packed_->branch.empty()) info.branch = valid_utf8(packed_->branch);
    return info;
}

void HostSource::pack(const seed::Sink& sink, std::stop_token stop) {
    seed::PackOptions options;
    options.kind = kind_;
    options.stop = stop;
    seed::Packed packed;
    try {
        packed = seed::pack(path_, sink, options);
    } catch (const Error& e) {
        throw renamed(e, path_, shown_);
    }
    if (found_ && packed.key != packed_->key) {
        cache_.forget(path_, kind_);
        throw Error(ErrorCode::failed_precondition, seed::printable(shown_) + " has changed while it was looked at", "run it again");
    }
    packed_ = std::move(packed);
}

const seed::Packed& HostSource::taken() {
    upload_.join();
    if (before_ && after_) cache_.remember(path_, *packed_, *before_, began_, *after_);
    if (!packed_) throw Error(ErrorCode::internal, "pyrod took no bytes of " + seed::printable(shown_), "`pyro doctor` compares the versions");
    return *packed_;
}

}  // namespace pyro::client
