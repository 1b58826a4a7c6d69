// What a method of the surface says of itself, and the list of all of them.
#pragma once
#include "proto/field.hpp"

namespace pyro::proto {

enum class Trust { user, admin };

// What an attach connection of the call is for. `streams`: a command's stdin, stdout and stderr; the call's first notification is
// exec.started. The others carry one stream of bytes, up on stream 0 or down on stream 1; stream.opened has their ticket.
enum class Carries { nothing, streams, upload, download };
constexpr auto enum_names(Carries) { return std::array<std::string_view, 4>{"nothing", "streams", "upload", "download"}; }

struct Traits {
    std::string_view cli = {};  // "env pull": the words on the command line; empty: not there
    std::string_view mcp = {};  // tool name; empty: no tool
    std::string_view sdk = {};  // Python method name; empty: not there
    std::string_view id_field = {};  // the result field that --id-only prints; empty: no such flag
    bool read_only = false;
    bool destructive = false;
    Carries carries = Carries::nothing;
    Trust who = Trust::user;
};

// A method as data, for whoever walks the list at run time.
struct MethodInfo {
    std::string_view name;
    std::string_view doc;  // that of its parameters' record
    Traits traits;
    const TypeInfo& (*params)();
    const TypeInfo& (*result)();
};

template <class... M>
struct Methods {
    static constexpr std::size_t size = sizeof...(M);
    static std::span<const MethodInfo> list() {
        static constexpr std::array<MethodInfo, size> methods{
            MethodInfo{M::name, M::Params::doc, M::traits, &type_of<typename M::Params>, &type_of<typename M::Result>}...};
        return methods;
    }
};

}  // namespace pyro::proto
