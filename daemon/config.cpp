#include "daemon/config.hpp"

#include "common/error.hpp"
#include "common/unique_fd.hpp"

#include <algorithm>
#include <array>
#include <functional>
#include <iterator>
#include <set>
#include <sstream>

#include <fcntl.h>
#include <sys/stat.h>
#include <toml++/toml.h>

namespace pyro {

namespace {

constexpr std::size_t config_bytes = 1 << 20;

// One table of the file: takes out what is known, and complains about what is left.
class Section {
public:
    Section(toml::table& table, std::string where, const std::string& file) : table_(table), where_(std::move(where)), file_(file) {}

    void read(const char* key, std::string& into) { take<std::string>(key, "a string", into); }
    void read(const char* key, bool& into) { take<bool>(key, "true or false", into); }
    void read(const char* key, std::int64_t& into, std::int64_t min = 0, std::int64_t max = INT64_MAX) {
        take<std::int64_t>(key, "an integer", into);
        if (into < min || into > max) refuse(key, "must be between " + std::to_string(min) + " and " + std::to_string(max));
    }
    void read(const char* key, std::vector<std::string>& into) {
        toml::node* node = table_.get(key);
        if (!node) return;
        toml::array* array = node->as_array();
        if (!array || !array->is_homogeneous<std::string>()) refuse(key, "must be a list of strings");
        into.clear();
        for (auto& item : *array) into.push_back(**item.as_string());
        table_.erase(key);
    }
    void section(const char* key, const std::function<void(Section&)>& body) {
        toml::node* node = table_.get(key);
        if (!node) return;
        if (!node->is_table()) refuse(key, "must be a table");
        Section inner(*node->as_table(), path(key), file_);
        body(inner);
        inner.finish();
        table_.erase(key);
    }
    // Every key of this table, whatever it is called.
    void each_section(const std::function<void(const std::string&, Section&)>& body) {
        for (const std::string& key : keys()) section(key.c_str(), [&](Section& inner) { body(key, inner); });
    }
    void each_string(const std::function<void(const std::string&, std::string)>& body) {
        for (const std::string& key : keys()) {
            std::string value;
            read(key.c_str(), value);
            body(key, std::move(value));
        }
    }
    [[noreturn]] void refuse(const char* key, const std::string& why) {
        throw Error(ErrorCode::invalid_argument, file_ + ": " + path(key) + " " + why, "correct the configuration and start pyrod again");
    }
    void finish() {
        if (!table_.empty()) refuse(std::string(table_.begin()->first.str()).c_str(), "is not a setting of pyrod");
    }

private:
    template <class T>
    void take(const char* key, const char* expected, T& into) {
        toml::node* node = table_.get(key);
        if (!node) return;
        auto value = node->value_exact<T>();
        if (!value) refuse(key, std::string("must be ") + expected);
        into = std::move(*value);
        table_.erase(key);
    }
    std::vector<std::string> keys() const {
        std::vector<std::string> out;
        for (const auto& [key, node] : table_) out.emplace_back(key.str());
        return out;
    }
    std::string path(const char* key) const { return where_.empty() ? key : where_ + "." + key; }

