// Commands: their output so far is shown while they run.
#include "client/lib/capture.hpp"
#include "client/mcp/shim.hpp"
#include "client/mcp/text.hpp"
#include "proto/codec.hpp"
#include "proto/exec.hpp"

#include <algorithm>
#include <charconv>

namespace pyro::shim {

namespace {

// Both streams share what a result may hold; one that needs less leaves the rest to the other.
std::pair<std::size_t, std::size_t> shares(std::size_t out, std::size_t err) {
    const std::size_t half = most_output / 2;
    if (out <= half) return {half, most_output - out};
    if (err <= half) return {most_output - err, half};
    return {half, half};
}

struct Output {
    Shown out, err;

    // Adds stdout, stderr, truncated and notes.
    void write(ordered_json& result, const std::string& where) const {
        const auto [for_out, for_err] = shares(out.wanted(), err.wanted());
        std::vector<std::string> notes;
        bool truncated = false;
        const std::string out_text = out.text(for_out, "stdout", where, notes, truncated), err_text = err.text(for_err, "stderr", where, notes, truncated);
        result["truncated"] = truncated;
        result["stdout"] = out_text;
        result["stderr"] = err_text;
        if (!notes.empty()) result["notes"] = notes;
    }
    void finish() {
        out.finish();
        err.finish();
    }
    std::string cursor() const { return std::to_string(out.raw_bytes()) + ":" + std::to_string(err.raw_bytes()); }
};

// Filled by an operation's thread, under its lock.
struct Running {
    Output output;
    std::string exec_id, workspace_id;
    json outcome;

