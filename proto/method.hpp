// What a method of the surface says of itself, and the list of all of them.
#pragma once
#include "proto/field.hpp"

namespace pyro::proto {

enum class Trust { user, admin };

struct Traits {
    std::string_view cli = {};  // "env pull": the words on the command line; empty: not there
    std::string_view mcp = {};  // tool name; empty: no tool
    std::string_view sdk = {};  // Python method name; empty: not there
    std::string_view id_field = {};  // the result field that --id-only prints; empty: no such flag
    bool read_only = false;
    bool destructive = false;
    bool streams = false;       // sends exec.started with a ticket; an attach connection carries frames
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
