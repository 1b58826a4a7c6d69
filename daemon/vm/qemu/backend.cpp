#include "daemon/vm/qemu/backend.hpp"

#include "common/crash_point.hpp"

#include "common/error.hpp"
#include "common/sparse_digest.hpp"
#include "daemon/io/offload.hpp"
#include "daemon/io/task_group.hpp"
#include "daemon/supervise/jail.hpp"
#include "daemon/vm/qemu/program_files.hpp"
#include "daemon/vm/qemu/qcow2.hpp"
#include "daemon/vm/qemu/qmp.hpp"
#include "daemon/vm/root_image.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <sstream>

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

namespace pyro::vm::qemu {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t console_kept = 16 << 10;
constexpr std::size_t messages_kept = 4 << 10;
constexpr std::uint64_t progress_signs = 4096;    // of one instance: what goes on for ever is no progress
constexpr auto control_deadline = 30s;            // for QEMU's greeting
constexpr auto trial_patience = 4s;               // without a sign of life; a guest on working KVM gives one in 0.1 s
constexpr auto trial_limit = 10s;                 // emulated, it takes one: KVM that is slower is of no use
constexpr std::string_view kernel_is_up = "Run /init as init process";

// The end of what was appended.
class Tail {
public:
    explicit Tail(std::size_t limit) : limit_(limit) {}
    void append(std::string_view bytes) {
        text_ += bytes;
        if (text_.size() > 2 * limit_) text_.erase(0, text_.size() - limit_);
    }
    std::string_view view() const { return std::string_view(text_).substr(text_.size() > limit_ ? text_.size() - limit_ : 0); }

private:
    std::size_t limit_;
    std::string text_;
};

struct InstanceState {
    InstanceState(io::Executor e, supervise::Supervisor& s)
        : executor(e), supervisor(s), ended(e), control_up(e), console_end(e), messages_end(e), saved(e) {}
    io::Executor executor;
    supervise::Supervisor& supervisor;
    std::string id, directory, scope;
    std::shared_ptr<supervise::Process> process;
    std::unique_ptr<Qmp> qmp;
    std::vector<Qmp::Command> first_commands;
    std::string migration;     // QEMU's last word about it
    Tail console{console_kept}, messages{messages_kept};
    std::function<void()> progress;
    std::uint64_t signs = 0;
    std::string shutdown;      // QEMU's word for why it ended
    std::optional<Error> control_lost;  // why nothing can be told it any more
    bool killed_for_it = false;
    bool released = false;
    std::stop_source released_stop;
    ExitReason reason;
    io::Event ended, control_up, console_end, messages_end, saved;

