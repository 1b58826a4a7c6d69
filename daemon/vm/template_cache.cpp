#include "daemon/vm/template_cache.hpp"

#include "common/crash_point.hpp"
#include "common/error.hpp"
#include "common/log.hpp"
#include "common/sparse_digest.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <filesystem>

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

namespace pyro::vm {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using namespace std::chrono_literals;

constexpr int format = 1;                      // of the files, and of what the agent does before it is saved
constexpr const char* unfinished = ".new";     // a directory's suffix
constexpr auto first_retry = 30s;              // after a build that failed; doubles
constexpr auto longest_retry = 3600s;
constexpr std::size_t most_waiting = 4;        // sizes are the users' choice: nobody's fill the queue for long
constexpr std::uint64_t tolerated_growth = 256 << 20;
constexpr double clock_tolerance = 1e-4;       // 100 ppm: measured twice on one host, it differs by a few

std::uint64_t allocated(int fd) {
    struct stat info{};
    if (::fstat(fd, &info) != 0) throw Error::from_errno("look at a template");
    return static_cast<std::uint64_t>(info.st_blocks) * 512;
}

FileStamp stamp_of(const std::string& path) {
    struct stat info{};
    if (::stat(path.c_str(), &info) != 0) throw Error::from_errno("look at " + path);
    return FileStamp::of(info);
}

// What a template directory says of itself.
struct Manifest {
    TemplateTier tier = TemplateTier::pristine;
    std::string environment_digest;
    std::uint64_t tsc_khz = 0;
    Digest memory, devices, disk;
    std::uint64_t bytes = 0;         // on the disk
    std::uint64_t memory_bytes = 0;  // in memory

    std::string to_json() const {
        return json{{"format", format}, {"tier", std::string(to_string(tier))}, {"environment_digest", environment_digest}, {"tsc_khz", tsc_khz},
                    {"memory", memory.str()}, {"devices", devices.str()}, {"disk", disk.empty() ? "" : disk.str()}, {"bytes", bytes}, {"memory_bytes", memory_bytes}}.dump(2) + "\n";
    }
    // Nothing when it is no manifest of this format.
    static std::optional<Manifest> parse(const std::string& text) {
        try {
            const json in = json::parse(text);
            if (in.at("format") != format) return std::nullopt;
            Manifest out;
            if (in.at("tier") == to_string(TemplateTier::bare)) out.tier = TemplateTier::bare;
            else if (in.at("tier") != to_string(TemplateTier::pristine)) return std::nullopt;
            out.environment_digest = in.at("environment_digest").get<std::string>();
            out.tsc_khz = in.at("tsc_khz").get<std::uint64_t>();
            out.memory = Digest::parse(in.at("memory").get<std::string>());
            out.devices = Digest::parse(in.at("devices").get<std::string>());
            if (const auto disk = in.at("disk").get<std::string>(); !disk.empty()) out.disk = Digest::parse(disk);
            if (out.disk.empty() != (out.tier == TemplateTier::bare)) return std::nullopt;
            out.bytes = in.at("bytes").get<std::uint64_t>();
            out.memory_bytes = in.at("memory_bytes").get<std::uint64_t>();
            return out;
        } catch (const json::exception&) {
            return std::nullopt;
        } catch (const Error&) {
            return std::nullopt;
        }
    }
};

// For workers: what is on the disk, compared and in memory.
Template read_template(const std::string& key, const std::string& directory, const Manifest& manifest, const std::stop_token& stop) {
    Template out;
    out.key = key;
    out.tier = manifest.tier;
    auto image = std::make_shared<MemoryImage>();
    image->memory = copy_in(directory + "/memory", "pyro-template-memory", manifest.memory, stop);
    image->devices = copy_in(directory + "/devices", "pyro-template-devices", manifest.devices, stop);
    out.image = std::move(image);
    if (!manifest.disk.empty()) {
        out.disk = directory + "/disk.qcow2";
        const UniqueFd disk = open_file(out.disk, O_RDONLY | O_NOFOLLOW);
        out.disk_stamp = stamp_of(out.disk);
        if (sparse_digest(disk.get(), stop) != manifest.disk) throw Error(ErrorCode::failed_precondition, out.disk + " is not what was written");
    }
    return out;
}

// The other way round: a guest just saved goes to its directory, whole or not at all.
std::pair<Template, Manifest> write_template(const std::string& key, const std::string& directory, Manifest manifest, SavedGuest saved,
                                             const std::stop_token& stop) {
    const std::string fresh = directory + unfinished;
    manifest.memory = copy_out(saved.image.memory, fresh + "/memory", stop);
    manifest.devices = copy_out(saved.image.devices, fresh + "/devices", stop);
    manifest.memory_bytes = allocated(saved.image.memory.get()) + allocated(saved.image.devices.get());
    manifest.bytes = manifest.memory_bytes;
    if (saved.has_disk) {
        const UniqueFd disk = open_file(fresh + "/disk.qcow2", O_RDONLY | O_NOFOLLOW);
        if (::fchmod(disk.get(), 0400) != 0) throw Error::from_errno("protect a template's disk");
        manifest.disk = sparse_digest(disk.get(), stop);
        manifest.bytes += allocated(disk.get());
    }
    replace_file(fresh + "/manifest.json", manifest.to_json());
    if (::rename(fresh.c_str(), directory.c_str()) != 0) throw Error::from_errno("install a template");
    crash_point("template_installed");
    Template out;
    out.key = key;
    out.tier = manifest.tier;
    out.image = std::make_shared<const MemoryImage>(std::move(saved.image));
    if (saved.has_disk) {
        out.disk = directory + "/disk.qcow2";
        out.disk_stamp = stamp_of(out.disk);
    }
    return {std::move(out), std::move(manifest)};
}

// Of the host's memory.
std::uint64_t held_by(const Template& made) { return allocated(made.image->memory.get()) + allocated(made.image->devices.get()); }

void remove_directory(const std::string& path) noexcept {
    std::error_code ignored;
    fs::remove_all(path, ignored);
}

}  // namespace

