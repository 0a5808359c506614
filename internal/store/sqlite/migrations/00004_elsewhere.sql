-- What other parties said has ended: which statements counted already, and which
-- logins elsewhere are over, for those that come in late.

-- +goose Up
ALTER TABLE sessions ADD COLUMN external_email TEXT NOT NULL DEFAULT ''; -- in lower case
ALTER TABLE sessions ADD COLUMN external_issued INTEGER NOT NULL DEFAULT 0;
CREATE INDEX sessions_by_external_email ON sessions (external_issuer, external_email) WHERE external_email <> '';

CREATE TABLE statements (
    n      INTEGER PRIMARY KEY AUTOINCREMENT,
    issuer TEXT NOT NULL,
    id     TEXT NOT NULL,
    until  INTEGER NOT NULL,
    UNIQUE (issuer, id)
) STRICT;
CREATE INDEX statements_by_end ON statements (until);

CREATE TABLE ended_logins (
    n      INTEGER PRIMARY KEY AUTOINCREMENT,
    issuer TEXT NOT NULL,
    kind   TEXT NOT NULL, -- session, subject or email
    value  TEXT NOT NULL,
    at     INTEGER NOT NULL,
    until  INTEGER NOT NULL,
    UNIQUE (issuer, kind, value)
) STRICT;
CREATE INDEX ended_logins_by_end ON ended_logins (until);

-- +goose Down
DROP TABLE ended_logins;
DROP TABLE statements;
DROP INDEX sessions_by_external_email;
ALTER TABLE sessions DROP COLUMN external_issued;
ALTER TABLE sessions DROP COLUMN external_email;
