// What a running VM is made of: a uid, a disk, sockets, a VMM, the channel to its agent. It knows no user and no record.
#pragma once
#include "daemon/agent/channel.hpp"
#include "daemon/io/event.hpp"
#include "daemon/state/rows.hpp"
#include "daemon/vm/hypervisor.hpp"
#include "daemon/vm/template.hpp"
#include "daemon/vm/vm_uids.hpp"

#include <functional>
#include <memory>
#include <string>

namespace pyro::vm {

// What guests are made with. Outlives them all.
struct GuestServices {
    io::Executor executor;
    Hypervisor& hypervisor;
    VmUids& uids;
    std::string run_directory;                // RUN/ID/: sockets
    std::string overlay_directory;            // OVERLAYS/ID.qcow2, OVERLAYS/ID.base.qcow2
    std::chrono::nanoseconds boot_patience = std::chrono::seconds(20);  // without a sign of life
};

// 12 hex digits nobody can guess.
std::string new_guest_id();
// A name, ids, entropy and the time of now: what makes a guest one of its own.
agent::Identity fresh_identity(const std::string& hostname);

// As the store has it.
state::ProcessRecord record_of(const supervise::ProcessIdentity& process);

// Serves one VMM after the other with the same id and disk. remove() or let_go() before it goes.
class Guest {
public:
    Guest(const GuestServices& services, std::string id);
    ~Guest();
    Guest(const Guest&) = delete;
    Guest& operator=(const Guest&) = delete;

    const std::string& id() const noexcept { return id_; }
    bool has_disk() const;                    // it ran before
    // What was written, the topmost layer first; below them lies the root image.
    std::vector<std::string> disk_files() const;
    std::string disk() const { return services_.overlay_directory + "/" + id_ + ".qcow2"; }

    // What it runs as; the same until its VMM is gone.
    uid_t claim_uid(uid_t owner_uid);
    uid_t uid() const noexcept { return uid_.uid(); }

    struct Launch {
        MachineSpec spec;
        std::string root_image;               // empty: a disk of zeros
        std::string seed;                     // of the second disk; empty: zeros there too
        std::uint64_t disk_bytes = 0;
        std::shared_ptr<const Template> from; // go on from here; only what its tier allows for this disk
        UniqueFd memory;                      // to make a template of
        bool dies_with_daemon = false;
        std::function<void(const supervise::ProcessIdentity&)> before_exec;
    };
    // Returns with the VMM executed and the channel open: what is said to it now, the guest finds when it runs.
    io::Task<void> launch(Launch launch, std::stop_token stop);
    // Takes up the VMM of an earlier daemon; false when there is none any more. Commands that `known` does not name end.
    io::Task<bool> adopt(supervise::ProcessIdentity process, uid_t uid, agent::Resumption known, std::chrono::nanoseconds patience);

    // Each fails with Error(guest_failed) when the guest gives no sign of life for as long as the services' patience.
    // set_seed() is for one that was launched without and has not opened its second disk.
    io::Task<void> set_seed(std::string image, std::stop_token stop);
    io::Task<void> hello(std::stop_token stop);
    io::Task<void> ready(std::stop_token stop);

    Instance* instance() const noexcept { return instance_.get(); }
    agent::Channel* channel() const noexcept { return channel_.get(); }
    const std::string& console() const noexcept { return console_; }  // of the last VMM, once it ended
    void keep_console();
    bool launched() const noexcept { return launched_; }  // the VMM ran at all
    bool spoke() const noexcept { return spoke_; }        // and its guest said something
    bool hung() const noexcept { return hung_; }
    void forget_words();                                  // from now on spoke() is about what comes next
    void note_words();                                    // looks whether something came since forget_words()

    // Ends the VMM; a disk that did not exist before launch() can be forgotten with it.
    io::Task<void> end();
    void remove_disk();
    io::Task<void> remove(bool with_disk);    // everything, idempotent
    io::Task<void> let_go();                  // the VMM goes on without us

private:
    std::string directory() const { return services_.run_directory + "/" + id_; }
    std::string base() const { return services_.overlay_directory + "/" + id_ + ".base.qcow2"; }
    class Patience;
    template <class T>
    io::Task<void> await_patiently(io::Task<T> (agent::Channel::*step)(std::stop_token), std::stop_token stop);

    const GuestServices& services_;
    std::string id_;
    VmUids::Lease uid_;
    std::unique_ptr<Instance> instance_;
    std::unique_ptr<agent::Channel> channel_;
    std::string console_;
    std::uint64_t heard_ = 0;                 // frames, when forget_words() was called
    bool launched_ = false, spoke_ = false, hung_ = false;
};

}  // namespace pyro::vm
