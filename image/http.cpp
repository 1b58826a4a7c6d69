#include "image/http.hpp"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <exception>

#include "image/address.hpp"
#include "image/tree.hpp"

namespace pyro::image {
namespace {

constexpr std::size_t max_header_bytes = 64 << 10, max_error_body = 16 << 10;

std::string url_part(CURLU* url, CURLUPart part, unsigned flags = 0) {
    char* text = nullptr;
    if (curl_url_get(url, part, &text, flags) != CURLUE_OK)
        return {};
    std::string out = text;
    curl_free(text);
    return out;
}

std::string address_text(const sockaddr* address) {
    char text[INET6_ADDRSTRLEN] = "?";
    if (address->sa_family == AF_INET)
        ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(address)->sin_addr, text, sizeof text);
    else if (address->sa_family == AF_INET6)
        ::inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr, text, sizeof text);
    return text;
}

sockaddr_storage address_of(std::string text) {
    sockaddr_storage out{};
    if (text.starts_with('[') && text.ends_with(']'))
        text = text.substr(1, text.size() - 2);
    if (::inet_pton(AF_INET, text.c_str(), &reinterpret_cast<sockaddr_in&>(out).sin_addr) == 1)
        out.ss_family = AF_INET;
    else if (::inet_pton(AF_INET6, text.c_str(), &reinterpret_cast<sockaddr_in6&>(out).sin6_addr) == 1)
        out.ss_family = AF_INET6;
    return out;
}

std::string_view address_bytes(const sockaddr_storage& address) {
    if (address.ss_family == AF_INET)
        return {reinterpret_cast<const char*>(&reinterpret_cast<const sockaddr_in&>(address).sin_addr), 4};
    return {reinterpret_cast<const char*>(&reinterpret_cast<const sockaddr_in6&>(address).sin6_addr), 16};
}

bool is_within(const sockaddr_storage& address, const std::string& network) {
    const auto slash = network.find('/');
    const sockaddr_storage base = address_of(network.substr(0, slash));
    if (base.ss_family == AF_UNSPEC || base.ss_family != address.ss_family)
        return false;
    const std::string_view a = address_bytes(address), b = address_bytes(base);
    const std::size_t whole = a.size() * 8;
    std::size_t bits = whole;
    if (slash != std::string::npos) {
        const auto [end, error] = std::from_chars(network.data() + slash + 1, network.data() + network.size(), bits);
        if (error != std::errc() || end != network.data() + network.size() || bits > whole)
            return false;
    }
    if (a.substr(0, bits / 8) != b.substr(0, bits / 8))
        return false;
    const unsigned rest = bits % 8;
    return rest == 0 || (static_cast<unsigned char>(a[bits / 8]) ^ static_cast<unsigned char>(b[bits / 8])) >> (8 - rest) == 0;
}

// A proxy resolves names itself; what is an address, or this host, by its name alone is judged before it is asked.
bool names_private_address(const std::string& host) {
    const sockaddr_storage literal = address_of(host);
    if (literal.ss_family != AF_UNSPEC)
        return !is_public_address(reinterpret_cast<const sockaddr*>(&literal));
    std::string name = host;
    while (name.ends_with('.'))
        name.pop_back();
    return name == "localhost" || name.ends_with(".localhost");
}

template <class T>
void set_option(CURL* curl, CURLoption option, T value) {
    if (const CURLcode code = curl_easy_setopt(curl, option, value); code != CURLE_OK)
        throw Error(ErrorCode::internal, "libcurl option " + std::to_string(option) + ": " + curl_easy_strerror(code));
}

}  // namespace

