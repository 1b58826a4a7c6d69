// One HTTP(S) exchange at a time over libcurl, with connection reuse. Knows nothing of registries.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.hpp"

namespace pyro::image {

// What the configuration allows of one registry host.
struct HostPolicy {
    bool plain_http = false;
    bool allow_private = false;
    std::string ca_pem;  // PEM certificates to trust for this host; libcurl's directory of the system's stays trusted beside them
};

struct HttpOptions {
    std::map<std::string, HostPolicy> hosts;  // by "host:port" or "host", lower-case
    // Proxies by scheme, and the hosts asked without one, as NO_PROXY lists them. The environment is not looked at.
    std::string http_proxy, https_proxy, no_proxy;
    long connect_seconds = 15;
    long low_speed_bytes = 512, low_speed_seconds = 30;  // given up when slower than bytes per second for so many seconds
    long document_seconds = 60;               // for a whole answer that is kept in memory
    const std::atomic<bool>* cancelled = nullptr;  // breaks an exchange off, as a TransferFailed
};

struct Url {
    std::string text, scheme, host, port;  // port always set
    std::string origin() const { return scheme + "://" + host + ":" + port; }
    std::string place() const;  // for people: the host, and the port unless it is the usual one
    // Resolved against `base` when relative. Throws environment_invalid: registries send these.
    static Url parse(const std::string& text, const Url* base = nullptr);
};

// Whether a list as of NO_PROXY names the host: host names with what is below them, addresses, networks as CIDR, with a port
// or without, "*" for all; separated by commas or spaces.
bool is_in_no_proxy(const std::string& list, const Url& url);

struct HttpRequest {
    std::vector<std::string> headers;
    std::optional<std::string> form;  // then a POST of application/x-www-form-urlencoded, else a GET
    const Url* trusted = nullptr;     // another port of this host is held to what is allowed of it
};

struct HttpResponse {
    long status = 0;
    std::string url;                                  // whose answer it is
    std::multimap<std::string, std::string> headers;  // lower-case names
    std::string body;                                 // unless it went to the receiver
    std::string header(const std::string& name) const;
};

// The connection failed or broke: the same request may work later.
struct TransferFailed {
    std::string message;
    bool unreachable = false;  // no answer at all: DNS, refused, timed out before a byte
};

class Http {
public:
    explicit Http(HttpOptions options);
    ~Http();
    Http(Http&&) noexcept;

    // Bodies of 200 and 206 go to `receiver` when there is one, all others into the response, up to `limit` bytes (more is
    // environment_invalid; for error answers the rest is dropped). Does not follow redirects.
    // Throws TransferFailed, Error for what may not be tried again, and what the receiver throws.
    using Receiver = std::function<void(const HttpResponse& head, std::string_view bytes)>;
    HttpResponse send(const Url& url, const HttpRequest& request, std::size_t limit, const Receiver& receiver = {});

private:
    class Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace pyro::image