struct TemplateCache::Entry {
    explicit Entry(io::Executor executor) : settled(std::move(executor)) {}
    std::string key;
    std::optional<Manifest> stored;          // there are files
    std::shared_ptr<const Template> ready;
    bool busy = false;                       // being built or read
    io::Event settled;                       // nobody is busy with it
    std::optional<Error> failure;            // of the last attempt
    std::time_t last_used = 0;
    std::chrono::steady_clock::time_point not_before{};
    std::chrono::seconds retry = first_retry;
};

TemplateCache::TemplateCache(const GuestServices& services, TemplateOptions options)
    : services_(services), options_(std::move(options)), building_(services.executor, 1), tasks_(services.executor) {}

TemplateCache::~TemplateCache() = default;

TemplateCache::EntryPtr TemplateCache::entry(const std::string& key) {
    // Sizes are the users' choice: what came to nothing, and may be tried again, need not be remembered.
    std::erase_if(entries_, [](const auto& item) {
        const Entry& known = *item.second;
        return item.second.use_count() == 1 && !known.stored && !known.busy && known.not_before < std::chrono::steady_clock::now();
    });
    EntryPtr& found = entries_[key];
    if (!found) {
        found = std::make_shared<Entry>(services_.executor);
        found->key = key;
        found->settled.set();
    }
    return found;
}

void TemplateCache::take_stock() {
    for (const auto& item : fs::directory_iterator(options_.directory)) {
        const std::string name = item.path().filename().string();
        std::optional<Manifest> manifest;
        try {
            if (!name.ends_with(unfinished)) manifest = Manifest::parse(read_file(item.path().string() + "/manifest.json", 64 << 10));
        } catch (const Error&) {
            // A directory without one is none.
        }
        if (!manifest) {
            remove_directory(item.path().string());
            continue;
        }
        const EntryPtr known = entry(name);
        known->stored = std::move(manifest);
        struct stat info{};
        if (::stat((item.path().string() + "/manifest.json").c_str(), &info) == 0) known->last_used = info.st_mtim.tv_sec;
    }
}