Url Url::parse(const std::string& text, const Url* base) {
    const auto bad = [&]() -> Error {
        return Error(ErrorCode::environment_invalid, "the registry names " + printable(text) + ", which is no usable address", "tell whoever runs the registry");
    };
    if (text.empty() || text.size() > 8192)
        throw bad();
    const std::unique_ptr<CURLU, void (*)(CURLU*)> handle(curl_url(), curl_url_cleanup);
    if (!handle || (base && curl_url_set(handle.get(), CURLUPART_URL, base->text.c_str(), 0) != CURLUE_OK) ||
        curl_url_set(handle.get(), CURLUPART_URL, text.c_str(), 0) != CURLUE_OK)
        throw bad();
    curl_url_set(handle.get(), CURLUPART_FRAGMENT, nullptr, 0);
    Url out;
    out.scheme = url_part(handle.get(), CURLUPART_SCHEME);
    out.host = url_part(handle.get(), CURLUPART_HOST);
    out.port = url_part(handle.get(), CURLUPART_PORT, CURLU_DEFAULT_PORT);
    out.text = url_part(handle.get(), CURLUPART_URL);
    std::transform(out.host.begin(), out.host.end(), out.host.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    if ((out.scheme != "https" && out.scheme != "http") || out.host.empty() || out.text.empty() ||
        !url_part(handle.get(), CURLUPART_USER).empty() || !url_part(handle.get(), CURLUPART_PASSWORD).empty())
        throw bad();
    return out;
}

std::string Url::place() const { return port == (scheme == "https" ? "443" : "80") ? host : host + ":" + port; }

bool is_in_no_proxy(const std::string& list, const Url& url) {
    const sockaddr_storage address = address_of(url.host);
    for (std::size_t at = 0; at < list.size();) {
        const std::size_t end = std::min(list.find_first_of(", \t", at), list.size());
        std::string entry = list.substr(at, end - at);
        at = end + 1;
        std::transform(entry.begin(), entry.end(), entry.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
        if (entry == "*")
            return true;
        if (address.ss_family != AF_UNSPEC && is_within(address, entry))
            return true;
        if (const auto colon = entry.rfind(':'); colon != std::string::npos && entry.substr(colon + 1) == url.port)
            entry.resize(colon);
        if (entry.starts_with("*."))
            entry.erase(0, 1);
        if (entry.empty() || entry == ".")
            continue;
        if (entry == url.host || (entry.front() == '.' ? url.host.ends_with(entry) || url.host == entry.substr(1) : url.host.ends_with("." + entry)))
            return true;
    }
    return false;
}

std::string HttpResponse::header(const std::string& name) const {
    const auto found = headers.find(name);
    return found == headers.end() ? std::string() : found->second;
}

class Http::Impl {
public:
    explicit Impl(HttpOptions given) : options(std::move(given)), curl_(curl_easy_init()) {
        if (!curl_)
            throw Error(ErrorCode::internal, "libcurl does not start");
    }
    ~Impl() { curl_easy_cleanup(curl_); }
    Impl(const Impl&) = delete;
    Impl& operator=(const Impl&) = delete;

    HttpResponse send(const Url& url, const HostPolicy& policy, const HttpRequest& request, std::size_t limit, const Receiver& receiver) {
        response_ = {};
        response_.url = url.text;
        header_bytes_ = 0;
        head_ended_ = false;
        limit_ = limit;
        receiver_ = &receiver;
        policy_ = &policy;
        refused_address_.clear();
        failure_ = nullptr;
        broken_off_ = false;
        char error_text[CURL_ERROR_SIZE] = "";
        const std::string proxy = is_in_no_proxy(options.no_proxy, url) ? "" : url.scheme == "https" ? options.https_proxy : options.http_proxy;
        proxied_ = !proxy.empty();
        if (proxied_ && !policy.allow_private && names_private_address(url.host))
            throw not_public(url, url.host);

        curl_easy_reset(curl_);  // keeps the connections
        set_option(curl_, CURLOPT_URL, url.text.c_str());
        set_option(curl_, CURLOPT_PROTOCOLS_STR, url.scheme.c_str());
        set_option(curl_, CURLOPT_FOLLOWLOCATION, 0L);
        set_option(curl_, CURLOPT_NOSIGNAL, 1L);
        set_option(curl_, CURLOPT_PROXY, proxy.c_str());  // "" also shuts out the environment's
        set_option(curl_, CURLOPT_NOPROXY, "");
        set_option(curl_, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
        set_option(curl_, CURLOPT_NETRC, static_cast<long>(CURL_NETRC_IGNORED));
        set_option(curl_, CURLOPT_CONNECTTIMEOUT, options.connect_seconds);
        set_option(curl_, CURLOPT_LOW_SPEED_LIMIT, options.low_speed_bytes);
        set_option(curl_, CURLOPT_LOW_SPEED_TIME, options.low_speed_seconds);
        if (!receiver)
            set_option(curl_, CURLOPT_TIMEOUT, options.document_seconds);
        set_option(curl_, CURLOPT_USERAGENT, "pyro/" PYRO_VERSION);
        set_option(curl_, CURLOPT_ERRORBUFFER, static_cast<char*>(error_text));
        curl_easy_setopt(curl_, CURLOPT_BUFFERSIZE, 256L << 10);  // a wish: after a failed transfer libcurl may keep its old one
        set_option(curl_, CURLOPT_HEADERFUNCTION, &Impl::on_header);
        set_option(curl_, CURLOPT_HEADERDATA, this);
        set_option(curl_, CURLOPT_WRITEFUNCTION, &Impl::on_body);
        set_option(curl_, CURLOPT_WRITEDATA, this);
        set_option(curl_, CURLOPT_OPENSOCKETFUNCTION, &Impl::on_socket);
        set_option(curl_, CURLOPT_OPENSOCKETDATA, this);
        if (options.cancelled) {
            set_option(curl_, CURLOPT_NOPROGRESS, 0L);
            set_option(curl_, CURLOPT_XFERINFOFUNCTION, &Impl::on_progress);
            set_option(curl_, CURLOPT_XFERINFODATA, this);
        }
        if (request.form) {
            set_option(curl_, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request.form->size()));
            set_option(curl_, CURLOPT_POSTFIELDS, request.form->c_str());
        }
        curl_blob ca{const_cast<char*>(policy.ca_pem.data()), policy.ca_pem.size(), CURL_BLOB_NOCOPY};
        if (!policy.ca_pem.empty())
            set_option(curl_, CURLOPT_CAINFO_BLOB, &ca);
        curl_slist* raw = nullptr;
        for (const std::string& header : request.headers)
            raw = curl_slist_append(raw, header.c_str());
        const std::unique_ptr<curl_slist, void (*)(curl_slist*)> list(raw, curl_slist_free_all);
        set_option(curl_, CURLOPT_HTTPHEADER, list.get());

        const CURLcode code = curl_easy_perform(curl_);
        if (failure_)
            std::rethrow_exception(failure_);
        curl_easy_getinfo(curl_, CURLINFO_RESPONSE_CODE, &response_.status);
        if ((code == CURLE_OK || broken_off_) && head_ended_)
            return std::move(response_);
        if (code == CURLE_OK)  // to libcurl an answer whose head breaks off is one without a body
            throw TransferFailed{url.place() + ": the answer breaks off in its headers"};

        if (!refused_address_.empty() && response_.status == 0)
            throw not_public(url, refused_address_);
        const std::string reason = error_text[0] ? error_text : curl_easy_strerror(code);
        switch (code) {
            case CURLE_PEER_FAILED_VERIFICATION:
            case CURLE_SSL_CACERT_BADFILE:
                throw Error(ErrorCode::failed_precondition, url.place() + " has no certificate that this machine trusts: " + reason,
                            "set ca_file for the registry in pyrod.toml, or install its certificate authority");
            case CURLE_COULDNT_RESOLVE_HOST:
            case CURLE_COULDNT_RESOLVE_PROXY:
            case CURLE_COULDNT_CONNECT:
                throw TransferFailed{url.place() + ": " + reason, true};
            case CURLE_OPERATION_TIMEDOUT:
                throw TransferFailed{url.place() + ": " + reason, response_.status == 0};
            default:
                throw TransferFailed{url.place() + ": " + reason, false};
        }
    }

    HttpOptions options;

private:
    static Error not_public(const Url& url, const std::string& address) {
        return Error(ErrorCode::network_denied, url.place() + " has the address " + address + ", which is not a public one",
                     "if this is your own registry, allow it in pyrod.toml: [registry.\"" + url.place() + "\"] allow_private = true");
    }

    static int on_progress(void* self_pointer, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
        return *static_cast<Impl*>(self_pointer)->options.cancelled ? 1 : 0;
    }

    static std::size_t on_header(char* data, std::size_t size, std::size_t count, void* self_pointer) {
        auto* self = static_cast<Impl*>(self_pointer);
        const std::string_view line(data, size * count);
        self->header_bytes_ += line.size();
        if (self->header_bytes_ > max_header_bytes)
            return 0;
        self->head_ended_ = line == "\r\n" || line == "\n";
        if (line.starts_with("HTTP/")) {  // a further head: after 100 Continue
            self->response_.headers.clear();
            return line.size();
        }
        if (const auto colon = line.find(':'); colon != std::string_view::npos) {
            std::string name(line.substr(0, colon));
            std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
            std::string_view value = line.substr(colon + 1);
            while (!value.empty() && (value.front() == ' ' || value.front() == '\t'))
                value.remove_prefix(1);
            while (!value.empty() && static_cast<unsigned char>(value.back()) <= ' ')
                value.remove_suffix(1);
            self->response_.headers.emplace(std::move(name), value);
        }
        return line.size();
    }

    static std::size_t on_body(char* data, std::size_t size, std::size_t count, void* self_pointer) {
        auto* self = static_cast<Impl*>(self_pointer);
        const std::string_view bytes(data, size * count);
        HttpResponse& response = self->response_;
        if (response.status == 0)
            curl_easy_getinfo(self->curl_, CURLINFO_RESPONSE_CODE, &response.status);
        try {
            const bool good = response.status == 200 || response.status == 206;
            if (good && *self->receiver_) {
                (*self->receiver_)(response, bytes);
                return bytes.size();
            }
            if (good && response.body.size() + bytes.size() > self->limit_)
                throw Error(ErrorCode::environment_invalid, "the registry's answer is larger than " + std::to_string(self->limit_) + " bytes",
                            "the registry is broken or hostile");
            if (!good && response.body.size() + bytes.size() > max_error_body) {
                self->broken_off_ = true;
                return 0;
            }
            response.body.append(bytes);
            return bytes.size();
        } catch (...) {
            self->failure_ = std::current_exception();
            return 0;
        }
    }

    // After name resolution and before the connection: the one place where an address can be refused for good.
    static curl_socket_t on_socket(void* self_pointer, curlsocktype, curl_sockaddr* address) {
        auto* self = static_cast<Impl*>(self_pointer);
        if (!self->policy_->allow_private && !self->proxied_ && !is_public_address(&address->addr)) {
            self->refused_address_ = address_text(&address->addr);
            return CURL_SOCKET_BAD;
        }
        return ::socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
    }

    CURL* curl_;
    HttpResponse response_;
    std::size_t header_bytes_ = 0, limit_ = 0;
    const Receiver* receiver_ = nullptr;
    const HostPolicy* policy_ = nullptr;
    std::string refused_address_;
    std::exception_ptr failure_;
    bool broken_off_ = false;  // an error's text goes on for too long
    bool proxied_ = false;
    bool head_ended_ = false;
};

Http::Http(HttpOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
Http::~Http() = default;
Http::Http(Http&&) noexcept = default;

HttpResponse Http::send(const Url& url, const HttpRequest& request, std::size_t limit, const Receiver& receiver) {
    static const HostPolicy closed;
    const auto& hosts = impl_->options.hosts;
    auto found = hosts.find(url.host + ":" + url.port);
    if (found == hosts.end())
        found = hosts.find(url.host);
    if (found == hosts.end() && request.trusted && request.trusted->host == url.host)
        found = hosts.find(request.trusted->host + ":" + request.trusted->port);
    const HostPolicy& allowed = found == hosts.end() ? closed : found->second;
    if (url.scheme == "http" && !allowed.plain_http)
        throw Error(ErrorCode::network_denied, url.place() + " would be asked without encryption",
                    "if that is meant, allow it in pyrod.toml: [registry.\"" + url.place() + "\"] plain_http = true");
    return impl_->send(url, allowed, request, limit, receiver);
}

}  // namespace pyro::image
