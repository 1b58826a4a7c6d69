#include "common/error.hpp"
#include "proto/api.hpp"
#include "proto/codec.hpp"
#include "tests/support/catch.hpp"

#include <set>

using namespace pyro;
using nlohmann::json;

namespace {
std::string refusal(const json& params) {
    try {
        proto::from_wire<proto::VmRunParams>(params);
    } catch (const Error& e) {
        REQUIRE(e.code() == ErrorCode::invalid_argument);
        return e.message();
    }
    return "taken";
}
}  // namespace

TEST_CASE("a request is decoded strictly and the refusal says where and what") {
    REQUIRE(refusal({{"environment", "debian:12"}}) == "taken");
    REQUIRE(refusal(json::object()) == "environment: is missing");
    REQUIRE(refusal(json::array()) == "params: expected an object, got array");
    REQUIRE(refusal({{"environment", 1}}) == "environment: expected a string, got number");
    REQUIRE(refusal({{"environment", ""}}) == "environment: must not be empty");
    REQUIRE(refusal({{"environment", std::string(513, 'x')}}) == "environment: at most 512 bytes");
    REQUIRE(refusal({{"environment", std::string("a\0b", 3)}}) == "environment: must not contain a NUL byte");
    REQUIRE(refusal({{"environment", "x"}, {"argv", {"a", 2}}}) == "argv[1]: expected a string, got number");
    REQUIRE(refusal({{"environment", "x"}, {"mem_mib", 1}}) == "mem_mib: must be at least 128 and at most 262144");
    REQUIRE(refusal({{"environment", "x"}, {"mem_mib", 1.5}}) == "mem_mib: expected an integer, got number");
    REQUIRE(refusal({{"environment", "x"}, {"mem_mib", 18446744073709551615u}}) == "mem_mib: is out of range");
    REQUIRE(refusal({{"environment", "x"}, {"env", {{"A", 1}}}}) == "env.A: expected a string");
    REQUIRE(refusal({{"environment", "x"}, {"enviroment", "y"}}) == "enviroment: is not a field of this request");
    REQUIRE(refusal({{"environment", "x"}, {"user", nullptr}}) == "user: expected a string, got null");
}

TEST_CASE("defaults hold where a field is left out") {
    const auto params = proto::from_wire<proto::VmRunParams>({{"environment", "x"}});
    REQUIRE(params.mem_mib == 1024);
    REQUIRE(params.timeout_seconds == 30);
    REQUIRE_FALSE(params.user);
}

TEST_CASE("members of a record's bases are where its fields say") {
    const auto params = proto::from_wire<proto::VmRunParams>({{"environment", "x"}, {"mem_mib", 512}, {"argv", {"a", "b"}}, {"rows", 50}});
    REQUIRE(params.environment == "x");
    REQUIRE(params.mem_mib == 512);
    REQUIRE(params.argv == std::vector<std::string>{"a", "b"});
    REQUIRE(params.rows == 50);
}

TEST_CASE("responses of a newer daemon are read for what is known") {
    const auto result = proto::from_wire<proto::VmDeleteResult>({{"vm_id", "a"}, {"later", 1}}, proto::Unknown::ignore);
    REQUIRE(result.vm_id == "a");
}

namespace {
// Any JSON that the type's table allows, made from a counter so that every field gets a value of its own.
json sample(const proto::TypeInfo& type, const proto::FieldInfo* field, int& n) {
    ++n;
    switch (type.kind) {
        case proto::Kind::boolean: return n % 2 == 0;
        case proto::Kind::integer: return (field && field->options.min ? *field->options.min : 0) + n % 50;
        case proto::Kind::string: {
            std::string text = "s" + std::to_string(n) + "\xc3\xa9\n\"";
            if (field && field->options.min) text.resize(std::max(text.size(), static_cast<std::size_t>(*field->options.min)), 'x');
            if (field && field->options.max) text.resize(std::min(text.size(), static_cast<std::size_t>(*field->options.max)));
            return text;
        }
        case proto::Kind::map: return {{"K" + std::to_string(n), "v"}, {"e", ""}};
        case proto::Kind::enumeration: return std::string(type.names[static_cast<std::size_t>(n) % type.names.size()]);
        case proto::Kind::list: return json::array({sample(type.element(), nullptr, n), sample(type.element(), nullptr, n)});
        case proto::Kind::record: {
            json object = json::object();
            for (const auto& f : type.fields) object[std::string(f.name)] = sample(f.type(), &f, n);
            return object;
        }
    }
    return {};
}

struct AnyRecord {
    template <class... M>
    static void check(proto::Methods<M...>) {
        int n = 0;
        (check_one<typename M::Params>(n), ...);
        (check_one<typename M::Result>(n), ...);
    }
    template <class R>
    static void check_one(int& n) {
        for (int round = 0; round < 20; ++round) {
            const json in = sample(proto::type_of<R>(), nullptr, n);
            INFO(in.dump());
            REQUIRE(proto::to_wire(proto::from_wire<R>(in)) == in);
        }
    }
};
}  // namespace

TEST_CASE("every record of the surface survives the wire") { AnyRecord::check(proto::Api{}); }

TEST_CASE("every method, tool, SDK and command name is used once") {
    std::set<std::string_view> names, tools, verbs, sdk;
    for (const auto& method : proto::Api::list()) {
        REQUIRE(names.insert(method.name).second);
        REQUIRE((method.traits.mcp.empty() || tools.insert(method.traits.mcp).second));
        REQUIRE((method.traits.cli.empty() || verbs.insert(method.traits.cli).second));
        REQUIRE((method.traits.sdk.empty() || sdk.insert(method.traits.sdk).second));
        REQUIRE_FALSE(method.doc.empty());
    }
}