void TemplateCache::start() {
    if (!options_.enabled) return;
    take_stock();
    tasks_.spawn(load_last_used());
}

io::Task<void> TemplateCache::load_last_used() {
    std::vector<EntryPtr> order;
    for (const auto& [key, known] : entries_) order.push_back(known);
    std::ranges::sort(order, [](const EntryPtr& a, const EntryPtr& b) { return a->last_used > b->last_used; });
    std::uint64_t total = 0;
    for (const EntryPtr& known : order) {
        if (!known->stored || known->busy) continue;
        total += known->stored->memory_bytes;
        if (total > options_.memory_bytes) break;
        known->busy = true;
        known->settled.reset();
        co_await load(known);
    }
}

io::Task<void> TemplateCache::close() {
    tasks_.stop();
    co_await tasks_.join();
    entries_.clear();
}

std::size_t TemplateCache::count() const {
    return static_cast<std::size_t>(std::ranges::count_if(entries_, [](const auto& item) { return item.second->stored.has_value(); }));
}

std::uint64_t TemplateCache::memory_bytes() const {
    std::uint64_t out = 0;
    for (const auto& [key, known] : entries_)
        if (known->ready) out += held_by(*known->ready);
    return out;
}

io::Task<std::string> TemplateCache::key_of(TemplateSource source, std::uint64_t* tsc_khz, std::stop_token stop) {
    const ImageBasis basis = co_await services_.hypervisor.image_basis(source.spec, source.disk_bytes, stop);
    *tsc_khz = basis.tsc_khz;
    std::string all = std::to_string(format) + "\n" + std::string(to_string(source.tier)) + "\n" + basis.fingerprint;
    if (source.tier == TemplateTier::pristine) all += "\n" + source.root.environment_digest + "\n" + source.root.content_digest;
    co_return Digest::of(all).hex().substr(0, 32);
}

// What is ready is still what it was, and its clock is this host's.
bool TemplateCache::usable(Entry& entry) {
    if (!entry.ready) return false;
    const double drift = static_cast<double>(entry.stored->tsc_khz) / static_cast<double>(tsc_khz_) - 1;
    std::string wrong;
    if (drift > clock_tolerance || drift < -clock_tolerance) wrong = "the host's clock runs at another rate";
    if (!entry.ready->disk.empty()) {
        struct stat info{};
        if (::stat(entry.ready->disk.c_str(), &info) != 0 || FileStamp::of(info) != entry.ready->disk_stamp) wrong = "its disk was changed or removed";
    }
    if (wrong.empty()) return true;
    log::say(log::Level::warning, "template " + entry.key + " is not used: " + wrong);
    drop(entry);
    return false;
}

// What a clone is the first to touch becomes a page of the image, empty and there to stay. When those are many, a fresh copy
// takes the image's place; the old one goes with the last of its clones.
void TemplateCache::renew_if_grown(const EntryPtr& entry) {
    if (entry->busy || held_by(*entry->ready) < entry->stored->memory_bytes + tolerated_growth) return;
    entry->busy = true;
    entry->settled.reset();
    tasks_.spawn(load(entry));
}

io::Task<TemplateChoice> TemplateCache::find(TemplateSource source, std::stop_token stop) {
    TemplateChoice out;
    if (!options_.enabled) co_return out;
    try {
        out.key = co_await key_of(std::move(source), &tsc_khz_, stop);
    } catch (const Error&) {
        co_return out;  // what is missing is said by the boot that needs it
    }
    const auto known = entries_.find(out.key);
    if (known == entries_.end() || !usable(*known->second)) co_return out;
    out.ready = known->second->ready;
    renew_if_grown(known->second);
    const std::time_t now = std::time(nullptr);
    if (now - known->second->last_used > 60) ::utimensat(AT_FDCWD, (directory_of(out.key) + "/manifest.json").c_str(), nullptr, 0);
    known->second->last_used = now;
    co_return out;
}

