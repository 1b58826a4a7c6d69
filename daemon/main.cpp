// pyrod: the composition root. Owns every collaborator, in the order in which they need each other.
#include "common/digest.hpp"
#include "common/error.hpp"
#include "common/log.hpp"
#include "daemon/config.hpp"
#include "daemon/env/cache.hpp"
#include "daemon/io/loop.hpp"
#include "daemon/prepare_host.hpp"
#include "daemon/rpc/server.hpp"
#include "daemon/io/task_group.hpp"
#include "daemon/service/services.hpp"
#include "daemon/service_manager.hpp"
#include "daemon/state/store.hpp"
#include "daemon/supervise/supervisor.hpp"
#include "daemon/vm/qemu/backend.hpp"
#include "daemon/vm/registry.hpp"
#include "daemon/vm/vm_uids.hpp"
#include "daemon/workspace/registry.hpp"
#include "proto/api.hpp"
#include "proto/describe.hpp"

#include <nlohmann/json.hpp>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <iostream>

#include <sys/stat.h>
#include <unistd.h>

namespace pyro {
namespace {

namespace fs = std::filesystem;

constexpr const char* default_config = "/etc/pyro/pyrod.toml";
constexpr std::size_t worker_threads = 2;

struct Options {
    std::string config;      // empty: the default, if it is there
    int ready_fd = -1;       // "ready\n" is written to it once clients are served, and it is closed
    std::string cgroup;      // where the service manager has delegated one: scopes go below it instead of below our own
    bool check = false;      // only whether the configuration could be used

