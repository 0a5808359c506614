-- Times are milliseconds since 1970 UTC. Secrets are there as SHA-256 only.

-- +goose Up
CREATE TABLE accounts (
    name             TEXT PRIMARY KEY,
    hash             TEXT NOT NULL,
    scopes           TEXT NOT NULL,
    disabled         INTEGER NOT NULL,
    created          INTEGER NOT NULL,
    password_changed INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE sessions (
    id           TEXT PRIMARY KEY,
    subject      TEXT NOT NULL,
    client_id    TEXT NOT NULL,
    scopes       TEXT NOT NULL,
    method       TEXT NOT NULL,
    ip           TEXT NOT NULL,
    user_agent   TEXT NOT NULL,
    origin       TEXT NOT NULL,
    created      INTEGER NOT NULL,
    used         INTEGER NOT NULL,
    expires      INTEGER NOT NULL,
    idle_until   INTEGER NOT NULL,
    access_until INTEGER NOT NULL,
    family       BLOB NOT NULL UNIQUE,
    current      BLOB NOT NULL,
    previous     BLOB NOT NULL,
    rotated      INTEGER NOT NULL,
    repeated     INTEGER NOT NULL,
    replay       BLOB
) STRICT;
CREATE INDEX sessions_by_subject ON sessions (subject, created, id);
CREATE INDEX sessions_by_age ON sessions (created, id);
CREATE INDEX sessions_by_use ON sessions (used);
CREATE INDEX sessions_by_end ON sessions (max(access_until, min(expires, idle_until)));
CREATE INDEX sessions_with_replay ON sessions (rotated) WHERE replay IS NOT NULL;

CREATE TABLE tickets (
    id         INTEGER PRIMARY KEY,
    hash       BLOB NOT NULL UNIQUE,
    issuer     TEXT NOT NULL,
    subject    TEXT NOT NULL,
    session    TEXT NOT NULL,
    connection TEXT NOT NULL,
    path       TEXT NOT NULL,
    origin     TEXT NOT NULL,
    token      BLOB NOT NULL,
    expires    INTEGER NOT NULL
) STRICT;
CREATE INDEX tickets_by_subject ON tickets (issuer, subject, id);
CREATE INDEX tickets_by_session ON tickets (issuer, session);
CREATE INDEX tickets_by_end ON tickets (expires);

-- The number of the last revocation: one row, which every revoking transaction
-- changes, so that numbers have no gaps and follow the order of commits.
CREATE TABLE sequence (
    one  INTEGER PRIMARY KEY CHECK (one = 1),
    last INTEGER NOT NULL
) STRICT;
INSERT INTO sequence (one, last) VALUES (1, 0);

CREATE TABLE revocations (
    seq     INTEGER PRIMARY KEY,
    kind    TEXT NOT NULL,
    issuer  TEXT NOT NULL,
    value   TEXT NOT NULL,
    at      INTEGER NOT NULL,
    expires INTEGER, -- NULL: never
    code    INTEGER NOT NULL,
    reason  TEXT NOT NULL,
    note    TEXT NOT NULL,
    actor   TEXT NOT NULL
) STRICT;
CREATE INDEX revocations_by_value ON revocations (value, kind, issuer);
CREATE INDEX revocations_by_end ON revocations (expires);

CREATE TABLE audit (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    stranger   INTEGER NOT NULL, -- of the rows that strangers can cause, so many are kept; of the others, so many
    time       INTEGER NOT NULL,
    type       TEXT NOT NULL,
    issuer     TEXT NOT NULL,
    subject    TEXT NOT NULL,
    session    TEXT NOT NULL,
    connection TEXT NOT NULL,
    ip         TEXT NOT NULL,
    origin     TEXT NOT NULL,
    user_agent TEXT NOT NULL,
    actor      TEXT NOT NULL,
    detail     TEXT NOT NULL
) STRICT;
CREATE INDEX audit_by_kind ON audit (stranger, id);

-- +goose Down
DROP TABLE audit;
DROP TABLE revocations;
DROP TABLE sequence;
DROP TABLE tickets;
DROP TABLE sessions;
DROP TABLE accounts;
