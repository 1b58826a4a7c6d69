#include "daemon/vm/template_build.hpp"

#include "common/crash_point.hpp"
#include "common/error.hpp"

#include <cerrno>

#include <stdio.h>
#include <unistd.h>

namespace pyro::vm {
namespace {

using namespace std::chrono_literals;

constexpr auto command_patience = 10s;  // of one command of the warm-up
constexpr auto save_patience = 60s;

// What agents run most, as far as an image has it: found, read and mapped once. None of them does anything. One looks at what it
// finds at home, as a user's will; the others find no home to leave something in.
std::vector<std::vector<std::string>> usual_commands() {
    return {{"/bin/sh", "-c",
             "HOME=/nonexistent; for tool in sh bash git python3 perl node ls cat cp mv rm mkdir grep sed awk find sort head tail tar env make gcc cc; do "
             "command -v $tool >/dev/null 2>&1 && $tool --version </dev/null >/dev/null 2>&1; done; :"},
            {"git", "--version"},
            {"true"}};
}

io::Task<void> run_to_its_end(agent::Channel& channel, std::vector<std::string> argv, std::stop_token stop) {
    agent::ExecSpec spec;
    spec.argv = std::move(argv);
    spec.env = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"};
    spec.cwd = "/";
    spec.has_stdin = false;
    const std::shared_ptr<agent::ExecSession> session = channel.exec(spec);
    for (;;) {
        const std::optional<agent::Chunk> chunk = co_await session->read(stop);
        if (!chunk) break;
    }
    co_await session->exited(stop);
    session->kill();  // what it may have left behind
}

io::Task<void> boot_and_save(Guest& guest, TemplateSource source, const UniqueFd& memory, const UniqueFd& devices, std::stop_token stop) {
    Guest::Launch launch;
    launch.spec = source.spec;
    launch.root_image = source.root.path;
    launch.disk_bytes = source.disk_bytes;
    launch.memory = memory.duplicate();
    launch.dies_with_daemon = true;
    co_await guest.launch(std::move(launch), stop);
    crash_point("template_booting");
    co_await guest.hello(stop);
    if (source.tier == TemplateTier::pristine) {
        guest.channel()->start(nobodys_identity());
        co_await guest.ready(stop);
        std::vector<std::vector<std::string>> commands = usual_commands();
        co_await warm_up(*guest.channel(), std::move(commands), stop);
    }
    const io::Executor executor = co_await io::this_executor();
    io::Deadline deadline(executor, save_patience, stop);
    // A guest whose disk has no space below it stands still in here.
    if (source.tier == TemplateTier::pristine) co_await guest.channel()->sync(deadline.token());
    crash_point("template_warm");
    co_await guest.instance()->save(devices.duplicate(), deadline.token());
    co_await guest.instance()->quit(deadline.token());
    co_await guest.instance()->exited(deadline.token());
}

}  // namespace

agent::Identity nobodys_identity() {
    agent::Identity identity = fresh_identity({});
    identity.machine_id = std::string(32, '0');
    identity.boot_id = "00000000-0000-4000-8000-000000000000";
    return identity;
}

io::Task<void> warm_up(agent::Channel& channel, std::vector<std::vector<std::string>> commands, std::stop_token stop) {
    const io::Executor executor = co_await io::this_executor();
    for (std::vector<std::string>& argv : commands) {
        io::Deadline deadline(executor, command_patience, stop);
        try {
            co_await run_to_its_end(channel, std::move(argv), deadline.token());
        } catch (const Cancelled&) {
            if (!deadline.expired()) throw;
            // Killed with its session. Whatever it was busy with, others will do without it.
        }
    }
}

io::Task<SavedGuest> save_guest(const GuestServices& services, TemplateSource source, std::string disk, std::stop_token stop) {
    Guest guest(services, new_guest_id());
    const TemplateTier tier = source.tier;
    SavedGuest out;
    std::exception_ptr failure;
    try {
        out.image.memory = unsealed_memfd("pyro-template-memory", static_cast<std::uint64_t>(source.spec.mem_mib) << 20);
        out.image.devices = unsealed_memfd("pyro-template-devices", 0);
        guest.claim_uid(0);
        co_await boot_and_save(guest, std::move(source), out.image.memory, out.image.devices, stop);
        co_await guest.end();
        seal(out.image.memory);
        seal(out.image.devices);
        out.has_disk = tier == TemplateTier::pristine;
        if (out.has_disk && ::rename(guest.disk().c_str(), disk.c_str()) != 0) throw Error::from_errno("keep a template's disk");
        crash_point("template_saved");
    } catch (const Cancelled&) {
        failure = stop.stop_requested() ? std::current_exception()
                                        : std::make_exception_ptr(Error(ErrorCode::guest_failed, "the guest for a template did not come to rest"));
    } catch (...) {
        failure = std::current_exception();
    }
    co_await guest.remove(true);
    if (failure) std::rethrow_exception(failure);
    co_return out;
}

}  // namespace pyro::vm
