// demo: the life cycle of a VM, step by step, with what each step took.
#include "client/cli/commands.hpp"
#include "client/cli/render.hpp"
#include "client/cli/terminal.hpp"
#include "proto/vm.hpp"

#include <chrono>
#include <unistd.h>

namespace pyro::client {

using nlohmann::ordered_json;

namespace {

class DemoSteps {
public:
    explicit DemoSteps(bool as_json) : as_json_(as_json) {}

    // Runs a step and tells how long it took.
    template <class Step>
    auto take(const std::string& name, Step step) {
        const auto start = std::chrono::steady_clock::now();
        auto result = step();
        const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start).count();
        list_.push_back({{"name", name}, {"duration_ms", ms}});
        if (!as_json_) write_stdout(name + std::string(name.size() < 8 ? 8 - name.size() : 1, ' ') + std::to_string(ms) + " ms\n");
        return result;
    }
    const ordered_json& list() const { return list_; }

private:
    bool as_json_;
    ordered_json list_ = ordered_json::array();
};

}  // namespace

int demo_command(const Invocation& call) {
    const auto wanted = proto::from_wire<DemoParams>(call.params);
    const bool as_json = call.globals.json;
    Signals signals(call_signals);
    ProgressLine progress("pyro:", as_json);
    Capture out, err;
    Streams streams;
    streams.out = {-1, &out};
    streams.err = {-1, &err};
    CallOptions options;
    options.on_progress = [&](const proto::Progress& p) { progress.show(p); };
    options.signals = &signals;
    CallOptions exec_options = options;
    exec_options.streams = &streams;

    const std::string socket = call.globals.socket;
    Connection daemon({socket});
    DemoSteps steps(as_json);
    const auto vm = steps.take("create", [&] {
        proto::VmCreateParams params;
        params.environment = wanted.environment;
        params.ttl_seconds = 120;
        auto created = daemon.call<proto::VmCreate>(params, options);
        progress.clear();
        return created;
    });
    proto::ExecResult result;
    try {
        steps.take("start", [&] {
            auto started = daemon.call<proto::VmStart>({vm.vm_id}, options);
            progress.clear();
            return started;
        });
        result = steps.take("exec", [&] {
            proto::VmExecParams params;
            params.vm_id = vm.vm_id;
            params.argv = {"git", "--version"};
            auto ended = daemon.call<proto::VmExec>(params, exec_options);
            progress.clear();
            return ended;
        });
    } catch (...) {
        // The first failure is the one to tell; a VM that stays behind ends by its TTL.
        try {
            CallOptions cleaning;
            cleaning.signals = &signals;
            Connection({socket}).call<proto::VmDelete>({vm.vm_id}, cleaning);
        } catch (const std::exception&) {
        }
        throw;
    }
    const bool gone = steps.take("delete", [&] {
        try {
            daemon.call<proto::VmStatus>({vm.vm_id}, options);
            return false;
        } catch (const Error& e) {
            if (e.code() != ErrorCode::not_found) throw;
            return true;
        }
    });
    if (!gone) throw Error(ErrorCode::internal, "VM " + vm.vm_id + " is still there after its command");
    if (exit_status(result) != 0)
        throw Error(ErrorCode::guest_failed, "git --version ended with status " + std::to_string(exit_status(result)) + " in the guest",
                    "environment " + wanted.environment + " has to have git; debian:12 does")
            .with_detail("stderr", err.text().substr(0, 1000));

    std::string said = out.text();
    while (said.ends_with('\n')) said.pop_back();
    const std::string mode(enum_names(result.execution_mode)[static_cast<std::size_t>(result.execution_mode)]);
    if (as_json) {
        write_stdout(document({{"ok", true}, {"environment", result.environment}, {"environment_digest", result.environment_digest}, {"execution_mode", mode},
                               {"vm_id", vm.vm_id}, {"stdout", said}, {"exit_code", *result.exit_code}, {"duration_ms", result.duration_ms}, {"steps", steps.list()}}));
    } else {
        write_stdout("demo: ok environment=" + printable(result.environment) + " execution_mode=" + mode + " vm_id=" + printable(vm.vm_id) +
                     " duration_ms=" + std::to_string(result.duration_ms) + " stdout=\"" + printable(said) + "\"\n");
    }
    return status::ok;
}

}  // namespace pyro::client
