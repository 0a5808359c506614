// Package authapi is the public HTTP API: login, the token endpoint, tickets,
// sessions, revocation, keys and metadata (below auth_path, /.well-known, and
// the two health paths).
//
// It owns HTTP: methods, media types, sizes, cookies, Origin and CORS rules,
// the shape of answers and errors. What is decided is decided elsewhere:
// passwords by internal/account, sessions and refresh tokens by
// internal/session, tokens and live connections by the Bouncer. internal/app
// builds it and mounts it on the public listener. openapi.json is the source
// of truth for its surface; the tests hold every answer against it.
package authapi
