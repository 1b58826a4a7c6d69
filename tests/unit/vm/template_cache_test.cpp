// What is found in a directory of templates at the start; that they are built and used is tests/vm's.
#include "common/error.hpp"
#include "common/sparse_digest.hpp"
#include "daemon/vm/template_cache.hpp"
#include "daemon/vm/vm_uids.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/run_coro.hpp"

#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

using namespace pyro;
using namespace pyro::vm;
using namespace std::chrono_literals;
using nlohmann::json;
using test::run_coro;
namespace fs = std::filesystem;

namespace {

const std::stop_token never;
constexpr std::uint64_t tsc_khz = 2'000'000;

// Knows what images depend on, and can start nothing.
class NoHypervisor final : public Hypervisor {
public:
    std::uint64_t khz = tsc_khz;
    io::Task<HostCapabilities> probe(std::stop_token) override { throw Error(ErrorCode::unavailable, "there is no QEMU here"); }
    io::Task<ImageBasis> image_basis(MachineSpec spec, std::uint64_t, std::stop_token) override {
        ImageBasis out;
        out.fingerprint = "memory " + std::to_string(spec.mem_mib);
        out.tsc_khz = khz;
        co_return out;
    }
    io::Task<std::unique_ptr<Instance>> launch(LaunchPlan, std::stop_token) override { throw Error(ErrorCode::unavailable, "there is no QEMU here"); }
    io::Task<std::unique_ptr<Instance>> adopt(InstanceRecord, std::stop_token) override { throw Error(ErrorCode::unavailable, "there is no QEMU here"); }
    io::Task<void> clear(InstanceRecord, std::stop_token) override { co_return; }
    std::vector<std::string> leftovers() const override { return {}; }
    io::Task<void> close() override { co_return; }
};

struct Rig {
    Rig(io::Executor e, const std::string& p)
        : executor(e), path(p), store({path + "/state", path + "/run"}), uids(store, 2'100'000, 2'100'100, path + "/uids.lock", Accounts()),
          services{executor, hypervisor, uids, path + "/run", path + "/disks"} {}

    std::unique_ptr<TemplateCache> cache() {
        TemplateOptions options;
        options.directory = path + "/templates";
        return std::make_unique<TemplateCache>(services, options);
    }
    static TemplateSource source(TemplateTier tier) {
        TemplateSource out;
        out.tier = tier;
        out.root.environment_digest = "sha256:e";
        out.root.content_digest = "sha256:c";
        return out;
    }
    io::Task<std::string> key(TemplateTier tier) {
        const auto any = cache();
        TemplateChoice choice = co_await any->find(source(tier), never);
        co_await any->close();
        co_return choice.key;
    }
    // A whole template, as a daemon leaves it; its manifest.
    json put(const std::string& key, TemplateTier tier) {
        const std::string directory = path + "/templates/" + key;
        fs::create_directory(directory);
        json manifest{{"format", 1}, {"tier", std::string(to_string(tier))}, {"environment_digest", "sha256:e"}, {"tsc_khz", tsc_khz},
                      {"disk", ""}, {"bytes", 8192}, {"memory_bytes", 8192}};
        for (const char* name : {"memory", "devices"}) {
            const UniqueFd file = unsealed_memfd(name, 1 << 20);
            REQUIRE(::pwrite(file.get(), name, 6, 4096) == 6);
            manifest[name] = copy_out(file, directory + "/" + name, never).str();
        }
        if (tier == TemplateTier::pristine) {
            std::ofstream(directory + "/disk.qcow2") << "a disk";
            const UniqueFd disk = open_file(directory + "/disk.qcow2", O_RDONLY);
            manifest["disk"] = sparse_digest(disk.get()).str();
        }
        write(key, manifest.dump());
        return manifest;
    }
    void write(const std::string& key, const std::string& manifest) { std::ofstream(path + "/templates/" + key + "/manifest.json") << manifest; }
    bool has(const std::string& name) const { return fs::exists(path + "/templates/" + name); }

    io::Executor executor;
    std::string path;
    state::Store store;
    NoHypervisor hypervisor;
    VmUids uids;
    GuestServices services;
};

void with_rig(std::function<io::Task<void>(Rig&)> body) {
    char name[] = "/tmp/pyro-cache-test-XXXXXX";
    const std::string path = ::mkdtemp(name);
    for (const char* part : {"/state", "/run", "/disks", "/templates"}) fs::create_directory(path + part);
    run_coro([&]() -> io::Task<void> {
        const io::Executor executor = co_await io::this_executor();
        Rig rig(executor, path);
        co_await body(rig);
    });
    fs::remove_all(path);
}

}  // namespace