    void sign_of_life() {
        if (progress && signs < progress_signs) {
            ++signs;
            progress();
        }
    }
};
using StatePtr = std::shared_ptr<InstanceState>;

io::Task<void> read_tail(StatePtr state, io::Stream stream, Tail InstanceState::*into, io::Event InstanceState::*end) {
    try {
        std::string chunk(4096, '\0');
        for (;;) {
            const std::size_t n = co_await stream.read_some(chunk, state->released_stop.get_token());
            if (n == 0) break;
            (state.get()->*into).append(std::string_view(chunk).substr(0, n));
            state->sign_of_life();
        }
    } catch (const Error&) {
        // A console that breaks is a console that ended; the process itself is watched elsewhere.
    }
    (state.get()->*end).set();
}

void note_event(InstanceState& state, const std::string& name, const nlohmann::json& data) {
    state.sign_of_life();
    if (name == "MIGRATION") {
        const auto status = data.find("status");
        if (status == data.end() || !status->is_string() || (*status != "completed" && *status != "failed")) return;
        state.migration = status->get<std::string>();
        state.saved.set();
    }
    if (name != "SHUTDOWN") return;
    const auto reason = data.find("reason");
    static constexpr std::array known{"host-error", "host-qmp-quit", "host-qmp-system-reset", "host-signal", "host-ui",
                                      "guest-shutdown", "guest-reset", "guest-panic", "subsystem-reset", "snapshot-load"};
    if (reason != data.end() && reason->is_string() && std::ranges::find(known, reason->get<std::string>()) != known.end())
        state.shutdown = reason->get<std::string>();
}

io::Task<void> open_control(StatePtr state, std::stop_token stop) {
    io::Deadline deadline(state->executor, control_deadline, stop);
    Qmp::OnEvent on_event = [weak = std::weak_ptr(state)](const std::string& name, const nlohmann::json& data) {
        if (auto alive = weak.lock()) note_event(*alive, name, data);
    };
    io::Stream stream = co_await io::Stream::connect(state->directory + "/qmp", deadline.token());
    state->qmp = co_await Qmp::open(std::move(stream), std::move(on_event), state->first_commands, deadline.token());
    state->sign_of_life();
    state->control_up.set();
}

// Whatever QEMU does wrong on its control connection, it is ended: it cannot be told anything any more.
io::Task<void> keep_control(StatePtr state) {
    const std::stop_token released = state->released_stop.get_token();
    try {
        if (!state->qmp) co_await open_control(state, released);
        co_await state->qmp->closed(released);
        state->control_lost = state->qmp->failure();
    } catch (const Error& e) {
        state->control_lost = e;
    } catch (const Cancelled&) {
        if (!released.stop_requested()) state->control_lost = Error(ErrorCode::guest_failed, "QEMU did not answer on its control connection");
    }
    if (!released.stop_requested()) {
        // A QEMU that ends closes the connection first and is collected a moment later: let it say how it ended.
        const bool misbehaved = state->control_lost->code() == ErrorCode::guest_failed;
        io::Deadline moment(state->executor, misbehaved ? 0s : 2s, released);
        try {
            co_await state->process->wait(moment.token());
        } catch (const Cancelled&) {
            if (moment.expired()) {
                state->killed_for_it = true;
                state->process->kill();
            }
        }
    }
    if (state->qmp) co_await state->qmp->close();
    state->control_up.set();
    state->saved.set();
}

ExitReason reason_of(const InstanceState& state, const supervise::ExitStatus& status) {
    ExitReason out;
    out.by_guest = state.shutdown == "guest-shutdown" || state.shutdown == "guest-reset";
    // A kernel that panics resets: only its console tells that from a power-off.
    const bool panicked = state.console.view().find("Kernel panic - not syncing") != std::string_view::npos;
    if (status.out_of_memory) out.text = "it needed more memory than it may have, and was killed (out of memory)";
    else if (out.by_guest) out.text = panicked ? "the guest's kernel panicked" : "the guest powered off";
    else if (!state.shutdown.empty()) out.text = "QEMU was told to end (" + state.shutdown + ")";
    else if (state.killed_for_it) out.text = "QEMU was ended: " + state.control_lost->message();
    else if (status.known) out.text = "QEMU ended: " + status.describe();
    else out.text = "QEMU ended while no daemon was looking, or was killed";
    return out;
}

io::Task<void> watch(StatePtr state, std::shared_ptr<io::TaskGroup> control) {
    const std::stop_token released = state->released_stop.get_token();
    std::stop_token never;
    try {
        const supervise::ExitStatus status = co_await state->process->wait(released);
        co_await state->supervisor.remove(state->scope, never);
        co_await state->console_end.wait(released);
        co_await state->messages_end.wait(released);
        co_await control->join();
        state->reason = reason_of(*state, status);
        state->ended.set();
    } catch (const Cancelled&) {
        // Released: it goes on without us.
    }
    co_await control->join();
    state->progress = {};
}

class QemuInstance final : public Instance {
public:
    explicit QemuInstance(StatePtr state) : state_(std::move(state)) {}
    ~QemuInstance() override {
        state_->progress = {};
        if (!state_->released && !state_->ended.is_set()) state_->process->kill();
    }

    io::Task<io::Stream> connect_agent(std::stop_token stop) override {
        auto state = state_;
        io::Stream stream = co_await io::Stream::connect(state->directory + "/agent", stop);
        co_return stream;
    }

