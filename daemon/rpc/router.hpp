// Method names to handlers.
#pragma once
#include "daemon/rpc/call.hpp"
#include "proto/codec.hpp"
#include "proto/method.hpp"

#include <concepts>
#include <functional>
#include <map>
#include <string>
#include <string_view>

namespace pyro::rpc {

// What a service has for each method: io::Task<M::Result> serve(M, M::Params, Call&).
template <class M, class S>
concept Serves = requires(S& service, M method, typename M::Params params, Call& call) {
    { service.serve(method, std::move(params), call) } -> std::same_as<io::Task<typename M::Result>>;
};

class Router {
public:
    // `service` outlives the router.
    template <class Service, class... M>
    void bind(Service& service, proto::Methods<M...>) {
        static_assert((Serves<M, Service> && ...), "a method in proto/api.hpp has no handler");
        (add(M::name, M::traits,
             [&service](const nlohmann::json& params, Call& call) {
                 return serve<M>(service, proto::from_wire<typename M::Params>(params), call);
             }), ...);
    }

    // Checks who may call, decodes, serves. Throws what the handler throws; MessageError(method_not_found).
    io::Task<nlohmann::json> dispatch(const std::string& method, const nlohmann::json& params, Call& call) const;
    bool only_reads(const std::string& method) const;  // so does one that there is not

private:
    // Decodes at once, so that the request's JSON need not outlive the call of it.
    using Handler = std::function<io::Task<nlohmann::json>(const nlohmann::json& params, Call& call)>;
    struct Entry {
        proto::Traits traits;
        Handler handler;
    };
    void add(std::string_view name, proto::Traits traits, Handler handler);

    template <class M, class Service>
    static io::Task<nlohmann::json> serve(Service& service, typename M::Params params, Call& call) {
        M method;
        io::Task<typename M::Result> serving = service.serve(method, std::move(params), call);
        typename M::Result result = co_await std::move(serving);
        nlohmann::json json = proto::to_wire(result);
        co_return json;
    }

    std::map<std::string, Entry, std::less<>> methods_;
};

// The names nearest to a mistyped one, best first, at most three.
std::vector<std::string> nearest_names(std::string_view name, const std::vector<std::string>& names);

}  // namespace pyro::rpc