    client::Streams streams(Operation& operation) {
        client::Streams streams;
        streams.out.take = [this, &operation](std::string_view bytes) { operation.change([&] { output.out.add(bytes); }); };
        streams.err.take = [this, &operation](std::string_view bytes) { operation.change([&] { output.err.add(bytes); }); };
        streams.started = [this, &operation](const proto::ExecStarted& started) {
            operation.change([&] {
                exec_id = started.exec_id.value_or("");
                workspace_id = started.workspace_id.value_or("");
            });
        };
        streams.attached = [&operation] { operation.enter("exec"); };
        return streams;
    }
};

// One-shot VMs: bound to their connection, so kept here until somebody asks for the end.
mcp::ToolResult run_in_vm(mcp::Call& call, const Request& request) {
    Shim& shim = request.shim;
    const std::string tool(request.spec.name);
    if (request.own.contains("run_id")) return shim.operations.resume(call, tool, request.own["run_id"]);
    const auto running = std::make_shared<Running>();
    const auto operation = std::make_shared<Operation>([running, request](Operation& self) {
        client::Streams streams = running->streams(self);
        const json outcome = request.call(self, &streams);
        self.change([&] { running->output.finish(); });
        ordered_json result = shaped(proto::type_of<proto::RunReport>(), outcome);
        result["state"] = "exited";
        running->output.write(result, "what a run wrote is not kept: write it to a file, or use a workspace");
        return mcp::ToolResult::data(std::move(result));
    });
    return shim.operations.run(call, tool, operation, [running, weak = std::weak_ptr(operation)](const std::string& id) {
        const auto self = weak.lock();
        ordered_json result{{"state", "running"}, {"run_id", id}, {"phase", self->phase()}};
        self->change([&] {
            result["cursor"] = running->output.cursor();
            running->output.write(result, "the end of the run has head and tail of all");
        });
        return mcp::ToolResult::data(std::move(result));
    });
}

// A command of a workspace as its record has it; null: there is none yet.
json record_of(Shim& shim, const std::string& workspace, const std::string& exec) {
    client::Connection daemon({shim.options.socket});
    const json list = daemon.call(proto::ExecList::name, {{"workspace_id", workspace}, {"all", true}});
    for (const json& one : list.at("execs"))
        if (one.value("exec_id", "") == exec) return one;
    return nullptr;
}

ordered_json report_of(const json& info) {
    ordered_json result = shaped(proto::type_of<proto::ExecReport>(), info);
    if (!result.value("oom", true)) result.erase("oom");
    return result;
}

std::string in_logs(const std::string& exec) { return "workspace_logs with exec_id " + exec + " has all of it"; }

// One that was cut, with the resource that has it all.
mcp::ToolResult with_logs(ordered_json result) {
    if (!result["truncated"].get<bool>()) return mcp::ToolResult::data(std::move(result));
    const std::string exec = result.value("exec_id", "");
    const std::string uri = workspace_uri(result.value("workspace_id", ""), "logs/" + exec);
    return linked(std::move(result), {.uri = uri, .name = "logs", .title = "Output of " + exec, .mime_type = "text/plain"});
}

mcp::ToolResult workspace_exec(mcp::Call& call, const Request& request) {
    Shim& shim = request.shim;
    const auto running = std::make_shared<Running>();
    const auto operation = std::make_shared<Operation>([running, request](Operation& self) {
        client::Streams streams = running->streams(self);
        running->outcome = request.call(self, &streams);
        return mcp::ToolResult();
    });
    if (operation->wait(call, Clock::now() + longest_call)) {
        try {
            operation->result();
        } catch (const Error& e) {
            if (e.code() != ErrorCode::unavailable || running->exec_id.empty()) throw;
            throw Error(e).with_hint((e.hint().empty() ? "" : e.hint() + "; ") + "the command may go on: workspace_logs with exec_id " + running->exec_id + " tells");
        }
        running->output.finish();
        ordered_json result = report_of(running->outcome);
        running->output.write(result, in_logs(running->exec_id));
        if (result["truncated"]) result["cursor"] = "0:0";
        return with_logs(std::move(result));
    }
    std::string exec, workspace;
    operation->change([&] {
        exec = running->exec_id;
        workspace = running->workspace_id;
    });
    if (exec.empty()) {  // not even begun: nothing is lost by giving it up
        operation->cancel();
        shim.operations.let_go(operation);
        throw Error(ErrorCode::timeout, "pyrod has not begun the command in " + std::to_string(longest_call.count()) + " seconds", "call again; `pyro doctor` says how it is").with_retryable(true);
    }
    const json info = record_of(shim, workspace, exec);
    // Who leaves while the workspace is still being woken takes the command along.
    if (!info.is_null() && info.value("state", "") != "starting") operation->leave();
    ordered_json result = report_of(info.is_null() ? json{{"exec_id", exec}, {"workspace_id", workspace}, {"state", "starting"}} : info);
    operation->change([&] {
        running->output.write(result, in_logs(exec));
        result["cursor"] = running->output.cursor();
    });
    result["state"] = info.is_null() ? "starting" : "running";
    shim.operations.let_go(operation);
    return with_logs(std::move(result));
}

std::pair<std::int64_t, std::int64_t> offsets_of(const std::string& cursor) {
    std::int64_t out = 0, err = 0;
    const char* end = cursor.data() + cursor.size();
    const auto first = std::from_chars(cursor.data(), end, out);
    const bool colon = first.ec == std::errc() && first.ptr < end && *first.ptr == ':';
    const auto second = colon ? std::from_chars(first.ptr + 1, end, err) : first;
    if (!colon || second.ec != std::errc() || second.ptr != end || out < 0 || err < 0)
        throw Error(ErrorCode::invalid_argument, "that is no cursor of workspace_logs", "take it from the answer before, or leave it out to begin anew");
    return {out, err};
}

// What of one stream follows an offset.
struct Page {
    std::string kept;
    std::int64_t offset = 0, came = 0;

    void add(std::string_view bytes) {
        came += static_cast<std::int64_t>(bytes.size());
        kept += bytes.substr(0, most_output - std::min(most_output, kept.size()));
    }
    bool full() const { return kept.size() >= most_output; }

