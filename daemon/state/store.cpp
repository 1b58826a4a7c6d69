#include "daemon/state/store.hpp"

#include "daemon/state/database.hpp"
#include "daemon/state/schema.hpp"

#include <csignal>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

namespace pyro::state {
namespace {

constexpr std::int64_t touch_interval_seconds = 3600;

// flock, for at most about a second: a daemon that was killed while it started a program leaves a child that holds its
// locks until it notices. For the start of the daemon, when there is one thread and nobody else has a timer.
bool lock_soon(int fd) {
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0) return true;
    if (errno != EWOULDBLOCK) return false;
    struct sigaction interrupt {}, before {};
    interrupt.sa_handler = [](int) {};
    ::sigaction(SIGALRM, &interrupt, &before);
    // Again after the first: it may come before flock waits.
    const itimerval soon{{0, 100'000}, {1, 0}}, never{};
    ::setitimer(ITIMER_REAL, &soon, nullptr);
    const bool locked = ::flock(fd, LOCK_EX) == 0;
    const int why = errno;
    ::setitimer(ITIMER_REAL, &never, nullptr);
    ::sigaction(SIGALRM, &before, nullptr);
    errno = why == EINTR ? EWOULDBLOCK : why;
    return locked;
}

UniqueFd lock_directory(const std::string& path) {
    UniqueFd directory = open_file(path, O_RDONLY | O_DIRECTORY);
    if (lock_soon(directory.get())) return directory;
    if (errno == EWOULDBLOCK)
        throw Error(ErrorCode::failed_precondition, "another pyrod uses " + path,
                    "stop it first, or give this one directories of its own");
    throw Error::from_errno("lock " + path);
}

bool same_file(int a, int b) {
    struct stat first {}, second {};
    if (::fstat(a, &first) != 0 || ::fstat(b, &second) != 0) throw Error::from_errno("look at a directory");
    return first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

// The database is the daemon's own: a word it does not know there is damage.
template <class Enum, std::size_t n>
Enum parse_name(const std::array<std::string_view, n>& names, const std::string& word) {
    for (std::size_t i = 0; i < n; ++i)
        if (names[i] == word) return static_cast<Enum>(i);
    throw Error(ErrorCode::failed_precondition, "the database says '" + word + "' where it cannot", "it is damaged: restore it from a backup");
}

constexpr std::string_view machine_columns =
    "id, owner_uid, kind, state, environment, environment_digest, vcpu_count, mem_mib, disk_gib, network, "
    "allow_host_compat, execution_mode, created_at, expires_at, vm_uid, pid, start_time, boot_id, failure";

void bind_machine(Statement& statement, const MachineRow& row) {
    statement.bind(row.id, row.owner_uid, to_string(row.kind), to_string(row.state), row.environment,
                   row.environment_digest, row.vcpu_count, row.mem_mib, row.disk_gib, row.network, row.allow_host_compat,
                   row.execution_mode, row.created_at, row.expires_at, row.vm_uid, row.process.pid, row.process.start_time,
                   row.process.boot_id, row.failure);
}

MachineRow read_machine(const Statement& s) {
    MachineRow row;
    row.id = s.text(0);
    row.owner_uid = static_cast<uid_t>(s.integer(1));
    row.kind = parse_name<MachineKind>(machine_kind_names, s.text(2));
    row.state = parse_name<MachineState>(machine_state_names, s.text(3));
    row.environment = s.text(4);
    row.environment_digest = s.text(5);
    row.vcpu_count = s.integer(6);
    row.mem_mib = s.integer(7);
    row.disk_gib = s.integer(8);
    row.network = s.boolean(9);
    row.allow_host_compat = s.boolean(10);
    row.execution_mode = s.text(11);
    row.created_at = s.integer(12);
    row.expires_at = s.integer(13);
    row.vm_uid = static_cast<uid_t>(s.integer(14));
    row.process = ProcessRecord{static_cast<pid_t>(s.integer(15)), static_cast<std::uint64_t>(s.integer(16)), s.text(17)};
    row.failure = s.text(18);
    return row;
}

constexpr std::string_view environment_columns =
    "e.digest, e.owner_uid, e.is_public, e.source, e.manifest_digest, e.size_bytes, e.created_at, e.last_used_at, e.origin";

EnvironmentRow read_environment(const Statement& s) {
    return EnvironmentRow{s.text(0), static_cast<uid_t>(s.integer(1)), s.boolean(2), s.text(3), s.text(4),
                          s.integer(5), s.integer(6), s.integer(7), s.text(8)};
}

template <class Row>
std::vector<Row> read_all(Statement& statement, Row (*read)(const Statement&)) {
    std::vector<Row> rows;
    while (statement.step()) rows.push_back(read(statement));
    return rows;
}

template <class Row>
std::optional<Row> read_first(Statement& statement, Row (*read)(const Statement&)) {
    if (!statement.step()) return std::nullopt;
    return read(statement);
}

std::string select(std::string_view columns, std::string_view rest) {
    return "SELECT " + std::string(columns) + " FROM " + std::string(rest);
}

void put_environment(Database& database, const EnvironmentRow& row) {
    Statement statement = database.prepare(
        "INSERT INTO environments (digest, owner_uid, is_public, source, manifest_digest, size_bytes, created_at, last_used_at, origin) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (owner_uid, digest) DO UPDATE SET "
        "is_public = max(is_public, excluded.is_public), source = excluded.source, manifest_digest = excluded.manifest_digest, "
        "size_bytes = excluded.size_bytes, last_used_at = excluded.last_used_at, origin = excluded.origin");
    statement.bind(row.digest, row.owner_uid, row.is_public, row.source, row.manifest_digest, row.size_bytes,
                   row.created_at, row.last_used_at, row.origin).run();
}

void put_reference(Database& database, const ReferenceRow& row) {
    Statement known = database.prepare("SELECT 1 FROM environments WHERE owner_uid = ? AND digest = ?");
    if (!known.bind(row.owner_uid, row.digest).step())
        throw Error(ErrorCode::not_found, "no environment " + row.digest + " to call " + row.name);
    Statement statement = database.prepare(
        "INSERT INTO environment_references (owner_uid, name, digest, updated_at) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (owner_uid, name) DO UPDATE SET digest = excluded.digest, updated_at = excluded.updated_at");
    statement.bind(row.owner_uid, row.name, row.digest, row.updated_at).run();
}

bool says_unwritable(const Error& e) {
    return e.code() == ErrorCode::quota_exceeded || e.code() == ErrorCode::failed_precondition;
}

}  // namespace

Store::Store(Paths paths) : state_lock_(lock_directory(paths.state_directory)) {
    UniqueFd run_directory = open_file(paths.run_directory, O_RDONLY | O_DIRECTORY);
    if (!same_file(state_lock_.get(), run_directory.get())) run_lock_ = lock_directory(paths.run_directory);
    const std::string pyro_path = paths.state_directory + "/pyro.db";
    writer_ = std::make_unique<Database>(Database::open(pyro_path, Synchronous::full, pyro_migrations));
    reader_ = std::make_unique<Database>(Database::open_reader(pyro_path));
    run_ = std::make_unique<Database>(Database::open(paths.run_directory + "/run.db", Synchronous::off, run_migrations));
}

Store::~Store() = default;

// Both ways of writing remember whether writing works at all. A refusal of the rows themselves (not_found) says nothing of that.
template <class F>
auto Store::write_run(F body) {
    try {
        if constexpr (std::is_void_v<decltype(body(*run_))>) {
            body(*run_);
            write_failure_.reset();
        } else {
            auto result = body(*run_);
            write_failure_.reset();
            return result;
        }
    } catch (const Error& e) {
        if (says_unwritable(e)) write_failure_ = e.message();
        throw;
    }
}

io::Task<void> Store::write_synced(std::function<void(Database&)> body) {
    Database* writer = writer_.get();
    const auto work = [writer, body = std::move(body)] { writer->transaction([&] { body(*writer); }); };
    auto running = io::offload(worker_, work);
    try {
        co_await std::move(running);
    } catch (const Error& e) {
        if (says_unwritable(e)) write_failure_ = e.message();
        throw;
    }
    write_failure_.reset();
}

// --- machines

void Store::insert_machine(const MachineRow& row) {
    write_run([&](Database& database) {
        Statement statement = database.prepare("INSERT INTO machines (" + std::string(machine_columns) +
                                               ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
        bind_machine(statement, row);
        statement.run();
    });
}

void Store::rewrite_machine(const MachineRow& row, std::string_view which) {
    write_run([&](Database& database) {
        Statement statement = database.prepare(
            "UPDATE machines SET (" + std::string(machine_columns) +
            ") = (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19) WHERE id = ?1 AND " + std::string(which));
        bind_machine(statement, row);
        statement.run();
        must_change(row.id);
    });
}

void Store::update_machine(const MachineRow& row) { rewrite_machine(row, "owner_uid = ?2"); }
void Store::take_spare(const MachineRow& row) { rewrite_machine(row, "kind = 'spare'"); }

void Store::must_change(const std::string& id) {
    if (run_->changes() == 0) throw Error(ErrorCode::not_found, "no machine " + id);
}

void Store::set_machine_state(const std::string& id, MachineState state, const std::string& failure) {
    write_run([&](Database& database) {
        database.prepare("UPDATE machines SET state = ?2, failure = ?3 WHERE id = ?1").bind(id, to_string(state), failure).run();
        must_change(id);
    });
}

void Store::set_machine_process(const std::string& id, const ProcessRecord& process) {
    write_run([&](Database& database) {
        database.prepare("UPDATE machines SET pid = ?2, start_time = ?3, boot_id = ?4 WHERE id = ?1")
            .bind(id, process.pid, process.start_time, process.boot_id).run();
        must_change(id);
    });
}

bool Store::remove_machine(const std::string& id) {
    return write_run([&](Database& database) {
        database.prepare("DELETE FROM machines WHERE id = ?").bind(id).run();
        return database.changes() > 0;
    });
}

std::optional<MachineRow> Store::find_machine(Viewer viewer, const std::string& id) {
    Statement statement = run_->prepare(select(machine_columns, "machines WHERE id = ? AND (owner_uid = ? OR ?)"));
    return read_first(statement.bind(id, viewer.uid, viewer.admin), read_machine);
}

std::vector<MachineRow> Store::list_machines(Viewer viewer) {
    Statement statement = run_->prepare(select(machine_columns, "machines WHERE owner_uid = ? OR ? ORDER BY created_at DESC, id"));
    return read_all(statement.bind(viewer.uid, viewer.admin), read_machine);
}

std::vector<MachineRow> Store::all_machines() {
    Statement statement = run_->prepare(select(machine_columns, "machines ORDER BY created_at, id"));
    return read_all(statement, read_machine);
}

// --- uid leases

uid_t Store::lease_uid(uid_t owner_uid, const std::string& machine_id, uid_t first, uid_t last,
                       const std::function<bool(uid_t)>& usable) {
    const auto acceptable = [&](std::int64_t uid) { return !usable || usable(static_cast<uid_t>(uid)); };
    const std::optional<std::int64_t> uid = write_run([&](Database& database) -> std::optional<std::int64_t> {
        const auto claim = [&](std::int64_t free) {
            database.prepare("INSERT INTO uid_leases (uid, owner_uid, machine_id, released) VALUES (?, ?, ?, 0) "
                             "ON CONFLICT (uid) DO UPDATE SET owner_uid = excluded.owner_uid, machine_id = excluded.machine_id, released = 0")
                .bind(free, owner_uid, machine_id).run();
            return free;
        };
        const auto uids = [&](std::string_view sql) {
            Statement statement = database.prepare(sql);
            statement.bind(first, last);
            std::vector<std::int64_t> found;
            while (statement.step()) found.push_back(statement.integer(0));
            return found;
        };
        // Uids are taken in ascending order: above the highest ever leased nothing was used.
        const std::vector<std::int64_t> highest = uids("SELECT uid FROM uid_leases WHERE uid BETWEEN ? AND ? ORDER BY uid DESC LIMIT 1");
        for (std::int64_t fresh = highest.empty() ? first : highest[0] + 1; fresh <= static_cast<std::int64_t>(last); ++fresh)
            if (acceptable(fresh)) return claim(fresh);
        for (const std::int64_t free : uids("SELECT uid FROM uid_leases WHERE uid BETWEEN ? AND ? AND released > 0 ORDER BY released"))
            if (acceptable(free)) return claim(free);
        // What was not acceptable when its turn came may be now.
        std::int64_t next = first;
        for (const std::int64_t used : uids("SELECT uid FROM uid_leases WHERE uid BETWEEN ? AND ? ORDER BY uid")) {
            for (; next < used; ++next)
                if (acceptable(next)) return claim(next);
            next = used + 1;
        }
        return std::nullopt;
    });
    if (!uid)
        throw Error(ErrorCode::quota_exceeded, "every uid for machines is taken", "stop a machine, or widen the range in the configuration");
    return static_cast<uid_t>(*uid);
}

void Store::release_uid(uid_t uid) {
    write_run([&](Database& database) {
        database.prepare("UPDATE uid_leases SET machine_id = '', released = (SELECT max(released) + 1 FROM uid_leases) "
                         "WHERE uid = ? AND released = 0").bind(uid).run();
    });
}

void Store::release_stray_uids() {
    write_run([](Database& database) {
        database.prepare("UPDATE uid_leases SET machine_id = '', released = (SELECT max(released) + 1 FROM uid_leases) "
                         "WHERE released = 0 AND machine_id NOT IN (SELECT id FROM machines)").run();
    });
}

// --- environments and references

io::Task<void> Store::upsert_environment(EnvironmentRow row) {
    return write_synced([row = std::move(row)](Database& database) { put_environment(database, row); });
}

io::Task<void> Store::upsert_environment(EnvironmentRow row, ReferenceRow reference) {
    return write_synced([row = std::move(row), reference = std::move(reference)](Database& database) {
        put_environment(database, row);
        put_reference(database, reference);
    });
}

io::Task<void> Store::upsert_reference(ReferenceRow row) {
    return write_synced([row = std::move(row)](Database& database) { put_reference(database, row); });
}

io::Task<bool> Store::remove_environment(Viewer viewer, std::string digest) {
    auto removed = std::make_shared<bool>(false);
    auto writing = write_synced([viewer, digest = std::move(digest), removed](Database& database) {
        database.prepare("DELETE FROM environments WHERE digest = ? AND (owner_uid = ? OR ?)").bind(digest, viewer.uid, viewer.admin).run();
        *removed = database.changes() > 0;
    });
    co_await std::move(writing);
    co_return *removed;
}

io::Task<bool> Store::remove_reference(Viewer viewer, std::string name) {
    auto removed = std::make_shared<bool>(false);
    auto writing = write_synced([viewer, name = std::move(name), removed](Database& database) {
        database.prepare("DELETE FROM environment_references WHERE name = ? AND owner_uid = ?").bind(name, viewer.uid).run();
        *removed = database.changes() > 0;
    });
    co_await std::move(writing);
    co_return *removed;
}

io::Task<void> Store::touch_environment(uid_t owner_uid, std::string digest, std::int64_t now) {
    bool recent = true;
    {
        Statement statement = reader_->prepare("SELECT last_used_at FROM environments WHERE owner_uid = ? AND digest = ?");
        if (statement.bind(owner_uid, digest).step()) recent = statement.integer(0) > now - touch_interval_seconds;
    }
    if (recent) co_return;
    auto writing = write_synced([owner_uid, digest = std::move(digest), now](Database& database) {
        database.prepare("UPDATE environments SET last_used_at = ? WHERE owner_uid = ? AND digest = ?").bind(now, owner_uid, digest).run();
    });
    co_await std::move(writing);
}

std::optional<EnvironmentRow> Store::find_environment(Viewer viewer, const std::string& digest) {
    Statement statement = reader_->prepare(select(environment_columns,
        "environments e WHERE e.digest = ?1 AND (e.owner_uid = ?2 OR e.is_public OR ?3) "
        "ORDER BY e.owner_uid = ?2 DESC, e.is_public DESC, e.owner_uid LIMIT 1"));
    return read_first(statement.bind(digest, viewer.uid, viewer.admin), read_environment);
}

std::optional<EnvironmentRow> Store::find_environment_by_reference(Viewer viewer, const std::string& name) {
    Statement statement = reader_->prepare(select(environment_columns,
        "environment_references r JOIN environments e ON e.owner_uid = r.owner_uid AND e.digest = r.digest "
        "WHERE r.name = ?1 AND (r.owner_uid = ?2 OR (e.is_public AND r.name NOT LIKE '@%')) "
        "ORDER BY r.owner_uid = ?2 DESC, r.updated_at DESC, r.owner_uid LIMIT 1"));
    return read_first(statement.bind(name, viewer.uid), read_environment);
}

std::vector<EnvironmentRow> Store::list_environments(Viewer viewer) {
    Statement statement = reader_->prepare(select(environment_columns,
        "environments e WHERE e.owner_uid = ? OR e.is_public OR ? ORDER BY e.last_used_at DESC, e.digest, e.owner_uid"));
    return read_all(statement.bind(viewer.uid, viewer.admin), read_environment);
}

std::vector<ReferenceRow> Store::list_references(Viewer viewer) {
    Statement statement = reader_->prepare(
        "SELECT r.owner_uid, r.name, r.digest, r.updated_at FROM environment_references r "
        "JOIN environments e ON e.owner_uid = r.owner_uid AND e.digest = r.digest "
        "WHERE r.owner_uid = ? OR (e.is_public AND r.name NOT LIKE '@%') OR ? ORDER BY r.name, r.owner_uid");
    std::vector<ReferenceRow> rows;
    statement.bind(viewer.uid, viewer.admin);
    while (statement.step())
        rows.push_back(ReferenceRow{static_cast<uid_t>(statement.integer(0)), statement.text(1), statement.text(2), statement.integer(3)});
    return rows;
}

// --- workspaces

namespace {
constexpr std::string_view workspace_columns =
    "id, owner_uid, name, labels, environment, environment_digest, vcpu_count, mem_mib, disk_gib, created_at, last_activity_at, "
    "expires_at, idle_seconds, reset_at, machine_id, execution_mode, seed_digest, seed, exports";

// "a, b" -> "excluded.a, excluded.b"
std::string excluded(const std::string& columns) {
    std::string out = "excluded.";
    for (const char c : columns) {
        out += c;
        if (c == ' ') out += "excluded.";
    }
    return out;
}

WorkspaceRow read_workspace(const Statement& s) {
    WorkspaceRow row;
    row.id = s.text(0);
    row.owner_uid = static_cast<uid_t>(s.integer(1));
    row.name = s.text(2);
    row.labels = s.text(3);
    row.environment = s.text(4);
    row.environment_digest = s.text(5);
    row.vcpu_count = s.integer(6);
    row.mem_mib = s.integer(7);
    row.disk_gib = s.integer(8);
    row.created_at = s.integer(9);
    row.last_activity_at = s.integer(10);
    row.expires_at = s.integer(11);
    row.idle_seconds = s.integer(12);
    row.reset_at = s.integer(13);
    row.machine_id = s.text(14);
    row.execution_mode = s.text(15);
    row.seed_digest = s.text(16);
    row.seed = s.text(17);
    row.exports = s.integer(18);
    return row;
}
}  // namespace

// An upsert by id alone: with INSERT OR REPLACE, a name that is taken would remove the workspace that has it.
io::Task<void> Store::put_workspace(WorkspaceRow row) {
    return write_synced([row = std::move(row)](Database& database) {
        constexpr std::string_view marks = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        const std::string columns(workspace_columns);
        database.prepare("INSERT INTO workspaces (" + columns + ") VALUES " + std::string(marks) +
                         " ON CONFLICT (id) DO UPDATE SET (" + columns + ") = (" + excluded(columns) + ")")
            .bind(row.id, row.owner_uid, row.name, row.labels, row.environment, row.environment_digest, row.vcpu_count, row.mem_mib,
                  row.disk_gib, row.created_at, row.last_activity_at, row.expires_at, row.idle_seconds, row.reset_at, row.machine_id,
                  row.execution_mode, row.seed_digest, row.seed, row.exports)
            .run();
    });
}

io::Task<void> Store::remove_workspace(std::string id) {
    return write_synced([id = std::move(id)](Database& database) {
        database.prepare("DELETE FROM workspaces WHERE id = ?").bind(id).run();
    });
}

std::vector<WorkspaceRow> Store::all_workspaces() {
    Statement statement = reader_->prepare(select(workspace_columns, "workspaces ORDER BY created_at, id"));
    return read_all(statement, read_workspace);
}

std::vector<EnvironmentRow> Store::all_environments() {
    Statement statement = reader_->prepare(select(environment_columns, "environments e ORDER BY e.digest, e.owner_uid"));
    return read_all(statement, read_environment);
}

}  // namespace pyro::state
