// bench: what pyro takes on this host, beside what other runtimes take for the same command on the same root.
#include "client/cli/bench.hpp"

#include "client/cli/commands.hpp"
#include "client/cli/render.hpp"
#include "client/cli/terminal.hpp"
#include "proto/codec.hpp"
#include "proto/system.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <poll.h>
#include <sstream>
#include <sys/utsname.h>
#include <unistd.h>

namespace pyro::client {

using nlohmann::json;
using nlohmann::ordered_json;

namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using Words = std::vector<std::string>;

constexpr std::array<std::string_view, 9> row_names{"run", "restored", "cold", "create", "exec", "reset", "podman", "docker", "runsc"};
constexpr std::array<std::string_view, 3> runtime_names{"podman", "docker", "runsc"};
constexpr std::size_t runs_per_cold_run = 4;  // one tells as much, and takes many times as long
constexpr auto warming_patience = 20s;        // for a template and a spare to be made, where the host makes any
constexpr auto settling_patience = 5s;

Words split(const std::string& text, char separator) {
    Words words;
    std::istringstream stream(text);
    std::string word;
    while (std::getline(stream, word, separator))
        if (!word.empty()) words.push_back(word);
    return words;
}

bool has(const Words& words, std::string_view word) { return std::find(words.begin(), words.end(), word) != words.end(); }

// Until something interrupts us, or the time is over.
void pause(std::chrono::milliseconds time, Signals& signals) {
    pollfd waiting{signals.fd(), POLLIN, 0};
    ::poll(&waiting, 1, static_cast<int>(time.count()));
    while (const auto number = signals.take())
        if (*number != SIGWINCH && *number != SIGCONT) throw Interrupted(*number);
}

std::string first_value(const char* file, const std::string& key) {
    std::ifstream lines(file);
    std::string line;
    while (std::getline(lines, line))
        if (line.starts_with(key)) return line.substr(std::min(line.size(), line.find(':') + 2));
    return "unknown";
}

ordered_json load_average() {
    double load[3] = {};
    ::getloadavg(load, 3);
    ordered_json out = ordered_json::array();
    for (const double value : load) out.push_back(std::round(value * 100) / 100);
    return out;
}

double rounded(double value) { return std::round(value * 100) / 100; }

class Bench {
public:
    Bench(const Invocation& call, const BenchParams& wanted, Words rows, Words command)
        : wanted_(wanted), rows_(std::move(rows)), command_(std::move(command)), socket_(socket_path(call.globals.socket)),
          signals_(call_signals), progress_("[bench]", call.globals.json || !::isatty(STDERR_FILENO)), daemon_({socket_}) {}

    ordered_json measure() {
        const ordered_json load_before = load_average();
        const ordered_json host = about_host(), pyro = about_pyro();
        warm_up();
        Words runtimes_wanted;
        for (const std::string_view name : runtime_names)
            if (has(rows_, name)) runtimes_wanted.emplace_back(name);
        const OtherRuntimes runtimes(runtimes_wanted, own_run({"--timeout-seconds", "600"}), command_, signals_, [this](const std::string& what) { say(what); });
        run_all(runtimes.usable());
        std::optional<Density> density;
        if (wanted_.density > 0)
            density = measure_density(socket_, wanted_.environment, wanted_.density, command_, signals_, [this](const std::string& what) { say(what); });
        progress_.clear();

        ordered_json out{{"environment", wanted_.environment}, {"environment_digest", digest_}, {"command", command_}, {"execution_mode", mode_},
                         {"host", host}, {"pyro", pyro}, {"load_before", load_before}, {"load_after", load_average()}, {"rows", ordered_json::array()}};
        out["pyro"]["guest_kernel"] = guest_kernel_;
        for (const BenchRow& row : measured_) out["rows"].push_back(summary(row));
        if (density) out["density"] = summary(*density);
        out["left_out"] = ordered_json::array();
        for (const LeftOut& one : runtimes.left_out()) out["left_out"].push_back({{"name", one.name}, {"reason", one.reason}});
        return out;
    }

private:
    void say(const std::string& what, std::size_t done = 0, std::size_t total = 0) {
        proto::Progress progress;
        progress.phase = "bench";
        progress.message = what;
        if (total > 0) {
            progress.done = static_cast<std::int64_t>(done);
            progress.total = static_cast<std::int64_t>(total);
        }
        progress_.show(progress);
    }

