// Package gateway puts the bouncer before upstream WebSocket servers: it finds
// the route, lets the library admit and track the handshake, dials the
// upstream, and hands both sockets to internal/relay. It decides nothing about
// tokens, Origins or limits: those are the library's, whose first ordinary
// customer it is.
//
// The upstream handshake is written by hand over a plain or TLS connection: no
// pool that could hand one client's connection to another, no redirects, and a
// 101 that is checked to the letter. When a handler returns, nothing of
// net/http is left of the connection.
package gateway
