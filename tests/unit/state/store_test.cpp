#include "daemon/state/database.hpp"
#include "daemon/state/schema.hpp"
#include "daemon/state/store.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/run_coro.hpp"

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <map>

#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace pyro;
using namespace pyro::state;
using test::run_coro;

namespace {

struct Directories {
    Directories() {
        std::string pattern = (std::filesystem::temp_directory_path() / "pyro-state-XXXXXX").string();
        REQUIRE(::mkdtemp(pattern.data()));
        base = pattern;
        std::filesystem::create_directory(base + "/state");
        std::filesystem::create_directory(base + "/run");
    }
    ~Directories() { std::filesystem::remove_all(base); }
    Store::Paths paths() const { return Store::Paths{base + "/state", base + "/run"}; }
    std::string database() const { return base + "/state/pyro.db"; }
    std::string base;
};

MachineRow machine(std::string id, uid_t owner) {
    MachineRow row;
    row.id = std::move(id);
    row.owner_uid = owner;
    row.environment = "debian:12";
    row.environment_digest = "sha256:abc";
    row.created_at = 100;
    return row;
}

EnvironmentRow environment(std::string digest, uid_t owner, bool is_public) {
    EnvironmentRow row;
    row.digest = std::move(digest);
    row.owner_uid = owner;
    row.is_public = is_public;
    row.source = "docker.io/library/debian";
    row.created_at = 100;
    row.last_used_at = 100;
    return row;
}

ReferenceRow reference(std::string name, std::string digest, uid_t owner, std::int64_t at = 100) {
    return ReferenceRow{owner, std::move(name), std::move(digest), at};
}

std::map<std::string, std::string> contents(const std::string& directory) {
    std::map<std::string, std::string> files;
    for (const auto& entry : std::filesystem::directory_iterator(directory)) files[entry.path()] = read_file(entry.path());
    return files;
}

ErrorCode code_of_opening(const Store::Paths& paths) {
    try {
        Store store(paths);
    } catch (const Error& e) {
        return e.code();
    }
    FAIL("the store opened");
    return ErrorCode::internal;
}

constexpr Viewer alice{1000};
constexpr Viewer bob{1001};
constexpr Viewer admin{0, true};

}  // namespace

TEST_CASE("a machine row survives the store with every field") {
    Directories directories;
    MachineRow row = machine("vm-1", 1000);
    row.kind = MachineKind::vm;
    row.state = MachineState::running;
    row.vcpu_count = 2;
    row.mem_mib = 2048;
    row.disk_gib = 16;
    row.network = true;
    row.allow_host_compat = true;
    row.execution_mode = "guest_tcg";
    row.expires_at = 700;
    row.vm_uid = 2000001;
    row.process = ProcessRecord{4242, 9876543210, "boot"};
    row.failure = std::string("with\0nul and 'quotes'", 21);
    {
        Store store(directories.paths());
        store.insert_machine(machine("vm-1", 1000));
        store.update_machine(row);
    }
    Store store(directories.paths());
    const auto found = store.find_machine(alice, "vm-1");
    REQUIRE(found);
    REQUIRE(found->kind == MachineKind::vm);
    REQUIRE(found->state == MachineState::running);
    REQUIRE(found->environment == "debian:12");
    REQUIRE(found->environment_digest == "sha256:abc");
    REQUIRE(found->vcpu_count == 2);
    REQUIRE(found->mem_mib == 2048);
    REQUIRE(found->disk_gib == 16);
    REQUIRE(found->network);
    REQUIRE(found->allow_host_compat);
    REQUIRE(found->execution_mode == "guest_tcg");
    REQUIRE(found->created_at == 100);
    REQUIRE(found->expires_at == 700);
    REQUIRE(found->vm_uid == 2000001);
    REQUIRE(found->process.pid == 4242);
    REQUIRE(found->process.start_time == 9876543210);
    REQUIRE(found->process.boot_id == "boot");
    REQUIRE(found->failure == row.failure);
}

