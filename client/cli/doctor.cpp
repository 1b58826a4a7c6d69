// doctor: what only the client can see, then what the daemon finds.
#include "client/cli/commands.hpp"
#include "client/cli/render.hpp"
#include "client/cli/terminal.hpp"
#include "proto/system.hpp"

#include <algorithm>
#include <grp.h>
#include <unistd.h>
#include <vector>

namespace pyro::client {

using proto::Check;
using proto::CheckStatus;

namespace {

bool in_group(gid_t gid) {
    if (::getegid() == gid) return true;
    std::vector<gid_t> groups(static_cast<std::size_t>(std::max(::getgroups(0, nullptr), 0)));
    const int n = ::getgroups(static_cast<int>(groups.size()), groups.data());
    return n > 0 && std::find(groups.begin(), groups.begin() + n, gid) != groups.begin() + n;
}

Check group_check(bool reachable) {
    if (::geteuid() == 0) return {"group", CheckStatus::pass, "root needs no group", std::nullopt};
    const group* wanted = ::getgrnam("pyro");
    if (wanted && in_group(wanted->gr_gid)) return {"group", CheckStatus::pass, "you are in group pyro", std::nullopt};
    if (reachable) return {"group", CheckStatus::pass, "not in group pyro, and the socket does not ask for it", std::nullopt};
    if (!wanted) return {"group", CheckStatus::warn, "there is no group pyro", "sudo groupadd --system pyro"};
    return {"group", CheckStatus::warn, "you are not in group pyro, or this session began before you were", "sudo usermod -aG pyro $USER && newgrp pyro"};
}

Check failed_check(std::string name, const Error& error) {
    const auto fix = error.details().find("fix");
    std::string command = fix != error.details().end() ? fix->second : error.hint();
    return {std::move(name), CheckStatus::fail, error.message(), command.empty() ? std::nullopt : std::optional(std::move(command))};
}

}  // namespace

std::string render_checks(const std::vector<Check>& checks, Style style, const std::string& more) {
    static constexpr std::string_view words[] = {"PASS", "WARN", "FAIL"}, colours[] = {"\x1b[32m", "\x1b[33m", "\x1b[31m"};
    std::size_t width = 0, counts[3] = {};
    for (const Check& check : checks) width = std::max(width, check.name.size());
    std::string out;
    for (const Check& check : checks) {
        const auto which = static_cast<std::size_t>(check.status);
        ++counts[which];
        out += (style.colour ? std::string(colours[which]) + std::string(words[which]) + "\x1b[0m" : std::string(words[which])) + "  ";
        out += printable(check.name) + std::string(width - check.name.size() + 2, ' ') + printable(check.detail) + "\n";
        if (check.fix && check.status != CheckStatus::pass) out += "      fix: " + printable(*check.fix) + "\n";
    }
    out += std::to_string(counts[0]) + " passed, " + std::to_string(counts[1]) + " warnings, " + std::to_string(counts[2]) + " failed" + more + "\n";
    return out;
}

int doctor_command(const Invocation& call) {
    proto::SystemDoctorResult all;
    const std::string socket = socket_path(call.globals.socket);
    Signals signals(call_signals);
    try {
        Connection daemon({call.globals.socket});
        all.checks.push_back({"socket", CheckStatus::pass, "pyrod " + daemon.daemon_version() + " answers at " + socket, std::nullopt});
        all.checks.push_back(group_check(true));
        if (daemon.daemon_version() == PYRO_VERSION) all.checks.push_back({"version", CheckStatus::pass, "client and daemon are " PYRO_VERSION, std::nullopt});
        else all.checks.push_back({"version", CheckStatus::warn, "the client is " PYRO_VERSION ", pyrod is " + daemon.daemon_version(), "upgrade the older one"});

        ProgressLine progress("pyro:", call.globals.json);
        CallOptions options;
        options.on_progress = [&](const proto::Progress& p) { progress.show(p); };
        options.signals = &signals;
        try {
            auto found = proto::from_wire<proto::SystemDoctorResult>(daemon.call(call.verb->method->name, call.params, options), proto::Unknown::ignore);
            all.execution_mode = found.execution_mode;
            all.checks.insert(all.checks.end(), found.checks.begin(), found.checks.end());
            if (!found.ok && std::none_of(found.checks.begin(), found.checks.end(), [](const Check& c) { return c.status == CheckStatus::fail; }))
                all.checks.push_back({"host", CheckStatus::fail, "pyrod says the host is not ready, and not why", std::nullopt});
        } catch (const Error& e) {
            all.checks.push_back(failed_check("host", e));
        }
    } catch (const Error& e) {
        all.checks.push_back(failed_check("socket", e));
        all.checks.push_back(group_check(false));
    }
    all.ok = std::none_of(all.checks.begin(), all.checks.end(), [](const Check& c) { return c.status == CheckStatus::fail; });
    write_stdout(call.globals.json ? document(in_table_order(proto::type_of<proto::SystemDoctorResult>(), proto::to_wire(all)))
                                   : render_checks(all.checks, style_for(STDOUT_FILENO), all.execution_mode ? "; VMs run as " + std::string(name_of(*all.execution_mode)) : ""));
    return all.ok ? status::ok : status::doctor_failed;
}

}  // namespace pyro::client
