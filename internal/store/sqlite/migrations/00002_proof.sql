-- What a session's login rests on.

-- +goose Up
ALTER TABLE sessions ADD COLUMN auth_time        INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN amr              TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN acr              TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN claims           BLOB;
ALTER TABLE sessions ADD COLUMN provider         TEXT NOT NULL DEFAULT ''; -- '': none
ALTER TABLE sessions ADD COLUMN external_issuer  TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN external_subject TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN external_session TEXT NOT NULL DEFAULT '';
UPDATE sessions SET auth_time = created;
CREATE INDEX sessions_by_external_subject ON sessions (external_issuer, external_subject) WHERE provider <> '';
CREATE INDEX sessions_by_external_session ON sessions (external_issuer, external_session) WHERE provider <> '';

-- +goose Down
DROP INDEX sessions_by_external_session;
DROP INDEX sessions_by_external_subject;
ALTER TABLE sessions DROP COLUMN external_session;
ALTER TABLE sessions DROP COLUMN external_subject;
ALTER TABLE sessions DROP COLUMN external_issuer;
ALTER TABLE sessions DROP COLUMN provider;
ALTER TABLE sessions DROP COLUMN claims;
ALTER TABLE sessions DROP COLUMN acr;
ALTER TABLE sessions DROP COLUMN amr;
ALTER TABLE sessions DROP COLUMN auth_time;