TEST_CASE("the record of a spare becomes a machine's, whoever owns it, and no other record does") {
    Directories directories;
    Store store(directories.paths());
    MachineRow spare = machine("s", 0);
    spare.kind = MachineKind::spare;
    store.insert_machine(spare);
    MachineRow taken = machine("s", 1000);
    taken.kind = MachineKind::workspace;
    store.take_spare(taken);
    REQUIRE(store.find_machine(alice, "s")->kind == MachineKind::workspace);
    for (const char* id : {"s", "none"}) {
        MachineRow other = machine(id, 1001);
        other.kind = MachineKind::workspace;
        bool refused = false;
        try { store.take_spare(other); } catch (const Error& e) { refused = e.code() == ErrorCode::not_found; }
        REQUIRE(refused);
    }
    REQUIRE(store.find_machine(alice, "s"));
}

TEST_CASE("another user's machine is not found, not listed and not changed") {
    Directories directories;
    Store store(directories.paths());
    store.insert_machine(machine("a", 1000));
    store.insert_machine(machine("b", 1001));
    REQUIRE(store.find_machine(alice, "a"));
    REQUIRE_FALSE(store.find_machine(bob, "a"));
    REQUIRE(store.find_machine(admin, "a"));
    REQUIRE(store.list_machines(alice).size() == 1);
    REQUIRE(store.list_machines(bob).at(0).id == "b");
    REQUIRE(store.list_machines(admin).size() == 2);
    REQUIRE(store.all_machines().size() == 2);
    MachineRow stolen = machine("a", 1001);
    REQUIRE_THROWS_AS(store.update_machine(stolen), Error);
    REQUIRE(store.find_machine(alice, "a"));
    REQUIRE_THROWS_AS(store.insert_machine(machine("a", 1001)), Error);
    store.set_machine_state("a", MachineState::failed, "it broke");
    store.set_machine_process("a", ProcessRecord{7, 8, "now"});
    REQUIRE(store.find_machine(alice, "a")->state == MachineState::failed);
    REQUIRE(store.find_machine(alice, "a")->failure == "it broke");
    REQUIRE(store.find_machine(alice, "a")->process.pid == 7);
    REQUIRE(store.remove_machine("a"));
    REQUIRE_FALSE(store.remove_machine("a"));
    REQUIRE_THROWS_AS(store.set_machine_state("a", MachineState::stopped), Error);
    REQUIRE_FALSE(store.write_failure());
}

TEST_CASE("leased uids are distinct, fresh ones first, then the one released longest ago") {
    Directories directories;
    Store store(directories.paths());
    REQUIRE(store.lease_uid(1000, "m0", 10, 13) == 10);
    REQUIRE(store.lease_uid(1000, "m1", 10, 13) == 11);
    store.release_uid(11);
    store.release_uid(10);
    REQUIRE(store.lease_uid(1000, "m2", 10, 13, [](uid_t uid) { return uid != 12; }) == 13);
    REQUIRE(store.lease_uid(1000, "m3", 10, 13) == 11);
    REQUIRE(store.lease_uid(1000, "m4", 10, 13) == 10);
    REQUIRE(store.lease_uid(1000, "m5", 10, 13) == 12);  // passed over before
    try {
        store.lease_uid(1000, "m6", 10, 13);
        FAIL("a fifth of four");
    } catch (const Error& e) {
        REQUIRE(e.code() == ErrorCode::quota_exceeded);
    }
    REQUIRE_FALSE(store.write_failure());  // full is not broken
}