    io::Task<void> save(UniqueFd devices, std::stop_token stop) override {
        auto state = state_;
        co_await state->control_up.wait(stop);
        if (state->control_lost) throw Error(*state->control_lost);
        std::vector<Qmp::Command> named(1);
        named[0].name = "getfd";
        named[0].arguments["fdname"] = "devices";
        co_await state->qmp->execute_with_fd(std::move(named), std::move(devices), stop);
        nlohmann::json where = nlohmann::json::object();
        where["uri"] = "fd:devices";
        co_await state->qmp->execute("migrate", std::move(where), stop);
        co_await state->saved.wait(stop);
        if (state->control_lost) throw Error(*state->control_lost);
        if (state->migration != "completed") throw Error(ErrorCode::internal, "QEMU could not save the machine");
    }

    io::Task<void> set_seed(UniqueFd image, std::stop_token stop) override {
        auto state = state_;
        co_await state->control_up.wait(stop);
        if (state->control_lost) throw Error(*state->control_lost);
        std::vector<Qmp::Command> commands = insert_seed();
        co_await state->qmp->execute_with_fd(std::move(commands), std::move(image), stop);
    }

    io::Task<void> quit(std::stop_token stop) override {
        auto state = state_;
        co_await state->control_up.wait(stop);
        if (!state->qmp) throw Error(*state->control_lost);
        nlohmann::json none = nlohmann::json::object();
        co_await state->qmp->execute("quit", std::move(none), stop);
    }

    void kill() noexcept override { state_->process->kill(); }

    io::Task<ExitReason> exited(std::stop_token stop) override {
        auto state = state_;
        co_await state->ended.wait(stop);
        co_return state->reason;
    }

    void on_progress(std::function<void()> listener) override { state_->progress = std::move(listener); }

    std::string console_tail() const override {
        std::string out(state_->messages.view());
        if (!out.empty() && out.back() != '\n') out += '\n';
        out += state_->console.view();
        // The guest's words go to terminals and into JSON.
        std::erase_if(out, [](char c) { return c >= 0 && c < 0x20 && c != '\n' && c != '\t'; });
        std::ranges::replace_if(out, [](char c) { return c < 0 || c == 0x7f; }, '?');
        return out;
    }

    InstanceRecord record() const override { return InstanceRecord{state_->id, state_->directory, state_->process->identity()}; }

