#include "client/cli/workspace.hpp"
#include "tests/support/catch.hpp"

#include <thread>

using namespace pyro;
using namespace pyro::client;

TEST_CASE("what is encoded in base64 can be decoded") {
    CHECK(encode_base64("") == "");
    CHECK(encode_base64("f") == "Zg==");
    CHECK(encode_base64("fo") == "Zm8=");
    CHECK(encode_base64("foo") == "Zm9v");
    CHECK(encode_base64("foob") == "Zm9vYg==");
    CHECK(encode_base64(std::string("\x00\xff\xfe", 3)) == "AP/+");
}

TEST_CASE("files are listed as ls lists them") {
    proto::FileEntry entry;
    entry.path = "a\x1b";
    entry.size = 7;
    const auto first = [&](proto::FileKind kind, const char* mode) {
        entry.kind = kind;
        entry.mode = mode;
        return entry_rows({entry}).substr(0, 10);
    };
    CHECK(first(proto::FileKind::file, "0644") == "-rw-r--r--");
    CHECK(first(proto::FileKind::file, "4755") == "-rwsr-xr-x");
    CHECK(first(proto::FileKind::file, "2644") == "-rw-r-Sr--");
    CHECK(first(proto::FileKind::directory, "1777") == "drwxrwxrwt");
    CHECK(first(proto::FileKind::directory, "1770") == "drwxrwx--T");
    CHECK(first(proto::FileKind::symlink, "0777") == "lrwxrwxrwx");
    CHECK(first(proto::FileKind::other, "nonsense") == "?---------");
    CHECK(entry_rows({entry}).find("a\\x1b\n") != std::string::npos);
    CHECK(entry_rows({}).empty());
}

TEST_CASE("changes are told in lines, with why the patch lacks them") {
    proto::FileChange renamed;
    renamed.kind = proto::ChangeKind::renamed;
    renamed.old_path = "a\n";
    renamed.path = "b";
    proto::FileChange big;
    big.kind = proto::ChangeKind::added;
    big.path = "c";
    big.note = "larger than 1 MiB";
    CHECK(change_lines({renamed, big}, 0) == "renamed   a\\x0a => b\nadded     c  (not in the patch: larger than 1 MiB)\n");
    CHECK(change_lines({}, 2) == "and 2 more\n");
    CHECK(change_lines({}, 0).empty());
}

TEST_CASE("rejections are told line by line") {
    CHECK(rejection_text(Error(ErrorCode::internal, "x")).empty());
    CHECK(rejection_text(Error(ErrorCode::internal, "x").with_detail("rejections", "")).empty());
    CHECK(rejection_text(Error(ErrorCode::internal, "x").with_detail("rejections", "f: gone\n    a\x1b\nno end")) == "pyro: f: gone\npyro:     a\\x1b\npyro: no end\n");
}

TEST_CASE("ages are for people") {
    CHECK(age(-5) == "just now");
    CHECK(age(1) == "just now");
    CHECK(age(59) == "59 seconds ago");
    CHECK(age(60) == "1 minute ago");
    CHECK(age(7200) == "2 hours ago");
    CHECK(age(86400 * 400) == "400 days ago");
}

TEST_CASE("tables hold what commands and names there are") {
    proto::ExecInfo exec;
    exec.exec_id = "e1";
    exec.state = proto::ExecState::running;
    exec.argv = {"sh", "-c", std::string(200, 'x') + "\x1b"};
    const std::string table = exec_table({exec}, 100, {});
    CHECK(table.find("running  -      -") != std::string::npos);
    CHECK(table.find('\x1b') == std::string::npos);
    CHECK(table.find("xxx...\n") != std::string::npos);
    CHECK(exec_footer(exec) == "[exec] workspace= exec=e1 state=running\n");
    CHECK(workspace_table({}, 0, {}) == "WORKSPACE  NAME  STATE  ENVIRONMENT  LAST ACTIVITY\n");
}

TEST_CASE("a list of what was left out is short, and says that it is") {
    seed::Packed packed;
    for (int i = 0; i < 12; ++i) packed.skipped.push_back({"p\n" + std::to_string(i), "deleted"});
    packed.skipped_count = 500;
    const std::string lines = skipped_lines(packed);
    CHECK(std::count(lines.begin(), lines.end(), '\n') == 11);
    CHECK(lines.starts_with("pyro: left out p\\x0a0: deleted\n"));
    CHECK(lines.ends_with("pyro: left out 490 more; --json names them\n"));
}
