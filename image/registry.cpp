#include "image/registry.hpp"

#include <algorithm>
#include <ctime>
#include <nlohmann/json.hpp>
#include <random>

#include "image/challenge.hpp"
#include "image/tree.hpp"

namespace pyro::image {
namespace {

using nlohmann::json;

constexpr std::size_t max_answer = 4u << 20, max_token_answer = 1u << 20, max_token = 64u << 10;
constexpr int max_redirects = 5, max_rounds = 64;
constexpr std::uint64_t enough_progress = 1u << 20;  // an attempt that gained this much was no failure
constexpr std::chrono::milliseconds max_backoff{8'000};
constexpr std::chrono::seconds max_asked{60};        // who asks for more patience is told to somebody else

bool passing_status(long status) { return status == 408 || status == 429 || status == 500 || status == 502 || status == 503 || status == 504; }
bool moved(long status) { return status == 301 || status == 302 || status == 303 || status == 307 || status == 308; }

std::chrono::milliseconds jittered(std::chrono::milliseconds pause) {
    static thread_local std::minstd_rand random{std::random_device{}()};
    return pause / 2 + std::chrono::milliseconds(std::uniform_int_distribution<std::int64_t>(0, (pause / 2).count())(random));
}

}  // namespace

void Stopping::stop() {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    changed_.notify_all();
}

void Stopping::wait(std::chrono::milliseconds time) {
    std::unique_lock lock(mutex_);
    if (changed_.wait_for(lock, time, [this] { return stopped_.load(); }))
        throw Stopped();
}

Registry::Registry(RegistrySettings settings, Stopping& stopping) : settings_(std::move(settings)), stopping_(stopping) {
    settings_.http.cancelled = &stopping.flag();
}

std::string Registry::name() const { return settings_.endpoint.place(); }

void Registry::refuse_access(const std::string& who, const std::string& what, long status) const {
    const std::string code = " (HTTP " + std::to_string(status) + ")";
    if (settings_.login.given())
        throw Error(ErrorCode::failed_precondition, who + " refuses " + what + " to the credentials it was given" + code,
                    "log in again, with an account that may read it: podman login or docker login").with_detail("credentials", "refused");
    throw Error(ErrorCode::failed_precondition, who + " refuses " + what + " without credentials" + code,
                "check the name; for a private image log in first: podman login or docker login, then ask again")
        .with_detail("credentials", "none");
}

void Registry::refuse(const HttpResponse& response) const {
    const std::string& what = settings_.reference;
    const std::string status = std::to_string(response.status);
    const auto hinting = [&](Error error) -> Error {  // some say that there is nothing, or set limits, to who is nobody
        if (!settings_.login.given())
            error.with_detail("credentials", "none");
        return error;
    };
    switch (response.status) {
        case 401:
        case 403:
            refuse_access(name(), what, response.status);
        case 404:
            throw hinting(Error(ErrorCode::not_found, name() + " has no " + what, "check the spelling of the name and the tag; a private image needs a login"));
        case 429:
            throw hinting(Error(ErrorCode::unavailable, name() + " limits how often it may be asked (HTTP 429)",
                                "try again later, log in to it, or set a [mirror] in pyrod.toml"));
        default:
            throw Error(ErrorCode::unavailable, name() + " answers HTTP " + status + " to the request for " + what,
                        passing_status(response.status) ? "try again later" : "check the registry's address").with_retryable(passing_status(response.status));
    }
}

// Redirects of a GET. What says who asks is sent to the first origin alone.
HttpResponse Registry::follow(Http& http, Url url, HttpRequest request, const std::string& authorization, std::size_t limit, const Http::Receiver& receiver) {
    const std::string home = url.origin();
    const std::vector<std::string> headers = request.headers;
    for (int redirects = 0;; ++redirects) {
        request.headers = headers;
        if (!authorization.empty() && url.origin() == home)
            request.headers.push_back("Authorization: " + authorization);
        HttpResponse response = http.send(url, request, limit, receiver);
        if (!moved(response.status) || request.form)
            return response;
        if (redirects == max_redirects)
            throw Error(ErrorCode::unavailable, name() + " redirects in a loop, or more than " + std::to_string(max_redirects) + " times",
                        "the registry is broken: use another or a mirror").with_retryable(false);
        const Url next = Url::parse(response.header("location"), &url);
        if (url.scheme == "https" && next.scheme == "http")
            throw Error(ErrorCode::network_denied, url.place() + " redirects from https to http at " + printable(next.place()), "the registry is broken or hostile");
        url = next;
    }
}

HttpResponse Registry::exchange(Http& http, const std::string& path, const std::vector<std::string>& headers, std::size_t limit, const Http::Receiver& receiver) {
    const Url url = Url::parse("/v2/" + settings_.repository + path, &settings_.endpoint);
    const HttpRequest request{headers, std::nullopt, nullptr};
    std::string authorization;
    {
        const std::lock_guard lock(mutex_);
        authorization = authorization_;
    }
    HttpResponse response = follow(http, url, request, authorization, limit, receiver);
    // Another host's challenge is none of ours: it is sent nothing, so it is an answer like any other.
    if (response.status != 401 || response.url != url.text)
        return response;
    authorization = authorize(http, response, authorization);
    return authorization.empty() ? response : follow(http, url, request, authorization, limit, receiver);
}

std::string Registry::authorize(Http& http, const HttpResponse& response, const std::string& refused) {
    const std::lock_guard lock(mutex_);
    if (authorization_ != refused)
        return authorization_;  // another thread has been there meanwhile
    std::vector<Challenge> challenges;
    const auto [first, last] = response.headers.equal_range("www-authenticate");
    for (auto header = first; header != last; ++header)
        for (Challenge& one : parse_challenges(header->second))
            challenges.push_back(std::move(one));
    const auto find = [&](std::string_view scheme) {
        return std::find_if(challenges.begin(), challenges.end(), [&](const Challenge& one) { return one.scheme == scheme; });
    };
    if (const auto bearer = find("bearer"); bearer != challenges.end()) {
        authorization_ = "Bearer " + token(http, bearer->parameters);
    } else if (find("basic") != challenges.end()) {
        if (!settings_.login.identity_token.empty())
            throw Error(ErrorCode::failed_precondition, name() + " takes a user name and a password, and was given an identity token", "log in to it again")
                .with_detail("credentials", "refused");
        if (settings_.login.username.empty())
            return {};
        authorization_ = "Basic " + base64(settings_.login.username + ":" + settings_.login.password);
        told_who_asks_ = true;
    } else {
        return {};
    }
    return authorization_ == refused ? std::string() : authorization_;
}

std::string Registry::token(Http& http, const std::map<std::string, std::string>& challenge) {
    const auto realm = challenge.find("realm");
    if (realm == challenge.end() || realm->second.empty())
        throw Error(ErrorCode::unavailable, name() + " asks for a token but does not say where to get it", "the registry is broken").with_retryable(false);
    Url url = Url::parse(realm->second);
    if (settings_.endpoint.scheme == "https" && url.scheme == "http")
        throw Error(ErrorCode::network_denied, name() + " wants its token fetched without encryption", "the registry is broken or hostile");
    // Only what is needed, whatever the challenge says.
    std::string words = "scope=" + percent_encoded("repository:" + settings_.repository + ":pull");
    if (const auto service = challenge.find("service"); service != challenge.end())
        words = "service=" + percent_encoded(service->second) + "&" + words;
    const RegistryLogin& login = settings_.login;
    HttpRequest request;
    request.trusted = &settings_.endpoint;  // its token service is often another port of the same host
    std::string authorization;
    if (!login.identity_token.empty()) {
        request.form = "grant_type=refresh_token&client_id=pyro&" + words + "&refresh_token=" + percent_encoded(login.identity_token);
    } else {
        url = Url::parse(url.text + (url.text.find('?') == std::string::npos ? "?" : "&") + words);
        if (!login.username.empty())
            authorization = "Basic " + base64(login.username + ":" + login.password);
    }
    if (login.given())
        told_who_asks_ = true;
    const HttpResponse response = follow(http, url, std::move(request), authorization, max_token_answer, {});
    if (passing_status(response.status))
        throw TransferFailed{url.place() + " answers HTTP " + std::to_string(response.status) + " to the request for a token"};
    if (response.status != 200)
        refuse_access(url.place(), "a token for " + settings_.reference, response.status);
    const json document = json::parse(response.body, nullptr, false);
    for (const char* name : {"token", "access_token"})
        if (document.is_object() && document.contains(name) && document[name].is_string()) {
            const std::string value = document[name].get<std::string>();
            if (!value.empty() && value.size() <= max_token && std::all_of(value.begin(), value.end(), [](char c) { return c > ' ' && c < 0x7f; }))
                return value;
        }
    throw Error(ErrorCode::unavailable, url.place() + " answers a token request without a token", "the registry is broken").with_retryable(false);
}

void Registry::with_retries(const Attempt& attempt) {
    const std::chrono::milliseconds base(settings_.retry_base_ms);
    std::chrono::milliseconds pause = base;
    int left = settings_.attempts;
    for (int round = 0;; ++round) {
        if (stopping_.stopped())
            throw Stopped();
        std::optional<std::chrono::seconds> asked;
        std::uint64_t gained = 0;
        std::optional<Error> error;
        try {
            const std::optional<HttpResponse> answer = attempt(gained);
            if (!answer)
                return;
            asked = parse_retry_after(answer->header("retry-after"), std::time(nullptr));
            try {
                refuse(*answer);
            } catch (const Error& refusal) {
                if (!passing_status(answer->status))
                    throw;
                error = refusal;
            }
        } catch (const TransferFailed& failed) {
            Error failure(ErrorCode::unavailable, failed.message, "check the network, or set a [mirror] in pyrod.toml");
            error = failed.unreachable ? std::move(failure).with_detail("cause", "unreachable") : std::move(failure);
        }
        if (gained >= enough_progress) {
            left = settings_.attempts;
            pause = base;
        }
        if (error->details().contains("cause"))
            left = std::min(left, settings_.unreachable_attempts);
        if (asked && *asked > max_asked)
            throw error->with_hint("it asks to wait " + std::to_string(asked->count()) + " s; " + error->hint());
        if (--left <= 0 || round >= max_rounds)
            throw *error;
        stopping_.wait(asked ? std::chrono::milliseconds(*asked) : jittered(pause));
        pause = std::min(pause * 2, std::max(max_backoff, base));
    }
}

HttpResponse Registry::ask(Http& http, const std::string& path, std::string_view accept) {
    HttpResponse out;
    std::vector<std::string> headers;
    if (!accept.empty())
        headers.push_back("Accept: " + std::string(accept));
    with_retries([&](std::uint64_t&) -> std::optional<HttpResponse> {
        HttpResponse response = exchange(http, path, headers, max_answer, {});
        if (response.status != 200)
            return response;
        out = std::move(response);
        return std::nullopt;
    });
    return out;
}

}  // namespace pyro::image
