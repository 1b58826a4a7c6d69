// SQLite with owners for its handles and pyro's errors. Private to daemon/state (and its tests).
#pragma once
#include "common/error.hpp"

#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

struct sqlite3;
struct sqlite3_stmt;

namespace pyro::state {

// One prepared statement. Parameters are bound in order; rows are read until step() is false.
class Statement {
public:
    template <class... T>
    Statement& bind(const T&... values) {
        int index = 0;
        (bind_one(++index, values), ...);
        return *this;
    }
    bool step();   // true: a row is there to be read
    void run();    // for statements without rows: step to the end

    std::int64_t integer(int column) const;
    bool boolean(int column) const { return integer(column) != 0; }
    std::string text(int column) const;  // empty for NULL

private:
    friend class Database;
    explicit Statement(sqlite3_stmt* statement) : statement_(statement) {}
    void bind_one(int index, std::string_view value);
    void bind_integer(int index, std::int64_t value);
    void bind_one(int index, const std::string& value) { bind_one(index, std::string_view(value)); }
    void bind_one(int index, const char* value) { bind_one(index, std::string_view(value)); }
    template <std::integral T>
    void bind_one(int index, T value) { bind_integer(index, static_cast<std::int64_t>(value)); }

    struct Finalize { void operator()(sqlite3_stmt* statement) const noexcept; };
    std::unique_ptr<sqlite3_stmt, Finalize> statement_;
};

// One step of a database's history, never edited once released: a change of the tables is a new step at the end.
struct Migration {
    std::string_view what;
    std::string_view sql;
};

enum class Synchronous { off, full };

// A connection. Used by one thread at a time. Failed writes are Error(quota_exceeded) when there is no space and
// Error(failed_precondition) when the file cannot be written for another reason; nothing of the transaction stays.
class Database {
public:
    // Opens or creates the file, in WAL mode, and brings it to the newest version step by step, each in its own
    // transaction. A file of a newer version, of another program, or damaged is Error(failed_precondition); nothing was changed.
    static Database open(const std::string& path, Synchronous synchronous, std::span<const Migration> migrations);
    // A second connection that can only read, to a file open() has prepared.
    static Database open_reader(const std::string& path);

    Statement prepare(std::string_view sql);
    void execute(std::string_view sql);  // any number of statements, no parameters
    void transaction(const std::function<void()>& body);
    std::int64_t changes() const noexcept;  // rows touched by the last statement

private:
    Database(const std::string& path, int flags);
    struct Close { void operator()(sqlite3* database) const noexcept; };
    std::unique_ptr<sqlite3, Close> handle_;
};

}  // namespace pyro::state