void TemplateCache::want(const std::string& key, TemplateSource source) {
    if (!options_.enabled) return;
    const EntryPtr wanted = entry(key);
    if (waiting_ >= most_waiting || wanted->ready || wanted->busy || std::chrono::steady_clock::now() < wanted->not_before) return;
    wanted->busy = true;
    wanted->settled.reset();
    tasks_.spawn(work(wanted, std::move(source)));
}

io::Task<PrepareOutcome> TemplateCache::prepare(TemplateSource source, bool again, std::stop_token stop) {
    if (!options_.enabled)
        throw Error(ErrorCode::failed_precondition, "templates are switched off: every VM boots cold", "set templates.enabled in pyrod.toml, then start pyrod again");
    const auto began = std::chrono::steady_clock::now();
    PrepareOutcome out;
    const std::string key = co_await key_of(source, &tsc_khz_, stop);
    const EntryPtr wanted = entry(key);
    while (wanted->busy) co_await wanted->settled.wait(stop);
    if (again) drop(*wanted);
    if (!usable(*wanted)) {
        out.built = !wanted->stored;
        wanted->not_before = {};
        want(key, source);
        do co_await wanted->settled.wait(stop);
        while (wanted->busy);
        if (!wanted->ready && wanted->failure) throw Error(*wanted->failure);
        if (!wanted->ready) throw Error(ErrorCode::unavailable, "the template was given up", "try again").with_retryable(true);
    }
    out.ready = wanted->ready;
    out.took = std::chrono::steady_clock::now() - began;
    co_return out;
}

io::Task<void> TemplateCache::work(EntryPtr entry, TemplateSource source) {
    if (entry->stored) co_await load(entry);
    if (entry->ready || tasks_.token().stop_requested()) co_return;
    entry->busy = true;
    entry->settled.reset();
    ++waiting_;
    std::exception_ptr failure;
    try {
        co_await build(std::move(entry), std::move(source));
    } catch (...) {
        failure = std::current_exception();
    }
    --waiting_;
    if (failure) std::rethrow_exception(failure);
}

io::Task<void> TemplateCache::load(EntryPtr entry) {
    const auto read = [key = entry->key, directory = directory_of(entry->key), manifest = *entry->stored, stop = tasks_.token()] {
        return read_template(key, directory, manifest, stop);
    };
    std::exception_ptr stopped;
    try {
        Template loaded = co_await io::offload(files_, read);
        entry->ready = std::make_shared<const Template>(std::move(loaded));
    } catch (const Cancelled&) {
        stopped = std::current_exception();
    } catch (const Error& e) {
        log::say(log::Level::warning, "template " + entry->key + " is thrown away: " + e.message());
        drop(*entry);
    }
    entry->busy = false;
    entry->settled.set();
    if (stopped) std::rethrow_exception(stopped);
    keep_within_budget(entry.get());
}

