// workspace create, list, summary, sync push; and what all of workspace's commands share.
#include "client/cli/workspace.hpp"

#include "client/cli/env.hpp"
#include "client/cli/terminal.hpp"

#include <algorithm>
#include <ctime>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace pyro::client {

using nlohmann::json;
using nlohmann::ordered_json;

std::int64_t unix_now() { return static_cast<std::int64_t>(::time(nullptr)); }

namespace {

std::string counted(std::uint64_t count, const char* noun) { return std::to_string(count) + " " + noun + (count == 1 ? "" : "s"); }

std::string name_and_id(const proto::WorkspaceInfo& workspace) {
    return workspace.name ? printable(*workspace.name) + " (" + printable(workspace.workspace_id) + ")" : printable(workspace.workspace_id);
}

// What the user can call it by.
std::string handle(const proto::WorkspaceInfo& workspace) { return printable(workspace.name.value_or(workspace.workspace_id)); }

}  // namespace

std::string workspace_table(const std::vector<proto::WorkspaceInfo>& workspaces, std::int64_t now, Style style) {
    Cells rows{{"WORKSPACE", "NAME", "STATE", "ENVIRONMENT", "LAST ACTIVITY"}};
    for (const auto& workspace : workspaces)
        rows.push_back({printable(workspace.workspace_id), workspace.name ? printable(*workspace.name) : "-", std::string(name_of(workspace.state)),
                        printable(workspace.environment), age(now - workspace.last_activity_at)});
    return aligned(rows, style, 2);
}

std::string summary_text(const proto::WorkspaceSummaryResult& summary, std::int64_t now, Style style) {
    const proto::WorkspaceInfo& workspace = summary.workspace;
    std::string out = "workspace: " + name_and_id(workspace) + ", " + std::string(name_of(workspace.state)) + ", " + printable(workspace.environment) + "\n";
    if (workspace.failure) out += "failure:   " + printable(*workspace.failure) + "\n";
    out += "since:     " + local_time(summary.since) + ", " + age(now - summary.since) + "\n";
    const auto section = [&](const std::string& title, std::int64_t total, std::size_t shown, const std::string& lines) {
        out += title + std::to_string(total);
        if (static_cast<std::size_t>(std::max<std::int64_t>(total, 0)) > shown) out += ", these are " + std::to_string(shown) + " of them";
        out += "\n";
        for (std::size_t at = 0; at < lines.size();) {
            const std::size_t end = lines.find('\n', at) + 1;
            out += "  " + lines.substr(at, end - at);
            at = end;
        }
    };
    section("commands:  ", summary.execs_total, summary.execs.size(), summary.execs.empty() ? std::string() : exec_table(summary.execs, now, style));
    if (summary.changes_unknown) out += "changes:   unknown: " + printable(*summary.changes_unknown) + "\n";
    else section("changes:   ", summary.changes_total, summary.changes.size(), change_lines(summary.changes, 0));
    return out + "exports:   " + std::to_string(summary.exports) + "\n";
}

std::string taken_words(const seed::Packed& packed) {
    std::string text = counted(packed.files, "file") + ", " + byte_size(static_cast<std::int64_t>(packed.bytes)) + ", of the " +
                       std::string(name_of(static_cast<proto::SeedSource>(packed.kind))) + " " + printable(packed.root);
    if (!packed.commit.empty()) text += " at " + packed.commit.substr(0, 12);
    if (!packed.branch.empty()) text += " (" + printable(packed.branch) + ")";
    return text;
}

ordered_json skipped_document(const seed::Packed& packed) {
    ordered_json list = ordered_json::array();
    for (const seed::Skipped& skipped : packed.skipped) list.push_back({{"path", skipped.path}, {"reason", skipped.reason}});
    return list;
}

std::string skipped_lines(const seed::Packed& packed) {
    constexpr std::size_t most = 10;
    std::string out;
    for (std::size_t i = 0; i < packed.skipped.size() && i < most; ++i)
        out += "pyro: left out " + printable(packed.skipped[i].path) + ": " + printable(packed.skipped[i].reason) + "\n";
    if (packed.skipped_count > most) out += "pyro: left out " + std::to_string(packed.skipped_count - most) + " more; --json names them\n";
    return out;
}

