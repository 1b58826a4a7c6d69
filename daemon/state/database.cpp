#include "daemon/state/database.hpp"

#include "common/unique_fd.hpp"

#include <sqlite3.h>

#include <array>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace pyro::state {
namespace {

constexpr std::int64_t application_id = 0x7079726f;  // "pyro" in the file's header

[[noreturn]] void fail_sqlite(sqlite3* database, int code, const std::string& what) {
    const std::string message = what + ": " + (database ? sqlite3_errmsg(database) : sqlite3_errstr(code));
    switch (code & 0xff) {
        case SQLITE_FULL:
            throw Error(ErrorCode::quota_exceeded, message, "free space in the state directory, then try again");
        case SQLITE_IOERR:
            // The VFS reports ENOSPC of anything but a plain write as an I/O error.
            if (database && (sqlite3_system_errno(database) == ENOSPC || sqlite3_system_errno(database) == EDQUOT))
                throw Error(ErrorCode::quota_exceeded, message, "free space in the state directory, then try again");
            [[fallthrough]];
        case SQLITE_READONLY: case SQLITE_CANTOPEN: case SQLITE_PERM: case SQLITE_AUTH:
            throw Error(ErrorCode::failed_precondition, message, "make the state directory writable for the daemon");
        case SQLITE_CORRUPT: case SQLITE_NOTADB:
            throw Error(ErrorCode::failed_precondition, message, "the file is damaged: restore it from a backup or move it away");
        case SQLITE_BUSY: case SQLITE_LOCKED:
            throw Error(ErrorCode::unavailable, message, "another program holds the database; try again");
        default:
            throw Error(ErrorCode::internal, message);
    }
}

struct FileVersion {
    bool exists = false;  // with content
    std::int64_t application = 0;
    std::int64_t user_version = 0;
};

std::int64_t big_endian_32(const unsigned char* at) {
    return static_cast<std::int64_t>(at[0]) << 24 | at[1] << 16 | at[2] << 8 | at[3];
}

// From the file's header (https://sqlite.org/fileformat.html, 1.3), so that a file that is not ours is not even opened by
// a library that might change it. Never called while this process has the database open: closing would drop SQLite's locks.
FileVersion read_header(const std::string& path) {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!fd && errno == ENOENT) return {};
    if (!fd) throw Error::from_errno("open " + path);
    std::array<unsigned char, 100> header{};
    const ssize_t n = ::pread(fd.get(), header.data(), header.size(), 0);
    if (n < 0) throw Error::from_errno("read " + path);
    if (n == 0) return {};
    const std::string_view magic(reinterpret_cast<const char*>(header.data()), 15);
    if (n < static_cast<ssize_t>(header.size()) || magic != "SQLite format 3")
        throw Error(ErrorCode::failed_precondition, path + " is not a database",
                    "the file is damaged: restore it from a backup or move it away");
    return FileVersion{true, big_endian_32(&header[68]), big_endian_32(&header[60])};
}

}  // namespace

void Statement::Finalize::operator()(sqlite3_stmt* statement) const noexcept { sqlite3_finalize(statement); }

void Statement::bind_one(int index, std::string_view value) {
    const int code = sqlite3_bind_text64(statement_.get(), index, value.data() ? value.data() : "", value.size(),
                                         SQLITE_TRANSIENT, SQLITE_UTF8);
    if (code != SQLITE_OK) fail_sqlite(sqlite3_db_handle(statement_.get()), code, "bind a parameter");
}

void Statement::bind_integer(int index, std::int64_t value) {
    const int code = sqlite3_bind_int64(statement_.get(), index, value);
    if (code != SQLITE_OK) fail_sqlite(sqlite3_db_handle(statement_.get()), code, "bind a parameter");
}

bool Statement::step() {
    const int code = sqlite3_step(statement_.get());
    if (code == SQLITE_ROW) return true;
    if (code == SQLITE_DONE) return false;
    sqlite3* database = sqlite3_db_handle(statement_.get());
    const char* path = sqlite3_db_filename(database, "main");
    fail_sqlite(database, code, std::string("database ") + (path ? path : ""));
}

void Statement::run() {
    while (step()) {}
}

std::int64_t Statement::integer(int column) const { return sqlite3_column_int64(statement_.get(), column); }

std::string Statement::text(int column) const {
    const auto* bytes = reinterpret_cast<const char*>(sqlite3_column_text(statement_.get(), column));
    if (!bytes) return {};
    return std::string(bytes, static_cast<std::size_t>(sqlite3_column_bytes(statement_.get(), column)));
}

void Database::Close::operator()(sqlite3* database) const noexcept { sqlite3_close_v2(database); }