io::Task<void> TemplateCache::build(EntryPtr entry, TemplateSource source) {
    const std::string directory = directory_of(entry->key);
    const std::string fresh = directory + unfinished;
    Manifest manifest;
    manifest.tier = source.tier;
    manifest.environment_digest = source.root.environment_digest;
    manifest.tsc_khz = tsc_khz_;
    std::exception_ptr stopped;
    try {
        const auto turn = co_await building_.acquire(tasks_.token());
        remove_directory(fresh);
        if (::mkdir(fresh.c_str(), 0700) != 0) throw Error::from_errno("make " + fresh);
        SavedGuest saved = co_await save_guest(services_, std::move(source), fresh + "/disk.qcow2", tasks_.token());
        auto held = std::make_shared<SavedGuest>(std::move(saved));
        const auto write = [key = entry->key, directory, manifest, held, stop = tasks_.token()] {
            return write_template(key, directory, manifest, std::move(*held), stop);
        };
        auto written = co_await io::offload(files_, write);
        entry->ready = std::make_shared<const Template>(std::move(written.first));
        entry->stored = std::move(written.second);
        entry->last_used = std::time(nullptr);
        entry->failure.reset();
        entry->retry = first_retry;
    } catch (const Cancelled&) {
        stopped = std::current_exception();
    } catch (const Error& e) {
        entry->failure = e;
        entry->not_before = std::chrono::steady_clock::now() + entry->retry;
        entry->retry = std::min<std::chrono::seconds>(entry->retry * 2, longest_retry);
        log::say(log::Level::warning, "no template could be made: " + e.message());
    }
    if (!entry->ready) remove_directory(fresh);
    entry->busy = false;
    entry->settled.set();
    if (stopped) std::rethrow_exception(stopped);
    keep_within_budget(entry.get());
}

void TemplateCache::drop(Entry& entry) {
    entry.ready.reset();
    entry.stored.reset();
    // Out of sight first: a directory is a template or it is none.
    const std::string directory = directory_of(entry.key), doomed = directory + unfinished;
    remove_directory(doomed);
    if (::rename(directory.c_str(), doomed.c_str()) == 0) remove_directory(doomed);
}

void TemplateCache::discard(const std::string& key, const std::string& why) {
    const auto known = entries_.find(key);
    if (known == entries_.end() || known->second->busy) return;
    log::say(log::Level::warning, "template " + key + " is thrown away: " + why);
    drop(*known->second);
    known->second->not_before = std::chrono::steady_clock::now() + known->second->retry;
    known->second->retry = std::min<std::chrono::seconds>(known->second->retry * 2, longest_retry);
}

bool TemplateCache::is_current(const std::shared_ptr<const Template>& given) const {
    const auto known = entries_.find(given->key);
    return known != entries_.end() && known->second->ready == given;
}

io::Task<Warmth> TemplateCache::warmth(TemplateSource source, std::stop_token stop) {
    if (!options_.enabled) co_return Warmth::cold;
    const std::string digest = source.root.environment_digest;
    const std::string key = co_await key_of(std::move(source), &tsc_khz_, stop);
    const auto known = entries_.find(key);
    if (known != entries_.end() && known->second->stored) co_return Warmth::warm;
    for (const auto& [other, entry] : entries_)
        if (entry->stored && entry->stored->tier == TemplateTier::pristine && entry->stored->environment_digest == digest) co_return Warmth::stale;
    co_return Warmth::cold;
}

void TemplateCache::remove_others(const std::function<bool(const std::string&)>& keep) {
    for (const auto& [key, known] : entries_)
        if (known->stored && !known->busy && known->stored->tier == TemplateTier::pristine && !keep(known->stored->environment_digest)) drop(*known);
}

// The last used stay; the one just made stays in any case, or nothing would ever be warm where the budget is small.
void TemplateCache::keep_within_budget(const Entry* newest) {
    std::vector<Entry*> order;
    for (const auto& [key, known] : entries_)
        if (known->stored && !known->busy) order.push_back(known.get());
    std::ranges::sort(order, [newest](const Entry* a, const Entry* b) { return std::pair(a == newest, a->last_used) > std::pair(b == newest, b->last_used); });
    std::uint64_t disk = 0, memory = 0;
    for (Entry* known : order) {
        disk += known->stored->bytes;
        if (disk > options_.disk_bytes && known != newest) {
            disk -= known->stored->bytes;
            drop(*known);
            continue;
        }
        if (!known->ready) continue;
        const std::uint64_t held = held_by(*known->ready);
        memory += held;
        if (memory <= options_.memory_bytes || known == newest) continue;
        memory -= held;
        known->ready.reset();  // its files stay
    }
}

}  // namespace pyro::vm
