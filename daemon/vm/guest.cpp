#include "daemon/vm/guest.hpp"

#include "common/error.hpp"
#include "daemon/vm/root_image.hpp"

#include <algorithm>
#include <cerrno>
#include <ctime>

#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

namespace pyro::vm {
namespace {

std::string random_bytes(std::size_t count) {
    std::string out(count, '\0');
    for (std::size_t done = 0; done < count;) {
        const ssize_t n = ::getrandom(out.data() + done, count - done, 0);
        if (n < 0 && errno != EINTR) throw Error::from_errno("draw random bytes");
        if (n > 0) done += static_cast<std::size_t>(n);
    }
    return out;
}

std::string hexadecimal(const std::string& bytes) {
    std::string out;
    for (const char c : bytes)
        for (const int shift : {4, 0}) out += "0123456789abcdef"[static_cast<unsigned char>(c) >> shift & 15];
    return out;
}

// Version 4, as the kernel's own: https://www.rfc-editor.org/rfc/rfc9562#section-5.4
std::string random_uuid() {
    std::string bytes = random_bytes(16);
    bytes[6] = static_cast<char>((bytes[6] & 0x0f) | 0x40);
    bytes[8] = static_cast<char>((bytes[8] & 0x3f) | 0x80);
    std::string out = hexadecimal(bytes);
    for (const std::size_t at : {20, 16, 12, 8}) out.insert(at, 1, '-');
    return out;
}

void remove_file(const std::string& path) {
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) throw Error::from_errno("remove " + path);
}

}  // namespace

std::string new_guest_id() { return hexadecimal(random_bytes(6)); }

agent::Identity fresh_identity(const std::string& hostname) {
    agent::Identity identity;
    identity.hostname = hostname;
    identity.machine_id = hexadecimal(random_bytes(16));
    identity.boot_id = random_uuid();
    identity.entropy = random_bytes(64);
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    identity.wall_clock_ns = static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(now.tv_nsec);
    return identity;
}

state::ProcessRecord record_of(const supervise::ProcessIdentity& process) { return {process.pid, process.start_time, process.boot_id}; }

// Waits as long as there are signs of life.
class Guest::Patience {
public:
    Patience(Guest& guest, std::stop_token stop)
        : guest_(guest), limit_(guest.services_.boot_patience), deadline_(std::make_shared<io::Deadline>(guest.services_.executor, limit_, std::move(stop))) {
        guest_.instance_->on_progress([deadline = deadline_, limit = limit_] { deadline->extend(limit); });
    }
    ~Patience() {
        if (guest_.instance_) guest_.instance_->on_progress({});
    }
    std::stop_token token() const { return deadline_->token(); }
    // After Cancelled: whether it was this that ran out.
    void rethrow_unless_over() const {
        if (!deadline_->expired()) throw Cancelled();
        guest_.hung_ = true;
        throw Error(ErrorCode::guest_failed, "the VM gave no sign of life for " +
                        std::to_string(std::chrono::duration_cast<std::chrono::seconds>(limit_).count()) + " s while it started")
            .with_retryable(true);
    }

private:
    Guest& guest_;
    std::chrono::nanoseconds limit_;
    std::shared_ptr<io::Deadline> deadline_;
};

Guest::Guest(const GuestServices& services, std::string id) : services_(services), id_(std::move(id)) {}
Guest::~Guest() = default;

bool Guest::has_disk() const { return ::access(disk().c_str(), F_OK) == 0; }

std::vector<std::string> Guest::disk_files() const {
    std::vector<std::string> out;
    for (const std::string& file : {disk(), base()})
        if (::access(file.c_str(), F_OK) == 0) out.push_back(file);
    return out;
}

uid_t Guest::claim_uid(uid_t owner_uid) {
    if (uid_.uid() == 0) uid_ = services_.uids.claim(owner_uid, id_);
    return uid_.uid();
}

