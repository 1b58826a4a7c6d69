// What the daemon says while a request runs. Every notification carries the request's id as "id" beside these fields.
#pragma once
#include "proto/field.hpp"

namespace pyro::proto {

struct ExecStarted {
    static constexpr std::string_view method = "exec.started";
    static constexpr std::string_view doc = "First notification of a call with streams, sent while the VM still starts: where to attach.";
    std::string ticket;
    std::string vm_id;
    static constexpr auto fields() {
        return std::array{field<&ExecStarted::ticket>("ticket", "One use, 30 seconds: first line of a second connection, {\"attach\":\"TICKET\"}"),
                          field<&ExecStarted::vm_id>("vm_id", "The VM the command runs in")};
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
