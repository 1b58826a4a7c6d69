// env list, pull, import; and images of this host where a command names an environment.
#include "client/cli/env.hpp"

#include "client/cli/render.hpp"
#include "client/cli/terminal.hpp"
#include "client/cli/workspace.hpp"
#include "client/transfer/image_upload.hpp"
#include "proto/codec.hpp"

#include <unistd.h>

namespace pyro::client {

using nlohmann::json;

namespace {

json import_call(Connection& daemon, const Invocation& call, ImageUpload& source, json params) {
    if (source.digest()) params["digest"] = source.digest()->str();
    Signals signals(call_signals);
    ProgressLine progress("[import]", call.globals.json);
    Streams streams;
    source.connect(streams);
    CallOptions options;
    options.on_progress = [&](const proto::Progress& p) { progress.show(p); };
    options.signals = &signals;
    options.streams = &streams;
    return daemon.call(proto::EnvImport::name, params, options);
}

json import_host_image(Connection& daemon, const Invocation& call, const HostImage& image) {
    ImageUpload source(image.path, image.format, image.tag);
    json params = {{"name", image.given_name()}, {"format", image.format == "oci" ? "oci-archive" : image.format}, {"force", true}};
    if (!image.tag.empty()) params["tag"] = image.tag;
    return import_call(daemon, call, source, std::move(params));
}

// ["a", "b"] as docker has it, where one value is given; else a word each.
void read_words(json& params, const char* name) {
    const auto given = params.find(name);
    if (given == params.end() || given->size() != 1 || !given->front().get_ref<const std::string&>().starts_with('[')) return;
    const json words = json::parse(given->front().get<std::string>(), nullptr, false);
    if (!words.is_array() || !std::ranges::all_of(words, [](const json& word) { return word.is_string(); }))
        throw Error(ErrorCode::invalid_argument, std::string("--") + (std::string_view(name) == "command" ? "cmd" : name) + " begins with [ and is no JSON list of strings",
                    "for example '[\"bash\", \"-l\"]'; or one word each time");
    *given = words;
}

std::string pulled_lines(const proto::EnvPullResult& result) {
    std::string out;
    if (result.previous_digest && result.environment.digest)
        out += "pyro: " + printable(result.environment.name) + " was " + printable(result.previous_digest->substr(0, 19)) + ", and is now " +
               printable(result.environment.digest->substr(0, 19)) + "; what runs on the old one goes on\n";
    if (result.unresolved) out += "pyro: " + printable(*result.unresolved) + "; what is installed stays\n";
    return out;
}

int show_pulled(const Invocation& call, const json& result) {
    json shown = result;
    shown.erase("stdout_bytes");
    print_result(call, proto::type_of<proto::EnvPullResult>(), shown);
    if (!call.globals.json) write_stderr(pulled_lines(proto::from_wire<proto::EnvPullResult>(shown, proto::Unknown::ignore)));
    return status::ok;
}

}  // namespace

void import_named_image(Connection& daemon, const Invocation& call, json& params) {
    const auto named = params.find("environment");
    if (named == params.end() || !named->is_string()) return;
    const std::optional<HostImage> image = host_image(named->get<std::string>());
    if (!image) return;
    const json made = import_host_image(daemon, call, *image);
    params["environment"] = made.at("environment").at("name");
}

int env_pull_command(const Invocation& call) {
    Connection daemon({call.globals.socket});
    if (const std::optional<HostImage> image = host_image(call.params.at("environment").get<std::string>()))
        return show_pulled(call, import_host_image(daemon, call, *image));
    return show_pulled(call, call_daemon(daemon, call, call.params));
}

int env_import_command(const Invocation& call) {
    const auto own = proto::from_wire<ImportOptions>(call.own);
    json params = call.params;
    read_words(params, "entrypoint");
    read_words(params, "command");
    ImageUpload source(own.path, params.value("format", ""), params.value("tag", ""));
    Connection daemon({call.globals.socket});
    return show_pulled(call, import_call(daemon, call, source, std::move(params)));
}

int env_commit_command(const Invocation& call) {
    Connection daemon({call.globals.socket});
    return show_pulled(call, call_daemon(daemon, call, call.params));
}

std::string environment_table(const std::vector<proto::EnvironmentInfo>& environments, std::int64_t now, Style style) {
    Cells rows{{"NAME", "STATE", "SIZE", "SOURCE", "LAST USED", "REFERENCE"}};
    for (const proto::EnvironmentInfo& one : environments)
        rows.push_back({printable(one.name.starts_with("sha256:") ? one.name.substr(0, 19) : one.name), std::string(name_of(one.state)),
                        one.size_bytes ? byte_size(*one.size_bytes) : "-", one.source ? std::string(name_of(*one.source)) : "-",
                        one.last_used_at ? age(now - *one.last_used_at) : "-", one.reference.empty() ? "-" : printable(one.reference)});
    return aligned(rows, style, 1);
}

int env_list_command(const Invocation& call) {
    if (call.globals.json) return call_method(call);
    Connection daemon({call.globals.socket});
    const auto list = proto::from_wire<proto::EnvListResult>(daemon.call(call.verb->method->name, call.params), proto::Unknown::ignore);
    write_stdout(environment_table(list.environments, unix_now(), style_for(STDOUT_FILENO)));
    return status::ok;
}

}  // namespace pyro::client
