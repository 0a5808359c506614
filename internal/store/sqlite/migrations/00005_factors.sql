-- Second factors. Their secrets are sealed under a key that is not here, and
-- recovery codes are there as SHA-256 only.

-- +goose Up
CREATE TABLE factors (
    id        TEXT PRIMARY KEY,
    account   TEXT NOT NULL REFERENCES accounts (name) ON DELETE CASCADE,
    kind      TEXT NOT NULL,
    sealed    BLOB NOT NULL,
    confirmed INTEGER NOT NULL,
    counter   INTEGER NOT NULL,
    created   INTEGER NOT NULL,
    used      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX factors_by_account ON factors (account, created, id);

CREATE TABLE recovery_codes (
    account TEXT NOT NULL REFERENCES accounts (name) ON DELETE CASCADE,
    hash    BLOB NOT NULL,
    PRIMARY KEY (account, hash)
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE recovery_codes;
DROP TABLE factors;