UniqueFd text_source(const Invocation& call, const std::optional<std::string>& text, const std::optional<std::string>& file,
                     const std::optional<std::string>& dash, const std::string& flag) {
    const auto usage = [&](const std::string& message) { return UsageError(message, std::string(call.verb->words), call.globals.json); };
    if (dash && *dash != "-") throw usage("unexpected argument \"" + *dash + "\"");
    if (text.has_value() + file.has_value() + dash.has_value() != 1) throw usage("one of " + flag + ", " + flag + "-file and - is needed");
    if (dash || file == "-") {
        UniqueFd fd(::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3));
        if (!fd) throw Error::from_errno("read standard input");
        return fd;
    }
    if (file) {
        UniqueFd fd = open_file(*file, O_RDONLY | O_NOCTTY);
        struct stat info {};
        if (::fstat(fd.get(), &info) != 0) throw Error::from_errno("look at " + *file);
        if (S_ISDIR(info.st_mode)) throw Error(ErrorCode::invalid_argument, printable(*file) + " is a directory", "name a file");
        return fd;
    }
    UniqueFd memory(::memfd_create("text", MFD_CLOEXEC));
    if (!memory) throw Error::from_errno("keep the text");
    write_all(memory.get(), *text);
    ::lseek(memory.get(), 0, SEEK_SET);
    return memory;
}

void print_result(const Invocation& call, const proto::TypeInfo& type, json result) {
    result.erase("stdout_bytes");
    write_stdout(call.globals.json ? document(in_table_order(type, result)) : render(type, result, style_for(STDOUT_FILENO)));
}

int workspace_create_command(const Invocation& call) {
    const auto own = proto::from_wire<CreateOptions>(call.own);
    std::optional<HostSource> source;
    json params = call.params;
    Streams streams;
    const bool seeded = own.seed_path.has_value();
    if (seeded) {
        source.emplace(*own.seed_path, seed::PackedCache(seed::PackedCache::usual_directory()));
        params["seed"] = proto::to_wire(source->info());
        if (const auto digest = source->digest()) params["seed_digest"] = digest->str();
        source->connect(streams);
    }
    Connection daemon({call.globals.socket});
    import_named_image(daemon, call, params);
    const json result = call_daemon(daemon, call, params, seeded ? &streams : nullptr);
    const seed::Packed* taken = source ? &source->taken() : nullptr;
    const auto workspace = proto::from_wire<proto::WorkspaceInfo>(result, proto::Unknown::ignore);
    if (call.globals.json) {
        ordered_json whole = in_table_order(call.verb->method->result(), result);
        if (taken) {
            whole["seed"] = in_table_order(proto::type_of<proto::SeedInfo>(), proto::to_wire(source->info()));  // more than was known when it was asked for
            whole["skipped"] = skipped_document(*taken);
        }
        write_stdout(document(whole));
    } else if (call.globals.id_only) {
        write_stdout(workspace.workspace_id + "\n");
    } else {
        std::string out = "workspace_id: " + printable(workspace.workspace_id) + "\n";
        if (workspace.name) out += "name:         " + printable(*workspace.name) + "\n";
        out += "state:        " + std::string(name_of(workspace.state)) + "\n";
        if (taken) out += "seed:         " + taken_words(*taken) + "\n";
        write_stdout(out);
        write_stderr((taken ? skipped_lines(*taken) : std::string()) + "pyro: next: `pyro workspace exec " + handle(workspace) + " -- COMMAND`\n");
    }
    return status::ok;
}

int workspace_list_command(const Invocation& call) {
    if (call.globals.json) return call_method(call);
    Connection daemon({call.globals.socket});
    const auto list = proto::from_wire<proto::WorkspaceListResult>(daemon.call(call.verb->method->name, call.params), proto::Unknown::ignore);
    write_stdout(workspace_table(list.workspaces, unix_now(), style_for(STDOUT_FILENO)));
    return status::ok;
}

int workspace_summary_command(const Invocation& call) {
    if (call.globals.json) return call_method(call);
    Connection daemon({call.globals.socket});
    const auto summary = proto::from_wire<proto::WorkspaceSummaryResult>(daemon.call(call.verb->method->name, call.params), proto::Unknown::ignore);
    write_stdout(summary_text(summary, unix_now(), style_for(STDOUT_FILENO)));
    return status::ok;
}

int sync_push_command(const Invocation& call) {
    HostSource source(proto::from_wire<SyncPushOptions>(call.own).path, seed::PackedCache({}));
    Streams streams;
    source.connect(streams);
    Connection daemon({call.globals.socket});
    json result = call_daemon(daemon, call, call.params, &streams);
    const seed::Packed& taken = source.taken();
    if (call.globals.json) {
        result.erase("stdout_bytes");
        ordered_json whole = in_table_order(call.verb->method->result(), result);
        whole["skipped"] = skipped_document(taken);
        write_stdout(document(whole));
        return status::ok;
    }
    print_result(call, call.verb->method->result(), std::move(result));
    write_stderr(skipped_lines(taken) + "pyro: pushed " + taken_words(taken) + "\n");
    return status::ok;
}

}  // namespace pyro::client
