// The history of both databases. A released step is never edited; every table has an owner.
#pragma once
#include "daemon/state/database.hpp"

#include <array>

namespace pyro::state {

inline constexpr std::array pyro_migrations{
    Migration{"environments and references", R"(
        CREATE TABLE environments (
            owner_uid INTEGER NOT NULL, digest TEXT NOT NULL, is_public INTEGER NOT NULL, source TEXT NOT NULL,
            manifest_digest TEXT NOT NULL, size_bytes INTEGER NOT NULL, created_at INTEGER NOT NULL,
            last_used_at INTEGER NOT NULL,
            PRIMARY KEY (owner_uid, digest)) STRICT, WITHOUT ROWID;
        CREATE INDEX environments_by_digest ON environments (digest);
        CREATE TABLE environment_references (
            owner_uid INTEGER NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL, updated_at INTEGER NOT NULL,
            PRIMARY KEY (owner_uid, name),
            FOREIGN KEY (owner_uid, digest) REFERENCES environments (owner_uid, digest) ON DELETE CASCADE) STRICT, WITHOUT ROWID;
        CREATE INDEX references_by_name ON environment_references (name);
        CREATE INDEX references_by_digest ON environment_references (owner_uid, digest);
    )"},
    Migration{"workspaces", R"(
        CREATE TABLE workspaces (
            id TEXT NOT NULL PRIMARY KEY, owner_uid INTEGER NOT NULL, name TEXT NOT NULL, labels TEXT NOT NULL,
            environment TEXT NOT NULL, environment_digest TEXT NOT NULL, vcpu_count INTEGER NOT NULL,
            mem_mib INTEGER NOT NULL, disk_gib INTEGER NOT NULL, created_at INTEGER NOT NULL,
            last_activity_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, idle_seconds INTEGER NOT NULL,
            reset_at INTEGER NOT NULL, machine_id TEXT NOT NULL, execution_mode TEXT NOT NULL,
            seed_digest TEXT NOT NULL, seed TEXT NOT NULL, exports INTEGER NOT NULL) STRICT, WITHOUT ROWID;
        CREATE INDEX workspaces_by_owner ON workspaces (owner_uid);
        CREATE UNIQUE INDEX workspaces_by_name ON workspaces (owner_uid, name) WHERE name <> '';
    )"},
    Migration{"where environments came from", R"(
        ALTER TABLE environments ADD COLUMN origin TEXT NOT NULL DEFAULT '';
    )"},
};

inline constexpr std::array run_migrations{
    Migration{"machines, uid leases", R"(
        CREATE TABLE machines (
            id TEXT NOT NULL PRIMARY KEY, owner_uid INTEGER NOT NULL, kind TEXT NOT NULL, state TEXT NOT NULL,
            environment TEXT NOT NULL, environment_digest TEXT NOT NULL, vcpu_count INTEGER NOT NULL,
            mem_mib INTEGER NOT NULL, disk_gib INTEGER NOT NULL, network INTEGER NOT NULL,
            allow_host_compat INTEGER NOT NULL, execution_mode TEXT NOT NULL, created_at INTEGER NOT NULL,
            expires_at INTEGER NOT NULL, vm_uid INTEGER NOT NULL, pid INTEGER NOT NULL, start_time INTEGER NOT NULL,
            boot_id TEXT NOT NULL, failure TEXT NOT NULL) STRICT, WITHOUT ROWID;
        CREATE INDEX machines_by_owner ON machines (owner_uid);
        CREATE TABLE uid_leases (
            uid INTEGER NOT NULL PRIMARY KEY, owner_uid INTEGER NOT NULL, machine_id TEXT NOT NULL,
            released INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    )"},
};

}  // namespace pyro::state