    // Writes it, and says where the next one begins.
    std::int64_t write(ordered_json& result, const char* name, std::size_t budget, const json& info, bool keep_ansi, bool& more, std::vector<std::string>& notes) const {
        const std::int64_t total = info.value(std::string(name) + "_total", std::int64_t{0}), elided = info.value(std::string(name) + "_elided", std::int64_t{0});
        // What is not kept any more lies behind the head: only then more comes than the offsets promise.
        const std::int64_t start = elided > 0 && came > total - offset - elided ? std::max(total - came, offset) : offset;
        if (start > offset) notes.push_back(std::string(name) + ": " + std::to_string(start - offset) + " bytes are not kept any more");
        const std::size_t fits = std::min(budget, budget * kept.size() / std::max<std::size_t>(json_size(kept), 1));
        std::string_view shown = whole_characters(kept, fits);
        // A character may still be under way.
        if (info.value("state", "") != "exited") shown.remove_suffix(unfinished_character(shown));
        more = more || static_cast<std::int64_t>(shown.size()) < came;
        if (!client::is_valid_utf8(shown)) notes.push_back(std::string(name) + ": bytes that are no UTF-8 were replaced by U+FFFD");
        result[name] = client::valid_utf8(keep_ansi ? std::string(shown) : AnsiFilter()(shown));
        return start + static_cast<std::int64_t>(shown.size());
    }
};

struct Pages {
    Page out, err;
    std::string exec_id, workspace_id;
    json outcome;
};

mcp::ToolResult workspace_logs(mcp::Call& call, const Request& request) {
    const auto own = request.own_as<LogsOwn>();
    const auto pages = std::make_shared<Pages>();
    std::tie(pages->out.offset, pages->err.offset) = offsets_of(own.cursor.value_or("0:0"));
    const std::chrono::seconds wait(request.params.value("wait_seconds", 0));
    Request asked = request;
    asked.params.erase("wait_seconds");
    asked.params["follow"] = wait.count() > 0;
    asked.params["stdout_offset"] = pages->out.offset;
    asked.params["stderr_offset"] = pages->err.offset;
    const auto operation = std::make_shared<Operation>([pages, asked](Operation& self) {
        client::Streams streams;
        streams.out.take = [&](std::string_view bytes) { self.change([&] { pages->out.add(bytes); }); };
        streams.err.take = [&](std::string_view bytes) { self.change([&] { pages->err.add(bytes); }); };
        streams.started = [&](const proto::ExecStarted& started) {
            self.change([&] {
                pages->exec_id = started.exec_id.value_or("");
                pages->workspace_id = started.workspace_id.value_or("");
            });
        };
        try {
            pages->outcome = asked.call(self, &streams);
        } catch (const client::Left&) {
            // It was long enough; the command goes on.
        }
        return mcp::ToolResult();
    });
    const auto until = Clock::now() + (wait.count() > 0 ? std::min(wait, longest_call) : longest_call);
    if (!operation->wait(call, until, [&] { return pages->out.full() || pages->err.full(); })) {
        operation->leave();
        operation->wait(call, Clock::time_point::max());
    }
    operation->result();
    json info = pages->outcome;
    if (info.is_null() && !pages->exec_id.empty()) info = record_of(request.shim, pages->workspace_id, pages->exec_id);
    if (info.is_null()) throw Error(ErrorCode::timeout, "pyrod has not answered in time", "call again").with_retryable(true);
    const auto [for_out, for_err] = shares(json_size(pages->out.kept), json_size(pages->err.kept));
    ordered_json result = report_of(info);
    bool more = false;
    std::vector<std::string> notes;
    const std::int64_t out = pages->out.write(result, "stdout", for_out, info, own.keep_ansi, more, notes);
    const std::int64_t err = pages->err.write(result, "stderr", for_err, info, own.keep_ansi, more, notes);
    const bool runs = info.value("state", "") == "running" || info.value("state", "") == "starting";
    // Followed to the middle of what there is: the record says how much that is.
    more = more || (pages->outcome.is_null() && (out < info.value("stdout_total", std::int64_t{0}) || err < info.value("stderr_total", std::int64_t{0})));
    result["truncated"] = more;
    if (more || runs) result["cursor"] = std::to_string(out) + ":" + std::to_string(err);
    if (!notes.empty()) result["notes"] = notes;
    return with_logs(std::move(result));
}

}  // namespace

Handler exec_handler(std::string_view tool) {
    if (tool == "vm_run" || tool == "vm_exec") return &run_in_vm;
    if (tool == "workspace_exec") return &workspace_exec;
    if (tool == "workspace_logs") return &workspace_logs;
    return nullptr;
}

}  // namespace pyro::shim