    Words own_verb(const char* first, const char* second = nullptr) const {
        Words words{"/proc/self/exe", first};
        if (second) words.emplace_back(second);
        words.insert(words.end(), {"--socket", socket_});
        return words;
    }
    // `pyro run ENV --`, to be followed by a command.
    Words own_run(const Words& options) const {
        Words words = own_verb("run");
        words.insert(words.end(), options.begin(), options.end());
        words.insert(words.end(), {wanted_.environment, "--"});
        return words;
    }

    static ordered_json about_host() {
        utsname system{};
        ::uname(&system);
        return {{"cpu", first_value("/proc/cpuinfo", "model name")}, {"cores", ::sysconf(_SC_NPROCESSORS_ONLN)},
                {"memory_mib", (::sysconf(_SC_PHYS_PAGES) * ::sysconf(_SC_PAGESIZE)) >> 20}, {"kernel", std::string(system.release)}};
    }

    ordered_json about_pyro() {
        ordered_json out{{"client", PYRO_VERSION}, {"daemon", daemon_.daemon_version()}, {"qemu", "unknown"}};
        // The daemon's QEMU, of which doctor says where it is.
        for (const proto::Check& check : daemon_.call<proto::SystemDoctor>({}, interruptible()).checks)
            if (check.name == "qemu" && check.status == proto::CheckStatus::pass) {
                const std::string said = run_program({check.detail, "--version"}, &signals_).out;
                const std::size_t word = said.find("version ");
                if (word != std::string::npos) out["qemu"] = printable(said.substr(word + 8, said.find_first_of(" \n", word + 8) - word - 8));
            }
        return out;
    }

    CallOptions interruptible() {
        CallOptions options;
        options.signals = &signals_;
        options.on_progress = [this](const proto::Progress& progress) { progress_.show(progress); };
        return options;
    }

    // One that is not measured. It pulls what is not there yet, and what its VM leaves behind makes the next ones fast.
    proto::ExecResult run_once(const Words& command, Capture& out) {
        proto::VmRunParams params;
        params.environment = wanted_.environment;
        params.argv = command;
        Capture err;
        Streams streams;
        streams.out = {-1, &out};
        streams.err = {-1, &err};
        CallOptions options = interruptible();
        options.streams = &streams;
        const proto::ExecResult result = daemon_.call<proto::VmRun>(params, options);
        if (exit_status(result) != 0)
            throw Error(ErrorCode::guest_failed, command.front() + " ended with status " + std::to_string(exit_status(result)) + " in the VM" +
                            (err.text().empty() ? "" : ": " + last_line(err.text())),
                        "measure a command that succeeds: --command");
        return result;
    }

    // Until runs are as fast as they get here.
    void warm_up() {
        const auto deadline = Clock::now() + warming_patience;
        Capture kernel, ignored;
        run_once({"uname", "-r"}, kernel);
        guest_kernel_ = last_line(kernel.text());
        for (;;) {
            const proto::ExecResult result = run_once(command_, ignored);
            mode_ = name_of(result.execution_mode);
            digest_ = result.environment_digest;
            if (result.start == proto::StartKind::spare || Clock::now() > deadline) break;
            say("waiting until a VM is kept ready");
            pause(500ms, signals_);
        }
        // What there is once the daemon has nothing left to do.
        const auto settled = Clock::now() + settling_patience;
        do {
            pause(100ms, signals_);
            const auto status = daemon_.call<proto::SystemStatus>({});
            spares_ = std::max(spares_, status.spares);
            vms_ = vms_ < 0 ? status.vms : std::min(vms_, status.vms);
        } while (spares_ == 0 && Clock::now() < settled);
    }

    // What a run leaves to be done is no part of the next one, whoever's that is.
    void settle() {
        const auto deadline = Clock::now() + settling_patience;
        while (Clock::now() < deadline) {
            const auto status = daemon_.call<proto::SystemStatus>({});
            if (status.spares >= spares_ && status.vms <= vms_) return;
            pause(2ms, signals_);
        }
    }

    BenchRow& row(std::string_view name) {
        const auto found = std::find_if(measured_.begin(), measured_.end(), [&](const BenchRow& one) { return one.name == name; });
        return *found;
    }

    void timed(const std::string& name, const Words& words) {
        const Finished done = run_program(words, &signals_);
        if (done.status != 0) {
            const std::string said = last_line(done.err);
            throw Error(ErrorCode::guest_failed, "a run of row " + name + " ended with status " + std::to_string(done.status) + (said.empty() ? "" : ": " + said),
                        "leave the row out: --rows");
        }
        row(name).ms.push_back(done.wall.count());
        if (has({"run", "restored", "cold"}, name)) ++row(name).starts[json::parse(done.out).value("start", "unknown")];
    }