TEST_CASE("public environments are seen by all, others by their owner") {
    Directories directories;
    Store store(directories.paths());
    run_coro([&]() -> io::Task<void> {
        EnvironmentRow shared = environment("sha256:public", 1000, true);
        ReferenceRow shared_name = reference("debian:12", "sha256:public", 1000);
        EnvironmentRow secret = environment("sha256:private", 1000, false);
        ReferenceRow secret_name = reference("corp/app", "sha256:private", 1000);
        co_await store.upsert_environment(shared, shared_name);
        co_await store.upsert_environment(secret, secret_name);
        REQUIRE(store.find_environment(bob, "sha256:public"));
        REQUIRE_FALSE(store.find_environment(bob, "sha256:private"));
        REQUIRE(store.find_environment(alice, "sha256:private"));
        REQUIRE(store.find_environment(admin, "sha256:private"));
        REQUIRE(store.find_environment_by_reference(bob, "debian:12")->digest == "sha256:public");
        REQUIRE_FALSE(store.find_environment_by_reference(bob, "corp/app"));
        REQUIRE_FALSE(store.find_environment_by_reference(admin, "corp/app"));
        REQUIRE(store.list_environments(bob).size() == 1);
        REQUIRE(store.list_environments(alice).size() == 2);
        REQUIRE(store.list_references(bob).size() == 1);
        REQUIRE(store.list_references(admin).size() == 2);

        // Bob's own meaning of a name goes before everybody's.
        EnvironmentRow own = environment("sha256:bobs", 1001, false);
        ReferenceRow own_name = reference("debian:12", "sha256:bobs", 1001, 1);
        co_await store.upsert_environment(own, own_name);
        REQUIRE(store.find_environment_by_reference(bob, "debian:12")->digest == "sha256:bobs");
        REQUIRE(store.find_environment_by_reference(alice, "debian:12")->digest == "sha256:public");

        // A name that somebody gave is nobody else's, whatever it leads to.
        ReferenceRow given = reference("@base", "sha256:public", 1000);
        co_await store.upsert_reference(given);
        REQUIRE(store.find_environment_by_reference(alice, "@base")->digest == "sha256:public");
        REQUIRE_FALSE(store.find_environment_by_reference(bob, "@base"));
        REQUIRE_FALSE(store.find_environment_by_reference(admin, "@base"));
        const auto listed = [&](Viewer viewer) { return std::ranges::count(store.list_references(viewer), std::string("@base"), &ReferenceRow::name); };
        REQUIRE(listed(alice) == 1);
        REQUIRE(listed(bob) == 0);
        REQUIRE(listed(admin) == 1);

        // Others cannot take it away; the owner's removal takes the names along.
        const std::string digest = "sha256:public";
        const bool by_bob = co_await store.remove_environment(bob, digest);
        REQUIRE_FALSE(by_bob);
        const std::string name = "debian:12";
        const bool bobs_name = co_await store.remove_reference(bob, name);
        REQUIRE(bobs_name);
        REQUIRE(store.find_environment_by_reference(bob, "debian:12")->digest == "sha256:public");
        const bool by_alice = co_await store.remove_environment(alice, digest);
        REQUIRE(by_alice);
        REQUIRE_FALSE(store.find_environment_by_reference(bob, "debian:12"));
        REQUIRE(store.all_environments().size() == 2);
    });
}

TEST_CASE("an environment once public stays public, keeps its birthday, and a name needs its environment") {
    Directories directories;
    Store store(directories.paths());
    run_coro([&]() -> io::Task<void> {
        EnvironmentRow row = environment("sha256:x", 1000, true);
        co_await store.upsert_environment(row);
        row.is_public = false;
        row.created_at = 200;
        row.last_used_at = 200;
        co_await store.upsert_environment(row);
        const auto found = store.find_environment(bob, "sha256:x");
        REQUIRE(found);
        REQUIRE(found->created_at == 100);
        REQUIRE(found->last_used_at == 200);
        ErrorCode code = ErrorCode::internal;
        ReferenceRow dangling = reference("name", "sha256:nothing", 1000);
        auto naming = store.upsert_reference(dangling);
        try {
            co_await std::move(naming);
        } catch (const Error& e) {
            code = e.code();
        }
        REQUIRE(code == ErrorCode::not_found);
        REQUIRE_FALSE(store.write_failure());
        const std::string digest = "sha256:x";
        co_await store.touch_environment(1000, digest, 300);  // within the hour: not written
        REQUIRE(store.find_environment(alice, "sha256:x")->last_used_at == 200);
        co_await store.touch_environment(1000, digest, 4000);
        REQUIRE(store.find_environment(alice, "sha256:x")->last_used_at == 4000);
    });
}

