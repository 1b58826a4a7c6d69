// What `pyro bench` measures, apart from how it is asked for and shown (bench.cpp).
#pragma once
#include "client/cli/child.hpp"
#include "client/lib/connection.hpp"

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace pyro::client {

// Runs of one kind.
struct BenchRow {
    std::string name;
    std::string about;                          // of another runtime: which version
    std::vector<double> ms;
    std::map<std::string, std::size_t> starts;  // of pyro's own: how the VMs got going
};
double median(std::vector<double> values);      // of at least one
double percentile95(std::vector<double> values);

struct LeftOut {
    std::string name, reason;
};

// The other ways to run a command in a container that this host has, each on a copy of the environment's own root. What
// was made for them is removed with this.
class OtherRuntimes {
public:
    // Takes the tree out of the environment through pyro itself, if any of `wanted` can be used. `own` is the command line
    // that runs a command in the environment.
    OtherRuntimes(const std::vector<std::string>& wanted, const std::vector<std::string>& own, std::vector<std::string> command, Signals& signals,
                  const std::function<void(const std::string&)>& say);
    ~OtherRuntimes();
    OtherRuntimes(const OtherRuntimes&) = delete;
    OtherRuntimes& operator=(const OtherRuntimes&) = delete;

    struct Runtime {
        std::string name, version;
        std::vector<std::string> run;                     // a whole command line
        std::vector<std::vector<std::string>> clean_up;  // what removes all it may have left
    };
    const std::vector<Runtime>& usable() const { return usable_; }
    const std::vector<LeftOut>& left_out() const { return left_out_; }

private:
    void unpack(const std::vector<std::string>& own);
    void prepare(const std::string& name);
    void clean_up() noexcept;

    std::vector<std::string> command_;
    Signals& signals_;
    std::string tree_;                                    // empty: not unpacked
    std::vector<Runtime> usable_, tried_;
    std::vector<LeftOut> left_out_;
};

// Memory of each of many VMs that wait.
struct Density {
    std::int64_t vms = 0, mem_mib = 0;
    std::vector<double> idle_private, idle_code;          // bytes; before any command
    std::vector<double> used_private, used_code;          // after one
};
Density measure_density(const std::string& socket, const std::string& environment, std::int64_t vms, const std::vector<std::string>& command,
                        Signals& signals, const std::function<void(const std::string&)>& say);

// A VM of vm.create while somebody holds it.
class HeldVm {
public:
    HeldVm(std::string socket, std::string id) : socket_(std::move(socket)), id_(std::move(id)) {}
    ~HeldVm();                                            // removes it, uninterrupted
    HeldVm(HeldVm&& other) noexcept : socket_(std::move(other.socket_)), id_(std::exchange(other.id_, {})) {}
    HeldVm& operator=(HeldVm&&) = delete;
    const std::string& id() const { return id_; }
    void forget() noexcept { id_.clear(); }               // it is gone already

private:
    std::string socket_, id_;
};

}  // namespace pyro::client
