// Package account owns accounts with a password: canonical names, password
// rules and hashes, which scopes an account has and whether it may log in at
// all, and the throttles of guessing.
//
// It knows nothing of sessions: whoever changes a password or disables an
// account ends the sessions in the same transaction (authapi and adminapi do,
// with internal/session). internal/store keeps the accounts. Service is
// internal/session's AccountSource.
package account