    toml::table& table_;
    std::string where_;
    const std::string& file_;
};

void flatten(const toml::table& table, const std::string& prefix, std::map<std::string, std::string>& into) {
    for (const auto& [key, node] : table) {
        const std::string path = prefix + std::string(key.str());
        if (const toml::table* inner = node.as_table()) {
            flatten(*inner, path + ".", into);
            continue;
        }
        std::ostringstream text;
        node.visit([&](const auto& value) { text << value; });
        into[path] = text.str();
    }
}

}  // namespace

Config load_config(const std::string& file) {
    Config config;
    toml::table root;
    try {
        const UniqueFd opened = open_file(file, O_RDONLY);
        struct stat info{};
        if (::fstat(opened.get(), &info) != 0) throw Error::from_errno("look at " + file);
        if (S_ISREG(info.st_mode) && (info.st_mode & S_IWOTH) != 0)
            throw Error(ErrorCode::failed_precondition, file + " may be written by anybody, and it names programs that root starts", "chmod o-w " + file);
        const std::string text = read_up_to(opened.get(), config_bytes + 1);
        if (text.size() > config_bytes) throw Error(ErrorCode::invalid_argument, file + " is larger than " + std::to_string(config_bytes) + " bytes");
        root = toml::parse(text);
    } catch (const toml::parse_error& e) {
        throw Error(ErrorCode::invalid_argument, file + ": line " + std::to_string(e.source().begin.line) + ": " + std::string(e.description()),
                    "correct the configuration and start pyrod again");
    }
    flatten(root, "", config.said);
    Section top(root, "", file);
    top.read("state_dir", config.state_dir);
    top.read("run_dir", config.run_dir);
    top.read("socket", config.socket);
    top.read("socket_group", config.socket_group);
    top.section("guest", [&](Section& s) {
        s.read("kernel", config.guest.kernel);
        s.read("initramfs", config.guest.initramfs);
        s.read("qemu", config.guest.qemu);
        s.read("qemu_files", config.guest.qemu_files);
        for (const std::string& path : config.guest.qemu_files)
            if (!path.starts_with('/')) s.refuse("qemu_files", "may name absolute paths");
        s.read("randomize_emulated", config.guest.randomize_emulated);
        s.read("uid_first", config.guest.uid_first, 1000, 4294967294);
        s.read("uid_last", config.guest.uid_last, config.guest.uid_first + 1, 4294967294 - Config::Guest::subordinate_uids);
    });
    top.section("workers", [&](Section& s) {
        s.read("image", config.workers.image);
        s.read("mmdebstrap", config.workers.mmdebstrap);
        s.read("bubblewrap", config.workers.bubblewrap);
    });
    top.section("limits", [&](Section& s) {
        s.read("vms", config.limits.vms, 1, 100000);
        s.read("vms_per_user", config.limits.vms_per_user, 1, 100000);
        s.read("workspaces_per_user", config.limits.workspaces_per_user, 1, 100000);
        s.read("mem_mib", config.limits.mem_mib);
        s.read("mem_mib_per_user", config.limits.mem_mib_per_user);
        s.read("vm_io_mib_per_second", config.limits.vm_io_mib_per_second, 0, 1 << 20);
        s.read("sessions", config.limits.sessions, 1, 100000);
        s.read("sessions_per_user", config.limits.sessions_per_user, 1, 100000);
        s.read("requests_per_session", config.limits.requests_per_session, 1, 10000);
        s.read("pulls", config.limits.pulls, 1, 64);
    });
    top.section("environments", [&](Section& s) {
        s.read("sources", config.environments.sources);
        for (const std::string& source : config.environments.sources)
            if (source != "registry" && source != "debian-archive") s.refuse("sources", "may name registry and debian-archive");
        s.read("disk_mib", config.environments.disk_mib, 0, 1 << 24);
        s.read("max_image_mib", config.environments.max_image_mib, 1, 1 << 20);
        s.read("proxy", config.environments.proxy);
        s.read("no_proxy", config.environments.no_proxy);
    });
    top.section("mirror", [&](Section& s) { s.each_string([&](const std::string& host, std::string to) { config.mirror[host] = std::move(to); }); });
    top.section("registry", [&](Section& s) {
        s.each_section([&](const std::string& host, Section& r) {
            Config::Registry& registry = config.registries[host];
            r.read("plain_http", registry.plain_http);
            r.read("allow_private", registry.allow_private);
            r.read("ca_file", registry.ca_file);
        });
    });
    top.section("workspaces", [&](Section& s) {
        s.read("journal_mib", config.workspaces.journal_mib, 4, 1 << 14);
        s.read("unused_seeds_mib", config.workspaces.unused_seeds_mib, 0, 1 << 24);
    });
    top.section("templates", [&](Section& s) {
        s.read("enabled", config.templates.enabled);
        s.read("after_pull", config.templates.after_pull);
        s.read("memory_mib", config.templates.memory_mib, 64, 1 << 24);
        s.read("disk_mib", config.templates.disk_mib, 64, 1 << 24);
    });
    top.section("spares", [&](Section& s) {
        s.read("per_template", config.spares.per_template, 0, 1000);
        s.read("total", config.spares.total, 0, 10000);
        s.read("keep_seconds", config.spares.keep_seconds, 1, 86400);
    });
    top.section("host_compat", [&](Section& s) { s.read("allow", config.host_compat.allow); });
    top.finish();
    const std::pair<const char*, const std::string*> paths[] = {
        {"state_dir", &config.state_dir}, {"run_dir", &config.run_dir}, {"socket", &config.socket}, {"guest.kernel", &config.guest.kernel},
        {"guest.initramfs", &config.guest.initramfs}, {"guest.qemu", &config.guest.qemu}, {"workers.image", &config.workers.image},
        {"workers.mmdebstrap", &config.workers.mmdebstrap}, {"workers.bubblewrap", &config.workers.bubblewrap}};
    for (const auto& [key, path] : paths)
        if (!path->starts_with('/')) top.refuse(key, "must be an absolute path");
    return config;
}

std::vector<std::string> changed_keys(const Config& before, const Config& after) {
    std::set<std::pair<std::string, std::string>> either;
    std::ranges::set_symmetric_difference(before.said, after.said, std::inserter(either, either.end()));
    std::set<std::string> keys;
    for (const auto& [key, value] : either) keys.insert(key);
    return {keys.begin(), keys.end()};
}

bool applies_at_once(const std::string& key) {
    static const std::set<std::string> keys{"limits.vms", "limits.vms_per_user", "limits.workspaces_per_user", "limits.mem_mib",
                                            "limits.mem_mib_per_user", "host_compat.allow"};
    const bool of_a_table = std::ranges::any_of(std::array{"mirror.", "registry.", "spares."}, [&](const char* prefix) { return key.starts_with(prefix); });
    return of_a_table || keys.contains(key);
}

}  // namespace pyro
