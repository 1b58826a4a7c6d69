#include "client/cli/server_probe.hpp"

#include "client/cli/commands.hpp"
#include "client/cli/render.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace pyro::client {

using nlohmann::json;

namespace {

// Hosts give a server about as long.
constexpr std::chrono::seconds probe_patience{30};
constexpr std::size_t longest_answer = 10u << 20;

json probe_request(int id, const char* method, json params) { return {{"jsonrpc", "2.0"}, {"id", id}, {"method", method}, {"params", std::move(params)}}; }

enum { asked_initialize = 1, asked_tools, asked_daemon };

std::string probe_requests(bool about_daemon) {
    std::string text = probe_request(asked_initialize, "initialize", {{"protocolVersion", "2025-11-25"}, {"capabilities", json::object()}, {"clientInfo", {{"name", "pyro host"}, {"version", PYRO_VERSION}}}}).dump() + "\n";
    text += json{{"jsonrpc", "2.0"}, {"method", "notifications/initialized"}}.dump() + "\n";
    text += probe_request(asked_tools, "tools/list", json::object()).dump() + "\n";
    if (about_daemon) text += probe_request(asked_daemon, "resources/read", {{"uri", "pyro://workspaces"}}).dump() + "\n";
    return text;
}

// Its own first words about what is wrong, without its name.
std::string complaint(const UniqueFd& err) {
    ::lseek(err.get(), 0, SEEK_SET);
    std::string text = read_up_to(err.get(), 64u << 10);
    text = text.substr(0, text.find('\n'));
    for (const std::string_view tag : {"pyro-mcp: ", "pyro: "})
        if (text.starts_with(tag)) text.erase(0, tag.size());
    return printable(text);
}

void take_answer(ServerAnswers& answers, const json& message) {
    static const json none = json::object();
    const auto found = message.find("result");
    const json& result = found != message.end() && found->is_object() ? *found : none;
    switch (message.value("id", 0)) {
    case asked_initialize: {
        const json info = result.value("serverInfo", none);
        if (!info.is_object() || !info.contains("name")) throw Error(ErrorCode::failed_precondition, "it does not answer initialize as a server does");
        answers.name = printable(info.value("name", ""));
        answers.version = printable(info.value("version", ""));
        break;
    }
    case asked_tools:
        if (!result.contains("tools")) throw Error(ErrorCode::failed_precondition, "it does not list its tools");
        answers.tools = result["tools"].size();
        break;
    case asked_daemon:
        if (result.contains("contents")) answers.daemon_answered = true;
        else if (const json error = message.value("error", none); error.value("code", 0) != -32601) {  // a server without resources knows no such method
            answers.daemon_answered = false;
            answers.daemon_error = printable(error.value("message", ""));
        }
        break;
    default: break;
    }
}

}  // namespace

ServerAnswers ask_server(const ServerStart& start, bool about_daemon, Signals& signals) {
    Pipe in, out;
    const UniqueFd err(::memfd_create("err", MFD_CLOEXEC));
    if (!err) throw Error::from_errno("keep what the server says");
    Child server(start.command, {in.read.get(), out.write.get(), err.get()}, start.environment ? &*start.environment : nullptr, start.directory);
    in.read.reset();
    out.write.reset();
    const auto until = std::chrono::steady_clock::now() + probe_patience;
    try {
        write_all(in.write.get(), probe_requests(about_daemon));  // less than a pipe holds
    } catch (const Error&) {  // it has gone already: below it is said why
    }

    ServerAnswers answers;
    std::string text;
    for (int left = about_daemon ? 3 : 2; left > 0;) {
        if (!server.readable_until(out.read.get(), until, signals))
            throw Error(ErrorCode::timeout, "it does not answer in " + std::to_string(probe_patience.count()) + " seconds");
        const std::size_t before = text.size();
        text.resize(before + 65536);
        const ssize_t n = ::read(out.read.get(), text.data() + before, 65536);
        text.resize(before + static_cast<std::size_t>(std::max<ssize_t>(n, 0)));
        if (n <= 0) {
            const int ended = server.wait(&signals);
            const std::string why = complaint(err);
            throw Error(ended == status::usage ? ErrorCode::invalid_argument : ErrorCode::failed_precondition, why.empty() ? "it ended with status " + std::to_string(ended) : why);
        }
        if (text.size() > longest_answer) throw Error(ErrorCode::failed_precondition, "it sends more than a host takes");
        for (std::size_t end; (end = text.find('\n')) != std::string::npos; text.erase(0, end + 1)) {
            const json message = json::parse(std::string_view(text).substr(0, end), nullptr, false);
            if (!message.is_object()) throw Error(ErrorCode::failed_precondition, "it writes what is no message of the protocol: " + printable(text.substr(0, std::min<std::size_t>(end, 80))));
            if (!message.contains("id") || !message["id"].is_number_integer() || message.contains("method")) continue;
            take_answer(answers, message);
            --left;
        }
    }
    return answers;
}

}  // namespace pyro::client
