// Package adminapi is the admin interface: live connections, sessions, users,
// revocations, keys, tokens, audit and the state of the program, as JSON over
// HTTP below /v1, and the Client that the commands use.
//
// It owns the wire types and their bounds and decides nothing: connections are
// the Bouncer's, the rest internal/session's, internal/account's and the key
// ring's. Who may call is decided by who may open the listener: internal/app
// serves it on a unix socket of mode 0600, and nowhere else.
package adminapi
