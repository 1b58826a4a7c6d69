// How a record names its fields, once, as data. Wire codec, schema, CLI flags, help, completion and docs are read from it.
//
//   struct Size {
//       static constexpr std::string_view doc = "How large a VM is.";
//       std::int64_t mem_mib = 1024;
//       static constexpr auto fields() {
//           return std::array{field<&Size::mem_mib>("mem_mib", "Guest memory in MiB", {.min = 64, .max = 65536})};
//       }
//   };
//
// A member's default is the wire's default: a field that may be left out is either std::optional or has `.defaulted = true`.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace pyro::proto {

enum class Cli {
    option,      // --name VALUE; a bool is a flag, a list or map is repeated
    positional,  // by place
    rest,        // everything after the positionals, or after --
    none,        // not given on the command line
};

struct FieldOptions {
    Cli cli = Cli::option;
    char short_flag = 0;              // 'e' for -e
    std::string_view flag = {};       // --flag, where it is not the field's name with dashes
    std::string_view value = {};      // what help calls the value: K=V, SECONDS
    std::optional<std::int64_t> min = {};  // integers; for strings and lists the shortest
    std::optional<std::int64_t> max = {};  // integers; for strings (bytes) and lists the longest
    bool defaulted = false;           // may be left out; the member's initial value then holds
    std::string_view completes = {};  // what completion offers: "environment", "vm", "file"
};

enum class Kind { boolean, integer, string, enumeration, record, list, map };

struct FieldInfo;

// One per C++ type. Knows how to look into a value of that type, and nothing of JSON.
struct TypeInfo {
    Kind kind;
    bool optional = false;               // std::optional of `kind`
    std::string_view name = {};          // records: the type's name; its doc
    std::string_view doc = {};
    std::span<const FieldInfo> fields = {};
    std::span<const std::string_view> names = {};  // enumerations, by value
    const TypeInfo& (*element)() = nullptr;        // lists
    const void* (*content)(const void*) = nullptr;  // optional: its value or null; others: itself
    void* (*emplace)(void*) = nullptr;              // optional: an engaged default value; list: a new last element
    std::size_t (*size)(const void*) = nullptr;     // lists
    const void* (*at)(const void*, std::size_t) = nullptr;
    std::int64_t (*get_enum)(const void*) = nullptr;
    void (*set_enum)(void*, std::int64_t) = nullptr;
    void (*construct_default)(void (*use)(const void*, void*), void* context) = nullptr;  // records: defaults for schema and help
};

struct FieldInfo {
    std::string_view name;
    std::string_view doc;
    FieldOptions options;
    const TypeInfo& (*type)() = nullptr;
    const void* (*get)(const void* record) = nullptr;
    void* (*ref)(void* record) = nullptr;

    bool required() const { return !options.defaulted && !type().optional; }
};

template <class T> struct is_optional : std::false_type {};
template <class T> struct is_optional<std::optional<T>> : std::true_type {};
template <class T> struct is_list : std::false_type {};
template <class T> struct is_list<std::vector<T>> : std::true_type {};

template <class T>
concept Record = requires { T::fields(); T::doc; };

template <class T>
constexpr TypeInfo make_type_info();

template <class T>
const TypeInfo& type_of() {
    static constexpr TypeInfo info = make_type_info<T>();
    return info;
}

namespace detail {
template <class R> inline constexpr auto field_table = R::fields();
template <class E> inline constexpr auto enum_table = enum_names(E{});

// "pyro::proto::RunParams" out of the compiler's own spelling of the function.
template <class T>
constexpr std::string_view type_name() {
    constexpr std::string_view spelled = __PRETTY_FUNCTION__;
    constexpr auto start = spelled.find("T = ") + 4;
    constexpr auto end = spelled.find_first_of(";]", start);
    constexpr std::string_view full = spelled.substr(start, end - start);
    return full.substr(full.rfind(':') + 1);
}
}  // namespace detail

template <class T>
constexpr TypeInfo make_type_info() {
    TypeInfo info{};
    info.content = [](const void* p) { return p; };
    if constexpr (is_optional<T>::value) {
        using V = typename T::value_type;
        info = make_type_info<V>();
        info.optional = true;
        info.content = [](const void* p) -> const void* {
            const auto& value = *static_cast<const T*>(p);
            return value ? static_cast<const void*>(&*value) : nullptr;
        };
        static_assert(!is_list<V>::value && !is_optional<V>::value, "an optional list says nothing an empty one does not");
        info.emplace = [](void* p) -> void* { return &static_cast<T*>(p)->emplace(); };
    } else if constexpr (std::is_same_v<T, bool>) {
        info.kind = Kind::boolean;
    } else if constexpr (std::is_same_v<T, std::int64_t>) {
        info.kind = Kind::integer;
    } else if constexpr (std::is_same_v<T, std::string>) {
        info.kind = Kind::string;
    } else if constexpr (std::is_same_v<T, std::map<std::string, std::string>>) {
        info.kind = Kind::map;
    } else if constexpr (std::is_enum_v<T>) {
        info.kind = Kind::enumeration;
        info.names = detail::enum_table<T>;
        info.get_enum = [](const void* p) { return static_cast<std::int64_t>(*static_cast<const T*>(p)); };
        info.set_enum = [](void* p, std::int64_t v) { *static_cast<T*>(p) = static_cast<T>(v); };
    } else if constexpr (is_list<T>::value) {
        using V = typename T::value_type;
        info.kind = Kind::list;
        info.element = &type_of<V>;
        info.emplace = [](void* p) -> void* { return &static_cast<T*>(p)->emplace_back(); };
        info.size = [](const void* p) { return static_cast<const T*>(p)->size(); };
        info.at = [](const void* p, std::size_t i) -> const void* { return &(*static_cast<const T*>(p))[i]; };
    } else {
        static_assert(Record<T>, "a field is a bool, std::int64_t, std::string, enum, record, list, optional or string map");
        info.kind = Kind::record;
        info.name = detail::type_name<T>();
        info.doc = T::doc;
        info.fields = detail::field_table<T>;
        info.construct_default = [](void (*use)(const void*, void*), void* context) { const T value{}; use(&value, context); };
    }
    return info;
}

namespace detail {
template <class M> struct member;
template <class R, class T> struct member<T R::*> { using record = R; using type = T; };
}  // namespace detail

// `R` is the record itself where the member is one of its bases'.
template <auto Member, class R = typename detail::member<decltype(Member)>::record>
constexpr FieldInfo field(std::string_view name, std::string_view doc, FieldOptions options = {}) {
    using T = typename detail::member<decltype(Member)>::type;
    return FieldInfo{name, doc, options, &type_of<T>,
                     [](const void* r) -> const void* { return &(static_cast<const R*>(r)->*Member); },
                     [](void* r) -> void* { return &(static_cast<R*>(r)->*Member); }};
}

// One table out of several, for fields that more than one record has.
template <std::size_t... n>
constexpr auto join(const std::array<FieldInfo, n>&... parts) {
    std::array<FieldInfo, (n + ...)> all{};
    std::size_t at = 0;
    const auto append = [&](const auto& part) { for (const FieldInfo& one : part) all[at++] = one; };
    (append(parts), ...);
    return all;
}

}  // namespace pyro::proto