TEST_CASE("one daemon per state directory and per run directory") {
    Directories directories;
    Store store(directories.paths());
    REQUIRE(code_of_opening(directories.paths()) == ErrorCode::failed_precondition);
    std::filesystem::create_directory(directories.base + "/other");
    Store::Paths other_state{directories.base + "/other", directories.base + "/run"};
    REQUIRE(code_of_opening(other_state) == ErrorCode::failed_precondition);
    REQUIRE(std::filesystem::is_empty(directories.base + "/other"));
}

TEST_CASE("one directory can serve as both") {
    Directories directories;
    const Store::Paths both{directories.base + "/state", directories.base + "/state"};
    Store store(both);
    REQUIRE(code_of_opening(both) == ErrorCode::failed_precondition);
}

TEST_CASE("a database from a newer version refuses to start and is not changed") {
    Directories directories;
    { Store store(directories.paths()); }
    SECTION("cleanly closed") {
        Database database = Database::open(directories.database(), Synchronous::full, pyro_migrations);
        database.execute("PRAGMA user_version = 99");
    }
    SECTION("with the news only in the write-ahead log of a daemon that was killed") {
        const std::string copy = directories.base + "/copy";
        {
            Database database = Database::open(directories.database(), Synchronous::full, pyro_migrations);
            database.execute("PRAGMA user_version = 99");
            std::filesystem::copy(directories.base + "/state", copy);
        }
        std::filesystem::remove_all(directories.base + "/state");
        std::filesystem::rename(copy, directories.base + "/state");
        REQUIRE(std::filesystem::file_size(directories.database() + "-wal") > 0);
    }
    std::map<std::string, std::string> before = contents(directories.base + "/state");
    REQUIRE(code_of_opening(directories.paths()) == ErrorCode::failed_precondition);
    std::map<std::string, std::string> after = contents(directories.base + "/state");
    before.erase(directories.database() + "-shm");  // an index made from the log, no content of its own
    after.erase(directories.database() + "-shm");
    REQUIRE(before == after);
}

TEST_CASE("garbage, another program's database and a damaged one are refused") {
    Directories directories;
    SECTION("garbage") { replace_file(directories.database(), std::string(8192, 'x')); }
    SECTION("too short") { replace_file(directories.database(), "SQLite format 3"); }
    SECTION("another program's") {
        std::string header = "SQLite format 3";
        header.resize(4096, '\0');
        replace_file(directories.database(), header);
    }
    SECTION("damaged") {
        { Store store(directories.paths()); }
        std::string bytes = read_file(directories.database());
        for (std::size_t i = 4096; i < bytes.size(); ++i) bytes[i] = '\x55';
        replace_file(directories.database(), bytes);
    }
    const std::string before = read_file(directories.database());
    REQUIRE(code_of_opening(directories.paths()) == ErrorCode::failed_precondition);
    REQUIRE(read_file(directories.database()) == before);
}

TEST_CASE("migrations run in order, once each, and a failing one leaves nothing of itself") {
    Directories directories;
    const std::string path = directories.base + "/m.db";
    const std::array first{Migration{"one", "CREATE TABLE t (a INTEGER)"}};
    const std::array broken{first[0], Migration{"two", "INSERT INTO t VALUES (1); CREATE TABLE nonsense nonsense"}};
    const std::array mended{first[0], Migration{"two", "INSERT INTO t VALUES (2)"}};
    { Database::open(path, Synchronous::off, first); }
    REQUIRE_THROWS_AS(Database::open(path, Synchronous::off, broken), Error);
    for (int i = 0; i < 2; ++i) {
        Database database = Database::open(path, Synchronous::off, mended);
        Statement statement = database.prepare("SELECT a FROM t");
        REQUIRE(statement.step());
        REQUIRE(statement.integer(0) == 2);
        REQUIRE_FALSE(statement.step());
    }
}