TEST_CASE("templates that an earlier daemon left are read and given out") {
    with_rig([](Rig& rig) -> io::Task<void> {
        const TemplateTier tier = GENERATE(TemplateTier::pristine, TemplateTier::bare);
        const std::string key = co_await rig.key(tier);
        rig.put(key, tier);
        const auto cache = rig.cache();
        cache->start();
        REQUIRE(cache->count() == 1);
        while (cache->memory_bytes() == 0) co_await io::sleep_for(1ms, never);
        const TemplateChoice choice = co_await cache->find(Rig::source(tier), never);
        REQUIRE(choice.ready);
        REQUIRE(choice.ready->tier == tier);
        REQUIRE(choice.ready->disk.empty() == (tier == TemplateTier::bare));
        REQUIRE(cache->is_current(choice.ready));
        // The other kind is another template.
        const TemplateTier other = tier == TemplateTier::bare ? TemplateTier::pristine : TemplateTier::bare;
        const TemplateChoice none = co_await cache->find(Rig::source(other), never);
        REQUIRE_FALSE(none.ready);
        REQUIRE(none.key != choice.key);
        // A bit more than measuring twice gives: another host, or this one after it moved.
        rig.hypervisor.khz = tsc_khz + tsc_khz / 5000;
        const TemplateChoice moved = co_await cache->find(Rig::source(tier), never);
        REQUIRE_FALSE(moved.ready);
        REQUIRE_FALSE(cache->is_current(choice.ready));
        REQUIRE_FALSE(rig.has(key));
        co_await cache->close();
    });
}

TEST_CASE("a directory without a manifest of a template is removed, and nothing of it is read") {
    with_rig([](Rig& rig) -> io::Task<void> {
        const std::string key = co_await rig.key(TemplateTier::pristine);
        const json good = rig.put(key, TemplateTier::pristine);
        std::vector<std::string> bad{"", "{", "null", "[]", "42", "\"text\"", "\xff\xfe", std::string(70 << 10, ' ') + good.dump(), std::string(5000, '[')};
        for (const auto& [name, value] : good.items()) {
            json without = good, changed = good;
            without.erase(name);
            changed[name] = json::array();
            bad.push_back(without.dump());
            bad.push_back(changed.dump());
        }
        const auto with = [&good](const char* name, json value) {
            json out = good;
            out[name] = std::move(value);
            return out.dump();
        };
        for (const json& format : {json(0), json(2), json("1")}) bad.push_back(with("format", format));
        for (const char* tier : {"", "Pristine", "bare"}) bad.push_back(with("tier", tier));  // bare ones have no disk
        bad.push_back(with("disk", ""));                                                       // and pristine ones have one
        for (const char* digest : {"", "sha256:", "sha256:00", "md5:00", "../../etc/passwd"}) bad.push_back(with("memory", digest));
        for (const std::string& manifest : bad) {
            INFO(manifest.substr(0, 400));
            rig.put(key + "x", TemplateTier::bare);
            fs::remove_all(rig.path + "/templates/" + key);
            fs::rename(rig.path + "/templates/" + key + "x", rig.path + "/templates/" + key);
            rig.write(key, manifest);
            const auto cache = rig.cache();
            cache->start();
            CHECK(cache->count() == 0);
            CHECK_FALSE(rig.has(key));
            co_await cache->close();
        }
    });
}

TEST_CASE("files that are not what their manifest says are thrown away when they are read") {
    with_rig([](Rig& rig) -> io::Task<void> {
        const std::string key = co_await rig.key(TemplateTier::pristine);
        for (const char* file : {"memory", "devices", "disk.qcow2"})
            for (const bool removed : {false, true}) {
                INFO(file << (removed ? " removed" : " changed"));
                fs::remove_all(rig.path + "/templates/" + key);
                rig.put(key, TemplateTier::pristine);
                const std::string path = rig.path + "/templates/" + key + "/" + file;
                if (removed) fs::remove(path);
                else std::ofstream(path, std::ios::in | std::ios::out) << "X";
                const auto cache = rig.cache();
                cache->start();
                while (cache->count() != 0) co_await io::sleep_for(1ms, never);
                CHECK(cache->memory_bytes() == 0);
                CHECK_FALSE(rig.has(key));
                co_await cache->close();
            }
    });
}

TEST_CASE("what was not finished is removed, and what is changed while it is ready is not given out") {
    with_rig([](Rig& rig) -> io::Task<void> {
        const std::string key = co_await rig.key(TemplateTier::pristine);
        rig.put(key, TemplateTier::pristine);
        rig.put(key + ".new", TemplateTier::pristine);
        std::ofstream(rig.path + "/templates/file") << "not a template";
        const auto cache = rig.cache();
        cache->start();
        REQUIRE(cache->count() == 1);
        REQUIRE_FALSE(rig.has(key + ".new"));
        REQUIRE_FALSE(rig.has("file"));
        while (cache->memory_bytes() == 0) co_await io::sleep_for(1ms, never);
        std::ofstream(rig.path + "/templates/" + key + "/disk.qcow2", std::ios::app) << "more";
        const TemplateChoice choice = co_await cache->find(Rig::source(TemplateTier::pristine), never);
        REQUIRE_FALSE(choice.ready);
        REQUIRE_FALSE(rig.has(key));
        REQUIRE(cache->count() == 0);
        co_await cache->close();
    });
}
