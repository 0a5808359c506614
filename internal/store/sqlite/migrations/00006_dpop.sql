-- The key that a session's tokens are bound to (RFC 9449).

-- +goose Up
ALTER TABLE sessions ADD COLUMN dpop_jkt TEXT NOT NULL DEFAULT ''; -- '': none

-- +goose Down
ALTER TABLE sessions DROP COLUMN dpop_jkt;