Database::Database(const std::string& path, int flags) {
    sqlite3* raw = nullptr;
    const int code = sqlite3_open_v2(path.c_str(), &raw, flags | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_NOFOLLOW, nullptr);
    handle_.reset(raw);
    if (code != SQLITE_OK) fail_sqlite(raw, code, "open " + path);
    sqlite3_extended_result_codes(raw, 1);
    sqlite3_busy_timeout(raw, 5000);
}

Database Database::open(const std::string& path, Synchronous synchronous, std::span<const Migration> migrations) {
    const auto newest = static_cast<std::int64_t>(migrations.size());
    const auto refuse = [&](std::int64_t version) {
        throw Error(ErrorCode::failed_precondition,
                    path + " is of version " + std::to_string(version) + ", this daemon knows up to " + std::to_string(newest),
                    "start the newer pyrod that wrote it; nothing was changed");
    };
    const FileVersion found = read_header(path);
    if (found.exists) {
        if (found.application != application_id)
            throw Error(ErrorCode::failed_precondition, path + " is not a database of pyro", "move the file away");
        if (found.user_version > newest) refuse(found.user_version);
    }
    // A write-ahead log left by a crash may hold a newer header: looked at without writing it back.
    struct stat log {};
    if (found.exists && ::stat((path + "-wal").c_str(), &log) == 0 && log.st_size > 0) {
        Database peek(path, SQLITE_OPEN_READONLY);
        sqlite3_db_config(peek.handle_.get(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
        Statement version = peek.prepare("PRAGMA user_version");
        if (version.step() && version.integer(0) > newest) refuse(version.integer(0));
    }

    Database database(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
    if (::chmod(path.c_str(), 0600) != 0) throw Error::from_errno("set the mode of " + path);
    if (found.exists) {
        Statement check = database.prepare("PRAGMA quick_check(1)");
        if (check.step() && check.text(0) != "ok")
            throw Error(ErrorCode::failed_precondition, path + " is damaged: " + check.text(0),
                        "restore it from a backup or move it away");
    }
    // Into the file itself, before a write-ahead log may hold the header's newer version when we are killed.
    if (!found.exists) database.execute("PRAGMA application_id = " + std::to_string(application_id));
    database.execute("PRAGMA journal_mode = WAL");
    database.execute(synchronous == Synchronous::full ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = OFF");
    database.execute("PRAGMA foreign_keys = ON");
    std::int64_t version = 0;
    {
        Statement current = database.prepare("PRAGMA user_version");
        if (current.step()) version = current.integer(0);
    }
    for (; version < newest; ++version) {
        const Migration& migration = migrations[static_cast<std::size_t>(version)];
        try {
            database.transaction([&] {
                database.execute(migration.sql);
                database.execute("PRAGMA user_version = " + std::to_string(version + 1));
            });
        } catch (Error& e) {
            e.add_context("bring " + path + " to version " + std::to_string(version + 1) + " (" + std::string(migration.what) + ")");
            throw;
        }
    }
    return database;
}

Database Database::open_reader(const std::string& path) {
    Database database(path, SQLITE_OPEN_READWRITE);  // read-write: a WAL reader keeps the shared index up to date
    database.execute("PRAGMA query_only = ON");
    return database;
}

Statement Database::prepare(std::string_view sql) {
    sqlite3_stmt* raw = nullptr;
    const int code = sqlite3_prepare_v2(handle_.get(), sql.data(), static_cast<int>(sql.size()), &raw, nullptr);
    if (code != SQLITE_OK) fail_sqlite(handle_.get(), code, "prepare a statement");
    return Statement(raw);
}

void Database::execute(std::string_view sql) {
    const int code = sqlite3_exec(handle_.get(), std::string(sql).c_str(), nullptr, nullptr, nullptr);
    if (code != SQLITE_OK) {
        const char* path = sqlite3_db_filename(handle_.get(), "main");
        fail_sqlite(handle_.get(), code, std::string("database ") + (path ? path : ""));
    }
}

void Database::transaction(const std::function<void()>& body) {
    execute("BEGIN IMMEDIATE");
    try {
        body();
        execute("COMMIT");
    } catch (...) {
        // A full disk may have rolled back already; there is nothing to do about a failed roll-back but the error at hand.
        if (sqlite3_get_autocommit(handle_.get()) == 0) sqlite3_exec(handle_.get(), "ROLLBACK", nullptr, nullptr, nullptr);
        throw;
    }
}

std::int64_t Database::changes() const noexcept { return sqlite3_changes64(handle_.get()); }

}  // namespace pyro::state
