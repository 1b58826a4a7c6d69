// One HTTP(S) exchange at a time over libcurl, with connection reuse. Knows nothing of registries.
#pragma once
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
    std::map<std::string, HostPolicy> hosts;  // by "host:port" or "host"
    std::string proxy;                        // none unless given; the environment is not looked at
    long connect_seconds = 15;
    long low_speed_bytes = 512, low_speed_seconds = 30;  // given up when slower than bytes per second for so many seconds
    long document_seconds = 60;               // for a whole answer that is kept in memory
};

struct Url {
    std::string text, scheme, host, port;  // port always set
    std::string origin() const { return scheme + "://" + host + ":" + port; }
    // Resolved against `base` when relative. Throws environment_invalid: registries send these.
    static Url parse(const std::string& text, const Url* base = nullptr);
};

struct HttpResponse {
    long status = 0;
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

    // Bodies of 200 and 206 go to `receiver` when there is one (return false to break off), all others into the response,
    // up to `limit` bytes (more is environment_invalid; for error answers the rest is dropped). Does not follow redirects.
    // Throws TransferFailed, or Error for what may not be tried again.
    using Receiver = std::function<bool(const HttpResponse& head, std::string_view bytes)>;
    HttpResponse get(const Url& url, const std::vector<std::string>& headers, std::size_t limit, const Receiver& receiver = {});

    const HostPolicy& policy(const Url& url) const;

private:
    class Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace pyro::image