    std::string file() const { return config.empty() ? default_config : config; }
    Config load() const { return !config.empty() || fs::exists(file()) ? load_config(file()) : Config(); }
};

// The last of the range is the trial guest's, nobody else's: nobody's own uid, 65534, may have processes of others.
uid_t probe_uid(const Config& config) { return static_cast<uid_t>(config.guest.uid_last); }

std::map<std::string, env::RegistrySettings> registry_settings(const Config& config) {
    std::map<std::string, env::RegistrySettings> out;
    for (const auto& [host, registry] : config.registries) out[host] = env::RegistrySettings{registry.plain_http, registry.allow_private, registry.ca_file};
    return out;
}

env::CacheOptions environment_options(const Config& config, vm::VmUids& uids) {
    env::CacheOptions options;
    options.state_directory = config.state_dir;
    options.image_worker = config.workers.image;
    options.mmdebstrap = config.workers.mmdebstrap;
    options.sources.clear();
    for (const std::string& source : config.environments.sources)
        options.sources.push_back(source == "registry" ? env::Source::registry : env::Source::debian_archive);
    options.mirrors = config.mirror;
    options.proxies = env::Proxies::of_environment([](const char* name) { return ::getenv(name); });
    if (!config.environments.proxy.empty())
        options.proxies.http = options.proxies.https = config.environments.proxy;
    if (!config.environments.no_proxy.empty())
        options.proxies.none_for = config.environments.no_proxy;
    options.registries = registry_settings(config);
    options.max_image_bytes = static_cast<std::uint64_t>(config.environments.max_image_mib) << 20;
    options.budget_bytes = static_cast<std::uint64_t>(config.environments.disk_mib) << 20;
    options.concurrent_pulls = static_cast<std::size_t>(config.limits.pulls);
    options.sub_first = static_cast<uid_t>(config.guest.uid_last) + 1;
    if (const auto conflict = vm::overlap(probe_uid(config), static_cast<uid_t>(config.guest.uid_last + Config::Guest::subordinate_uids), vm::Accounts::of_host()))
        throw Error(ErrorCode::failed_precondition, "the uids behind those for VMs, where the Debian archive is unpacked, overlap " + *conflict,
                    "choose another range: guest.uid_first and guest.uid_last in the configuration");
    options.claim_uid = [&uids](const std::string& job) {
        auto lease = std::make_shared<vm::VmUids::Lease>(uids.claim(0, job));
        return env::CacheOptions::ClaimedUid{lease->uid(), lease};
    };
    return options;
}

vm::qemu::BackendConfig hypervisor_config(const Config& config) {
    vm::qemu::BackendConfig out;
    out.programs.qemu = config.guest.qemu;
    out.programs.kernel = config.guest.kernel;
    out.programs.initramfs = config.guest.initramfs;
    out.run_directory = config.run_dir;
    out.more_files = config.guest.qemu_files;
    out.io_bytes_per_second = static_cast<std::uint64_t>(config.limits.vm_io_mib_per_second) << 20;
    out.io_device = disk_below(config.state_dir);
    out.randomize_emulated = config.guest.randomize_emulated;
    out.probe_uid = probe_uid(config);
    return out;
}

vm::QuotaLimits quota_limits(const Config& config) {
    vm::QuotaLimits out;
    out.machines = config.limits.vms;
    out.machines_per_user = config.limits.vms_per_user;
    out.mem_mib = config.limits.mem_mib;
    out.mem_mib_per_user = config.limits.mem_mib_per_user;
    return out;
}

vm::SpareOptions spare_options(const Config& config) {
    vm::SpareOptions out;
    out.per_key = static_cast<std::size_t>(config.spares.per_template);
    out.total = static_cast<std::size_t>(config.spares.total);
    out.keep = std::chrono::seconds(config.spares.keep_seconds);
    return out;
}

vm::RegistryConfig registry_config(const Config& config) {
    vm::RegistryConfig out;
    out.run_directory = config.run_dir;
    out.overlay_directory = config.state_dir + "/vm";
    out.limits = quota_limits(config);
    out.templates.directory = config.state_dir + "/templates";
    out.templates.enabled = config.templates.enabled;
    out.templates.memory_bytes = static_cast<std::uint64_t>(config.templates.memory_mib) << 20;
    out.templates.disk_bytes = static_cast<std::uint64_t>(config.templates.disk_mib) << 20;
    out.spares = spare_options(config);
    return out;
}

workspace::SeedOptions seed_options(const Config& config, const env::CacheOptions& environments) {
    workspace::SeedOptions out;
    out.directory = config.state_dir + "/seeds";
    out.image_worker = config.workers.image;
    out.claim_uid = environments.claim_uid;
    out.unused_bytes = static_cast<std::uint64_t>(config.workspaces.unused_seeds_mib) << 20;
    return out;
}

workspace::WorkspaceOptions workspace_options(const Config& config) {
    workspace::WorkspaceOptions out;
    out.directory = config.state_dir + "/workspaces";
    out.per_user = static_cast<std::size_t>(config.limits.workspaces_per_user);
    out.journal_bytes = static_cast<std::uint64_t>(config.workspaces.journal_mib) << 20;
    return out;
}

rpc::ServerOptions server_options(const Config& config) {
    rpc::ServerOptions options;
    options.limits.sessions = static_cast<std::size_t>(config.limits.sessions);
    options.limits.sessions_per_uid = static_cast<std::size_t>(config.limits.sessions_per_user);
    options.limits.in_flight = static_cast<std::size_t>(config.limits.requests_per_session);
    options.discovery = proto::openrpc(PYRO_VERSION).dump();
    return options;
}

service::HostPaths host_paths(const Config& config) {
    return service::HostPaths{config.state_dir, config.guest.qemu, config.guest.kernel, config.guest.initramfs,
                              config.workers.image, config.workers.mmdebstrap, config.workers.bubblewrap};
}

void say_ready(int fd) {
    if (fd < 0) return;
    const UniqueFd ready(fd);
    write_all(ready.get(), "ready\n");
}

// Reads the configuration again. What of it cannot change while we run waits for the next start, and the log says so; one with an
// error changes nothing.
void reload(Config& config, const Options& options, const std::function<void(const Config&)>& apply) {
    try {
        Config next = options.load();
        std::string at_once, later;
        for (const std::string& key : changed_keys(config, next)) {
            std::string& list = applies_at_once(key) ? at_once : later;
            list += (list.empty() ? "" : ", ") + key;
        }
        apply(next);
        if (!at_once.empty()) log::say(log::Level::info, options.file() + " was read again and holds: " + at_once);
        if (!later.empty()) log::say(log::Level::warning, "changed, and taking effect with the next start of pyrod: " + later);
        if (at_once.empty() && later.empty()) log::say(log::Level::info, options.file() + " was read again: nothing has changed");
        // What waits is still what the running daemon has not.
        for (auto& [key, value] : next.said)
            if (applies_at_once(key)) config.said[key] = value;
        std::erase_if(config.said, [&](const auto& said) { return applies_at_once(said.first) && !next.said.contains(said.first); });
    } catch (const Error& e) {
        log::say(log::Level::error, "the configuration stays as it was: " + e.message());
    }
}

io::Task<void> serve(Config config, const Options& options, ServiceManager& manager, state::Store& store, const std::string& instance) {
    const io::Executor executor = co_await io::this_executor();
    io::Signals signals(executor, {SIGTERM, SIGINT, SIGHUP});
    // Clients wait instead of being refused: from now on, or since the service manager listens.
    UniqueFd listening = manager.take_socket(config.socket);
    const bool own_socket = !listening;
    if (own_socket) listening = listen_for_clients(config);
    io::TaskGroup background(executor);
    background.spawn(manager.give_signs_of_life(background.token()));

    io::WorkerPool pool(worker_threads), removals(1);
    const std::unique_ptr<supervise::Supervisor> supervisor = supervise::make_plain_supervisor(instance, options.cgroup);
    const std::unique_ptr<vm::Hypervisor> hypervisor = vm::qemu::make_qemu_hypervisor(executor, *supervisor, hypervisor_config(config));
    vm::VmUids uids(store, static_cast<uid_t>(config.guest.uid_first), probe_uid(config) - 1, "/run/pyro-vm-uids.lock");
    vm::MachineRegistry machines(executor, store, *hypervisor, uids, registry_config(config));
    env::CacheOptions cache_options = environment_options(config, uids);
    workspace::SeedStore seeds(executor, *supervisor, pool, seed_options(config, cache_options));
    env::EnvironmentCache environments(executor, *supervisor, store, pool, std::move(cache_options));
    workspace::WorkspaceRegistry workspaces(executor, store, machines, environments, seeds, pool, workspace_options(config));

    // What was bound to calls of an earlier daemon: workers, sandboxes and the sandboxes' trees.
    const std::vector<std::string> scopes = supervisor->scopes();
    for (const std::string& scope : scopes)
        if (!scope.starts_with("vm-")) co_await supervisor->remove(scope, std::stop_token());
    const std::string sandboxes = sandbox_directory(config);
    remove_old_sandboxes(sandboxes);
    co_await environments.start();
    std::map<std::string, agent::Resumption> known = workspaces.open();
    co_await machines.reconcile(std::move(known));
    co_await workspaces.take_up();

    service::Services services(
        service::EnvService(environments, machines, workspaces, config.templates.after_pull),
        service::PrepareService(environments, machines, workspaces),
        service::SystemService(environments, machines, *hypervisor, *supervisor, store, instance, host_paths(config)),
        service::VmService(environments, machines, *supervisor, pool, removals, {config.host_compat.allow, config.workers.bubblewrap, sandboxes}),
        service::WorkspaceService(environments, workspaces, seeds, pool), service::ExecService(workspaces), service::FileService(workspaces, pool));
    rpc::Router router;
    router.bind(services, proto::Api());
    rpc::Server server(executor, std::move(listening), router, server_options(config));
    server.start();
    say_ready(options.ready_fd);
    manager.ready();

    for (;;) {
        const int signal = co_await signals.next();
        if (signal != SIGHUP) break;
        manager.reloading();
        reload(config, options, [&](const Config& next) {
            machines.set_limits(quota_limits(next));
            machines.spares().set_options(spare_options(next));
            workspaces.set_limit(static_cast<std::size_t>(next.limits.workspaces_per_user));
            environments.set_registries(next.mirror, registry_settings(next));
            services.allow_host_compat(next.host_compat.allow);
        });
        manager.ready();
    }
    manager.stopping();
    server.stop();
    co_await server.join();
    co_await workspaces.leave();
    co_await machines.shut_down();
    co_await environments.close();
    co_await hypervisor->close();
    background.stop();
    co_await background.join();
    if (own_socket) ::unlink(config.socket.c_str());
}

int run(const Options& options) {
    ::umask(077);
    const Config config = options.load();
    if (options.check) return 0;
    if (::geteuid() != 0) throw Error(ErrorCode::failed_precondition, "pyrod needs root: it starts VMs as users of their own", "sudo pyrod, or scripts/dev-daemon start");
    ServiceManager manager;
    raise_descriptor_limit();
    make_directories(config);
    const std::string instance = Digest::of(fs::canonical(config.state_dir).string()).hex().substr(0, 8);
    state::Store store({config.state_dir, config.run_dir});
    io::Loop loop;
    loop.run([&] { return serve(config, options, manager, store, instance); });
    return 0;
}

int main_with_errors(int argc, char** argv) {
    Options options;
    for (int i = 1; i < argc; ++i) {
        const std::string flag = argv[i];
        const auto value = [&]() -> std::string {
            if (i + 1 == argc) throw Error(ErrorCode::invalid_argument, flag + " needs a value", "pyrod --help");
            return argv[++i];
        };
        if (flag == "--config") options.config = value();
        else if (flag == "--ready-fd") options.ready_fd = std::atoi(value().c_str());
        else if (flag == "--cgroup") options.cgroup = value();
        else if (flag == "--check") options.check = true;
        else if (flag == "--describe") { std::cout << proto::openrpc(PYRO_VERSION).dump(2) << "\n"; return 0; }
        else if (flag == "--version") { std::cout << "pyrod " PYRO_VERSION "\n"; return 0; }
        else if (flag == "--help") {
            std::cout << "pyrod: the daemon of pyro. Runs as root, in the foreground.\n\n"
                         "  --config FILE    configuration, default " << default_config << " if it is there\n"
                         "  --ready-fd N     write \"ready\" to this descriptor once clients are served\n"
                         "  --cgroup PATH    a delegated cgroup, below which machines live and outlive pyrod\n"
                         "  --check          read the configuration, say what is wrong with it, and end\n"
                         "  --describe       print the API as OpenRPC\n  --version\n  --help\n";
            return 0;
        } else throw Error(ErrorCode::invalid_argument, flag + " is not an option of pyrod", "pyrod --help");
    }
    return run(options);
}

}  // namespace
}  // namespace pyro

int main(int argc, char** argv) {
    try {
        return pyro::main_with_errors(argc, argv);
    } catch (const pyro::Error& e) {
        std::fprintf(stderr, "pyrod: %s\n", e.message().c_str());
        if (!e.hint().empty()) std::fprintf(stderr, "pyrod: hint: %s\n", e.hint().c_str());
        return e.code() == pyro::ErrorCode::invalid_argument ? 2 : 1;
    } catch (const std::exception& e) {
        std::fprintf(stderr, "pyrod: %s\n", e.what());
        return 1;
    }
}