    Finished workspace(const char* verb, const Words& words, Signals* signals) {
        Words command = own_verb("workspace", verb);
        command.insert(command.end(), words.begin(), words.end());
        Finished done = run_program(command, signals);
        if (done.status != 0) throw Error(ErrorCode::guest_failed, std::string("workspace ") + verb + ": " + last_line(done.err));
        return done;
    }

    // Rows create, exec and reset: a workspace's day.
    void work() {
        const Finished created = workspace("create", {"--id-only", "--ttl-seconds", "300", wanted_.environment}, nullptr);  // not interrupted: it would stay
        const std::string id = last_line(created.out);
        const auto remove = [&](void*) {
            Words words = own_verb("workspace", "delete");
            words.push_back(id);
            run_program(words, nullptr);
        };
        const std::shared_ptr<void> end(nullptr, remove);
        if (has(rows_, "create")) row("create").ms.push_back(created.wall.count());
        Words exec = own_verb("workspace", "exec");
        exec.insert(exec.end(), {id, "--"});
        exec.insert(exec.end(), command_.begin(), command_.end());
        if (has(rows_, "exec")) timed("exec", exec);
        if (has(rows_, "reset")) row("reset").ms.push_back(workspace("reset", {id}, &signals_).wall.count());
    }

    // One of each in turn, so that what else the host does falls upon all alike.
    void run_all(const std::vector<OtherRuntimes::Runtime>& others) {
        struct Turn {
            std::string name;
            std::size_t every;
            std::function<void()> take;
        };
        std::vector<Turn> turns;
        const auto runs_pyro = [&](const char* name, const char* start, std::size_t every) {
            if (!has(rows_, name)) return;
            Words words = own_run({"--json", "--start", start});
            words.insert(words.end(), command_.begin(), command_.end());
            turns.push_back({name, every, [this, name, words] { timed(name, words); }});
            measured_.push_back({name, {}, {}, {}});
        };
        runs_pyro("run", "spare", 1);
        runs_pyro("restored", "restored", 1);
        runs_pyro("cold", "cold", runs_per_cold_run);
        const std::size_t before = measured_.size();
        for (const char* name : {"create", "exec", "reset"})
            if (has(rows_, name)) measured_.push_back({name, {}, {}, {}});
        if (measured_.size() > before) turns.push_back({"workspace", 1, [this] { work(); }});
        for (const OtherRuntimes::Runtime& other : others) {
            turns.push_back({other.name, 1, [this, other] { timed(other.name, other.run); }});
            measured_.push_back({other.name, other.version, {}, {}});
        }
        const auto runs = static_cast<std::size_t>(wanted_.runs);
        for (std::size_t i = 0; i < runs; ++i)
            for (const Turn& turn : turns) {
                if (i % turn.every != 0) continue;
                settle();
                say(turn.name, i, runs);
                turn.take();
            }
    }

    ordered_json summary(const BenchRow& row) const {
        ordered_json out{{"name", row.name}, {"n", row.ms.size()}, {"median_ms", rounded(median(row.ms))}, {"p95_ms", rounded(percentile95(row.ms))}};
        if (!row.starts.empty()) out["starts"] = row.starts;
        if (std::find(runtime_names.begin(), runtime_names.end(), row.name) == runtime_names.end()) return out;
        out["version"] = row.about;
        if (measured_.front().name == "run") out["ratio"] = rounded(median(measured_.front().ms) / median(row.ms));
        return out;
    }

    ordered_json summary(const Density& density) {
        const auto bytes = [](const std::vector<double>& values) { return static_cast<std::int64_t>(median(values)); };
        const auto most = [](const std::vector<double>& values) { return static_cast<std::int64_t>(*std::max_element(values.begin(), values.end())); };
        return {{"vms", density.vms}, {"mem_mib", density.mem_mib}, {"template_mem_mib", daemon_.call<proto::SystemStatus>({}).template_mem_mib},
                {"idle", {{"private_bytes", bytes(density.idle_private)}, {"private_bytes_max", most(density.idle_private)}, {"code_bytes", bytes(density.idle_code)}}},
                {"after_command", {{"private_bytes", bytes(density.used_private)}, {"private_bytes_max", most(density.used_private)}, {"code_bytes", bytes(density.used_code)}}}};
    }

