// What the daemon says while a request runs. Every notification carries the request's id as "id" beside these fields.
#pragma once
#include "proto/field.hpp"

namespace pyro::proto {

struct ExecStarted {
    static constexpr std::string_view method = "exec.started";
    static constexpr std::string_view doc = "First notification of a call with streams, sent while the VM still starts: where to attach.";
    std::string ticket;
    std::optional<std::string> vm_id;
    std::optional<std::string> workspace_id;
    std::optional<std::string> exec_id;
    static constexpr auto fields() {
        return std::array{field<&ExecStarted::ticket>("ticket", "One use, 30 seconds: first line of a second connection, {\"attach\":\"TICKET\"}"),
                          field<&ExecStarted::vm_id>("vm_id", "The one-shot VM the command runs in"),
                          field<&ExecStarted::workspace_id>("workspace_id", "Or the workspace"),
                          field<&ExecStarted::exec_id>("exec_id", "And which of its commands this is")};
    }
};

struct StreamOpened {
    static constexpr std::string_view method = "stream.opened";
    static constexpr std::string_view doc = "First notification of a call that carries bytes up or down: where to attach. An upload ends with the frame `eof`; a connection that ends without it was broken off, and nothing of it is kept.";
    std::string ticket;
    static constexpr auto fields() {
        return std::array{field<&StreamOpened::ticket>("ticket", "One use, 30 seconds: first line of a second connection, {\"attach\":\"TICKET\"}")};
    }
};

struct Progress {
    static constexpr std::string_view method = "progress";
    static constexpr std::string_view doc = "How far a long call is.";
    std::string phase;
    std::optional<std::string> message;
    std::optional<std::int64_t> done;
    std::optional<std::int64_t> total;
    static constexpr auto fields() {
        return std::array{field<&Progress::phase>("phase", "A stable word: resolve, download, verify, build, boot, exec, ..."),
                          field<&Progress::message>("message", "A sentence for people"),
                          field<&Progress::done>("done", "Bytes or steps done"),
                          field<&Progress::total>("total", "Bytes or steps in all, if known")};
    }
};

}  // namespace pyro::proto
