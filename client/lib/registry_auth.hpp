// The user's own credentials for registries, as docker and podman keep them. Read on his side, where he is refused without.
#pragma once
#include "client/lib/connection.hpp"
#include "common/image_ref.hpp"
#include "proto/env.hpp"

#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pyro::client {

// What one file says, with keys as references begin: "docker.io", "quay.io/team".
struct AuthFile {
    struct Login {
        std::string username, password, identity_token;
    };
    std::map<std::string, Login> logins;         // those that hold something
    std::map<std::string, std::string> helpers;  // of credHelpers: the programs' names without docker-credential-
    std::string store;                           // of credsStore: for all others
};
// Throws failed_precondition for what is no such file.
AuthFile parse_auth_file(std::string_view text, const std::string& path);

using Environment = std::function<const char*(const char*)>;
// ${REGISTRY_AUTH_FILE} alone where it is set; else podman's files and then docker's.
std::vector<std::string> auth_file_paths(const Environment& environment);

// Of the first file that knows the repository, the registry, or anything between: the longest name wins. A helper program that
// fails, or does not answer in `patience`, is an error that names it. `options` are those of the call this is for: what ends it
// ends this too.
std::optional<proto::RegistryCredentials> find_registry_credentials(const ImageRef& reference, const std::vector<std::string>& files,
                                                                    const CallOptions& options = {},
                                                                    std::chrono::milliseconds patience = std::chrono::minutes(1));

}  // namespace pyro::client
