// A registry asked for one repository: log-in, redirects and patience (OCI distribution protocol).
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.hpp"
#include "image/http.hpp"

namespace pyro::image {

// Who asks. At most one of the two ways is given.
struct RegistryLogin {
    std::string username, password;
    std::string identity_token;
    bool given() const { return !username.empty() || !identity_token.empty(); }
};

struct RegistrySettings {
    Url endpoint;
    std::string repository;
    std::string reference;  // what is asked for, for messages
    RegistryLogin login;
    int attempts = 5, unreachable_attempts = 3, retry_base_ms = 500;
    HttpOptions http;
};

// Ends all that threads do together, waits too.
class Stopping {
public:
    void stop();
    bool stopped() const { return stopped_; }
    const std::atomic<bool>& flag() const { return stopped_; }
    void wait(std::chrono::milliseconds time);  // throws Stopped when it was stopped, before or meanwhile
private:
    std::atomic<bool> stopped_ = false;
    std::mutex mutex_;
    std::condition_variable changed_;
};
// Thrown where work ends because other work has failed.
struct Stopped {};

// May be used by threads at once, each with an Http of its own.
class Registry {
public:
    Registry(RegistrySettings settings, Stopping& stopping);

    Http connection() const { return Http(settings_.http); }
    std::string name() const;                                // of the host, for messages
    bool told_who_asks() const { return told_who_asks_; }    // credentials were sent

    // A small answer below the repository, kept in memory. Tries again what may pass; throws Error.
    HttpResponse ask(Http& http, const std::string& path, std::string_view accept);
    // One exchange, with redirects and one answer to a challenge. Credentials and tokens go to the registry itself only.
    HttpResponse exchange(Http& http, const std::string& path, const std::vector<std::string>& headers, std::size_t limit, const Http::Receiver& receiver);

    // Runs `attempt` until it gives no answer to complain of, with growing pauses. It counts the bytes it gained: one that got
    // far was no failure.
    using Attempt = std::function<std::optional<HttpResponse>(std::uint64_t& gained)>;
    void with_retries(const Attempt& attempt);

private:
    HttpResponse follow(Http& http, Url url, HttpRequest request, const std::string& authorization, std::size_t limit, const Http::Receiver& receiver);
    // What to send instead of `refused`; empty: there is nothing.
    std::string authorize(Http& http, const HttpResponse& response, const std::string& refused);
    std::string token(Http& http, const std::map<std::string, std::string>& challenge);
    [[noreturn]] void refuse(const HttpResponse& response) const;
    [[noreturn]] void refuse_access(const std::string& who, const std::string& what, long status) const;

    RegistrySettings settings_;
    Stopping& stopping_;
    std::atomic<bool> told_who_asks_ = false;
    std::mutex mutex_;  // of what follows, and one log-in at a time
    std::string authorization_;
};

}  // namespace pyro::image
