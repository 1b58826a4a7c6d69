#include "daemon/vm/qemu/qmp.hpp"

#include "common/error.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>

namespace pyro::vm::qemu {
namespace {

using nlohmann::json;
constexpr std::size_t max_message = 256 << 10;
constexpr std::size_t max_depth = 32;
constexpr std::size_t max_text = 512;

// Before the parser: what it builds is as deep as the text is.
bool too_deep(const std::string& text) noexcept {
    std::size_t depth = 0;
    bool quoted = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (quoted) {
            if (c == '\\') ++i;
            else if (c == '"') quoted = false;
        } else if (c == '"') {
            quoted = true;
        } else if (c == '{' || c == '[') {
            if (++depth > max_depth) return true;
        } else if ((c == '}' || c == ']') && depth > 0) {
            --depth;
        }
    }
    return false;
}

io::Task<std::optional<std::string>> read_message(io::Stream& stream, std::stop_token stop) {
    try {
        std::optional<std::string> line = co_await stream.read_line(max_message, stop);
        co_return line;
    } catch (const Error& e) {
        if (e.code() != ErrorCode::invalid_argument) throw;
        throw Error(ErrorCode::guest_failed, "QEMU sent a message that is too long");
    }
}

json parse_message(const std::string& line) {
    if (too_deep(line)) throw Error(ErrorCode::guest_failed, "QEMU sent a message nested too deeply");
    json message = json::parse(line, nullptr, false);
    if (!message.is_object()) throw Error(ErrorCode::guest_failed, "QEMU sent what is no message");
    return message;
}

// For people: printable and short, whatever was sent.
std::string text_of(const json& object, const char* key) {
    const auto it = object.find(key);
    if (it == object.end() || !it->is_string()) return "no reason given";
    std::string text = it->get<std::string>().substr(0, max_text);
    std::ranges::replace_if(text, [](char c) { return static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) > 0x7e; }, '?');
    return text;
}

std::int64_t number_of(const json& object, const char* key) {
    const auto it = object.find(key);
    return it != object.end() && it->is_number_integer() ? it->get<std::int64_t>() : -1;
}

}  // namespace

struct Qmp::State {
    State(io::Executor executor_, io::Stream connected, OnEvent listener)
        : executor(executor_), stream(std::move(connected)), on_event(std::move(listener)), writing(executor, 1), ended(executor), tasks(executor) {}

    struct Pending {
        explicit Pending(io::Executor executor) : answered(std::move(executor)) {}
        io::Event answered;
        json answer;
    };

    io::Executor executor;
    io::Stream stream;
    OnEvent on_event;
    io::Semaphore writing;
    io::Event ended;
    Error failure{ErrorCode::unavailable, "QEMU closed its control connection"};
    std::string version;
    std::map<std::int64_t, std::shared_ptr<Pending>> pending;
    std::int64_t next_id = 0;
    io::TaskGroup tasks;

    void handle(const json& message) {
        if (message.contains("event")) {
            const auto data = message.find("data");
            static const json none = json::object();
            if (on_event && message["event"].is_string())
                on_event(message["event"].get<std::string>().substr(0, max_text),
                         data != message.end() && data->is_object() ? *data : none);
            return;
        }
        const auto it = pending.find(number_of(message, "id"));
        if (it == pending.end()) throw Error(ErrorCode::guest_failed, "QEMU answered what it was not asked");
        auto waiter = it->second;
        pending.erase(it);
        waiter->answer = message;
        waiter->answered.set();
    }

    // The words of a command, and where its answer will be.
    std::pair<std::string, std::shared_ptr<Pending>> prepare(const Command& command) {
        const std::int64_t id = ++next_id;
        json request = json::object();
        request["execute"] = command.name;
        request["id"] = id;
        if (!command.arguments.empty()) request["arguments"] = command.arguments;
        auto waiter = std::make_shared<Pending>(executor);
        pending.emplace(id, waiter);
        return {request.dump() + "\n", std::move(waiter)};
    }

    std::string prepare(const std::vector<Command>& commands, std::vector<std::shared_ptr<Pending>>& waiters) {
        std::string lines;
        for (const Command& command : commands) {
            auto [line, waiter] = prepare(command);
            lines += line;
            waiters.push_back(std::move(waiter));
        }
        return lines;
    }

    io::Task<json> answer(std::string command, std::shared_ptr<Pending> waiter, std::stop_token stop) {
        co_await waiter->answered.wait(stop);  // stopped: the answer, when it comes, is still known as one asked for
        if (waiter->answer.is_null()) throw Error(failure);
        if (const auto error = waiter->answer.find("error"); error != waiter->answer.end())
            throw Error(ErrorCode::internal, "QEMU refused " + command + ": " + (error->is_object() ? text_of(*error, "desc") : "no reason given"));
        const auto result = waiter->answer.find("return");
        if (result == waiter->answer.end()) throw Error(ErrorCode::guest_failed, "QEMU answered " + command + " with neither a result nor an error");
        json out = *result;
        co_return out;
    }

