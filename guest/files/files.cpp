#include "guest/files/files.hpp"

#include "guest/files/beneath.hpp"
#include "guest/files/operations.hpp"

#include <algorithm>
#include <charconv>
#include <csignal>
#include <exception>
#include <fcntl.h>
#include <map>
#include <new>
#include <sys/stat.h>
#include <unistd.h>

namespace pyro::guest::files {
namespace {

[[noreturn]] void misuse(std::string why) { throw Error(ErrorCode::invalid_argument, "pyro-guest files: " + std::move(why), "guest/files/files.hpp has the usage"); }

struct Operation {
    std::string_view name;
    std::string_view flags;    // separated by spaces, without values
    std::string_view options;  // with
    std::size_t least, most;   // paths
};

constexpr Operation operations[] = {
    {"list", "--recursive", "--root --limit --after", 1, 1},
    {"stat", "", "--root", 1, 1},
    {"read", "", "--root --offset --limit", 1, 1},
    {"write", "--parents --create --replace", "--root --mode --length --owner", 1, 1},
    {"remove", "--recursive", "--root", 1, 1},
    {"unpack", "--replace-all", "--root --dest --staging --owner", 0, 0},
    {"apply", "", "--root --staging --owner", 0, 0},
    {"recover", "", "--root --staging", 0, 0},
    {"pack", "", "--root", 1, 100'000},
    {"diff", "--verify", "--root --upper --lower --max-bytes", 0, 100'000},
};

bool among(std::string_view words, std::string_view word) {
    while (!words.empty()) {
        const std::string_view first = words.substr(0, words.find(' '));
        if (first == word) return true;
        words.remove_prefix(std::min(words.size(), first.size() + 1));
    }
    return false;
}

class Arguments {
public:
    Arguments(int count, char** arguments) {
        if (count == 0) misuse("which operation?");
        const std::string_view name = arguments[0];
        const auto found = std::find_if(std::begin(operations), std::end(operations), [&](const Operation& one) { return one.name == name; });
        if (found == std::end(operations)) misuse("no operation " + quoted(name));
        operation = found->name;
        bool only_paths = false;
        for (int i = 1; i < count; ++i) {
            const std::string_view word = arguments[i];
            if (only_paths || !word.starts_with("--")) paths.emplace_back(word);
            else if (word == "--") only_paths = true;
            else if (values_.contains(word)) misuse("twice " + quoted(word));
            else if (among(found->flags, word)) values_[word] = "";
            else if (among(found->options, word) && i + 1 < count) values_[word] = arguments[++i];
            else misuse(quoted(word) + " of " + std::string(name) + ": unknown, or without its value");
        }
        if (paths.size() < found->least || paths.size() > found->most) misuse("too many or too few paths");
    }

    bool has(std::string_view flag) const { return values_.contains(flag); }
    std::string text(std::string_view option, const char* otherwise) const { return has(option) ? values_.at(option) : otherwise; }
    std::optional<std::uint64_t> number(std::string_view option, int base = 10) const {
        if (!has(option)) return std::nullopt;
        return number_of(option, values_.at(option), base);
    }
    std::optional<Owner> owner() const {
        if (!has("--owner")) return std::nullopt;
        const std::string_view text = values_.at("--owner");
        const std::size_t colon = text.find(':');
        if (colon == std::string_view::npos) misuse("--owner is UID:GID");
        const std::uint64_t uid = number_of("--owner", text.substr(0, colon), 10), gid = number_of("--owner", text.substr(colon + 1), 10);
        // All ones means "as it is" to chown.
        if (uid >= UINT32_MAX || gid >= UINT32_MAX) misuse("--owner " + quoted(text) + " is none");
        return Owner{static_cast<uid_t>(uid), static_cast<gid_t>(gid)};
    }

    std::string_view operation;
    std::vector<std::string> paths;

private:
    static std::uint64_t number_of(std::string_view option, std::string_view text, int base) {
        std::uint64_t value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
        if (error != std::errc() || end != text.data() + text.size()) misuse(std::string(option) + " " + quoted(text) + " is no number");
        return value;
    }
    std::map<std::string_view, std::string> values_;
};

void perform(const Arguments& arguments) {
    const std::string root_name = arguments.text("--root", "/workspace");
    const UniqueFd root(::open(root_name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!root) fail("open the root", root_name, errno);
    const auto normal = [&](const std::string& path) { return normal_path(path, root_name); };
    std::vector<std::string> paths;
    for (const std::string& path : arguments.paths) paths.push_back(normal(path));

    const std::string_view operation = arguments.operation;
    if (operation == "list") {
        const std::string after = arguments.text("--after", "");
        list(root, paths[0], ListOptions{arguments.has("--recursive"), arguments.number("--limit"), after.empty() ? after : normal(after)});
    } else if (operation == "stat") {
        stat_one(root, paths[0]);
    } else if (operation == "read") {
        read(root, paths[0], ReadOptions{arguments.number("--offset").value_or(0), arguments.number("--limit")});
    } else if (operation == "write") {
        WriteOptions options;
        if (const auto mode = arguments.number("--mode", 8)) options.mode = static_cast<unsigned>(std::min<std::uint64_t>(*mode, 010000));
        if (options.mode && *options.mode > 0777) misuse("--mode is at most 777");
        options.parents = arguments.has("--parents");
        options.must_create = arguments.has("--create");
        options.must_replace = arguments.has("--replace");
        if (options.must_create && options.must_replace) misuse("--create and --replace exclude each other");
        options.length = arguments.number("--length");
        options.owner = arguments.owner();
        write(root, paths[0], options);
    } else if (operation == "remove") {
        remove(root, paths[0], arguments.has("--recursive"));
    } else if (operation == "unpack") {
        unpack(root, UnpackOptions{normal(arguments.text("--dest", ".")), arguments.has("--replace-all"), arguments.text("--staging", ""), arguments.owner()});
    } else if (operation == "apply") {
        apply(root, ApplyOptions{arguments.text("--staging", ""), arguments.owner()});
    } else if (operation == "diff") {
        DiffOptions options;
        options.upper = arguments.text("--upper", "");
        options.lower = arguments.text("--lower", "");
        if (options.upper.empty() || options.lower.empty()) misuse("diff needs --upper and --lower");
        options.verify = arguments.has("--verify");
        if (const auto most = arguments.number("--max-bytes")) options.max_bytes = std::min<std::uint64_t>(*most, proto::files::max_patch_bytes);
        options.paths = std::move(paths);
        diff(root, options);
    } else if (operation == "recover") {
        recover(root, arguments.text("--staging", ""));
    } else {
        pack(root, std::move(paths));
    }
}

int report(const Error& error) {
    const std::string bytes = proto::files::encode_failure(error);
    static_cast<void>(!::write(STDERR_FILENO, bytes.data(), bytes.size()));
    return 1;
}

}  // namespace

int run(int count, char** arguments) {
    ::umask(0);
    // An error of the write says it; a signal would leave things behind.
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGXFSZ, SIG_IGN);
    try {
        perform(Arguments(count, arguments));
        return 0;
    } catch (const Error& error) {
        return report(error);
    } catch (const std::bad_alloc&) {
        return report(Error(ErrorCode::quota_exceeded, "the guest is out of memory", "end processes in the workspace, or give it more memory"));
    } catch (const std::exception& error) {
        return report(Error(ErrorCode::internal, error.what()));
    }
}

}  // namespace pyro::guest::files
