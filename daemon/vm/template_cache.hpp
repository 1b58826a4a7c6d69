// All templates of this daemon: found by key, built when wanted, kept within a budget, thrown away on any doubt.
#pragma once
#include "daemon/io/event.hpp"
#include "daemon/io/offload.hpp"
#include "daemon/io/task_group.hpp"
#include "daemon/vm/guest.hpp"
#include "daemon/vm/template_build.hpp"

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace pyro::vm {

struct TemplateOptions {
    std::string directory;               // exists, root only: KEY/{memory,devices,disk.qcow2,manifest.json}
    bool enabled = true;                 // false: every machine boots cold
    std::uint64_t memory_bytes = 2ull << 30;  // of images held in memory
    std::uint64_t disk_bytes = 8ull << 30;
};

enum class Warmth { cold, warm, stale };  // stale: there is one, of another kernel, agent, QEMU or host

struct TemplateChoice {
    std::string key;                            // empty: templates are switched off
    std::shared_ptr<const Template> ready;      // may be resumed now; nothing: boot cold
};

struct PrepareOutcome {
    std::shared_ptr<const Template> ready;
    bool built = false;
    std::chrono::nanoseconds took{};
};

// Domain thread. What its files say is compared with their digests whenever they are read, and only read into memory that is
// sealed: an image is right, or it is not used. close() before it goes.
class TemplateCache {
public:
    TemplateCache(const GuestServices& services, TemplateOptions options);
    ~TemplateCache();

    // Takes stock of what an earlier daemon left and reads the last used of it, behind the caller's back.
    void start();
    io::Task<void> close();

    // Never waits for an image: one that is not ready is none.
    io::Task<TemplateChoice> find(TemplateSource source, std::stop_token stop);
    // Has it built or read, if nobody does yet. For who had to boot cold.
    void want(const std::string& key, TemplateSource source);
    // The same, and waits. `again` throws away the one there is.
    io::Task<PrepareOutcome> prepare(TemplateSource source, bool again, std::stop_token stop);
    // It did not do what it should: it is removed, and the next one is built only after a while.
    void discard(const std::string& key, const std::string& why);
    // Whether it is what find() gives out now.
    bool is_current(const std::shared_ptr<const Template>& given) const;
    // Cold where templates are switched off.
    io::Task<Warmth> warmth(TemplateSource source, std::stop_token stop);
    // Of environments for which `keep` is false.
    void remove_others(const std::function<bool(const std::string& environment_digest)>& keep);

    std::size_t count() const;
    std::uint64_t memory_bytes() const;     // that images take now: pages their clones were the first to touch, too

private:
    struct Entry;
    struct Stored;
    using EntryPtr = std::shared_ptr<Entry>;

    std::string directory_of(const std::string& key) const { return options_.directory + "/" + key; }
    io::Task<std::string> key_of(TemplateSource source, std::uint64_t* tsc_khz, std::stop_token stop);
    void take_stock();
    EntryPtr entry(const std::string& key);
    bool usable(Entry& entry);
    void renew_if_grown(const EntryPtr& entry);
    io::Task<void> load(EntryPtr entry);
    io::Task<void> load_last_used();
    io::Task<void> build(EntryPtr entry, TemplateSource source);
    io::Task<void> work(EntryPtr entry, TemplateSource source);
    void drop(Entry& entry);
    void keep_within_budget(const Entry* newest);

    const GuestServices& services_;
    TemplateOptions options_;
    std::map<std::string, EntryPtr> entries_;
    std::uint64_t tsc_khz_ = 0;             // of this host, once asked
    std::size_t waiting_ = 0;               // builds
    io::Semaphore building_;                // one at a time: it takes a core for seconds
    io::WorkerPool files_{1};
    io::TaskGroup tasks_;
};

}  // namespace pyro::vm