    const BenchParams& wanted_;
    Words rows_, command_;
    std::string socket_;
    Signals signals_;
    ProgressLine progress_;
    Connection daemon_;
    std::string mode_, digest_, guest_kernel_;
    std::int64_t spares_ = 0, vms_ = -1;  // when nothing goes on
    std::vector<BenchRow> measured_;
};

std::string milliseconds(double ms) {
    char text[32];
    std::snprintf(text, sizeof text, "%.1f ms", ms);
    return text;
}

std::string load_text(const ordered_json& load) {
    std::string text;
    for (const auto& value : load) text += (text.empty() ? "" : " ") + value.dump();
    return text;
}

std::string for_people(const ordered_json& all) {
    std::string command;
    for (const auto& word : all["command"]) command += (command.empty() ? "" : " ") + word.get<std::string>();
    const auto text = [](const ordered_json& value) { return value.get<std::string>(); };
    std::string out = printable(text(all["environment"])) + ", `" + printable(command) + "`, " + text(all["execution_mode"]) + "; pyro " + text(all["pyro"]["client"]) +
                      ", pyrod " + text(all["pyro"]["daemon"]) + ", QEMU " + text(all["pyro"]["qemu"]) + ", guest kernel " + text(all["pyro"]["guest_kernel"]) + "\n" +
                      printable(text(all["host"]["cpu"])) + ", " + all["host"]["cores"].dump() + " cores, " + all["host"]["memory_mib"].dump() + " MiB, Linux " +
                      printable(text(all["host"]["kernel"])) + "; load " + load_text(all["load_before"]) + " before, " + load_text(all["load_after"]) + " after\n\n";
    char line[160];
    std::snprintf(line, sizeof line, "%-9s %11s %11s %5s\n", "row", "median", "p95", "n");
    out += line;
    for (const auto& row : all["rows"]) {
        std::snprintf(line, sizeof line, "%-9s %11s %11s %5s", text(row["name"]).c_str(), milliseconds(row["median_ms"].get<double>()).c_str(),
                      milliseconds(row["p95_ms"].get<double>()).c_str(), row["n"].dump().c_str());
        out += line;
        std::string about;
        if (row.contains("starts"))
            for (const auto& [start, count] : row["starts"].items()) about += (about.empty() ? "" : ", ") + count.dump() + " " + start;
        if (row.contains("version")) about = text(row["version"]);
        if (row.contains("ratio")) about += "; pyro run takes " + row["ratio"].dump() + " x that";
        out += (about.empty() ? "" : "   " + about) + "\n";
    }
    if (all.contains("density")) {
        const auto& density = all["density"];
        const auto memory = [&](const char* when) {
            const auto& at = density[when];
            return byte_size(at["private_bytes"].get<std::int64_t>()) + " private each (most: " + byte_size(at["private_bytes_max"].get<std::int64_t>()) + ") and " +
                   byte_size(at["code_bytes"].get<std::int64_t>()) + " of translated code";
        };
        out += "\n" + density["vms"].dump() + " VMs of " + density["mem_mib"].dump() + " MiB: " + memory("idle") + " before any command,\n" + memory("after_command") +
               " after one; " + density["template_mem_mib"].dump() + " MiB of templates shared by all\n";
    }
    if (!all["left_out"].empty()) out += "\n";
    for (const auto& one : all["left_out"]) out += "not compared: " + text(one["name"]) + ": " + text(one["reason"]) + "\n";
    return out;
}

}  // namespace

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    const std::size_t middle = values.size() / 2;
    return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

double percentile95(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[(values.size() * 95 + 99) / 100 - 1];  // the nearest rank
}

int bench_command(const Invocation& call) {
    const auto wanted = proto::from_wire<BenchParams>(call.params);
    const auto refuse = [&](const std::string& message) { return UsageError(message, std::string(call.verb->words), call.globals.json); };
    Words rows = split(wanted.rows, ',');
    for (const std::string& name : rows)
        if (std::find(row_names.begin(), row_names.end(), name) == row_names.end())
            throw refuse("--rows: there is no row \"" + printable(name) + "\"; it takes " + BenchParams().rows);
    if (rows.empty()) throw refuse("--rows: which ones? It takes " + BenchParams().rows);
    Words command = split(wanted.command, ' ');
    if (command.empty()) throw refuse("--command: is empty");
    const ordered_json all = Bench(call, wanted, std::move(rows), std::move(command)).measure();
    write_stdout(call.globals.json ? document(all) : for_people(all));
    return status::ok;
}

}  // namespace pyro::client