    // Not stopped half way: a message cut short would spoil the connection. QEMU reads, or dies.
    io::Task<void> write(std::string lines) {
        try {
            co_await stream.write_all(std::move(lines), tasks.token());
        } catch (const Cancelled&) {
            throw Error(ErrorCode::unavailable, "the control connection was closed");
        }
    }

    void end(std::optional<Error> why) {
        if (why) failure = std::move(*why);
        on_event = {};
        for (auto& [id, waiter] : pending) waiter->answered.set();
        pending.clear();
        ended.set();
    }
};

namespace {

template <class S>
io::Task<void> read_messages(std::shared_ptr<S> state) {
    std::optional<Error> why;
    try {
        for (;;) {
            std::optional<std::string> line = co_await read_message(state->stream, state->tasks.token());
            if (!line) break;
            state->handle(parse_message(*line));
        }
    } catch (const Cancelled&) {
        why = Error(ErrorCode::unavailable, "the control connection was closed");
    } catch (const Error& e) {
        why = e;
    }
    state->end(why);
}

io::Task<json> greeting_of(io::Stream& stream, std::stop_token stop) {
    std::optional<std::string> line = co_await read_message(stream, stop);
    if (!line) throw Error(ErrorCode::unavailable, "QEMU ended before it was ready");
    json greeting = parse_message(*line);
    if (!greeting.contains("QMP") || !greeting["QMP"].is_object()) throw Error(ErrorCode::guest_failed, "QEMU did not greet");
    co_return greeting;
}

std::string version_in(const json& greeting) {
    const json* at = &greeting["QMP"];
    for (const char* key : {"version", "qemu"}) {
        if (!at->is_object() || !at->contains(key)) return "";
        at = &(*at)[key];
    }
    if (!at->is_object()) return "";
    std::string out;
    for (const char* key : {"major", "minor", "micro"}) out += (out.empty() ? "" : ".") + std::to_string(number_of(*at, key));
    return out;
}

}  // namespace

Qmp::Qmp(std::shared_ptr<State> state) : state_(std::move(state)) {}
Qmp::~Qmp() = default;

io::Task<std::unique_ptr<Qmp>> Qmp::open(io::Stream stream, OnEvent on_event, std::vector<Command> first, std::stop_token stop) {
    io::Executor executor = co_await io::this_executor();
    auto state = std::make_shared<State>(executor, std::move(stream), std::move(on_event));
    std::unique_ptr<Qmp> qmp(new Qmp(state));
    first.insert(first.begin(), Command{"qmp_capabilities", json::object()});
    std::vector<std::shared_ptr<State::Pending>> waiters;
    std::string lines = state->prepare(first, waiters);
    std::exception_ptr failure;
    try {
        co_await state->write(std::move(lines));
        const json greeting = co_await greeting_of(state->stream, stop);
        state->version = version_in(greeting);
        state->tasks.spawn(read_messages(state));
        for (std::size_t i = 0; i < first.size(); ++i) co_await state->answer(first[i].name, waiters[i], stop);
    } catch (...) {
        failure = std::current_exception();
    }
    if (failure) {
        co_await qmp->close();
        std::rethrow_exception(failure);
    }
    co_return qmp;
}

io::Task<json> Qmp::execute(std::string command, json arguments, std::stop_token stop) {
    auto state = state_;
    if (state->ended.is_set()) throw Error(state->failure);
    const Command asked{command, std::move(arguments)};
    std::shared_ptr<State::Pending> waiter;
    {
        const auto turn = co_await state->writing.acquire(stop);
        auto prepared = state->prepare(asked);
        waiter = std::move(prepared.second);
        co_await state->write(std::move(prepared.first));
    }
    json out = co_await state->answer(std::move(command), std::move(waiter), stop);
    co_return out;
}

io::Task<void> Qmp::execute_with_fd(std::vector<Command> commands, UniqueFd fd, std::stop_token stop) {
    auto state = state_;
    if (state->ended.is_set()) throw Error(state->failure);
    std::vector<std::shared_ptr<State::Pending>> waiters;
    {
        const auto turn = co_await state->writing.acquire(stop);
        const std::string lines = state->prepare(commands, waiters);
        state->stream.send_with_fd(lines, fd.get());
    }
    for (std::size_t i = 0; i < commands.size(); ++i) co_await state->answer(commands[i].name, waiters[i], stop);
}

io::Task<void> Qmp::closed(std::stop_token stop) {
    auto state = state_;
    co_await state->ended.wait(stop);
}

const Error& Qmp::failure() const noexcept { return state_->failure; }
const std::string& Qmp::version() const noexcept { return state_->version; }

io::Task<void> Qmp::close() {
    auto state = state_;
    state->tasks.stop();
    state->stream.close();
    co_await state->tasks.join();
}

}  // namespace pyro::vm::qemu