TEST_CASE("databases are the daemon's alone") {
    Directories directories;
    Store store(directories.paths());
    struct stat info {};
    REQUIRE(::stat(directories.database().c_str(), &info) == 0);
    REQUIRE((info.st_mode & 0777) == 0600);
}

TEST_CASE("no space: writes are refused with the reason, reads go on, and it ends when there is space") {
    Directories directories;
    Store store(directories.paths());
    run_coro([&]() -> io::Task<void> {
        EnvironmentRow row = environment("sha256:kept", 1000, true);
        co_await store.upsert_environment(row);
    });
    // A file size limit makes the kernel refuse to grow the log, as a full disk does.
    struct rlimit unlimited {};
    REQUIRE(::getrlimit(RLIMIT_FSIZE, &unlimited) == 0);
    struct rlimit none = unlimited;
    none.rlim_cur = 4096;
    std::signal(SIGXFSZ, SIG_IGN);
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &none) == 0);
    std::optional<Error> failure;
    run_coro([&]() -> io::Task<void> {
        EnvironmentRow row = environment("sha256:lost", 1000, true);
        auto writing = store.upsert_environment(row);
        try {
            co_await std::move(writing);
        } catch (const Error& e) {
            failure = e;
        }
    });
    bool machine_refused = false;
    try {
        store.insert_machine(machine("x", 1000));
    } catch (const Error&) {
        machine_refused = true;
    }
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &unlimited) == 0);
    REQUIRE(failure);
    const bool typed = failure->code() == ErrorCode::quota_exceeded || failure->code() == ErrorCode::failed_precondition;
    REQUIRE(typed);
    REQUIRE_FALSE(failure->hint().empty());
    REQUIRE(machine_refused);
    REQUIRE(store.write_failure());
    REQUIRE(store.find_environment(bob, "sha256:kept"));
    REQUIRE_FALSE(store.find_environment(bob, "sha256:lost"));
    run_coro([&]() -> io::Task<void> {
        EnvironmentRow row = environment("sha256:again", 1000, true);
        co_await store.upsert_environment(row);
    });
    REQUIRE(store.find_environment(bob, "sha256:again"));
    REQUIRE_FALSE(store.write_failure());
    REQUIRE_FALSE(store.find_machine(alice, "x"));
}

TEST_CASE("a full file system is quota_exceeded") {
    if (::geteuid() != 0) return;
    Directories directories;
    if (::mount("pyro-test", (directories.base + "/state").c_str(), "tmpfs", 0, "size=512k") != 0) {
        WARN("no right to mount a small file system: " << std::strerror(errno));
        return;
    }
    std::optional<ErrorCode> code;
    {
        Store store(directories.paths());
        run_coro([&]() -> io::Task<void> {
            for (int i = 0; i < 2000 && !code; ++i) {
                EnvironmentRow row = environment("sha256:" + std::to_string(i), 1, false);
                row.source = std::string(4000, 'a');
                auto writing = store.upsert_environment(row);
                try {
                    co_await std::move(writing);
                } catch (const Error& e) {
                    code = e.code();
                }
            }
        });
        REQUIRE(store.write_failure());
        REQUIRE(store.find_environment(Viewer{1}, "sha256:0"));
    }
    ::umount((directories.base + "/state").c_str());
    REQUIRE(code == ErrorCode::quota_exceeded);
}

TEST_CASE("a daemon killed right after its first write is followed by one that reads it") {
    Directories directories;
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        Store store(directories.paths());
        store.insert_machine(machine("m", 1));
        ::_exit(0);  // nothing is closed: what was written is in the write-ahead log alone
    }
    REQUIRE(::waitpid(child, nullptr, 0) == child);
    Store store(directories.paths());
    REQUIRE(store.find_machine(Viewer{1}, "m"));
}