    void release() noexcept override {
        state_->released = true;
        state_->progress = {};
        state_->released_stop.request_stop();
    }

private:
    StatePtr state_;
};

std::pair<UniqueFd, UniqueFd> connected_pair() {
    int fds[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) throw Error::from_errno("make a pair of sockets");
    return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

// How fast the host's time stamp counter runs, which an emulated guest is told instead of having it measure.
class TscRate {
public:
    TscRate() : first_(look()) {}

    // The longer ago the first look, the better the second one measures; 50 ms give six digits.
    io::Task<std::uint64_t> khz() {
        if (khz_ == 0) {
            const auto missing = 50ms - std::chrono::nanoseconds(now() - first_.time);
            if (missing > 0ns) co_await io::sleep_for(missing, std::stop_token());
            const Look last = look();
            khz_ = static_cast<std::uint64_t>(static_cast<double>(last.ticks - first_.ticks) * 1e6 / static_cast<double>(last.time - first_.time));
        }
        co_return khz_;
    }

private:
    struct Look {
        std::uint64_t ticks = 0;
        std::int64_t time = 0;
    };
    // Both at the same moment: of several looks, the one that nothing interrupted.
    static Look look() noexcept {
        Look out;
        std::int64_t shortest = INT64_MAX;
        for (int n = 0; n < 32; ++n) {
            const std::int64_t before = now();
            const std::uint64_t seen = ticks();
            const std::int64_t took = now() - before;
            if (took >= shortest) continue;
            shortest = took;
            out = {seen, before + took / 2};
        }
        return out;
    }
    static std::uint64_t ticks() noexcept {
#if defined(__x86_64__)
        return __rdtsc();
#else
        return 0;
#endif
    }
    static std::int64_t now() noexcept {
        timespec t{};
        ::clock_gettime(CLOCK_MONOTONIC_RAW, &t);
        return t.tv_sec * 1'000'000'000 + t.tv_nsec;
    }
    Look first_;
    std::uint64_t khz_ = 0;
};

// What changes when a file is replaced.
std::string stamp_of(const std::string& path) {
    struct stat found{};
    if (::stat(path.c_str(), &found) != 0) return path + " missing";
    return path + " " + std::to_string(found.st_size) + " " + std::to_string(found.st_mtim.tv_sec) + "." + std::to_string(found.st_mtim.tv_nsec);
}

// Shared memory is not part of a saved state: it stays where it is.
Qmp::Command capabilities_of_images() {
    nlohmann::json capabilities = nlohmann::json::array();
    for (const char* name : {"x-ignore-shared", "events"}) capabilities.push_back({{"capability", name}, {"state", true}});
    Qmp::Command out;
    out.name = "migrate-set-capabilities";
    out.arguments["capabilities"] = std::move(capabilities);
    return out;
}

// The state says that the guest was running: it runs on as soon as it is loaded.
Qmp::Command go_on() {
    Qmp::Command out;
    out.name = "migrate-incoming";
    out.arguments["uri"] = "fd:" + std::to_string(devices_fd);
    return out;
}

// Of a processor whose features a KVM guest sees.
std::string processor_features() {
    std::istringstream lines(read_file("/proc/cpuinfo", 16u << 20));
    std::string out;
    for (std::string line; std::getline(lines, line) && !line.empty();)
        for (const char* key : {"vendor_id", "cpu family", "model\t", "stepping", "microcode", "flags"})
            if (line.starts_with(key)) out += line + "\n";
    return out;
}

UniqueFd open_part(const std::string& path, const char* what, const char* cure) {
    try {
        return open_file(path, O_RDONLY);
    } catch (const Error& e) {
        throw Error(ErrorCode::failed_precondition, std::string(what) + ": " + e.message(), cure);
    }
}

// Of all second disks: it says how large they are and is never written to, by nobody.
UniqueFd make_seed_frame() {
    UniqueFd frame = unsealed_memfd("pyro-seed-frame", 0);
    write_all(frame.get(), empty_qcow2(seed_bytes));
    seal(frame);
    return frame;
}

class QemuHypervisor final : public Hypervisor {
public:
    QemuHypervisor(io::Executor executor, supervise::Supervisor& supervisor, BackendConfig config)
        : executor_(executor), supervisor_(supervisor), config_(std::move(config)), probing_(executor, 1), digesting_(executor, 1), jailing_(executor, 1), tasks_(executor) {}

    io::Task<HostCapabilities> probe(std::stop_token stop) override {
        auto turn = co_await probing_.acquire(stop);
        if (!capabilities_) {
            if (::access(config_.programs.qemu.c_str(), X_OK) != 0)
                throw Error(ErrorCode::failed_precondition, "cannot start VMs: " + config_.programs.qemu + " is not installed",
                            "apt-get install qemu-system-x86");
            HostCapabilities found = co_await choose(stop);
            capabilities_ = std::move(found);
            if (capabilities_->accelerator == Accelerator::kvm) kvm_groups_ = kvm_access(config_.kvm_device).groups;
        }
        HostCapabilities out = *capabilities_;
        co_return out;
    }

    io::Task<std::unique_ptr<Instance>> launch(LaunchPlan plan, std::stop_token stop) override {
        const HostCapabilities host = co_await probe(stop);
        Launch launch;
        launch.accelerator = host.accelerator;
        launch.groups = kvm_groups_;
        launch.uid = plan.uid;
        launch.randomize_emulated = config_.randomize_emulated;
        launch.spec = plan.spec;
        launch.dies_with_daemon = plan.dies_with_daemon;
        Descriptors fds;
        if (!plan.disks.root_image.empty())
            fds.root = open_part(plan.disks.root_image, "the environment's root image cannot be used", "pull the environment again");
        launch.disk_bytes = plan.disks.bytes;
        if (!plan.disks.base.empty()) fds.base = open_file(plan.disks.base, O_RDONLY | O_NOFOLLOW);
        fds.overlay = open_overlay(plan.disks, launch.disk_bytes);
        if (!plan.disks.seed.empty()) fds.seed = open_seed(plan.disks.seed);
        fds.seed_frame = reopened(seed_frame_);
        if (plan.memory) fds.memory = std::move(plan.memory);
        if (plan.resume) {
            fds.memory = plan.resume->memory.duplicate();
            fds.devices = reopened(plan.resume->devices);
        }
        StatePtr state = co_await start(std::move(launch), std::move(fds), plan.id, plan.directory, std::move(plan.before_exec));
        plan.resume.reset();
        std::unique_ptr<Instance> instance = std::make_unique<QemuInstance>(std::move(state));
        co_return instance;
    }

    io::Task<ImageBasis> image_basis(MachineSpec spec, std::uint64_t disk_bytes, std::stop_token stop) override {
        const HostCapabilities host = co_await probe(stop);
        const std::string programs = co_await programs_digest();
        Launch launch;
        launch.accelerator = host.accelerator;
        launch.randomize_emulated = config_.randomize_emulated;
        launch.spec = spec;
        launch.disk_bytes = disk_bytes;
        // The command line itself, with everything in it that is the same for all machines of this size.
        Descriptors none;
        for (UniqueFd* fd : {&none.memory, &none.overlay, &none.seed_frame, &none.messages}) *fd = UniqueFd(::eventfd(0, EFD_CLOEXEC));
        const supervise::Command command = command_line(config_.programs, launch, std::move(none));
        ImageBasis basis;
        basis.fingerprint = programs + "\ndisk " + std::to_string(disk_bytes);
        for (const std::string& word : command.argv) basis.fingerprint += "\n" + word;
        if (host.accelerator == Accelerator::kvm) basis.fingerprint += "\n" + processor_features();
        basis.tsc_khz = co_await tsc_.khz();
        co_return basis;
    }

    io::Task<std::unique_ptr<Instance>> adopt(InstanceRecord record, std::stop_token stop) override {
        supervise::Scope scope;
        scope.name = scope_name(record.id);
        auto state = std::make_shared<InstanceState>(executor_, supervisor_);
        state->id = record.id;
        state->directory = record.directory;
        state->scope = scope.name;
        state->process = supervisor_.adopt(record.process, scope);
        bool answers = false;
        if (state->process) {
            try {
                co_await open_control(state, stop);
                answers = true;
            } catch (const Error&) {
                // Told by the absence of an instance: what does not answer is ended below.
            } catch (const Cancelled&) {
                if (stop.stop_requested()) throw;
            }
        }
        std::unique_ptr<Instance> instance;
        if (!answers) {
            co_await clear(std::move(record), stop);
            co_return instance;
        }
        state->console_end.set();  // went with the daemon that had it
        state->messages_end.set();
        follow(state);
        instance = std::make_unique<QemuInstance>(std::move(state));
        co_return instance;
    }

    io::Task<void> clear(InstanceRecord record, std::stop_token stop) override {
        supervise::Scope scope;
        scope.name = scope_name(record.id);
        if (const auto process = supervisor_.adopt(record.process, scope)) {
            process->kill();
            co_await process->wait(stop);
        }
        co_await supervisor_.remove(scope.name, stop);
    }

    std::vector<std::string> leftovers() const override {
        std::vector<std::string> out;
        for (const std::string& scope : supervisor_.scopes())
            if (scope.starts_with("vm-")) out.push_back(scope.substr(3));
        return out;
    }

    io::Task<void> close() override {
        co_await tasks_.join();
    }

private:
    static std::string scope_name(const std::string& id) { return "vm-" + id; }

    static UniqueFd open_overlay(const Disks& disks, std::uint64_t disk_bytes) {
        if (disks.overlay_exists) return open_file(disks.overlay, O_RDWR | O_NOFOLLOW);
        UniqueFd fd = open_file(disks.overlay, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
        write_all(fd.get(), empty_qcow2(disk_bytes));
        crash_point("overlay_written");
        return fd;
    }

    // Content, not names: a program that was replaced is another program. Hashed again when a file was.
    io::Task<std::string> programs_digest() {
        const std::array paths{config_.programs.qemu, config_.programs.kernel, config_.programs.initramfs};
        std::string stamps;
        for (const std::string& path : paths) stamps += stamp_of(path) + "\n";
        const auto turn = co_await digesting_.acquire(std::stop_token());
        if (stamps != programs_stamps_) {
            const auto hash = [paths] {
                std::string out;
                for (const std::string& path : paths) {
                    const UniqueFd fd = open_file(path, O_RDONLY);
                    out += sparse_digest(fd.get()).str() + "\n";
                }
                return out;
            };
            programs_digest_ = co_await io::offload(hashing_, hash);
            programs_stamps_ = std::move(stamps);
        }
        co_return std::string(programs_digest_);
    }

    // Made again when QEMU is another program: its libraries may be others too.
    io::Task<std::shared_ptr<const supervise::Jail>> jail(Accelerator accelerator) {
        const auto turn = co_await jailing_.acquire(std::stop_token());
        const std::string stamp = std::string(execution_mode(accelerator)) + " " + stamp_of(config_.programs.qemu);
        if (!jail_ || jail_stamp_ != stamp) {
            const supervise::Credentials nobody{config_.probe_uid, static_cast<gid_t>(config_.probe_uid), {}};
            std::vector<std::string> files = co_await program_files(supervisor_, config_.programs.qemu, nobody);
            files.insert(files.end(), config_.more_files.begin(), config_.more_files.end());
            if (accelerator == Accelerator::kvm) files.push_back(config_.kvm_device);
            jail_ = supervise::Jail::make(std::move(files), config_.run_directory);
            jail_stamp_ = stamp;
        }
        co_return jail_;
    }

    io::Task<HostCapabilities> choose(std::stop_token stop) {
        AcceleratorProbe::Boot boot = [this](std::vector<gid_t> groups, std::stop_token token) { return trial(std::move(groups), std::move(token)); };
        std::string key = stamp_of(config_.programs.qemu) + " " + stamp_of(config_.programs.kernel);
        AcceleratorProbe accelerator(config_.run_directory + "/accelerator.json", std::move(key), config_.kvm_device, std::move(boot));
        HostCapabilities found = co_await accelerator.run(stop);
        co_return found;
    }

    // Everything but the disks. `fds` has those already, if any.
    io::Task<StatePtr> start(Launch launch, Descriptors fds, std::string id, std::string directory,
                             std::function<void(const supervise::ProcessIdentity&)> before_exec) {
        if (launch.accelerator == Accelerator::tcg) launch.tsc_khz = co_await tsc_.khz();
        fds.kernel = open_part(config_.programs.kernel, "the guest kernel cannot be used", "build it: guest/kernel/build");
        fds.initramfs = open_part(config_.programs.initramfs, "the guest's initramfs cannot be used", "build it: ninja -C build pyro_guest_initramfs");
        fds.qmp = io::listen_unix(directory + "/qmp", 0600);
        fds.agent = io::listen_unix(directory + "/agent", 0600);
        auto console = connected_pair();
        auto messages = connected_pair();
        fds.console = std::move(console.second);
        fds.messages = std::move(messages.second);
        supervise::Scope scope;
        scope.name = scope_name(id);
        scope.memory_max = memory_limit(launch.spec, launch.accelerator);
        // A page that the image's guest never touched is made in the memory file first, then copied: whoever touches it first
        // is charged for both.
        if (fds.devices) scope.memory_max += static_cast<std::uint64_t>(launch.spec.mem_mib) << 20;
        scope.tasks_max = 128 + static_cast<std::uint64_t>(launch.spec.vcpu_count);
        scope.cpu_percent = 100 * (static_cast<std::uint64_t>(launch.spec.vcpu_count) + 1);  // and one for the devices
        scope.io_bytes_per_second = config_.io_bytes_per_second;
        scope.io_device = config_.io_device;

        auto state = std::make_shared<InstanceState>(executor_, supervisor_);
        state->id = id;
        state->directory = directory;
        state->scope = scope.name;
        if (fds.memory) state->first_commands.push_back(capabilities_of_images());
        if (fds.devices) state->first_commands.push_back(go_on());
        supervise::Command command = command_line(config_.programs, launch, std::move(fds));
        command.jail = co_await jail(launch.accelerator);
        state->process = co_await supervisor_.spawn(std::move(command), scope, std::move(before_exec));
        tasks_.spawn(read_tail(state, io::Stream(executor_, std::move(console.first)), &InstanceState::console, &InstanceState::console_end));
        tasks_.spawn(read_tail(state, io::Stream(executor_, std::move(messages.first)), &InstanceState::messages, &InstanceState::messages_end));
        follow(state);
        co_return state;
    }

    void follow(StatePtr state) {
        auto control = std::make_shared<io::TaskGroup>(executor_);
        control->spawn(keep_control(state));
        tasks_.spawn(watch(std::move(state), std::move(control)));
    }

    io::Task<TrialBoot> trial(std::vector<gid_t> groups, std::stop_token stop) {
        const std::string directory = config_.run_directory + "/trial";
        if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) throw Error::from_errno("make " + directory);
        Launch launch;
        launch.spec.mem_mib = 128;
        launch.uid = config_.probe_uid;
        launch.groups = std::move(groups);
        launch.accelerator = Accelerator::kvm;
        launch.dies_with_daemon = true;
        launch.verbose_kernel = true;
        Descriptors none;
        const std::function<void(const supervise::ProcessIdentity&)> no_record;
        StatePtr state = co_await start(std::move(launch), std::move(none), "trial", directory, no_record);
        QemuInstance instance(state);
        TrialBoot out;
        std::exception_ptr failure;
        try {
            io::Deadline limit(executor_, trial_limit, stop);
            io::Deadline patience(executor_, trial_patience, limit.token());
            std::stop_source seen;
            const std::stop_callback on_time(patience.token(), [&seen] { seen.request_stop(); });
            state->progress = [&] {
                patience.extend(trial_patience);
                if (state->console.view().find(kernel_is_up) != std::string_view::npos) {
                    out.booted = true;
                    seen.request_stop();
                }
            };
            try {
                const ExitReason reason = co_await instance.exited(seen.get_token());
                out.what = reason.text + (state->messages.view().empty() ? "" : ": " + first_line(state->messages.view()));
            } catch (const Cancelled&) {
                if (stop.stop_requested()) throw;
                const auto seconds = [](std::chrono::seconds time) { return std::to_string(time.count()) + " s"; };
                if (out.booted) out.what = "its kernel reached its first program";
                else if (limit.expired()) out.what = "its kernel did not reach its first program within " + seconds(trial_limit);
                else out.what = "no sign of life for " + seconds(trial_patience);
            }
        } catch (...) {
            failure = std::current_exception();
        }
        state->progress = {};
        instance.kill();
        co_await instance.exited(std::stop_token());
        for (const char* name : {"/qmp", "/agent", ""}) ::remove((directory + name).c_str());
        if (failure) std::rethrow_exception(failure);
        co_return out;
    }

    static std::string first_line(std::string_view text) { return std::string(text.substr(0, std::min(text.find('\n'), text.size()))); }

    io::Executor executor_;
    supervise::Supervisor& supervisor_;
    BackendConfig config_;
    TscRate tsc_;
    io::Semaphore probing_, digesting_, jailing_;
    std::shared_ptr<const supervise::Jail> jail_;
    std::string jail_stamp_;
    io::WorkerPool hashing_{1};
    UniqueFd seed_frame_ = make_seed_frame();
    std::string programs_stamps_, programs_digest_;
    std::optional<HostCapabilities> capabilities_;
    std::vector<gid_t> kvm_groups_;
    io::TaskGroup tasks_;
};

}  // namespace

std::unique_ptr<Hypervisor> make_qemu_hypervisor(io::Executor executor, supervise::Supervisor& supervisor, BackendConfig config) {
    return std::make_unique<QemuHypervisor>(std::move(executor), supervisor, std::move(config));
}

}  // namespace pyro::vm::qemu
