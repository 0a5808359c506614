-- Our own opaque subjects for the users of login providers. None is ever removed,
-- so that no id is another's later.

-- +goose Up
CREATE TABLE identities (
    id       TEXT PRIMARY KEY,
    issuer   TEXT NOT NULL,
    subject  TEXT NOT NULL,
    label    TEXT NOT NULL,
    disabled INTEGER NOT NULL,
    created  INTEGER NOT NULL,
    used     INTEGER NOT NULL,
    UNIQUE (issuer, subject)
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE identities;