io::Task<void> Guest::launch(Launch launch, std::stop_token stop) {
    launched_ = spoke_ = hung_ = false;
    heard_ = 0;
    if (::mkdir(directory().c_str(), 0700) != 0 && errno != EEXIST) throw Error::from_errno("make " + directory());
    LaunchPlan plan;
    plan.id = id_;
    plan.spec = launch.spec;
    plan.disks.root_image = std::move(launch.root_image);
    plan.disks.overlay = disk();
    plan.disks.overlay_exists = has_disk();
    plan.disks.bytes = launch.disk_bytes;
    plan.disks.seed = std::move(launch.seed);
    if (launch.from && !launch.from->disk.empty()) {
        // A name of its own for the layer below: it lasts as long as the disk on it does, whatever becomes of the template.
        if (::link(launch.from->disk.c_str(), base().c_str()) != 0) throw Error::from_errno("use the disk of a template");
        struct stat info{};
        if (::stat(base().c_str(), &info) != 0) throw Error::from_errno("look at " + base());
        if (FileStamp::of(info) != launch.from->disk_stamp) throw Error(ErrorCode::failed_precondition, "the disk of a template is not what it was");
    }
    if (::access(base().c_str(), F_OK) == 0) plan.disks.base = base();
    plan.directory = directory();
    plan.uid = uid_.uid();
    plan.dies_with_daemon = launch.dies_with_daemon;
    if (launch.from) plan.resume = launch.from->image;
    plan.memory = std::move(launch.memory);
    plan.before_exec = std::move(launch.before_exec);
    instance_ = co_await services_.hypervisor.launch(std::move(plan), stop);
    launched_ = true;
    io::Stream stream = co_await instance_->connect_agent(stop);
    channel_ = std::make_unique<agent::Channel>(services_.executor, std::move(stream));
}

io::Task<bool> Guest::adopt(supervise::ProcessIdentity process, uid_t uid, agent::Resumption known, std::chrono::nanoseconds patience) {
    InstanceRecord record;
    record.id = id_;
    record.directory = directory();
    record.process = std::move(process);
    instance_ = co_await services_.hypervisor.adopt(std::move(record), std::stop_token());
    if (!instance_) co_return false;
    launched_ = true;
    uid_ = services_.uids.again(uid);
    io::Deadline deadline(services_.executor, patience, std::stop_token());
    io::Stream stream = co_await instance_->connect_agent(deadline.token());
    std::optional<agent::Resumption> resumption;
    resumption = known;
    channel_ = std::make_unique<agent::Channel>(services_.executor, std::move(stream), std::move(resumption));
    const agent::Hello hello = co_await channel_->hello(deadline.token());
    spoke_ = true;
    // Commands of calls that ended with the daemon: nobody can read them any more. A session dropped is a command killed.
    for (const auto& exec : hello.execs) {
        const bool wanted = std::ranges::any_of(known.execs, [&](const auto& one) { return one.exec == exec.exec; });
        if (!wanted) channel_->adopt(exec.exec);
    }
    co_return true;
}

template <class T>
io::Task<void> Guest::await_patiently(io::Task<T> (agent::Channel::*step)(std::stop_token), std::stop_token stop) {
    const Patience patience(*this, std::move(stop));
    bool waited_enough = false;
    try {
        co_await (channel_.get()->*step)(patience.token());
        spoke_ = true;
    } catch (const Cancelled&) {
        waited_enough = true;
    }
    if (waited_enough) patience.rethrow_unless_over();
}

io::Task<void> Guest::set_seed(std::string image, std::stop_token stop) {
    UniqueFd fd = open_seed(image);
    const Patience patience(*this, std::move(stop));
    bool waited_enough = false;
    try {
        co_await instance_->set_seed(std::move(fd), patience.token());
    } catch (const Cancelled&) {
        waited_enough = true;
    }
    if (waited_enough) patience.rethrow_unless_over();
}

io::Task<void> Guest::hello(std::stop_token stop) { return await_patiently(&agent::Channel::hello, std::move(stop)); }
io::Task<void> Guest::ready(std::stop_token stop) { return await_patiently(&agent::Channel::ready, std::move(stop)); }

void Guest::note_words() {
    if (channel_ && channel_->progress() > heard_) spoke_ = true;
}

void Guest::forget_words() {
    spoke_ = false;
    heard_ = channel_ ? channel_->progress() : 0;
}

void Guest::keep_console() {
    if (instance_) console_ = instance_->console_tail();
}

io::Task<void> Guest::end() {
    if (channel_) co_await channel_->close();
    channel_.reset();
    if (!instance_) co_return;
    instance_->on_progress({});
    instance_->kill();
    co_await instance_->exited(std::stop_token());
    keep_console();
    instance_.reset();
}

void Guest::remove_disk() {
    remove_file(disk());
    remove_file(base());
}

io::Task<void> Guest::remove(bool with_disk) {
    co_await end();
    for (const char* name : {"/qmp", "/agent"}) remove_file(directory() + name);
    if (::rmdir(directory().c_str()) != 0 && errno != ENOENT) throw Error::from_errno("remove " + directory());
    if (with_disk) remove_disk();
    uid_.release();
}

io::Task<void> Guest::let_go() {
    if (channel_) co_await channel_->close();
    channel_.reset();
    if (instance_) instance_->release();
    instance_.reset();
    uid_.keep();
}

}  // namespace pyro::vm
